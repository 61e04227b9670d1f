"""Tensors that change in place: what changes them, and that no gradient is wrong afterwards."""

import copy
import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest

import tinynn
from tests.functional.cases import DIFFERENTIABLE, evaluate, variables
from tinynn import functional as F
from tinynn import nn, optim
from tinynn.autograd import Tensor, record
from tinynn.errors import DtypeError, GradientError, InvalidIndexError, ShapeError
from tinynn.gpucheck.cases import Case
from tinynn.nn import init

REFUSED = "modified by an inplace operation"
LINEAR = {
    *("add", "subtract", "negative", "sum", "mean", "concat", "stack", "split", "index", "pad"),
    *("reshape", "flatten", "permute", "squeeze", "unsqueeze", "broadcast_to", "flip"),
    *("avg_pool2d", "global_avg_pool2d", "resize_nearest", "resize_bilinear", "dropout"),
    *("exp", "softmax", "log_softmax", "relu", "sqrt", "max_pool2d"),  # computed from the output
    *("x+2.5", "2-x", "float64(1.5)*x", "x/3", "x.reshape(4,-1)", "x.sum(0)"),
    *("x[::2,1:0:-1]", "x[[2,0]]", "concat([x,x])"),
}


def step(*tensors: Tensor) -> None:
    """An optimizer step that changes every element."""
    for x in tensors:
        x.grad = tinynn.ones_like(x)
    optim.SGD(list(tensors), 0.5).step()


def total(outputs: list[Tensor]) -> Tensor:
    """A loss with different weights for the elements."""
    weighted = [
        (out * tinynn.tensor(np.cos(np.arange(out.size)).reshape(out.shape), out.dtype, out.device))
        for out in outputs
    ]
    return sum((part.sum() for part in weighted[1:]), weighted[0].sum())


@pytest.mark.parametrize("case", DIFFERENTIABLE, ids=str)
def test_a_gradient_after_a_step_is_refused_or_that_of_before(case: Case, device: str) -> None:
    inputs = variables(case, "float64", device)
    loss = total(evaluate(case, inputs, device))
    before = tinynn.grad(loss, inputs, retain_graph=True, allow_unused=True)
    step(*inputs)
    if case.name not in LINEAR:  # some kernels do without, so both are right
        with suppress_refusal():
            check_equal(tinynn.grad(loss, inputs, allow_unused=True), before)
    else:
        check_equal(tinynn.grad(loss, inputs, allow_unused=True), before)


@contextmanager
def suppress_refusal() -> Iterator[None]:
    try:
        yield
    except GradientError as error:
        if REFUSED not in str(error):
            raise


def check_equal(after: Iterable[Tensor | None], before: Iterable[Tensor | None]) -> None:
    for a, b in zip(after, before, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            np.testing.assert_array_equal(a.numpy(), b.numpy())


def changes() -> dict[str, Callable[[Tensor, nn.Module], object]]:
    """Everything in the library that changes the weight of a model in place."""
    kinds = [getattr(optim, name) for name in optim.__all__]
    optimizers = [k for k in kinds if isinstance(k, type) and optim.Optimizer in k.__mro__[1:]]

    def stepped(kind: type) -> Callable[[Tensor, nn.Module], object]:
        def change(weight: Tensor, model: nn.Module) -> None:
            weight.grad = tinynn.ones_like(weight)
            kind([weight], learning_rate=0.5).step()

        return change

    def assigned(weight: Tensor, model: nn.Module) -> None:
        with tinynn.no_grad():
            weight[0] = 7.0

    def subtracted(weight: Tensor, model: nn.Module) -> None:
        with tinynn.no_grad():
            weight -= 1.0

    def initialize(function: Callable[..., None], weight: Tensor, model: nn.Module) -> None:
        function(weight, *[0.5] * (function is init.constant_))

    def loaded(weight: Tensor, model: nn.Module) -> None:
        model.load_state_dict({k: v.numpy() + 1 for k, v in model.state_dict().items()})

    names = [name for name in vars(init) if name.endswith("_") and name[0] != "_"]
    return {
        **{kind.__name__: stepped(kind) for kind in optimizers},
        **{name: partial(initialize, getattr(init, name)) for name in names},
        "x[key] = y": assigned,
        "x -= y": subtracted,
        "load_state_dict": loaded,
        "astype": lambda w, m: m.astype("float64"),
    }


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "itself": lambda w: w,
    "reshape": lambda w: w.reshape(4, 3),
    "flatten": lambda w: w.flatten(),
    "unsqueeze": lambda w: w.unsqueeze(0).squeeze(0),
    "permute": lambda w: w.permute(1, 0),
    "index": lambda w: w[1:, ::2],
    "iteration": lambda w: next(iter(w)),
    "split": lambda w: F.split(w, 3)[0],
    "detach": lambda w: w.detach(),
    "flip": lambda w: F.flip(w),
    "T": lambda w: w.T.T[:2],
    "broadcast_to": lambda w: F.broadcast_to(w, (2, 3, 4)),
    "einsum": lambda w: F.einsum("ij->ji", w),
    "astype": lambda w: w.astype("float32"),
    "Parameter": lambda w: nn.Parameter(w, requires_grad=False),
    "dropout": lambda w: F.dropout(w, training=False),
    "record": lambda w: record("identity", w.data, (w, lambda grad: grad)),
}


