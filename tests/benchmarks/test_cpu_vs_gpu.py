"""benchmarks/cpu_vs_gpu.py: its conclusions, and its behavior without a GPU."""

import argparse
import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import answers  # noqa: E402
import cpu_vs_gpu  # noqa: E402
from cpu_vs_gpu import Measured, Report  # noqa: E402


def measured(batch: int, device: str, step: float, subject: str = "face") -> Measured:
    on_device = None if device == "cpu" else step
    values = (step, 0.1, step * 1.5, step / 2, on_device, 4 * batch, 1e9, 1e6, 30)
    return Measured(subject, "training", batch, device, *values)


def report(rows: list[Measured], gpu: str = "NVIDIA A10G") -> Report:
    devices = [{"name": "cpu", "title": "a CPU"}, {"name": "cuda:0", "title": gpu}]
    limits = {"cuda": {"launch": 5e-6, "copy": 1e11, "upload": 1e10, "matmul": 1e12}}
    return Report({}, devices, None, False, limits=limits, rows=rows)


@dataclass
class Options:
    price: float | None = None
    instance: str | None = None
    epochs: int = 10
    images: int = 1000


class TestAnswers:
    def test_the_crossover_is_between_the_batches_around_it(self) -> None:
        assert answers.crossover({1: 0.5, 4: 2.0}) == pytest.approx(2.0)
        assert answers.crossover({1: 0.1, 8: 0.9, 64: 0.99}) is None
        assert answers.crossover({2: 1.5, 8: 9.0}) == 2.0
        assert 8 < answers.crossover({1: 0.2, 8: 0.9, 64: 3.0}) < 64

    def test_a_step_is_bound_by_what_takes_longest(self) -> None:
        row = measured(8, "cuda", 0.004)
        limit = {"copy": 1e9, "matmul": 1e11}
        name, times = answers.bound(row, limit)
        assert name == "arithmetic"
        assert times == {"launches": 0.002, "bandwidth": 0.001, "arithmetic": 0.01}
        assert answers.bound(row, {"copy": 1e6, "matmul": 1e14})[0] == "bandwidth"
        assert answers.bound(row, {"copy": 1e12, "matmul": 1e14})[0] == "launches"

    def test_dollars(self) -> None:
        rows = [measured(10, "cpu", 0.1), measured(10, "cuda", 0.01)]
        text = answers.answers(report(rows), Options(price=0.36))
        assert "maximum speedup 10.0x at batch 10" in text
        assert "GPU of this machine ($0.36 per hour, --price): $0.1000/1M images" in text
        assert "$0.0010 for a model of 10 epochs of 1,000 images" in text
        assert "CPU of this machine ($0.36 per hour, --price): $1.0000/1M images" in text

    @pytest.mark.parametrize(
        ("title", "found"),
        [
            ("NVIDIA A10G", ["g5.xlarge"]),
            ("Tesla K80", ["p2.xlarge"]),
            ("NVIDIA L4", ["g6.xlarge"]),
            ("Tesla V100-SXM2-16GB", ["p3.2xlarge"]),
            ("NVIDIA L40S", []),
        ],
    )
    def test_prices_are_of_the_gpu_that_was_measured(self, title: str, found: list[str]) -> None:
        prices = answers.prices(report([], title), Options())
        assert list(prices) == found

    def test_the_original_run(self) -> None:
        row = measured(64, "cpu", 64 / 36.2, "original")
        assert "10.0 s per epoch, 30.0 s in total" in answers.answers(report([row]), Options())

    def test_a_table_without_a_gpu_has_no_speedup(self) -> None:
        text = answers.table(report([measured(4, "cpu", 0.5)]))
        assert "GPU" not in text
        assert "8" in text
        both = answers.table(report([measured(4, "cpu", 0.5), measured(4, "cuda", 0.25)]))
        assert "2.0x" in both

    def test_a_batch_that_one_device_has_not_run(self) -> None:
        rows = [measured(4, "cpu", 0.5), measured(4, "cuda", 0.25), measured(8, "cuda", 0.3)]
        lines = answers.table(report(rows)).splitlines()
        assert lines[-1].split()[:4] == ["face,", "training", "8", "-"]

    def test_the_plot_is_a_picture(self) -> None:
        rows = [measured(b, d, s) for b, d, s in ((1, "cpu", 1.0), (1, "cuda", 2.0),
                                                 (8, "cpu", 4.0), (8, "cuda", 1.0))]  # fmt: skip
        assert answers.plot(report(rows), "png").startswith(b"\x89PNG")

    def test_the_price_table(self) -> None:
        table = answers.load_instances()
        assert date.fromisoformat(table["date"]).year >= 2026
        names = [entry["name"] for entry in table["instances"]]
        assert len(set(names)) == len(names)
        for entry in table["instances"]:
            assert set(entry) == {"name", "gpu", "gpus", "price"}
            assert 0 < entry["price"] < 1000


