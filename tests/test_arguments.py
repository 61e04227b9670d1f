"""Arguments: NumPy's numbers count as the numbers that they are, and others are refused by name.

Every number among the arguments of the public functions and constructors below is replaced by one
of another type, and by values that are no number or out of range.
"""

import math
from collections.abc import Callable
from contextlib import suppress
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinynn
from tests.functional.cases import FUNCTIONS, as_list
from tests.nn.test_serialization import LAYERS
from tinynn import data, nn, optim, training
from tinynn import functional as F
from tinynn.autograd import Tensor
from tinynn.errors import ArgumentError, DeviceMemoryError, ShapeError, TinynnError
from tinynn.gpucheck.cases import Case, is_variable

KINDS: dict[str, tuple[Callable[[int], Any], Callable[[float], Any]]] = {
    "int64": (np.int64, np.float64),
    "int8": (np.int8, np.float32),
    "no axes": (np.array, np.array),
    "tensor": (tinynn.tensor, np.float16),
}
WRONG = [
    *(True, np.True_, 2.5, -3, math.nan, math.inf, -math.inf, 10**30, -(10**30), 1e30),
    *("1", "x", b"1", None, 1j, np.complex64(1), np.datetime64("2020-01-01"), object()),
    *([], (), [1.5], [None], [[1]], {}, np.array([1, 2, 3]), np.array([]), np.array(["a"])),
]


def converted(value: Any, kind: str) -> Any:
    """The value with its Python numbers as numbers of a kind."""
    if isinstance(value, (tuple, list)):
        return type(value)(converted(part, kind) for part in value)
    if type(value) is dict:
        return {key: converted(part, kind) for key, part in value.items()}
    if type(value) in (int, float):
        return KINDS[kind][type(value) is float](value)
    return np.bool_(value) if type(value) is bool else value


def check_numbers_of_numpy(call: Callable[..., Any], arguments: Any, kind: str) -> None:
    tinynn.manual_seed(0)
    expected = call(*arguments)
    tinynn.manual_seed(0)
    assert call(*converted(arguments, kind)) == expected


def check_refusals(call: Callable[..., Any], arguments: Any) -> None:
    """No value in the place of an argument may cause an error that is not the library's."""
    for position in range(len(arguments)):
        for wrong in WRONG:
            with suppress(TinynnError):
                call(*arguments[:position], wrong, *arguments[position + 1 :])


# -- functions -------------------------------------------------------------------------------------


def outputs_and_gradients(case: Case, device: str) -> list[np.ndarray]:
    leaves: list[Tensor] = []

    def tensor(array: np.ndarray) -> Any:
        if not array.ndim:  # a converted number
            return array
        if not is_variable(array):
            return tinynn.tensor(array, device=device)
        leaves.append(tinynn.tensor(array, "float32", device, requires_grad=True))
        return leaves[-1]

    outputs = as_list(case.call(getattr(F, case.name), tensor))
    for output in outputs:
        if output.requires_grad:
            output.sum().backward()
    grads = [leaf.grad for leaf in leaves if leaf.grad is not None]
    return [tensor.numpy() for tensor in (*outputs, *grads)]


NUMERIC = [case for case in FUNCTIONS if any(np.ndim(a) == 0 for a in case.inputs) or case.options]


@pytest.mark.parametrize("kind", KINDS)
def test_functions_take_the_numbers_of_numpy(kind: str, device: str) -> None:
    for case in NUMERIC:
        if case.name == "index" and kind == "tensor":
            continue  # must be on the same device
        options, inputs = converted(case.options, kind), converted(case.inputs, kind)
        expected = outputs_and_gradients(case, device)
        actual = outputs_and_gradients(case._replace(options=options, inputs=inputs), device)
        for a, b in zip(actual, expected, strict=True):
            assert a.dtype == b.dtype, case
            np.testing.assert_allclose(a, b, 1e-2 if kind == "tensor" else 1e-5, 1e-5, err_msg=case)


