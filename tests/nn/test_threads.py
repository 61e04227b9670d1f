"""One model on several threads: every use that computes with it leaves its state alone."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinynn
from tinynn import nn
from tinynn.training import evaluate, predict
from tinynn.vision import Detector, grad_cam, hires_cam, occlusion_map

IMAGES = np.random.default_rng(0).random((6, 12, 12, 1), dtype=np.float32)
PHOTO = np.random.default_rng(1).integers(0, 255, (60, 70, 3), dtype=np.uint8)
LABELS = np.arange(6) % 2


def network(outputs: int, *tail: nn.Module) -> nn.Sequential:
    """A model in training mode whose batch norm and dropout show the mode that was used."""
    tinynn.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    nn.init.normal_(norm.running_mean)
    body = nn.Conv2d(1, 4, 3), norm, nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.5)
    return nn.Sequential(*body, nn.Conv2d(4, outputs, 5), *tail)


def inference(model: nn.Module) -> Any:
    with model.in_mode(training=False), tinynn.no_grad():
        return model(tinynn.tensor(IMAGES)).numpy()


def loss(model: nn.Module) -> Any:
    batches = [(tinynn.tensor(IMAGES), tinynn.tensor(LABELS))]
    return evaluate(model, batches, tinynn.functional.cross_entropy).loss


USES: dict[str, Callable[[nn.Module], Any]] = {
    "predict": lambda model: predict(model, IMAGES, 2),
    "evaluate": loss,
    "in_mode": inference,
    "summary": lambda model: str(tinynn.summary(model, (12, 12, 1))),
    "grad_cam": lambda model: grad_cam(model, IMAGES),
    "hires_cam": lambda model: hires_cam(model, IMAGES, layer="0"),
    "occlusion_map": lambda model: occlusion_map(model, IMAGES[:2]),
}


def on_threads(*works: Callable[[], Any], rounds: int = 6) -> list[list[Any]]:
    """The results of each function, called again and again on a thread of its own."""
    results: list[list[Any]] = [[] for _ in works]
    together = threading.Barrier(len(works))

    def run(work: Callable[[], Any], found: list[Any]) -> None:
        together.wait(60)
        found.extend(work() for _ in range(rounds))

    threads = [threading.Thread(target=run, args=pair) for pair in zip(works, results, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def state_of(model: nn.Module) -> list[Any]:
    return [
        [module.training for module in model.modules()],
        [parameter.requires_grad for parameter in model.parameters()],
        [module.is_observed for module in model.modules()],
        *[tensor.numpy().tolist() for tensor in model.state_dict().values()],
    ]


@pytest.fixture(scope="module")
def classifier() -> nn.Module:
    return network(2, nn.Flatten())


@pytest.mark.parametrize("name", USES)
def test_results_are_equal_whatever_else_runs(name: str, classifier: nn.Module) -> None:
    before, right = state_of(classifier), USES[name](classifier)
    uses = [USES[name], USES[name], *[use for other, use in USES.items() if other != name]]
    first, second, *_ = on_threads(*(lambda use=use: use(classifier) for use in uses), rounds=4)
    for result in (*first, *second):
        np.testing.assert_array_equal(result, right)
    assert len(first) == len(second) == 4
    assert state_of(classifier) == before


def test_detectors_share_a_network() -> None:
    model = network(1)
    detector = Detector(model, window=12, stride=2)
    before, right = state_of(model), detector.windows(PHOTO)
    for results in on_threads(*[lambda: detector.windows(PHOTO)] * 3):
        for result in results:
            np.testing.assert_array_equal(result.scores, right.scores)
    assert state_of(model) == before


def test_in_mode_is_seen_on_its_own_thread_only() -> None:
    model = network(2)
    with model.in_mode(training=False):
        assert not any(module.training for module in model.modules())
        ((seen,),) = on_threads(lambda: [m.training for m in model.modules()], rounds=1)
        assert all(seen)
    assert all(module.training for module in model.modules())


def test_train_inside_a_block_lasts_until_its_end() -> None:
    model = network(2).eval()
    with model.in_mode(training=True):
        model.eval()
        assert not model.training
        with model.in_mode(training=True):
            assert model.training
            model[1].training = False
            assert not model[1].training
        assert not model.training
        model.train()
        assert model[1].training
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("walk", [nn.Module.modules, nn.Module.named_parameters])
def test_a_layer_may_set_an_attribute_while_another_thread_lists_them(walk: Any) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    found = walk(model)
    next(found)
    model._seen = model[0]._seen = "a new attribute"
    assert len(list(found)) == len(list(walk(model))) - 1
