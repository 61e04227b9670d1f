"""benchmarks/vs_pytorch.py, profile_step.py and cpu_ideas.py, as far as they need no PyTorch."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import cpu_ideas  # noqa: E402
import models  # noqa: E402
import profile_step  # noqa: E402
import vs_pytorch  # noqa: E402

import tinynn  # noqa: E402
from tinynn import nn  # noqa: E402


def result(ratio: float, memory: float | None = 2.0) -> dict[str, Any]:
    speeds = {"tinynn": 2000.0, "torch default": 1000.0}
    return {
        "title": "face CNN, training, batch 8, 1 thread",
        "ratio": ratio,
        "ratio_quartiles": [ratio - 0.1, ratio + 0.1],
        "memory_ratio": memory,
        "images_per_second": speeds,
    }


@pytest.mark.parametrize("name", models.MODELS)
def test_every_network_trains(name: str) -> None:
    case = vs_pytorch.Case(name, 2, True, tinynn.get_num_threads())
    work = vs_pytorch.tinynn_work(case)
    work()
    vs_pytorch.tinynn_work(case._replace(training=False))()


def test_sweeps_are_cases() -> None:
    arguments = vs_pytorch.parse_arguments(["--models", "--sweep", "kernel", "--threads", "1"])
    cases = list(vs_pytorch.cases(arguments))
    assert [case.sweep[3] for case in cases if case.sweep] == [1, 3, 5, 7, 9, 11]
    model = cases[0].network.build(nn)
    out = model(tinynn.zeros((2, *cases[0].network.shape)))
    assert out.shape == (2, 2)


def test_quick_is_one_network() -> None:
    arguments = vs_pytorch.parse_arguments(["--quick", "--threads", "2"])
    titles = [case.title for case in vs_pytorch.cases(arguments)]
    assert titles == [f"face CNN, {work}, batch 8, 2 threads" for work in ("training", "inference")]


def test_lines_and_memory() -> None:
    assert vs_pytorch.line(result(1.5)).split()[-6:] == [
        "1.50",
        "1.40-1.60",
        "2.0",
        "2,000",
        "1,000",
        "-",
    ]
    assert vs_pytorch.line(result(1.5, None)).split()[-4] == "-"
    assert len(vs_pytorch.head()) == len(vs_pytorch.line(result(1.5)))
    assert vs_pytorch.memory_ratio({"tinynn": 100, "a": 300, "b": 200}) == 2
    assert vs_pytorch.memory_ratio({"tinynn": 100, "a": None}) is None


def test_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    vs_pytorch.plot([result(1.5), result(0.7)], tmp_path / "plot.png", "title")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_bad_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        vs_pytorch.parse_arguments(["--batch", "0"])
    assert "expected an integer >= 1, got 0" in capsys.readouterr().err


def test_profile(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/profile_step.py", "--batch", "2", "--steps", "2"]
    command += ["--json", str(tmp_path / "step.json"), "--chrome", str(tmp_path / "trace.json")]
    settings = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=settings, check=True, capture_output=True, text=True
    )
    assert "0..2 Conv2d+ReLU+MaxPool2d" in done.stdout
    assert "Limits, measured now" in done.stdout
    figures = json.loads((tmp_path / "step.json").read_text())
    first = next(row for row in figures["rows"] if row["layer"].startswith("0..2"))
    assert first["multiply_adds"] == 2 * 48 * 48 * 27 * 16
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]


def test_backward_passes_count_twice_but_for_the_first_layer() -> None:
    class Traced:
        rows = {  # noqa: RUF012
            (layer, function): type("Figures", (), {"seconds": 1.0})()
            for layer in ("0 Conv2d", "1 Conv2d")
            for function in ("conv2d", "conv2d backward")
        }

    rows = profile_step.rows_of(Traced(), 1, {"0": 10, "1": 100})  # type: ignore[arg-type]
    counted = {(row["layer"], row["function"]): row["multiply_adds"] for row in rows}
    assert list(counted.values()) == [10, 10, 100, 200]


def test_both_implementations_compute_the_same() -> None:
    comparison = cpu_ideas.row_products(12, 4, 5)
    np.testing.assert_allclose(comparison.baseline(), comparison.optimized(), atol=1e-5)
    trivial = cpu_ideas.Comparison("trivial", lambda: np.ones(9), lambda: 0)
    assert len(cpu_ideas.speedups(trivial, 2)) == 2