@pytest.mark.parametrize("name", sorted({case.name for case in FUNCTIONS}))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of infinite values
def test_functions_refuse_by_name(name: str, device: str) -> None:
    """Whatever is passed for an argument, the result is a tensor or an error of the library."""
    case = next(case for case in FUNCTIONS if case.name == name)
    for position, parameter in enumerate(signature(getattr(F, name)).parameters):
        for wrong in WRONG:
            inputs, options = list(case.inputs), dict(case.options)
            if position < len(inputs):
                inputs[position] = wrong
            else:
                options[parameter] = wrong
            changed = case._replace(inputs=tuple(inputs), options=options)
            with suppress(TinynnError):
                outputs_and_gradients(changed, device)


# -- constructors ----------------------------------------------------------------------------------


def _rates(schedule: optim.Schedule) -> list[float]:
    return [schedule(step) for step in range(12)]


def _stepped(make: Callable[..., optim.Optimizer], *arguments: Any) -> list[float]:
    layer = nn.Linear(2, 2)
    optimizer = make(layer, *arguments)
    layer(tinynn.ones((1, 2))).sum().backward()
    optimizer.step()
    return layer.weight.tolist()


def _filled(fill: Callable[..., None], *arguments: float) -> Any:
    tensor = tinynn.zeros((3, 4))
    fill(tensor, *arguments)
    return tensor.tolist()


def _augmented(make: Callable[..., Any], *arguments: Any) -> Any:
    images = np.linspace(0, 1, 2 * 4 * 4, dtype=np.float32).reshape(2, 4, 4, 1)
    return make(*arguments)(images, np.random.default_rng(0)).tolist()


def _clipped(clip: Callable[..., Any], limit: float) -> Any:
    tensor = tinynn.ones(3, requires_grad=True)
    tensor.grad = tinynn.ones(3)
    clip([tensor], limit)
    assert tensor.grad is not None
    return tensor.grad.tolist()


def _applied(make: Callable[..., nn.Module], *arguments: Any) -> Any:
    layer = make(*arguments)
    return layer(tinynn.ones((2, 4, 4, 4))).tolist()


def _batches(*arguments: Any) -> Any:
    images = np.linspace(0, 1, 5 * 2, dtype=np.float32).reshape(5, 2)
    size, seed, prefetch, shuffle, drop_last, augment = arguments
    options = {"shuffle": shuffle, "drop_last": drop_last, "augment": augment}
    dataset = data.ArrayDataset(images, np.arange(5))
    loader = data.DataLoader(dataset, size, seed=seed, prefetch=prefetch, **options)
    return [labels.tolist() for _, labels in loader]


