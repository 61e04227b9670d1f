"""Gradient check: ⟨v, VJP(u)⟩ equals the directional derivative of ⟨u, f(x)⟩ along v.

The derivative is a central difference along one random direction v, in float64. For the second
order, f is the gradient of the function.
"""

from collections.abc import Callable, Sequence

import numpy as np

import tinynn
from tinynn.autograd import Tensor

Function = Callable[..., Tensor | tuple[Tensor, ...]]
STEP = 1e-5  # truncation error about STEP², rounding error about 1e-16 / STEP


def check_gradients(function: Function, arrays: Sequence[np.ndarray], device: str) -> None:
    """Check the gradients of first and second order at the point ``arrays`` (float64).

    The first order is checked with and without ``create_graph``: a function may have a faster VJP
    for gradients that are not differentiated again.
    """
    check_gradient(function, arrays, device, order=1)
    check_gradient(function, arrays, device, order=1, create_graph=True)
    check_gradient(gradient_of(function), arrays, device, order=2)


def check_gradient(
    function: Function,
    arrays: Sequence[np.ndarray],
    device: str,
    order: int,
    create_graph: bool = False,
) -> None:
    """Compare the gradient of ``function`` by backward pass with a central difference."""
    rng = np.random.default_rng(order)
    along = [rng.standard_normal(array.shape) for array in arrays]
    inputs = [tinynn.tensor(array, device=device, requires_grad=True) for array in arrays]
    gradients = vjp(function, inputs, create_graph)
    computed = sum(
        float((g.numpy() * v).sum()) for g, v in zip(gradients, along, strict=True) if g is not None
    )
    ends = [
        float(
            weighted(
                function, [x + sign * STEP * v for x, v in zip(arrays, along, strict=True)], device
            )
        )
        for sign in (1, -1)
    ]
    measured = (ends[0] - ends[1]) / (2 * STEP)
    tolerance = 1e-6 * max(1.0, abs(computed), abs(measured), *map(abs, ends))
    assert abs(computed - measured) <= tolerance, (
        f"order {order}: the backward pass gives {computed!r}, a central difference {measured!r}"
    )


def weighted(function: Function, arrays: Sequence[np.ndarray], device: str) -> Tensor:
    """⟨u, f(x)⟩ for fixed random weights u."""
    return _weighted(
        function, [tinynn.tensor(a, device=device, requires_grad=True) for a in arrays]
    )


def _weighted(function: Function, inputs: Sequence[Tensor]) -> Tensor:
    outputs = function(*inputs)
    rng = np.random.default_rng(0)
    total = tinynn.zeros((), "float64", inputs[0].device)
    for out in (outputs,) if isinstance(outputs, Tensor) else outputs:
        u = tinynn.tensor(rng.standard_normal(out.shape), device=out.device)
        total = total + (out * u).sum()
    return total


def vjp(
    function: Function, inputs: Sequence[Tensor], create_graph: bool = False
) -> tuple[Tensor | None, ...]:
    """The gradient of ⟨u, f(x)⟩ with respect to each input, None for inputs it does not use."""
    total = _weighted(function, inputs)
    if not total.requires_grad:
        return (None,) * len(inputs)
    return tinynn.grad(total, list(inputs), create_graph=create_graph, allow_unused=True)


def gradient_of(function: Function) -> Function:
    """The function from inputs to their gradients, differentiable itself."""

    def gradient(*inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(g for g in vjp(function, inputs, create_graph=True) if g is not None)

    return gradient
