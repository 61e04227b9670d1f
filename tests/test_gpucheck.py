"""python -m tinynn.gpucheck: parity of every case, verdicts, exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tinynn.backend import get_backend
from tinynn.gpucheck import limits, parity
from tinynn.gpucheck.__main__ import _check, main
from tinynn.gpucheck.cases import FUNCTIONS, KERNELS, OPTIMIZERS, Case
from tinynn.gpucheck.parity import TABLES, TOLERANCE


@pytest.mark.parametrize("case", FUNCTIONS, ids=str)
def test_functions_agree_with_float64(case: Case, device: str) -> None:
    assert TABLES["functions"].error(case, get_backend(device), "float32") < TOLERANCE["float32"]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", OPTIMIZERS, ids=str)
def test_optimizers_agree_with_float64(case: Case, dtype: str, device: str) -> None:
    assert TABLES["optimizers"].error(case, get_backend(device), dtype) < TOLERANCE[dtype]


def test_optimizers_are_found_with_their_options() -> None:
    options = {case.name: set(case.options) for case in OPTIMIZERS}
    assert options["SGD"] == {"momentum", "nesterov", "weight_decay"}
    assert options.keys() >= {"Adam", "AdamW", "RMSprop", "SGD"}


def test_a_difference_is_found() -> None:
    right = [np.array([1.0, 200.0])]
    assert parity.error([np.array([1.0, 202.0])], right) == pytest.approx(0.01)
    assert parity.error([np.array([1.0, np.nan])], right) == np.inf
    assert parity.error([np.array([1.0, np.inf])], [np.array([1.5, np.inf])]) == pytest.approx(
        1 / 3
    )
    assert parity.error([np.array([1.0, np.inf])], right) == np.inf
    assert parity.error([np.array([1.0])], right) == np.inf
    assert parity.error([np.array([1, 3])], [np.array([1, 2])]) == np.inf


def test_results_that_do_not_repeat_are_found() -> None:
    runs = iter([1.0, np.nextafter(1.0, 2.0), 1.0])
    table = TABLES["kernels"]._replace(run=lambda *_: [np.array(next(runs))])
    with pytest.raises(ArithmeticError, match=r"^two runs of relu.* differ$"):
        table.error(KERNELS[0], get_backend("cpu"), "float64")


def test_training_agrees(device: str) -> None:
    case = Case("face CNN", (), {"steps": 2})
    error = TABLES["training"].error(case, get_backend(device), "float32")
    assert error < TABLES["training"].tolerance["float32"]


def test_limits_of_the_cpu() -> None:
    cpu = get_backend("cpu")
    assert limits.launch_time(cpu) > 0
    assert limits.copy_bandwidth(cpu, 1 << 16) > 0
    assert limits.matmul_peak(cpu, size=64) > 0
    assert limits.upload_bandwidth(cpu) is None


def test_work_is_repeated_and_waited_for(device: str) -> None:
    calls: list[int] = []
    assert limits.seconds(get_backend(device), lambda: calls.append(1), times=3) >= 0
    assert len(calls) % 3 == 0
    assert len(calls) > 3


def run(*arguments: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "tinynn.gpucheck", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **settings},
        cwd=Path(__file__).parent.parent,
    )


def test_without_a_gpu_it_states_the_reason(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    done = run("--json", str(file), CPUCUDA_DEVICES="0", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert "NO GPU: " in done.stdout
    report = json.loads(file.read_text())
    assert report["verdict"] == "no usable GPU"
    assert not list(tmp_path.glob("*.part"))


def test_an_emulated_device_passes_and_shows_no_times(device: str, tmp_path: Path) -> None:
    if device == "cpu":
        pytest.skip("needs the emulation of CUDA")
    pytest.importorskip("cpucuda", reason="needs the emulation of CUDA")
    file = tmp_path / "report.json"
    done = run("--quick", "--json", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "EMULATED: " in done.stdout
    assert " us" not in done.stdout
    report = json.loads(file.read_text())
    assert report["emulated"]
    assert "limits" not in report
    assert not any("seconds" in key for row in report["kernels"] for key in row)


def test_a_wrong_kernel_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    backend = type(get_backend("cpu"))
    monkeypatch.setattr(backend, "relu", lambda self, x: np.maximum(x, 0) * 1.01)
    monkeypatch.setattr(limits, "_REPEATS", 1)
    assert main(["--device", "cpu", "--quick"]) == 1
    said = capsys.readouterr().out
    assert "FAILED: " in said
    assert next(line for line in said.splitlines() if "FAIL" in line).startswith("relu ")


def test_a_kernel_that_raises_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def out_of_memory(*_: object) -> None:
        raise MemoryError("no memory left")

    monkeypatch.setattr(type(get_backend("cpu")), "matmul", out_of_memory)
    monkeypatch.setattr(parity, "TABLES", {"kernels": TABLES["kernels"]})
    monkeypatch.setattr(limits, "_REPEATS", 1)
    file = tmp_path / "report.json"
    assert main(["--device", "cpu", "--quick", "--json", str(file)]) == 1
    assert "MemoryError: no memory left  FAIL" in capsys.readouterr().out
    rows = {row["name"]: row for row in json.loads(file.read_text())["kernels"]}
    assert rows["matmul"]["raised"] == "MemoryError: no memory left"
    assert rows["relu"]["ok"]
    assert rows["relu"]["cpu_seconds"] > 0


def test_the_report_of_an_infinite_error_is_json() -> None:
    """An infinite error is the usual one: of a result with another shape, or NaN."""
    table = parity.TABLES["kernels"]
    table = table._replace(cases=table.cases[:1], run=lambda *_: [np.array(np.nan)])
    (row,) = _check(table, get_backend("cpu"), ("float32",), timed=False)
    assert not row["ok"]
    assert json.loads(json.dumps(row, allow_nan=False))["error"] == "inf"


GUARDED = """
import cupy, sys
cupy.cuda.set_allocator(None)  # each array ends at a protected page
from tinynn.gpucheck.__main__ import _check, main
sys.exit(main(["--quick"]))
"""


def test_no_kernel_reads_or_writes_out_of_bounds(device: str) -> None:
    if device == "cpu":
        pytest.skip("needs the emulation of CUDA")
    pytest.importorskip("cpucuda", reason="needs the emulation of CUDA")
    done = subprocess.run(
        [sys.executable, "-c", GUARDED],
        capture_output=True,
        text=True,
        env={**os.environ, "CPUCUDA_GUARD": "1"},
        cwd=Path(__file__).parent.parent,
    )
    assert done.returncode == 0, done.stdout + done.stderr