CALLS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "zeros": (lambda n: tinynn.zeros(n).shape, ((2, 3),)),
    "full": (lambda n, value: tinynn.full(n, value).tolist(), (2, 1.5)),
    "eye": (lambda n: tinynn.eye(n).shape, (2,)),
    "arange": (lambda *ends: tinynn.arange(*ends).tolist(), (1, 7, 2)),
    "linspace": (lambda *ends: tinynn.linspace(*ends).tolist(), (0.0, 1.0, 3)),
    "rand": (lambda n: tinynn.rand(n).tolist(), (3,)),
    "randn": (lambda n: tinynn.randn(n).tolist(), ((2, 2),)),
    "manual_seed": (lambda n: tinynn.manual_seed(n) or tinynn.rand(1).item(), (5,)),
    "Generator": (lambda n: tinynn.Generator(n).state, (5,)),
    "reshape": (lambda *n: tinynn.ones((4, 3)).reshape(*n).shape, (2, 6)),
    "permute": (lambda *n: tinynn.ones((4, 3)).permute(*n).shape, (1, 0)),
    "set_num_threads": (lambda n: tinynn.set_num_threads(n) or tinynn.get_num_threads(), (2,)),
    "set_limit": (lambda n: tinynn.memory.set_limit(n), (100,)),
    "summary": (lambda *n: tinynn.summary(nn.ReLU(), *n).input_shape, ((2, 3), 4)),
    "constant": (lambda *a: _rates(optim.constant(*a)), (0.5,)),
    "step_decay": (lambda *a: _rates(optim.step_decay(*a)), (0.5, 3, 0.5)),
    "cosine": (lambda *a: _rates(optim.cosine(*a)), (0.5, 8, 0.25)),
    "warm_up": (lambda *a: _rates(optim.warm_up(*a)), (0.5, 4)),
    "one_cycle": (lambda *a: _rates(optim.one_cycle(*a)), (0.5, 8, 0.25, 0.125, 0.25)),
    "SGD": (lambda *a: _stepped(optim.SGD, *a), (0.5, 0.75, True, 0.25)),
    "Adam": (lambda *a: _stepped(optim.Adam, *a), (0.5, (0.75, 0.5), 0.25, 0.125)),
    "AdamW": (lambda *a: _stepped(optim.AdamW, *a), (0.5, (0.75, 0.5), 0.25, 0.125)),
    "RMSprop": (lambda *a: _stepped(optim.RMSprop, *a), (0.5, 0.75, 0.25, 0.5, 0.125)),
    "LossScaler": (lambda *a: optim.LossScaler(*a).state_dict(), (2.0, 3)),
    "clip_grad_norm": (lambda *a: _clipped(optim.clip_grad_norm, *a), (0.5,)),
    "clip_grad_value": (lambda *a: _clipped(optim.clip_grad_value, *a), (0.5,)),
    "constant_": (lambda *a: _filled(nn.init.constant_, *a), (0.5,)),
    "uniform_": (lambda *a: _filled(nn.init.uniform_, *a), (0.5, 0.75)),
    "normal_": (lambda *a: _filled(nn.init.normal_, *a), (0.5, 0.75)),
    "truncated_normal_": (lambda *a: _filled(nn.init.truncated_normal_, *a), (0.5, 0.75)),
    "kaiming_normal_": (lambda *a: _filled(nn.init.kaiming_normal_, *a), (0.5,)),
    "xavier_uniform_": (lambda *a: _filled(nn.init.xavier_uniform_, *a), (0.5,)),
    "orthogonal_": (lambda *a: _filled(nn.init.orthogonal_, *a), (0.5,)),
    "RandomFlip": (lambda *a: _augmented(data.RandomFlip, *a), (0.5,)),
    "RandomAffine": (
        lambda *a: _augmented(data.RandomAffine, *a),
        (0.25, (0.5, 1.5), 10.0, (2, 3)),
    ),
    "RandomCrop": (lambda *a: _augmented(data.RandomCrop, *a), (2, 3)),
    "RandomContrast": (lambda *a: _augmented(data.RandomContrast, *a), (0.5, 1.5)),
    "RandomGamma": (lambda *a: _augmented(data.RandomGamma, *a), (0.5, 1.5)),
    "RandomBlur": (lambda *a: _augmented(data.RandomBlur, *a), (0.5,)),
    "split_stratified": (
        lambda *a: [part.tolist() for part in data.split_stratified([0, 0, 1, 1], *a)],
        ((0.5, 0.5), 3),
    ),
    "DataLoader": (_batches, (2, 7, 0, True, True, None)),
    "Linear": (lambda *a: _applied(nn.Linear, *a), (4, 3, False)),
    "Conv2d": (
        lambda *a: _applied(nn.Conv2d, *a),
        (4, 6, (3, 2), 2, ((1, 0), (0, 1)), 1, 2, False),
    ),
    "ConvTranspose2d": (
        lambda *a: _applied(nn.ConvTranspose2d, *a),
        (4, 6, 3, (2, 1), 1, (1, 0), 1, 2, True),
    ),
    "BatchNorm2d": (lambda *a: _applied(nn.BatchNorm2d, *a), (4, 0.25, 0.5, True)),
    "LayerNorm": (lambda *a: _applied(nn.LayerNorm, *a), ((4, 4), 0.25)),
    "GroupNorm": (lambda *a: _applied(nn.GroupNorm, *a), (2, 4, 0.25)),
    "MaxPool2d": (lambda *a: _applied(nn.MaxPool2d, *a), ((3, 2), 2, (1, 0), 1, True)),
    "AvgPool2d": (lambda *a: _applied(nn.AvgPool2d, *a), ((3, 2), 2, (1, 0), True, False)),
    "Resize": (lambda *a: _applied(nn.Resize, *a), ((3, 5),)),
    "LeakyReLU": (lambda *a: _applied(nn.LeakyReLU, *a), (0.5,)),
    "ELU": (lambda *a: _applied(nn.ELU, *a), (0.5,)),
    "Softmax": (lambda *a: _applied(nn.Softmax, *a), (1,)),
    "LogSoftmax": (lambda *a: _applied(nn.LogSoftmax, *a), (-1,)),
    "Dropout": (lambda *a: _applied(nn.Dropout, *a), (0.5,)),
    "Flatten": (lambda *a: _applied(nn.Flatten, *a), (2,)),
}


