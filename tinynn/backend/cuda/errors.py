"""What to say when a GPU fails: its memory is full, or a kernel went wrong earlier."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from tinynn.errors import DeviceMemoryError


def explained(error: Exception) -> Exception:
    """The error to raise instead of one that CuPy raised; any other error as it is."""
    if not type(error).__module__.startswith(("cupy.", "cupy_backends.")):
        return error
    if isinstance(error, MemoryError):
        return _out_of_memory(error)
    if "CUDA" in type(error).__name__:
        note = (
            "a GPU reports errors of kernels later than they happen: rerun with "
            "CUDA_LAUNCH_BLOCKING=1 to see which call failed"
        )
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)
    return error


def _out_of_memory(error: MemoryError) -> DeviceMemoryError:
    import cupy

    free, total = cupy.cuda.runtime.memGetInfo()
    held = cupy.get_default_memory_pool().total_bytes()
    match = re.search(r"allocating ([\d,]+) bytes", str(error))
    wanted = f"{int(match[1].replace(',', '')):,} bytes" if match else "memory"
    explanation = DeviceMemoryError(
        f"the GPU has no room for {wanted} more: {total:,} bytes in total, {free:,} free, "
        f"{held:,} held by this process's pool; use a smaller batch or smaller images, drop "
        "tensors that are not needed (a kept loss keeps its record), or end other programs on it"
    )
    explanation.__cause__ = error
    vars(explanation).update(vars(error))  # the module that failed, if it is known already
    return explanation


@contextmanager
def explaining() -> Iterator[None]:
    """A context, or a decorator, in which CuPy's errors are explained."""
    try:
        yield
    except Exception as error:
        better = explained(error)
        if better is error:
            raise
        raise better from error