class TestCommandLine:
    @pytest.mark.parametrize(
        "wrong",
        [
            ["--batch-sizes", "0,4"],
            ["--batch-sizes", "four"],
            ["--price", "-1"],
            ["--price", "nan"],
            ["--rounds", "0"],
            ["--instance", "m1.tiny"],
            ["--models", "vgg"],
        ],
    )
    def test_bad_options(self, wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as stopped:
            cpu_vs_gpu.parse(wrong)
        assert stopped.value.code == 2
        assert wrong[0] in capsys.readouterr().err

    def test_batch_sizes_are_sorted(self) -> None:
        assert cpu_vs_gpu.parse(["--batch-sizes", "64,1,8,8"]).batch_sizes == [1, 8, 64]

    def test_a_measurement_is_one_step(self) -> None:
        options = argparse.Namespace(models=["linear"], work=["training", "inference"])
        options.batch_sizes, options.rounds = [2, 3], 2
        found = Report({}, [], None, False)
        cpu_vs_gpu.run(found, options, ["cpu"])
        assert [(row.work, row.batch) for row in found.rows] == [
            ("training", 2), ("training", 3), ("inference", 2), ("inference", 3),
        ]  # fmt: skip
        assert all(row.images_per_second > 0 and math.isfinite(row.spread) for row in found.rows)
        assert found.rows[0].operations == 3 * found.rows[2].operations
        assert found.rows[2].operations == 2 * 2 * 2304 * 128

    def test_both_devices_take_turns(self, device: str) -> None:
        """The code path of a real GPU, on any device: all results and conclusions exist."""
        if device == "cpu":
            pytest.skip("needs pytest --device cuda")
        options = cpu_vs_gpu.parse(["--models", "linear", "batchnorm", "--rounds", "2"])
        options.batch_sizes = [2, 4]
        found = report([])
        cpu_vs_gpu.run(found, options, ["cpu", device])
        assert {(row.subject, row.device) for row in found.rows} == {
            (name, place) for name in options.models for place in ("cpu", device)
        }
        for row in found.rows:
            assert (row.launches, row.on_device) == (None, None) or row.launches > 0
        text = answers.answers(found, options)
        assert text.count("bound by ") == 8
        assert "speedup" in answers.table(found)

    def test_interrupted_it_keeps_what_it_has(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        def interrupted(found: Report, *_: Any) -> None:
            found.rows.append(measured(4, "cpu", 0.5))
            raise KeyboardInterrupt

        monkeypatch.setattr(cpu_vs_gpu, "run", interrupted)
        file = tmp_path / "figures.json"
        arguments = ["--device", "cpu", "--json", str(file)]
        assert cpu_vs_gpu.main(arguments) == 130
        assert json.loads(file.read_text())["rows"][0]["batch"] == 4


def run(*arguments: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "benchmarks/cpu_vs_gpu.py", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **settings, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
    )


NO_GPU = {"CPUCUDA_DEVICES": "0", "CUDA_VISIBLE_DEVICES": ""}


def test_without_a_gpu_it_measures_the_cpu_and_states_the_reason() -> None:
    done = run("--models", "linear", "--batch-sizes", "1,2", "--rounds", "2", **NO_GPU)
    assert done.returncode == 0, done.stderr
    assert "NO GPU IS MEASURED: " in done.stdout
    assert "linear, training" in done.stdout
    assert "speedup" not in done.stdout


def test_a_gpu_can_be_required() -> None:
    done = run("--require-gpu", **NO_GPU)
    assert done.returncode == 2
    assert "images/s" not in done.stdout


def test_an_emulated_device_is_counted_and_never_timed(device: str, tmp_path: Path) -> None:
    if device == "cpu":
        pytest.skip("needs the emulation of CUDA")
    pytest.importorskip("cpucuda", reason="needs the emulation of CUDA")
    file = tmp_path / "figures.json"
    options = ("--models", "face", "--batch-sizes", "1", "--rounds", "2", "--price", "1")
    done = run(*options, "--json", str(file))
    assert done.returncode == 0, done.stderr
    assert "EMULATED" in done.stdout
    assert "speedup" not in done.stdout
    assert "GPU of" not in done.stdout
    figures = json.loads(file.read_text())
    assert {row["device"] for row in figures["rows"]} == {"cpu"}
    assert figures["counts"][0]["launches"] > 0


def test_one_round_is_enough_for_quartiles() -> None:
    class Once:
        device, name, work, batch, host = "cpu", "face", "training", 2, np.zeros(3)

        def time(self, work: object, times: int) -> float:
            return 0.01

        def step(self) -> None: ...

        upload_and_step = step

        def issue(self) -> float:
            return 0.001

        def on_device(self) -> None: ...

        def operations(self) -> float:
            return 1.0

        least_bytes = operations

    (row,) = cpu_vs_gpu.measure([Once()], 1)  # type: ignore[list-item]
    assert (row.step, row.spread) == (0.01, 0.0)
