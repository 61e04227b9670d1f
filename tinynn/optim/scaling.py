"""Dynamic loss scaling for gradients in float16."""

from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np

from tinynn.arguments import integer, number
from tinynn.autograd import Tensor
from tinynn.changes import note_change
from tinynn.errors import DeviceError, FileFormatError, GradientError
from tinynn.files import require_state
from tinynn.optim.clipping import clip_grad_norm
from tinynn.optim.optimizer import Optimizer

__all__ = ["LossScaler"]

_RANGE = (2.0**-40, 2.0**40)  # a scale and its inverse stay finite in float32


class LossScaler:
    """Scales the loss so that small gradients do not underflow in float16, and adapts the scale.

    A step with a gradient that is not finite is skipped and halves the scale; ``growth_interval``
    good steps in a row double it. All decisions stay on the device: nothing waits for a GPU. A
    skipped step still counts as a step of the optimizer (for its schedule and Adam's bias
    correction). Micikevicius et al., "Mixed precision training" (2018).

    Args:
        scale: The first scale, from 2**-40 to 2**40.
        growth_interval: Good steps until the scale is doubled.

    Example:
        >>> scaler.scale(loss).backward()
        >>> scaler.step(optimizer)
    """

    def __init__(self, scale: float = 2.0**16, growth_interval: int = 2000) -> None:
        scale = number("LossScaler: scale", scale, *_RANGE, "[]")
        self.growth_interval = integer("LossScaler: growth_interval", growth_interval, 1)
        self._stepped: list[Optimizer] = []  # since the last ``scale``
        self._applied: Tensor | None = None  # the scale of the present gradients
        self._set(scale, 0)

    def _set(self, scale: float, good: int) -> None:
        self._scale = Tensor(np.array(scale, dtype=np.float32))
        self._good = Tensor(np.array(good, dtype=np.int32))  # steps since the scale last changed

    def scale(self, loss: Tensor) -> Tensor:
        """loss · scale, to call ``backward`` on."""
        self._scale, self._good = self._scale.to(loss.device), self._good.to(loss.device)
        self._applied = self._scale  # several optimizers may step for one loss
        self._stepped.clear()
        return loss * self._scale.astype(loss.dtype)

    def step(self, optimizer: Optimizer, max_norm: float | None = None) -> None:
        """Unscale the gradients, step if all are finite, and adapt the scale.

        Args:
            optimizer: One of possibly several optimizers that step after one ``scale``.
            max_norm: Clips the unscaled gradients to this norm (``clip_grad_norm``).

        Raises:
            GradientError: If there are no gradients, or this optimizer has already stepped since
                the last ``scale``.
            DeviceError: If a parameter is on another device than the loss.
        """
        tensors = [p for p in optimizer.parameters.values() if p.grad is not None]
        if not tensors or self._applied is None:
            raise GradientError(
                "LossScaler.step() found no gradients: call scaler.scale(loss).backward() first"
            )
        if any(stepped is optimizer for stepped in self._stepped):
            raise GradientError(
                "LossScaler.step() was called twice for the same gradients: call "
                "scaler.scale(loss).backward() first"
            )
        self._stepped.append(optimizer)
        backend = self._applied.backend
        if any(tensor.backend is not backend for tensor in tensors):
            raise DeviceError(f"LossScaler expects parameters on {backend.device}, as the loss")
        xp = backend.xp
        found, inverse = xp.zeros((), dtype=xp.bool_), xp.asarray(1.0 / self._applied.data)
        grads = [tensor.grad.data for tensor in tensors if tensor.grad is not None]
        for dtype in {grad.dtype: None for grad in grads}:
            backend.unscale([grad for grad in grads if grad.dtype == dtype], inverse, found)
        note_change(*(tensor.grad for tensor in tensors if tensor.grad is not None))
        if max_norm is not None:
            clip_grad_norm(optimizer.parameters, max_norm)
        optimizer.step(skip=found)
        good = xp.where(found, 0, self._good.data + 1)
        grow = good >= self.growth_interval
        factor = xp.where(found, 0.5, xp.where(grow, 2.0, 1.0)).astype("float32")
        self._scale = Tensor(xp.asarray(xp.clip(self._scale.data * factor, *_RANGE)))
        self._good = Tensor(xp.asarray(xp.where(grow, 0, good), dtype="int32"))

    def state_dict(self) -> dict[str, Any]:
        """The scale and the number of good steps since it changed; waits for the device."""
        return {"scale": self._scale.item(), "good": self._good.item()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what ``state_dict`` returned; FileFormatError if it is anything else."""
        require_state("a LossScaler", state, {"scale": Real, "good": Integral})
        if not (_RANGE[0] <= state["scale"] <= _RANGE[1] and state["good"] < 2**31):
            raise FileFormatError(
                f"a LossScaler has a scale from 2**-40 to 2**40, got {state['scale']!r:.80}"
            )
        self._set(float(state["scale"]), int(state["good"]))
        self._applied = None