@pytest.mark.parametrize("name", changes())
def test_every_change_is_noticed(name: str, device: str) -> None:
    """Also where the graph holds a view of the tensor that was changed."""
    for see in VIEWS.values():
        model = nn.Linear(3, 4).to(device)
        x = tinynn.tensor(1.5, device=device, requires_grad=True)
        loss = (see(model.weight) * x).sum()
        changes()[name](model.weight, model)
        with pytest.raises(GradientError, match=f"{REFUSED}: the gradient of multiply"):
            loss.backward()


GLOBAL = tinynn.tensor([2.0])


def captured_by(kind: str, weight: Tensor) -> Callable[[Tensor], Tensor]:
    """VJPs of a user that hold a tensor in another way than as a variable."""
    model = nn.Module()
    model.weight = weight
    holders: dict[str, Callable[[Tensor], Tensor]] = {
        "attribute": lambda grad: grad * model.weight,
        "default": lambda grad, weight=weight: grad * weight,
        "tuple": lambda grad, held=(1, [weight]): grad * held[1][0],
        "partial": partial(F.multiply, weight),
        "function": lambda grad: holders["attribute"](grad),
        "global": lambda grad: grad * GLOBAL,
    }
    inner = holders["attribute"]
    return (lambda grad: inner(grad)) if kind == "function" else holders[kind]


@pytest.mark.parametrize("kind", ["attribute", "default", "tuple", "partial", "function", "global"])
def test_what_a_vjp_holds(kind: str, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    weight = tinynn.tensor([2.0], device=device, requires_grad=True)
    monkeypatch.setitem(globals(), "GLOBAL", weight)
    x = tinynn.ones(1, device=device, requires_grad=True)
    y = record("mine", x.data * weight.data, (x, captured_by(kind, weight)))
    assert tinynn.grad(y, x, retain_graph=True).tolist() == [2]
    step(weight)
    with pytest.raises(GradientError, match=f"{REFUSED}: the gradient of mine"):
        tinynn.grad(y, x)


def test_running_statistics_are_noticed(device: str) -> None:
    norm = nn.BatchNorm1d(2).to(device)
    x = tinynn.ones((3, 2), device=device, requires_grad=True)
    loss = (x * norm.running_mean).sum()
    norm(x * 2)
    with pytest.raises(GradientError, match=REFUSED):
        loss.backward()


def test_a_network_may_run_several_times_before_a_step(device: str) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 1)).to(device)
    optimizer = optim.Adam(model, 0.1)
    x = tinynn.rand((4, 2), device=device)
    for _ in range(2):
        first, second = model(x).sum(), model(x + 1).sum()
        first.backward()
        second.backward()
        optimizer.step()
    generator, critic = nn.Linear(2, 2).to(device), nn.Linear(2, 1).to(device)
    fake = generator(x)
    critic(fake.detach()).sum().backward()
    optim.SGD(critic, 0.1).step()
    critic(fake).sum().backward()  # the critic runs again, so its new weights are used
    assert generator.weight.grad is not None


OPERATORS: dict[str, Callable[[Tensor, object], Tensor]] = {
    "+=": lambda x, y: x.__iadd__(y),
    "-=": lambda x, y: x.__isub__(y),
    "*=": lambda x, y: x.__imul__(y),
    "/=": lambda x, y: x.__itruediv__(y),
    "**=": lambda x, y: x.__ipow__(y),
}
EXPECTED = {"+=": [5, 6], "-=": [-1, 0], "*=": [6, 9], "/=": [2 / 3, 1], "**=": [8, 27]}


