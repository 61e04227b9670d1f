"""'Extending tinynn': every section runs unchanged, and its gradients are right."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinynn
from tests.gradients import check_gradients

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
BLOCK = re.compile(r"^```py(?:thon)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SECTION = re.compile(r"^## (.+)$", re.MULTILINE)


def sections() -> dict[str, str]:
    """The code of each section, at its line numbers on the page."""
    text = PAGE.read_text(encoding="utf-8")
    starts = [*SECTION.finditer(text)]
    ends = [*(start.start() for start in starts[1:]), len(text)]
    code = {}
    for start, end in zip(starts, ends, strict=True):
        lines: list[str] = []
        for block in BLOCK.finditer(text, start.start(), end):
            lines += [""] * (text.count("\n", 0, block.start(1)) - len(lines))
            lines += block[1].splitlines()
        if lines:
            code[start[1]] = "\n".join(lines)
    return code


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a section in an empty folder and returns the names that it defines."""
    monkeypatch.chdir(tmp_path)

    def run(section: str) -> dict[str, Any]:
        names: dict[str, Any] = {"__name__": "extending"}
        exec(compile(sections()[section], str(PAGE), "exec"), names)
        return names

    return run


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape)


def test_a_differentiable_function(run, device):
    names = run("A differentiable function")
    check_gradients(names["log1p"], [np.abs(normal(3, 4))], device)
    check_gradients(names["hypot"], [normal(3, 4), normal(4, 3).reshape(3, 4) + 3], device)
    np.testing.assert_allclose(names["x"].grad.numpy(), [3 / 5, 5 / 13], rtol=1e-6)


def test_a_loss(run, device):
    loss = run("A loss")["generalized_cross_entropy"]
    labels = tinynn.tensor([0, 2, 1, 2], device=device)
    check_gradients(lambda logits: loss(logits, labels), [normal(4, 3)], device)
    uniform = tinynn.zeros((4, 5), device=device)
    assert float(loss(uniform, labels)) == pytest.approx((1 - 0.2**0.7) / 0.7)


def test_a_layer(run, device):
    names = run("A layer")
    norm = names["RMSNorm"](4).to(device).astype("float64")
    check_gradients(norm, [normal(3, 4)], device)
    x = tinynn.tensor(normal(5, 8).astype("float32"), device=device)
    model, again = names["model"].to(device), names["again"].to(device)
    np.testing.assert_array_equal(model(x).numpy(), again(x).numpy())


def test_a_metric(run):
    balanced_accuracy = run("A metric")["balanced_accuracy"]
    logits = np.eye(2)[[0, 0, 0, 0]]
    assert balanced_accuracy(logits, np.array([0, 0, 0, 1])) == 0.5


def test_an_augmentation(run):
    names = run("An augmentation")
    images = names["images"]
    before = images.copy()
    erased = names["RandomErasing"](4)(images, np.random.default_rng(0))
    np.testing.assert_array_equal(images, before)
    assert ((erased != images).any(axis=3).sum(axis=(1, 2)) == 16).all()


def test_an_optimizer(run, device):
    names = run("An optimizer")
    parameter = tinynn.tensor([1.0, -2.0, 3.0], device=device, requires_grad=True)
    optimizer = names["Lion"]([parameter], learning_rate=0.1, weight_decay=0.5)
    (parameter * tinynn.tensor([2.0, 0.0, -3.0], device=device)).sum().backward()
    optimizer.step()
    expected = [1 - 0.1 * (1 + 0.5), -2 - 0.1 * -1, 3 - 0.1 * (-1 + 1.5)]
    np.testing.assert_allclose(parameter.numpy(), expected, rtol=1e-6)
    state = optimizer.state_dict()
    np.testing.assert_allclose(state["arrays"]["0.momentum"], [0.02, 0, -0.03], rtol=1e-5)


def test_an_activation_with_a_cuda_kernel(run, device):
    names = run("An activation with a CUDA kernel")
    check_gradients(names["mish"], [normal(3, 4)], device)
    x = normal(50)
    expected = x * np.tanh(np.log1p(np.exp(x)))
    for dtype, tolerance in (("float64", 1e-12), ("float32", 1e-6), ("float16", 1e-2)):
        out = names["mish"](tinynn.tensor(x.astype(dtype), device=device))
        assert out.dtype == dtype
        np.testing.assert_allclose(out.numpy(), expected, rtol=tolerance, atol=tolerance)


def test_a_backend(run):
    names = run("A backend")
    assert names["out"].shape == (2, 4, 4, 4)


def test_a_cuda_kernel(run, device):
    if device == "cpu":
        pytest.skip("needs a GPU, real or emulated")
    run("A CUDA kernel")


def test_checking_gradients_and_kernels(run):
    run("Checking gradients and kernels")


def test_every_section_with_code_is_tested():
    tested = {name.removeprefix("test_").replace("_", " ") for name in globals()}
    assert {section.lower() for section in sections()} <= {name.lower() for name in tested}
