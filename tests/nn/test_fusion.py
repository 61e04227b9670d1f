"""Fused layers compute the same as the separate layers."""

import copy
import types
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import pytest

import tinynn
from tinynn import functional as F
from tinynn import nn
from tinynn.nn.module import observe


def settled(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """A batch norm as after training: no parameter or statistic is 0 or 1."""
    for tensor in (norm.running_mean, norm.weight, norm.bias):
        nn.init.normal_(tensor)
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return norm


def models() -> dict[str, nn.Sequential]:
    conv, relu, pool = nn.Conv2d(3, 4, 3, padding="same"), nn.ReLU(), nn.MaxPool2d(2)
    plain = nn.Conv2d(3, 4, 2, stride=2, bias=False)
    return {
        "conv relu pool": nn.Sequential(conv, relu, pool),
        "conv relu pool ceil": nn.Sequential(conv, relu, nn.MaxPool2d(2, ceil_mode=True)),
        "conv relu wide pool": nn.Sequential(conv, relu, nn.MaxPool2d(3, stride=2)),
        "conv relu padded pool": nn.Sequential(conv, relu, nn.MaxPool2d(3, 2, padding=1)),
        "conv norm eps": nn.Sequential(conv, settled(nn.BatchNorm2d(4, eps=0.5)), relu),
        "conv norm": nn.Sequential(conv, settled(nn.BatchNorm2d(4))),
        "conv norm relu": nn.Sequential(plain, settled(nn.BatchNorm2d(4)), relu),
        "conv norm relu pool": nn.Sequential(plain, settled(nn.BatchNorm2d(4)), relu, pool),
        "groups": nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), settled(nn.BatchNorm2d(6)), relu),
        "twice": nn.Sequential(conv, relu, pool, nn.Conv2d(4, 2, 2), relu, pool),
    }


NAMES = list(models())


def one_by_one(model: nn.Sequential, x: tinynn.Tensor) -> tinynn.Tensor:
    for layer in model:
        x = layer(x)
    return x


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", NAMES)
def test_values_and_gradients_equal_those_of_the_layers(name: str, training: bool, device: str):
    model = models()[name].astype("float64").to(device).train(training)
    array = np.random.default_rng(1).standard_normal((2, 9, 11, 3))
    results = []
    for compute in (model, lambda x: one_by_one(model, x)):
        x = tinynn.tensor(array, device=device, requires_grad=True)
        model.zero_grad()
        out = compute(x)
        (out * out).sum().backward()
        grads = [parameter.grad.numpy() for parameter in model.parameters()]
        results.append([out.numpy(), x.grad.numpy(), *grads])
    for fused, single in zip(*results, strict=True):
        np.testing.assert_allclose(fused, single, rtol=1e-9, atol=1e-9)


def test_the_layers_are_fused(monkeypatch: pytest.MonkeyPatch):
    called = []
    monkeypatch.setattr(F, "conv2d", lambda *args: called.append(args))
    models()["conv relu pool"](tinynn.zeros((1, 8, 8, 3)))
    assert not called


def test_a_hook_gets_the_output_of_its_layer():
    model = models()["conv relu pool"]
    seen = []
    remove = model[0].register_forward_hook(lambda module, inputs, out: seen.append(out.shape))
    model(tinynn.zeros((1, 8, 8, 3)))
    assert seen == [(1, 8, 8, 4)]
    remove()
    model(tinynn.zeros((1, 8, 8, 3)))
    assert len(seen) == 1


def test_an_error_names_the_layer_and_not_its_neighbors():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(4))
    with pytest.raises(tinynn.TinynnError, match=r"in Sequential\.2 \(MaxPool2d\)"):
        model(tinynn.zeros((1, 5, 5, 3)))


def test_later_errors_list_the_fused_layers():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Linear(5, 2))
    with pytest.raises(tinynn.TinynnError, match=r"0 \(Conv2d\) \+ 1 \(ReLU\) \+ 2 \(MaxPool2d\)"):
        model(tinynn.zeros((1, 8, 8, 3)))


@pytest.mark.parametrize(("outputs", "channels"), [(16, 1), (1, 16)])
def test_a_norm_of_another_width_is_an_error_in_evaluation_too(outputs: int, channels: int):
    model = nn.Sequential(nn.Conv2d(3, outputs, 3), nn.BatchNorm2d(channels)).eval()
    with pytest.raises(tinynn.TinynnError, match=r"in Sequential\.1 \(BatchNorm2d\)"):
        model(tinynn.zeros((1, 8, 8, 3)))


def forwards(layer: nn.Module, patch: pytest.MonkeyPatch) -> dict[str, Callable[[], object]]:
    """Ways in which programs replace what a layer computes, here by its usual result times 3."""
    kind, usual = type(layer), layer.forward

    def scaled(self: nn.Module, *inputs: Any, **options: Any) -> Any:
        return kind_forward(self, *inputs, **options) * 3

    def called(self: nn.Module, *inputs: Any) -> Any:
        return kind_call(self, *inputs) * (3 if self is layer else 1)

    kind_forward, kind_call = kind.forward, nn.Module.__call__
    return {
        "function": lambda: setattr(layer, "forward", lambda x: usual(x) * 3),
        "method": lambda: setattr(layer, "forward", types.MethodType(scaled, layer)),
        "partial": lambda: setattr(layer, "forward", partial(scaled, layer)),
        "mock": lambda: patch.setattr(layer, "forward", lambda x: usual(x) * 3),
        "class": lambda: patch.setattr(kind, "forward", scaled),
        "call of the class": lambda: patch.setattr(kind, "__call__", called, raising=False),
        "call of all": lambda: patch.setattr(nn.Module, "__call__", called),
        "subclass": lambda: setattr(layer, "__class__", type("Mine", (kind,), {"forward": scaled})),
        "hook": lambda: layer.register_forward_hook(lambda module, inputs, out: out * 3),
        "observer": lambda: stack.enter_context(observe([(layer, lambda m, i, out: out * 3)])),
    }


