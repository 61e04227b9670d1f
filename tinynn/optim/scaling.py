"""Loss scaling, for gradients in float16."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tinynn.autograd import Tensor
from tinynn.backend import Array, Backend
from tinynn.errors import ArgumentError, DeviceError, FileFormatError, GradientError
from tinynn.optim.clipping import clip_grad_norm
from tinynn.optim.optimizer import Optimizer

__all__ = ["LossScaler"]

_RANGE = (2.0**-40, 2.0**40)  # of a scale: float32 and its inverse stay finite


class LossScaler:
    """Multiplies the loss so that small gradients survive float16, and finds how much is possible.

    A step whose gradients are not all finite is left out and the scale halved; after
    ``growth_interval`` good steps it is doubled. All of it happens on the device: nothing waits for
    a GPU. Micikevicius and others, "Mixed precision training" (2018).

    A step that was left out still counts as a step of the optimizer (its schedule, Adam's bias
    correction).
    """

    def __init__(self, scale: float = 2.0**16, growth_interval: int = 2000) -> None:
        if not _RANGE[0] <= scale <= _RANGE[1] or growth_interval < 1:
            raise ArgumentError(
                "a LossScaler expects a scale from 2**-40 to 2**40 and a growth_interval >= 1, got "
                f"{scale} and {growth_interval}"
            )
        self.growth_interval = growth_interval
        self._start = (float(scale), 0)
        self._backend: Backend | None = None
        self._stepped: list[Optimizer] = []  # since the last loss
        self._scale: Array = None
        self._applied: Array = None  # the scale of the gradients under way
        self._good: Array = None  # steps since the scale last changed

    def scale(self, loss: Tensor) -> Tensor:
        """The loss times the scale: call ``backward`` on this."""
        self._move(loss.backend)
        self._stepped.clear()
        self._applied = self._scale  # several optimizers may step for one loss
        return loss * Tensor(self._scale).astype(loss.dtype)

    def step(self, optimizer: Optimizer, max_norm: float | None = None) -> None:
        """Take the scale out of the gradients, step if they are finite, and adapt the scale.

        ``max_norm`` clips them in between (``clip_grad_norm``): before, they are still scaled.
        Raises GradientError at the second step of an optimizer for one ``scale``.
        """
        tensors = [p for p in optimizer.parameters.values() if p.grad is not None]
        if not tensors or self._backend is None:
            raise GradientError(
                "LossScaler.step() found no gradients: scaler.scale(loss).backward()"
            )
        if any(stepped is optimizer for stepped in self._stepped):
            raise GradientError(
                "LossScaler.step() a second time for the same gradients: call scaler.scale(loss)"
                ".backward() first"
            )
        self._stepped.append(optimizer)
        backend = self._backend
        if any(tensor.backend is not backend for tensor in tensors):
            raise DeviceError(f"LossScaler expects all parameters on {backend.device}")
        xp = backend.xp
        found, inverse = xp.zeros((), dtype=xp.bool_), xp.asarray(1.0 / self._applied)
        by_dtype: dict[Any, list[Array]] = {}
        for tensor in tensors:
            if tensor.grad is not None:
                by_dtype.setdefault(tensor.dtype, []).append(tensor.grad.data)
        for grads in by_dtype.values():
            backend.unscale(grads, inverse, found)
        if max_norm is not None:
            clip_grad_norm(optimizer.parameters, max_norm)
        optimizer.step(skip=found)
        good = xp.where(found, 0, self._good + 1)
        grow = good >= self.growth_interval
        factor = xp.where(found, 0.5, xp.where(grow, 2.0, 1.0)).astype("float32")
        self._scale = xp.asarray(xp.clip(self._scale * factor, *_RANGE))
        self._good = xp.where(grow, 0, good).astype("int32")

    def state_dict(self) -> dict[str, Any]:
        """Scale and good steps so far, as numbers; waits for the device."""
        scale, good = self._start
        if self._backend is not None:
            scale = float(self._backend.to_host(self._scale))
            good = int(self._backend.to_host(self._good))
        return {"scale": scale, "good": good}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what ``state_dict`` returned."""
        if set(state) != {"scale", "good"}:
            raise FileFormatError(f"a LossScaler's state has scale and good, got {sorted(state)}")
        scale, good = float(state["scale"]), int(state["good"])
        if not _RANGE[0] <= scale <= _RANGE[1] or good < 0:
            raise FileFormatError(
                "a LossScaler's state has a scale from 2**-40 to 2**40 and a number of good steps "
                f">= 0, got {scale} and {good}"
            )
        self._start, self._backend = (scale, good), None

    def _move(self, backend: Backend) -> None:
        if self._backend is backend:
            return
        if self._backend is not None:
            self.load_state_dict(self.state_dict())
        self._backend = backend
        self._scale = backend.from_host(np.array(self._start[0], dtype=np.float32))
        self._applied = self._scale
        self._good = backend.from_host(np.array(self._start[1], dtype=np.int32))
