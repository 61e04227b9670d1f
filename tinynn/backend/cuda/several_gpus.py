"""Several GPUs in one machine: every kernel runs on the GPU of its arrays.

CUDA computes on the *current* device of a thread. Each kernel of the backend and each function of
its ``xp`` first makes its own device current, and leaves it current, like ``cupy.cuda.Device.use``:
array operations in the same function (``x * 2``, ``x[index]``) then run there too. Machines with
one GPU use none of this.
"""

from collections.abc import Callable
from functools import wraps
from types import ModuleType
from typing import Any

from tinynn.backend.cuda.backend import CupyBackend


class OneOfSeveral(CupyBackend):
    """Kernels on one of several CUDA devices."""

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.gpu = self.xp.cuda.Device(index)
        self.xp = _Current(self.xp, self.gpu)


class _Current:
    """A module or function of CuPy that makes a device current when it is called."""

    def __init__(self, wrapped: Any, gpu: Any) -> None:
        self._wrapped, self._gpu = wrapped, gpu

    def __call__(self, *args: Any, **options: Any) -> Any:
        self._gpu.use()
        return self._wrapped(*args, **options)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._wrapped, name)
        if isinstance(found, ModuleType) or (callable(found) and not isinstance(found, type)):
            found = _Current(found, self._gpu)
        setattr(self, name, found)
        return found


def _on_its_gpu(kernel: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(kernel)
    def run(self: OneOfSeveral, *args: Any, **options: Any) -> Any:
        self.gpu.use()
        return kernel(self, *args, **options)

    return run


for _name in dir(CupyBackend):
    _kernel = getattr(CupyBackend, _name)
    if not _name.startswith("_") and callable(_kernel) and not isinstance(_kernel, type):
        setattr(OneOfSeveral, _name, _on_its_gpu(_kernel))