stack = ExitStack()


@pytest.fixture
def observers():
    with stack:
        yield


WAYS = list(forwards(nn.ReLU(), pytest.MonkeyPatch()))


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("position", range(4))
@pytest.mark.parametrize("way", WAYS)
def test_what_replaces_a_layer_is_computed(
    way: str, position: int, training: bool, monkeypatch: pytest.MonkeyPatch, observers: None
):
    """Every layer of every run that fuses: a convolution, a norm, a ReLU and max pooling."""
    layers = [
        nn.Conv2d(3, 4, 2, bias=False),
        settled(nn.BatchNorm2d(4)),
        nn.ReLU(),
        nn.MaxPool2d(2),
    ]
    for run in (layers, [layers[0], *layers[2:]]):
        if layers[position] not in run:
            continue
        model = nn.Sequential(*copy.deepcopy(run)).astype("float64").train(training)
        x = tinynn.tensor(np.random.default_rng(1).standard_normal((2, 9, 11, 3)))
        at = run.index(layers[position])
        expected = x
        for number, layer in enumerate(model):
            expected = layer(expected) * (3 if number == at else 1)
        with monkeypatch.context() as patch:
            forwards(model[at], patch)[way]()
            np.testing.assert_allclose(model(x).numpy(), expected.numpy(), rtol=1e-9)
            with tinynn.no_grad(), nn.constant_weights():
                np.testing.assert_allclose(model(x).numpy(), expected.numpy(), rtol=1e-9)


def test_a_weight_may_be_computed_from_others():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2))
    raw, mask = model[0].weight, tinynn.tensor(np.arange(4, dtype=np.float32))
    del model[0].weight
    model[0].weight = raw * mask
    out = model(tinynn.ones((1, 8, 8, 3)))
    out.sum().backward()
    assert not out.numpy()[..., 0].any() or model[0].bias.numpy()[0] > 0
    assert raw.grad.numpy()[..., 1:].any()
    assert not raw.grad.numpy()[..., 0].any()


def test_a_norm_without_running_statistics_uses_the_batch():
    model = models()["conv norm"].eval()
    model[1].running_mean = model[1].running_var = None
    x = tinynn.tensor(np.random.default_rng(1).standard_normal((2, 9, 11, 3)).astype("float32"))
    np.testing.assert_array_equal(model(x).numpy(), one_by_one(model, x).numpy())


class TestConstantWeights:
    def test_batch_norm_is_folded_once(self, monkeypatch: pytest.MonkeyPatch):
        model = models()["conv norm relu pool"].eval()
        x = tinynn.ones((1, 9, 11, 3))
        weights = []

        def convolution(x: tinynn.Tensor, weight: tinynn.Tensor, *options: object):
            weights.append(weight)
            return compute(x, weight, *options)

        compute = F.conv2d_relu_max_pool2d
        monkeypatch.setattr(F, "conv2d_relu_max_pool2d", convolution)
        with tinynn.no_grad():
            expected = model(x).numpy()
            with nn.constant_weights():
                first, second = model(x).numpy(), model(x).numpy()
        np.testing.assert_array_equal(first, expected)
        np.testing.assert_array_equal(second, expected)
        assert weights[0] is not weights[1]
        assert weights[1] is weights[2]

    @pytest.mark.parametrize("name", NAMES)
    def test_values_are_the_same(self, name: str):
        model = models()[name].eval()
        x = tinynn.tensor(np.random.default_rng(1).standard_normal((2, 9, 11, 3)).astype("float32"))
        with tinynn.no_grad():
            expected = model(x).numpy()
            with nn.constant_weights():
                np.testing.assert_array_equal(model(x).numpy(), expected)
                np.testing.assert_array_equal(model(x).numpy(), expected)

    def test_an_inner_block_shares_the_folded_weights(self, monkeypatch: pytest.MonkeyPatch):
        model = models()["conv norm"].eval()
        weights = []

        def convolution(x: tinynn.Tensor, weight: tinynn.Tensor, *options: object):
            weights.append(weight)
            return compute(x, weight, *options)

        compute = F.conv2d
        monkeypatch.setattr(F, "conv2d", convolution)
        with tinynn.no_grad(), nn.constant_weights():
            for _ in range(2):
                with nn.constant_weights():
                    model(tinynn.ones((1, 9, 11, 3)))
        assert weights[0] is weights[1]

    def test_gradients_flow_after_a_pass_without_them(self):
        model = models()["conv norm"].eval()
        x = tinynn.ones((1, 9, 11, 3))
        with nn.constant_weights():
            with tinynn.no_grad():
                model(x)
            model(x).sum().backward()
        assert model[0].weight.grad is not None

    def test_changes_count_again_after_the_block(self):
        model = models()["conv norm"].eval()
        x = tinynn.ones((1, 9, 11, 3))
        with tinynn.no_grad():
            with nn.constant_weights():
                before = model(x).numpy()
            nn.init.normal_(model[0].weight)
            after = model(x).numpy()
            with nn.constant_weights():
                np.testing.assert_array_equal(model(x).numpy(), after)
        assert not np.array_equal(before, after)
