"""Level 7: ``python -m tinynn.gpucheck`` compares a GPU with the CPU and measures its limits."""