def state(kind: str, device: str) -> tuple[Tensor, Callable[[], object]]:
    """A tensor that belongs to a model or a step, and how its owner reads it."""
    x = tinynn.tensor([2.0, 3.0], device=device)
    if kind == "leaf":
        leaf = x.requires_grad_()
        return leaf, leaf.tolist
    if "gradient" in kind:
        leaf = tinynn.ones(2, device=device, requires_grad=True)
        (leaf * x).sum().backward()
        if kind == "clipped gradient":
            optim.clip_grad_value([leaf], 10.0)
        assert leaf.grad is not None
        return leaf.grad, lambda: leaf.grad.tolist()
    model = nn.Module()
    model.held = x if kind == "buffer" else nn.Parameter(x, requires_grad=kind == "parameter")
    return model.state_dict()["held"], lambda: model.held.tolist()


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize(
    "kind", ["leaf", "parameter", "frozen", "buffer", "gradient", "clipped gradient"]
)
@pytest.mark.parametrize("operand", [3.0, "tensor"])
def test_augmented_assignment_changes_state(
    operator: str, kind: str, operand: object, device: str
) -> None:
    x, read = state(kind, device)
    memory = x.data
    y = tinynn.tensor([3.0, 3.0], device=device) if operand == "tensor" else operand
    with tinynn.no_grad():
        assert OPERATORS[operator](x, y) is x
    assert x.data is memory
    np.testing.assert_allclose(read(), EXPECTED[operator], rtol=1e-6)


@pytest.mark.parametrize("operator", OPERATORS)
def test_augmented_assignment_of_other_tensors_makes_new_ones(operator: str, device: str) -> None:
    x = tinynn.tensor([2.0, 3.0], device=device)
    leaf = tinynn.tensor([2.0, 3.0], device=device, requires_grad=True)
    for tensor in (x, leaf * 1):
        assert OPERATORS[operator](tensor, 3.0) is not tensor
        assert tensor.tolist() == [2, 3]
    sums = tinynn.zeros((), device=device)
    sums += leaf.sum()  # losses add up
    sums.backward()
    assert leaf.grad is not None


class TestAnErrorSaysHow:
    def test_outside_of_no_grad(self, device: str) -> None:
        p = tinynn.ones(2, device=device, requires_grad=True)
        for change in (lambda: p.__isub__(1.0), lambda: p.__setitem__(0, 1.0)):
            with pytest.raises(GradientError, match=r"a leaf .*`with tinynn\.no_grad\(\):`"):
                change()

    def test_of_the_elements_of_a_result(self, device: str) -> None:
        y = tinynn.ones(2, device=device, requires_grad=True) * 2
        with pytest.raises(GradientError, match=r"result of a function.* F\.where"):
            y[0] = 1.0

    def test_with_a_value_that_requires_grad(self, device: str) -> None:
        x = tinynn.ones(2, device=device)
        with pytest.raises(GradientError, match=r"F\.where"):
            x[0] = tinynn.tensor(1.0, device=device, requires_grad=True)

    @tinynn.no_grad()
    def test_of_another_shape_or_dtype(self, device: str) -> None:
        p = tinynn.ones(2, device=device, requires_grad=True)
        with pytest.raises(ShapeError, match=r"add in place would turn float32 \(2,\) into .*3, 2"):
            p += tinynn.ones((3, 2), device=device)
        with pytest.raises(DtypeError):
            p += tinynn.ones(2, "float64", device)
        with pytest.raises(InvalidIndexError, match=r"elements of a tensor of shape \(2,\)"):
            p[5] = 1.0


def test_elements_are_assigned(device: str) -> None:
    x = tinynn.zeros((2, 3), device=device)
    x[0] = 1
    x[:, 2] = tinynn.tensor([5.0, 6.0], device=device)
    x[1, [0, 1]] = tinynn.tensor([7.0, 8.0], device=device)
    x[1, 0] += 1
    x[x > 7.5] -= 8
    assert x.tolist() == [[1, 1, 5], [0, 0, 6]]


@pytest.mark.parametrize(
    "how", [copy.deepcopy, copy.copy, pickle.dumps, lambda x: copy.deepcopy({"loss": [x]})]
)
def test_results_are_not_copied(how: Callable[[object], object], device: str) -> None:
    x = tinynn.ones(1, device=device, requires_grad=True)
    with pytest.raises(GradientError, match=r"result of multiply cannot be copied.*x\.detach\(\)"):
        how(x * 2)
    how((x * 2).detach())


@pytest.mark.parametrize("how", [copy.deepcopy, copy.copy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_have_no_changes(how: Callable[[Tensor], Tensor], device: str) -> None:
    """Their number of a change could be of a process that ran for longer."""
    x = nn.Parameter(tinynn.ones(2, device=device))
    step(x)
    x._changes = [2**60]
    twin = how(x)
    assert isinstance(twin, nn.Parameter)
    (twin * twin).sum().backward()
    assert twin.grad is not None


def test_arrays_of_the_caller_may_change_before_the_backward_pass() -> None:
    x = tinynn.tensor([1.0, 2.0], requires_grad=True)
    factor, rows, mask = np.ones(2, "float32"), np.array([0, 1]), np.array([True, False])
    loss = (x * factor).sum() + x[rows].sum() * 10 + x[mask].sum() * 100
    loss = loss + F.where(mask, x, 0.0).sum() * 1000
    factor[:], rows[:], mask[:] = 5, 0, False
    loss.backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1111, 11]
