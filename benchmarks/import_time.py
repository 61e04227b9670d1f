"""CPU time of `import tinynn` relative to `import numpy`, which it includes; runs alternate."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

from tinynn.messages import show

CODE = "import time; start = time.process_time(); import {}; print(time.process_time() - start)"


def cpu_seconds(module: str) -> float:
    """CPU seconds of an import in a new interpreter."""
    command = [sys.executable, "-c", CODE.format(module)]
    return float(subprocess.run(command, capture_output=True, check=True).stdout)


def main() -> None:
    """Print the ratio of the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="imports of each (default 15)")
    rounds = parser.parse_args().rounds
    seconds: dict[str, list[float]] = {"numpy": [], "tinynn": []}
    for _ in range(rounds):
        for module, times in seconds.items():
            times.append(cpu_seconds(module))
    numpy, tinynn = (statistics.median(times) for times in seconds.values())
    show(f"import tinynn / import numpy = {tinynn / numpy:.2f} (medians of {rounds} each)")


if __name__ == "__main__":
    main()
