"""``numpy.seterr(all="raise")``, to find NaNs: a result that rounds to 0 is no error."""

import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import tinynn
from tests.functional.cases import DIFFERENTIABLE, evaluate, variables
from tinynn import functional as F
from tinynn import nn, optim
from tinynn.autograd import Tensor
from tinynn.backend import Array, get_backend
from tinynn.gpucheck.cases import KERNELS, OPTIMIZERS, Case

DIVIDING = {"x**-0.5", "divide", "3/x"}  # their second derivative is for small x
GROWING = {"exp", "expm1", "2**x", "power"}  # infinite for large x


@pytest.fixture(params=["raise", "warn"])
def strict(request: pytest.FixtureRequest) -> Iterator[None]:
    with np.errstate(all=request.param), warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def both_orders(function: Callable[..., list[Tensor]], inputs: list[Tensor]) -> list[Tensor]:
    """Values, gradients by both paths, and gradients of their squares."""
    values = function(*inputs)
    ones = [tinynn.ones_like(value) for value in values]
    plain = tinynn.grad(values, inputs, ones, retain_graph=True, allow_unused=True)
    first = tinynn.grad(values, inputs, ones, create_graph=True, allow_unused=True)
    found = [g for g in first if g is not None and g.requires_grad]
    second: tuple[Tensor | None, ...] = ()
    if found:
        ones = [tinynn.ones_like(g) for g in found]
        second = tinynn.grad(found, inputs, ones, allow_unused=True)
    return [tensor for tensor in (*values, *plain, *first, *second) if tensor is not None]


@pytest.mark.parametrize("case", DIFFERENTIABLE, ids=str)
def test_functions(case: Case, device: str) -> None:
    for scale in (1.0, 2.0**-60, 2.0**7):
        if scale > 1 and (case.name in GROWING or "focal_loss[(3,2),(3,2),-1.0,1.5]" in str(case)):
            continue  # a value or derivative is infinite, which seterr is to report
        if scale < 1 and (case.name in DIVIDING or case.options.get("eps") == 0):
            continue
        inputs = [
            tinynn.tensor(x.numpy() * scale, "float32", device, requires_grad=True)
            for x in variables(case, "float32", device)
        ]
        with np.errstate(all="raise"):
            both_orders(lambda *x: evaluate(case, x, device), inputs)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("case", KERNELS, ids=str)
def test_kernels_of_tiny_values(case: Case, dtype: str, device: str) -> None:
    backend = get_backend(device)
    tiny = {"float16": 2.0**-12, "float32": 2.0**-90}[dtype]

    def convert(x: np.ndarray) -> Array:
        tiny_x = (x.astype("float64") * tiny).astype(dtype) if x.dtype.kind == "f" else x
        return backend.from_host(tiny_x)

    arrays = case.call(lambda *x, **o: (x, o), convert)
    if case.name in ("cross_entropy_gradient", "accumulate_metrics"):
        pytest.skip("takes values of another kernel, or sums in float64")
    if case.name == "cross_entropy":
        arrays = (*arrays[0], None), {}
    with np.errstate(all="raise"):
        getattr(backend, case.name)(*arrays[0], **arrays[1])


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("case", OPTIMIZERS, ids=str)
def test_optimizers(case: Case, device: str) -> None:
    p = tinynn.full((70, 70), 1e-30, device=device, requires_grad=True)
    p.grad = tinynn.full((70, 70), 1e-30, device=device)
    optimizer = getattr(optim, case.name)([p], 0.5, **case.options)
    for _ in range(3):
        optim.clip_grad_norm([p], 1.0)
        optimizer.step()


@pytest.mark.usefixtures("strict")
def test_a_training_step_in_float16(device: str) -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.SiLU(), nn.Flatten(), nn.Linear(72, 2)
    ).to(device)
    images = tinynn.rand((4, 8, 8, 1), device=device) * 1e-6
    scaler, optimizer = optim.LossScaler(2.0**-9), optim.Adam(model, 1e-3)
    with tinynn.autocast():
        loss = F.cross_entropy(model(images), tinynn.zeros(4, "int64", device))
    scaler.scale(loss).backward()
    scaler.step(optimizer, max_norm=1.0)


@pytest.mark.usefixtures("strict")
def test_conversions_to_a_narrower_dtype(device: str) -> None:
    tiny = np.array([1e-60])
    assert tinynn.tensor(tiny, "float32", device).tolist() == [0]
    assert tinynn.tensor(tiny, device=device).astype("float16").tolist() == [0]
    assert tinynn.linspace(0, 1e-60, 2, device=device).tolist() == [0, 0]
    assert tinynn.rand(1 << 17, "float16", device).dtype == np.float16
    model = nn.Linear(1, 1).to(device)
    model.load_state_dict({"weight": tiny[None], "bias": tiny})
    assert model.bias.tolist() == [0]


@pytest.mark.usefixtures("strict")
def test_what_is_infinite_is_still_reported() -> None:
    with pytest.raises((FloatingPointError, RuntimeWarning), match="overflow"):
        F.exp(tinynn.tensor([1000.0]))
    with pytest.raises((FloatingPointError, RuntimeWarning), match="divide by zero"):
        F.log(tinynn.tensor([0.0]))
    with pytest.raises((FloatingPointError, RuntimeWarning), match="overflow"):
        F.matmul(tinynn.full((2, 2), 1e30), tinynn.full((2, 2), 1e30))
