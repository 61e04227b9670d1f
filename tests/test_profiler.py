"""tinynn.trace: counts by layer and function, on any device; and GPU errors."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import tinynn
from tinynn import functional as F
from tinynn import nn, optim
from tinynn.errors import ArgumentError

ROOT = Path(__file__).parent.parent


class Training:
    """A small network and one step of it."""

    def __init__(self, device: str) -> None:
        self.model = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 2)
        ).to(device)
        self.optimizer = optim.SGD(self.model, 0.1, momentum=0.9)
        self.images = tinynn.ones((2, 8, 8, 3), device=device)
        self.labels = tinynn.zeros(2, "int64", device=device)
        self.step()

    def step(self) -> tinynn.Tensor:
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(self.images), self.labels)
        loss.backward()
        self.optimizer.step()
        return loss


@pytest.fixture
def traced(device: str) -> tinynn.Trace:
    training = Training(device)
    with tinynn.trace(device) as trace:
        training.step()
    return trace


class TestTrace:
    def test_each_function_is_a_row_of_its_layer(self, traced: tinynn.Trace) -> None:
        rows = set(traced.rows)
        fused = "0..2 Conv2d+ReLU+MaxPool2d"
        assert {
            (fused, "conv2d_relu_max_pool2d"),
            (fused, "conv2d_relu_max_pool2d backward"),
            ("4 Linear", "linear"),
            ("4 Linear", "linear backward"),
            ("", "cross_entropy"),
            ("", "cross_entropy backward"),
            ("", "SGD step"),
        } <= rows

    def test_the_total_is_the_sum_of_the_rows(self, traced: tinynn.Trace) -> None:
        for name in ("calls", "launches", "library_calls", "bytes_up", "bytes_down"):
            rows = sum(getattr(row, name) for row in traced.rows.values())
            assert rows <= getattr(traced.total, name)
            if name != "calls":  # an empty span has no row
                assert rows == getattr(traced.total, name)

    def test_counts_are_those_of_the_emulator(self, device: str) -> None:
        if device == "cpu":
            pytest.skip("needs pytest --device cuda")
        cpucuda = pytest.importorskip("cpucuda", reason="only an emulated device counts exactly")
        training = Training(device)
        with tinynn.trace(device) as trace, cpucuda.count() as counts:
            training.step().item()
        total = trace.total
        assert total.launches == counts["kernel_launches"]
        assert total.library_calls == counts["library_launches"]
        assert total.bytes_down == counts["d2h_bytes"] > 0
        assert total.synchronizations > 0
        assert total.seconds is None
        assert trace.rows["", "SGD step"].launches == 1
        assert trace.verdict().startswith("EMULATED")

    def test_times_of_the_cpu_are_within_the_block(self) -> None:
        training = Training("cpu")
        with tinynn.trace("cpu") as trace:
            training.step()
        assert trace.total.seconds is not None
        assert 0 < trace.total.seconds <= trace.wall
        assert trace.verdict().startswith("Compute-bound: ")

    def test_the_table_has_a_line_for_each_row(self, traced: tinynn.Trace) -> None:
        lines = str(traced).splitlines()
        assert lines[0].split()[:2] == ["layer", "function"]
        assert len(lines) >= len(traced.rows) + 3
        assert lines[-1] == traced.verdict()

    def test_files(self, traced: tinynn.Trace, tmp_path: Path) -> None:
        traced.save_json(tmp_path / "trace.json")
        saved = json.loads((tmp_path / "trace.json").read_text())
        assert saved == json.loads(json.dumps(traced.json()))
        assert {row["function"] for row in saved["rows"]} >= {"conv2d_relu_max_pool2d", "linear"}
        traced.save_chrome(tmp_path / "chrome.json")
        events = json.loads((tmp_path / "chrome.json").read_text())["traceEvents"]
        assert events
        for event in events:
            assert event["ph"] == "X"
            assert event["dur"] >= 0 <= event["ts"]
            assert {"name", "pid", "tid", "args"} <= set(event)

    def test_copies_are_counted(self, device: str) -> None:
        if device == "cpu":
            pytest.skip("nothing is copied to the CPU")
        tinynn.zeros(1, device=device).numpy()  # fetches label checks that are pending
        with tinynn.trace(device) as trace:
            tinynn.tensor(np.ones(1000, np.float32), device=device).numpy()
        assert trace.total.bytes_up == trace.total.bytes_down == 4000
        assert trace.total.synchronizations >= 1

    def test_another_thread_is_not_traced(self, device: str) -> None:
        training = Training(device)
        with tinynn.trace(device) as trace:
            thread = threading.Thread(target=training.step)
            thread.start()
            thread.join()
        assert not {function for _, function in trace.rows} - {"other"}

    def test_one_trace_at_a_time(self, device: str) -> None:
        second = tinynn.trace(device)
        with tinynn.trace(device), pytest.raises(ArgumentError, match="already"):
            second.__enter__()
        with tinynn.trace(device):  # the failed one has left nothing behind
            pass

    def test_nothing(self, device: str) -> None:
        with tinynn.trace(device) as trace:
            pass
        assert trace.total.launches == 0
        assert isinstance(trace.verdict(), str)


OUT_OF_MEMORY = """
import tinynn
from tinynn import nn
from tinynn.errors import DeviceMemoryError, TinynnError
model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU()).to("cuda")
try:
    {statement}
except DeviceMemoryError as error:
    assert isinstance(error, TinynnError) and isinstance(error, MemoryError)
    print(error)
"""


@pytest.mark.parametrize(
    ("statement", "place"),
    [
        ("model(tinynn.ones((64, 128, 128, 3), device='cuda'))", "0 (Conv2d)"),
        ("tinynn.zeros((64, 1024, 1024), device='cuda')", ""),
        ("tinynn.zeros((64, 1024, 1024)).to('cuda')", ""),
    ],
)
def test_out_of_memory_says_how_much_and_what_to_do(
    device: str, statement: str, place: str
) -> None:
    if device == "cpu":
        pytest.skip("needs pytest --device cuda")
    pytest.importorskip("cpucuda", reason="needs the emulation of CUDA")
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY.format(statement=statement)],
        capture_output=True,
        text=True,
        env={**os.environ, "CPUCUDA_MEMORY": "64M", "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert "the GPU is out of memory" in done.stdout
    assert "in total" in done.stdout
    assert "smaller batch" in done.stdout
    assert place in done.stdout