@pytest.fixture
def settings() -> Any:
    """Restores the settings of the backend."""
    before = tinynn.get_num_threads()
    yield
    tinynn.set_num_threads(before)
    tinynn.memory.set_limit(2**28)


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CALLS)
def test_constructors_take_the_numbers_of_numpy(name: str, kind: str) -> None:
    check_numbers_of_numpy(*CALLS[name], kind)


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_constructors_refuse_by_name(name: str) -> None:
    check_refusals(*CALLS[name])


# -- training --------------------------------------------------------------------------------------

TARGETS = np.arange(6) % 2
IMAGES = np.linspace(0, 1, 6 * 2, dtype=np.float32).reshape(6, 2)


def _loader() -> data.DataLoader:
    return data.DataLoader(data.ArrayDataset(IMAGES, TARGETS), 3, prefetch=0)


def _fit(epochs: Any, micro_batch: Any, patience: Any, metrics: Any, keep_best: Any) -> Any:
    model, options = nn.Linear(2, 2), {"patience": patience, "description": None}
    options |= {"micro_batch": micro_batch, "metrics": metrics, "keep_best": keep_best}
    optimizer = optim.SGD(model, 0.125)
    loaders = _loader(), _loader()
    training.fit(
        model,
        loaders[0],
        optimizer,
        F.cross_entropy,
        epochs=epochs,
        validation=loaders[1],
        **options,
    )
    return model.weight.tolist()


def _tested(low: Any, high: Any, steps: Any) -> Any:
    model = nn.Linear(2, 2)
    optimizer = optim.SGD(model, 0.125)
    options = {"low": low, "high": high, "steps": steps}
    return training.find_learning_rate(
        model, _loader(), optimizer, F.cross_entropy, **options
    ).rates


TRAINING: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "fit": (_fit, (2, 2, 3, {}, "loss")),
    "find_learning_rate": (_tested, (2.0**-10, 0.5, 12)),
    "predict": (lambda *a: training.predict(nn.Linear(2, 2), *a).tolist(), (IMAGES, 4)),
    "confusion_matrix": (
        lambda *a: training.confusion_matrix(*a).tolist(),
        (TARGETS, TARGETS[::-1], 2),
    ),
    "roc_auc": (training.roc_auc, (IMAGES[:, 0], TARGETS)),
    "predicted_classes": (lambda *a: training.predicted_classes(*a).tolist(), (IMAGES,)),
    "batches": (lambda *a: len(list(_loader().batches(*a))), (3, 1)),
    "load_state_dict": (
        lambda state: nn.Linear(2, 2).load_state_dict(state),
        ({"weight": np.ones((2, 2)), "bias": np.ones(2)},),
    ),
    "grad": (
        lambda *a: tinynn.grad(*a),
        (tinynn.ones(2, requires_grad=True), tinynn.ones(2, requires_grad=True), None),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["fit", "find_learning_rate", "predict", "batches"])
def test_training_takes_the_numbers_of_numpy(name: str, kind: str) -> None:
    check_numbers_of_numpy(*TRAINING[name], kind)


@pytest.mark.parametrize("name", TRAINING)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_training_refuses_by_name(name: str) -> None:
    check_refusals(*TRAINING[name])


