"""Explain CuPy's errors: a GPU out of memory, and kernels that failed earlier."""

import re

from tinynn.errors import DeviceMemoryError

_NOTE = (
    "kernels run asynchronously, and their errors are reported by a later call: rerun with "
    "CUDA_LAUNCH_BLOCKING=1 to see which call failed"
)


class Explaining:
    """A context in which CuPy's errors are explained.

    It holds no state: one instance serves all threads and nests.
    """

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or not type(error).__module__.startswith(("cupy.", "cupy_backends.")):
            return
        if isinstance(error, MemoryError):
            raise _out_of_memory(error) from error
        if "CUDA" in type(error).__name__ and _NOTE not in getattr(error, "__notes__", ()):
            error.add_note(_NOTE)


explaining = Explaining()


def _out_of_memory(error: MemoryError) -> DeviceMemoryError:
    import cupy

    free, total = cupy.cuda.runtime.memGetInfo()
    held = cupy.get_default_memory_pool().total_bytes()
    match = re.search(r"allocating ([\d,]+) bytes", str(error))
    wanted = f"{int(match[1].replace(',', '')):,} bytes" if match else "memory"
    explanation = DeviceMemoryError(
        f"the GPU is out of memory: {wanted} more requested, {total:,} bytes in total, {free:,} "
        f"free, {held:,} held by this process's pool; use a smaller batch or smaller images, "
        "free tensors that are not needed (a loss that is kept keeps its autograd graph), or end "
        "other programs on this GPU"
    )
    vars(explanation).update(vars(error))  # the module that failed, if it is known already
    return explanation
