"""Arrays of every kind: empty ones, any order in memory, dtypes that tensors cannot hold.

An array either gives what an ordinary one gives, or is refused where it is passed, by an error of
the library; never by an error of NumPy's, and never later.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinynn
from tests.functional.cases import FUNCTIONS, as_list
from tests.nn.test_serialization import LAYERS
from tinynn import data, nn
from tinynn import functional as F
from tinynn.autograd import Tensor
from tinynn.errors import ArgumentError, ShapeError, TinynnError
from tinynn.gpucheck.cases import Case, flatten, is_variable

NAMES = sorted({case.name for case in FUNCTIONS})


def of(name: str) -> list[Case]:
    return [case for case in FUNCTIONS if case.name == name]


# -- empty batches and axes of length 0 ------------------------------------------------------------


def emptied(value: Any, chosen: Callable[[int, int], bool], position: Iterator[int]) -> Any:
    """The value with length 0 for the chosen (length, number) of all axes of its arrays."""
    if isinstance(value, np.ndarray):
        shape = [0 if chosen(n, next(position)) else n for n in value.shape]
        return np.resize(value, shape) if np.prod(shape) else np.zeros(shape, value.dtype)
    if isinstance(value, (list, tuple)):
        return type(value)([emptied(part, chosen, position) for part in value])
    return value


def with_empty_axes(case: Case) -> Iterator[Case]:
    """Every axis in turn, and all axes of each length at once, as the axis of a batch is."""
    shapes = [a.shape for a in flatten(case.inputs) if isinstance(a, np.ndarray)]
    choices = [lambda n, i, length=length: n == length for length in {n for s in shapes for n in s}]
    choices += [lambda n, i, axis=axis: i == axis for axis in range(sum(map(len, shapes)))]
    for chosen in choices:
        yield case._replace(inputs=emptied(case.inputs, chosen, iter(range(100))))


def first_and_second_order(case: Case, device: str) -> None:
    leaves: list[Tensor] = []

    def tensor(array: np.ndarray) -> Tensor:
        if not is_variable(array):
            return tinynn.tensor(array, device=device)
        leaves.append(tinynn.tensor(array, "float32", device, requires_grad=True))
        return leaves[-1]

    outputs = as_list(case.call(getattr(F, case.name), tensor))
    losses = [output.sum() for output in outputs if output.requires_grad]
    for _ in range(2):
        if losses:
            grads = tinynn.grad(losses, leaves, allow_unused=True, create_graph=True)
            for leaf, grad in zip(leaves, grads, strict=True):
                assert grad is None or grad.shape == leaf.shape
                assert grad is None or not np.isnan(grad.numpy()).any()
            losses = [grad.sum() for grad in grads if grad is not None and grad.requires_grad]
    assert not any(np.isnan(output.numpy()).any() for output in outputs)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("error")
def test_functions_of_empty_arrays(name: str, device: str) -> None:
    """A result and its gradients of first and second order, or an error of the library."""
    for case in of(name):
        for empty in with_empty_axes(case):
            with suppress(TinynnError):
                first_and_second_order(empty, device)


BATCHED = [(layer, shape) for layer, shape in LAYERS if not isinstance(layer, nn.BatchNorm1d)]


@pytest.mark.parametrize(("layer", "shape"), BATCHED, ids=[repr(layer) for layer, _ in BATCHED])
@pytest.mark.parametrize("training", [True, False])
def test_layers_of_an_empty_batch(
    layer: nn.Module, shape: tuple[int, ...], training: bool, device: str
) -> None:
    if training and isinstance(layer, nn.BatchNorm2d):
        pytest.skip("has no mean: refused")
    twin = tinynn.zeros((0, *shape[1:]), device=device, requires_grad=True)
    full = tinynn.zeros((1, *shape[1:]), device=device)
    with layer.to(device).in_mode(training):
        if isinstance(layer, (nn.LogSoftmax, nn.Softmax)) and layer.axis == 0:
            pytest.skip("normalizes over the batch")
        out = layer(twin)
        assert out.shape == (0, *layer(full).shape[1:])
    out.sum().backward()
    assert twin.grad is not None
    assert twin.grad.shape == twin.shape
    layer.to("cpu").zero_grad()


@pytest.mark.parametrize("keep", [True, False])
def test_a_fused_model_of_an_empty_batch(keep: bool, device: str) -> None:
    """Such as the faces of a photo without a face."""
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(36, 2)).to(device).eval()
    x = tinynn.zeros((0, 8, 8, 3), device=device)
    with tinynn.enable_grad() if keep else tinynn.no_grad():
        out = model(x)
    assert out.shape == (0, 2)
    if keep:
        out.sum().backward()
        assert all(p.grad is not None and not p.grad.numpy().any() for p in model.parameters())


@pytest.fixture
def algorithm(request: pytest.FixtureRequest) -> Iterator[str]:
    """Restores the algorithm of convolutions."""
    tinynn.set_conv2d_algorithm(request.param)
    yield request.param
    tinynn.set_conv2d_algorithm("auto")


GEOMETRIES = list(product((1, 3, 7), (1, 2, 5), (0, 2), (1, 3), (1, 2, 4)))


@pytest.mark.parametrize("algorithm", ["auto", "matrix", "winograd", "fft"], indirect=True)
@pytest.mark.parametrize("shape", [(0, 5, 6, 4), (2, 0, 6, 4), (2, 5, 0, 4), (2, 1, 1, 4)])
def test_convolutions_of_hardly_any_pixels(shape: tuple[int, ...], algorithm: str) -> None:
    x = tinynn.ones(shape, requires_grad=True)
    for kernel, stride, padding, dilation, groups in GEOMETRIES[:: 1 if algorithm == "auto" else 3]:
        weight = tinynn.ones((kernel, kernel, 4 // groups, 4), requires_grad=True)
        bias = tinynn.zeros(4, requires_grad=True)
        calls = [
            partial(F.conv2d, x, weight, bias, stride, padding, dilation, groups),
            partial(F.conv_transpose2d, x, weight, bias, stride, padding, 0, dilation, groups),
        ]
        if groups == 1:
            calls += [partial(F.conv2d_relu_max_pool2d, x, weight, bias, stride, padding, dilation)]
        for call in calls:
            with suppress(TinynnError):
                call().sum().backward()
                assert x.grad is not None
                assert x.grad.shape == shape


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: F.cross_entropy(x, np.zeros(0, int)), "mean over no elements"),
        (lambda x: F.cross_entropy(x, np.zeros(0, int), tinynn.ones(3)), "mean over no elements"),
        (lambda x: F.mse_loss(x, x), "mean over no elements"),
        (lambda x: F.max(x, axis=0), "max over no elements"),
        (lambda x: F.argmax(x), "argmax over no elements"),
        (lambda x: F.batch_norm(x, training=True), "more than one value per channel"),
    ],
)
def test_what_no_elements_have(call: Callable[[Tensor], Any], words: str) -> None:
    with pytest.raises(ShapeError, match=words):
        call(tinynn.zeros((0, 3)))


# -- orders in memory ------------------------------------------------------------------------------


class _Subclass(np.ndarray):
    """Of which a tensor takes the plain array."""


def _strided(array: np.ndarray) -> np.ndarray:
    view = np.zeros([2 * n for n in array.shape], array.dtype)[(slice(None, None, 2),) * array.ndim]
    view[...] = array
    return view


def _reversed(array: np.ndarray) -> np.ndarray:
    backwards = (slice(None, None, -1),) * array.ndim
    return array[backwards].copy()[backwards]


def _unaligned(array: np.ndarray) -> np.ndarray:
    shifted = np.ndarray(array.shape, array.dtype, bytearray(array.nbytes + 1), 1)
    shifted[...] = array
    return shifted


def _read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


ORDERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "columns first": np.asfortranarray,
    "strided": _strided,
    "reversed": _reversed,
    "unaligned": _unaligned,
    "read-only": _read_only,
    "subclass": lambda array: array.view(_Subclass),
}


def outputs_and_gradients(case: Case, arranged: Callable[[np.ndarray], Any]) -> list[np.ndarray]:
    leaves: list[Tensor] = []

    def tensor(array: np.ndarray) -> Tensor:
        array = array.astype("float32", copy=False)
        leaves.append(Tensor(arranged(array) if array.ndim else array, requires_grad=True))
        return leaves[-1]

    def other(array: np.ndarray) -> Tensor:
        return Tensor(array if array.ndim == 0 else arranged(array))

    convert = lambda array: (tensor if is_variable(array) else other)(array)  # noqa: E731
    outputs = as_list(case.call(getattr(F, case.name), convert))
    for output in outputs:
        if output.requires_grad:
            upstream = np.linspace(0.5, 1.5, output.size).reshape(output.shape)
            output.backward(other(upstream.astype(output.dtype)))
    grads = [leaf.grad for leaf in leaves if leaf.grad is not None]
    return [np.asarray(result.numpy()) for result in (*outputs, *grads)]


@pytest.mark.parametrize("name", NAMES)
def test_functions_of_arrays_of_any_order(name: str) -> None:
    for case in of(name):
        expected = outputs_and_gradients(case, np.array)
        for order, arranged in ORDERS.items():
            for a, b in zip(outputs_and_gradients(case, arranged), expected, strict=True):
                np.testing.assert_allclose(a, b, 1e-4, 1e-5, err_msg=f"{order} {case}")


# -- dtypes and classes of arrays ------------------------------------------------------------------

_BASE = np.array([[1, 2], [3, 4]], np.float32)
SAME: dict[str, Any] = {  # as _BASE
    ">f4": _BASE.astype(">f4"),
    "masked, nothing hidden": np.ma.array(_BASE),
    "subclass": _BASE.view(_Subclass),
    "read-only": _read_only(_BASE),
}
FOREIGN: dict[str, Any] = {
    "object": _BASE.astype(object),
    "None": np.array([[1, None], [2, 3]], object),
    "str": _BASE.astype(str),
    "bytes": _BASE.astype(bytes),
    "complex": _BASE + 0j,
    "longdouble": _BASE.astype(np.longdouble),
    "masked": np.ma.masked_less(_BASE, 2),
    "structured": np.zeros((2, 2), [("a", "f4"), ("b", "f4")]),
    "record": np.zeros((2, 2), [("a", "f4"), ("b", "f4")]).view(np.recarray),
    "datetime": np.zeros((2, 2), "datetime64[s]"),
    "timedelta": np.zeros((2, 2), "timedelta64[s]"),
    "void": np.zeros((2, 2), "V4"),
}
if np.dtype(np.longdouble) == np.float64:
    del FOREIGN["longdouble"]


def _loaded(array: Any) -> Any:
    layer = nn.Linear(2, 2)
    layer.load_state_dict({"weight": array, "bias": [0.0, 0.0]})
    return layer.weight.tolist()


def _batches(array: Any) -> Any:
    loader = data.DataLoader(data.ArrayDataset(array, [0, 1]), 2, prefetch=0)
    return [images.tolist() for images, _ in loader]


def _targets(array: Any) -> Any:
    loader = data.DataLoader(data.ArrayDataset(_BASE, array), 2, prefetch=0)
    return [targets.tolist() for _, targets in loader]


X = tinynn.tensor(_BASE, requires_grad=True)
DOORS: dict[str, Callable[[Any], Any]] = {
    "tensor": lambda a: tinynn.tensor(a).tolist(),
    "tensor + array": lambda a: (X + a).tolist(),
    "array * tensor": lambda a: (a * X).tolist(),
    "maximum": lambda a: F.maximum(X, a).tolist(),
    "matmul": lambda a: (X @ a).tolist(),
    "equal": lambda a: F.equal(X, a).tolist(),
    "where": lambda a: F.where(X > 2, X, a).tolist(),
    "mse_loss": lambda a: F.mse_loss(X, a).tolist(),
    "cross_entropy": lambda a: F.cross_entropy(X, a).tolist(),
    "relu": lambda a: F.relu(a).tolist(),
    "sum": lambda a: F.sum(a).tolist(),
    "concat": lambda a: F.concat([X, a]).tolist(),
    "einsum": lambda a: F.einsum("ij,jk->ik", X, a).tolist(),
    "load_state_dict": _loaded,
    "ArrayDataset, images": _batches,
    "ArrayDataset, targets": _targets,
}
SHARING: dict[str, Callable[[Any], Any]] = {  # they keep the array itself
    "from_numpy": lambda a: tinynn.from_numpy(a).tolist(),
    "Tensor": lambda a: Tensor(a).tolist(),
    "Parameter": lambda a: nn.Parameter(a).tolist(),
}


@pytest.mark.parametrize("kind", SAME)
@pytest.mark.parametrize("name", [*DOORS, *SHARING])
def test_arrays_that_are_taken(name: str, kind: str) -> None:
    if name in SHARING and kind == ">f4":
        with pytest.raises(ArgumentError, match=r"byte order: tinynn.tensor\(\) converts, .* >f4"):
            SHARING[name](SAME[kind])
    else:
        call = (DOORS | SHARING)[name]
        assert call(SAME[kind]) == call(_BASE)


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("name", [*DOORS, *SHARING])
def test_arrays_that_are_refused(name: str, kind: str) -> None:
    if name == "array * tensor" and kind == "masked":
        pytest.skip("NumPy's masked arrays do not ask the other operand")
    if name in ("load_state_dict", "ArrayDataset, targets") and kind == "longdouble":
        pytest.skip("converts floating-point numbers")
    with pytest.raises(TinynnError):
        (DOORS | SHARING)[name](FOREIGN[kind])


class _NoArray:
    """As a tensor of PyTorch that requires a gradient."""

    def __array__(self, *options: Any, **others: Any) -> np.ndarray:
        raise RuntimeError("use .detach()")


@pytest.mark.parametrize(
    "values", [[1, None], [1.0, "2"], ["1"], [1j], [[1], [1, 2]], {}, None, _NoArray()]
)
@pytest.mark.parametrize("dtype", [None, "float32"])
def test_a_tensor_holds_numbers_only(values: Any, dtype: str | None) -> None:
    with pytest.raises(ArgumentError, match=r"tensor\(\) expects"):
        tinynn.tensor(values, dtype)


def test_big_endian_labels_and_indices() -> None:
    labels = np.array([0, 1], ">i8")
    assert F.cross_entropy(X, labels).item() == F.cross_entropy(X, labels.astype(int)).item()
    assert X[labels].tolist() == _BASE.tolist()


@pytest.mark.parametrize("dtype", [">f4", ">i8", "<f8", np.float32, float, "bool"])
def test_new_tensors_are_in_the_byte_order_of_the_machine(dtype: Any, tmp_path: Path) -> None:
    for x in (tinynn.zeros(2, dtype), tinynn.ones(2).astype(dtype), tinynn.tensor([1, 2], dtype)):
        assert x.dtype.isnative
        assert x.dtype == np.dtype(dtype).newbyteorder("=")