def test_an_unknown_metric_is_refused_before_the_first_step() -> None:
    model = nn.Linear(2, 2)
    before = model.weight.tolist()
    with pytest.raises(ArgumentError, match=r'keep_best must be "loss" or "accuracy", got'):
        training.fit(
            model, _loader(), optim.SGD(model, 0.1), F.cross_entropy, epochs=1, keep_best="acuracy"
        )
    assert model.weight.tolist() == before


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: nn.Linear(2.0, 3), r"Linear: the sizes must be integers >= 1, got \(2.0, 3\)"),
        (lambda: nn.Linear(2, True), r"Linear: the sizes must be integers >= 1, got \(2, True\)"),
        (lambda: nn.Conv2d(2, 3, 3, stride=0), r"Conv2d expects stride .* integers >= 1 .* got 0"),
        (lambda: nn.Conv2d(2, 3, 3, padding=(1, 2, 3)), r"Conv2d expects padding .*\(1, 2, 3\)"),
        (lambda: nn.Conv2d(2, 3, 3, dilation=2**31), r">= 1 and < 2\*\*31, got 2147483648"),
        (lambda: nn.MaxPool2d(2, padding=2), "padding at most half the kernel"),
        (lambda: nn.Resize(0), "Resize expects size .* got 0"),
        (lambda: nn.GELU("fast"), 'GELU: approximate must be "none" or "tanh", got \'fast\''),
        (lambda: nn.BatchNorm2d(2, momentum=None), r"momentum must be a number in \[0, 1\]"),
        (lambda: optim.SGD([tinynn.ones(2)], -0.1), r"learning rate must .* \(0, inf\), got -0.1"),
        (lambda: optim.SGD([tinynn.ones(2)], math.inf), r"learning rate .* got inf"),
        (lambda: nn.Linear(2, 3, bias="no"), "Linear: bias must be True or False, got 'no'"),
        (
            lambda: optim.SGD(tinynn.ones(2), 0.1),
            r"a model with parameters or tensors, got Tensor\(",
        ),
        (lambda: optim.Adam([tinynn.ones(2)], betas=0.9), "expects two betas, got 0.9"),
        (
            lambda: F.conv2d(tinynn.ones((1, 4, 4, 1)), tinynn.ones((3, 3, 1, 1)), padding=2**30),
            "large",
        ),
        (lambda: tinynn.zeros(10**14), "Unable to allocate"),
        (lambda: tinynn.rand(3, "int32"), "rand expects a floating-point dtype, got int32"),
        (lambda: F.conv2d(tinynn.ones((1, 4, 4, 1)), tinynn.ones((0, 3, 1, 1))), r"\(0, 3, 1, 1\)"),
    ],
)
def test_messages(call: Callable[[], Any], words: str) -> None:
    with pytest.raises(TinynnError, match=words):
        call()


def test_a_layer_without_memory_is_named() -> None:
    model = nn.Sequential(nn.ReLU(), nn.Conv2d(1, 1, 3, padding=10**6))
    with pytest.raises(DeviceMemoryError, match=r"Unable to allocate(.|\n)*in Sequential.1"):
        model(tinynn.ones((1, 4, 4, 1)))


def test_a_refusal_does_not_depend_on_earlier_calls() -> None:
    """The windows of convolutions are cached, and 1 == 1.0 == True."""
    x, weight = tinynn.ones((1, 4, 4, 1)), tinynn.ones((3, 3, 1, 1))
    F.conv2d(x, weight, stride=1)
    for stride in (True, 1.0):
        with pytest.raises(ArgumentError, match="stride"):
            F.conv2d(x, weight, stride=stride)


def test_a_schedule_is_checked_at_each_step() -> None:
    parameter = tinynn.ones(2, requires_grad=True)
    optimizer = optim.SGD([parameter], lambda step: 1 - step)
    for expected in (0, 0, "error"):
        parameter.grad = tinynn.ones(2)
        if expected == "error":
            with pytest.raises(ArgumentError, match=r"schedule at step 2 must .* got -1"):
                optimizer.step()
        else:
            optimizer.step()
            assert parameter.tolist() == [expected] * 2
    for wrong in (math.nan, -1, True):
        with pytest.raises(ArgumentError, match="learning rate"):
            optimizer.learning_rate = wrong
    optimizer.learning_rate = 0
    assert optimizer.learning_rate == 0
    assert nn.Linear(2, 2, bias=None).bias is None  # type: ignore[arg-type]


# -- a model that can be built can be saved --------------------------------------------------------


class Standardize(nn.Module):
    """A layer of a user whose arguments are arrays."""

    def __init__(self, mean: Any, std: Any, **options: Any) -> None:
        self.mean, self.std, self.options = mean, std, options

    def forward(self, x: Tensor) -> Tensor:
        return (x - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)


@pytest.mark.parametrize("kind", ["int64", "int8", "no axes"])
def test_a_model_of_numpy_numbers_can_be_saved(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model"
    for original, shape in LAYERS:
        args, kwargs = original._arguments
        if any(isinstance(argument, nn.Module) for argument in args):
            continue
        model = type(original)(*converted(args, kind), **converted(kwargs, kind)).eval()
        tinynn.save(model, path)
        x = tinynn.rand(shape)
        assert tinynn.load(path)(x).tolist() == model(x).tolist(), model


@pytest.mark.parametrize(
    "mean",
    [
        *(np.float32(0.5), np.float64(1e-300), np.int8(3), np.array(0.25), np.array([0.1, 0.2])),
        *(np.array([1, 2], ">f4"), np.array([[True], [False]]), (np.int64(1), [np.float16(2)])),
    ],
)
def test_arguments_of_numpy_are_stored(mean: Any, tmp_path: Path) -> None:
    tinynn.save(Standardize(mean, np.bool_(True), deep={"a": mean}), tmp_path / "model")
    loaded = tinynn.load(tmp_path / "model", classes=[Standardize])
    assert isinstance(loaded, Standardize)
    assert str(loaded.mean) == str(mean).replace("np.int64(1)", "1").replace(
        "np.float16(2.0)", "2.0"
    )
    assert loaded.std is True


# -- optimizers follow their model -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop"])
def test_the_state_of_an_optimizer_follows_the_model(name: str, device: str) -> None:
    """To another device and another dtype, and back."""
    arguments = {"momentum": 0.9} if name in ("SGD", "RMSprop") else {}
    layers = [nn.Linear(3, 2) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    moving, staying = (getattr(optim, name)(layer, 0.125, **arguments) for layer in layers)
    for where, dtype in (("cpu", "float32"), (device, "float32"), (device, "float64")):
        layers[0].to(where).astype(dtype)
        for layer, optimizer in zip(layers, (moving, staying), strict=True):
            optimizer.zero_grad()
            x = tinynn.ones((1, 3), layer.weight.dtype, layer.weight.device)
            layer(x).sum().backward()
            optimizer.step()
        assert {array.dtype for array in moving.state["weight"].values()} == {np.dtype(dtype)}
        np.testing.assert_allclose(layers[0].weight.numpy(), layers[1].weight.numpy(), 1e-5)
    layers[0].to("cpu")
    states = moving.state_dict()["arrays"], staying.state_dict()["arrays"]
    for key in states[1]:
        np.testing.assert_allclose(states[0][key], states[1][key], 1e-5)


def test_a_parameter_of_another_shape_needs_a_new_optimizer() -> None:
    layer = nn.Linear(3, 2)
    optimizer = optim.SGD(layer, 0.1, momentum=0.9)
    layer(tinynn.ones((1, 3))).sum().backward()
    optimizer.step()
    layer.weight.data = np.ones((3, 4), np.float32)
    layer.weight.grad = tinynn.ones((3, 4))
    with pytest.raises(ShapeError, match=r"'weight' was \(3, 2\) and is now \(3, 4\)"):
        optimizer.step()


def test_a_read_only_array_is_copied_for_a_parameter_and_refused_as_a_tensor_to_train() -> None:
    array = np.broadcast_to(np.float32(1), 2)
    layer = nn.Linear(2, 2)
    layer.bias = nn.Parameter(array)
    optim.SGD(layer, 0.1)
    layer.load_state_dict({"weight": np.zeros((2, 2)), "bias": np.array([1.0, 2.0])})
    nn.init.zeros_(layer.bias)
    assert array.tolist() == [1, 1]
    tensor = Tensor(array, requires_grad=True)
    with pytest.raises(ArgumentError, match="'0' holds a read-only array"):
        optim.SGD([tensor], 0.1)


@pytest.mark.parametrize("dtype", ["float32", np.float32, "f", np.dtype(">f4"), ">f4"])
def test_dtypes_are_the_objects_of_numpy(dtype: Any) -> None:
    """So that comparing them is comparing pointers."""
    for made in (tinynn.ones(2, dtype=dtype), tinynn.tensor(np.ones(2, dtype), dtype=dtype)):
        assert made.numpy().dtype is np.dtype(np.float32)
