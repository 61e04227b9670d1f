"""A killed run resumes exactly, and no checkpoint is ever incomplete."""

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import tinynn
from tests.training.scenario import BATCHES, EPOCHS, Trained, data, train
from tinynn import functional as F
from tinynn import nn, optim
from tinynn.data import DataLoader
from tinynn.errors import ArgumentError, FileFormatError, Interrupted, NonFiniteError, StorageError
from tinynn.files import Content
from tinynn.training import Checkpoints, TrainingState, fit
from tinynn.training import checkpoints as module
from tinynn.training.packing import capture
from tinynn.training.store import Folder

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def undisturbed(device: str) -> Trained:
    return train(device=device)


def ends_after(step: int) -> Callable[[str, TrainingState], None]:
    """A callback that sends SIGTERM in step ``step``, as a supervisor does."""

    def callback(event: str, state: TrainingState) -> None:
        if event == "step" and state.steps == step:
            signal.raise_signal(signal.SIGTERM)

    return callback


def interrupt(place: Path, step: int, device: str = "cpu") -> None:
    with pytest.raises(Interrupted, match=f"SIGTERM: ended after step {step}"):
        train(Checkpoints(place), device=device, callbacks=[ends_after(step)])


def names(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


class TestExactResume:
    @pytest.mark.parametrize("step", [1, 3, BATCHES - 1, BATCHES, BATCHES + 1, EPOCHS * BATCHES])
    def test_a_training_in_two_processes_equals_one(
        self, step: int, tmp_path: Path, device: str, undisturbed: Trained
    ) -> None:
        interrupt(tmp_path, step, device)
        assert train(Checkpoints(tmp_path), device=device).fingerprint() == (
            undisturbed.fingerprint()
        )

    def test_in_as_many_parts_as_there_are_steps(
        self, tmp_path: Path, undisturbed: Trained, device: str
    ) -> None:
        for step in range(1, EPOCHS * BATCHES + 1):
            interrupt(tmp_path, step, device)
        trained = train(Checkpoints(tmp_path), device=device)
        assert trained.fingerprint() == undisturbed.fingerprint()
        assert len(names(tmp_path)) == 3

    def test_checkpoints_change_nothing(
        self, tmp_path: Path, undisturbed: Trained, device: str
    ) -> None:
        trained = train(Checkpoints(tmp_path, every=0), device=device)
        assert trained.fingerprint() == undisturbed.fingerprint()

    def test_in_a_new_process(self, tmp_path: Path, device: str, undisturbed: Trained) -> None:
        interrupt(tmp_path, 7, device)
        command = [
            sys.executable,
            "-m",
            "tests.training.scenario",
            tmp_path,
            "60",
            "0",
            str(EPOCHS),
        ]
        finished = subprocess.run(
            [*command, device], cwd=ROOT, capture_output=True, text=True, timeout=120
        )
        assert finished.returncode == 0, finished.stderr
        assert finished.stdout.strip() == undisturbed.fingerprint()
        assert "resuming from" in finished.stderr
        assert "step 7" in finished.stderr

    def test_a_finished_training_is_restored(
        self, tmp_path: Path, undisturbed: Trained, device: str
    ) -> None:
        train(Checkpoints(tmp_path), device=device)
        steps: list[str] = []
        again = train(
            Checkpoints(tmp_path), device=device, callbacks=[lambda e, run: steps.append(e)]
        )
        assert again.fingerprint() == undisturbed.fingerprint()
        assert steps == ["start", "end"]

    @pytest.mark.parametrize("there", ["cpu", "other"])
    def test_on_the_other_device(
        self, there: str, tmp_path: Path, device: str, undisturbed: Trained
    ) -> None:
        if device == "cpu":
            pytest.skip("needs pytest --device cuda")
        first, second = ("cpu", device) if there == "cpu" else (device, "cpu")
        interrupt(tmp_path, 7, first)
        trained = train(Checkpoints(tmp_path), device=second)
        assert {p.device for p in trained.model.parameters()} == {second}
        losses = [[f.loss for f in t.history.training] for t in (trained, undisturbed)]
        np.testing.assert_allclose(*losses, rtol=1e-3)

    def test_a_hand_written_loop(self, tmp_path: Path, device: str) -> None:
        def run(place: Path | None, end: int) -> np.ndarray[Any, Any]:
            tinynn.manual_seed(1)
            model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(56, 3)).to(device)
            optimizer = optim.SGD(model, optim.cosine(0.1, 30), momentum=0.9)
            loader = DataLoader(data(0), 5, shuffle=True, device=device)
            with Checkpoints(tmp_path / "none" if place is None else place) as checkpoints:
                checkpoints.track(model=model, optimizer=optimizer, loader=loader)
                checkpoints.track(random=tinynn.random.default_generator)
                for _ in range(loader.epoch, 3):
                    for images, labels in loader:
                        optimizer.zero_grad()
                        F.cross_entropy(model(images), labels).backward()
                        optimizer.step()
                        if optimizer.steps == end:
                            signal.raise_signal(signal.SIGINT)
                        checkpoints.after_step()
            return model[2].weight.numpy()

        with pytest.raises(Interrupted, match="SIGINT"):
            run(tmp_path / "run", 8)
        np.testing.assert_array_equal(run(tmp_path / "run", 0), run(None, 0))

    def test_callbacks_see_the_restored_state(self, tmp_path: Path) -> None:
        interrupt(tmp_path, 7)
        seen: list[tuple[str, int]] = []
        train(
            Checkpoints(tmp_path),
            callbacks=[lambda event, state: seen.append((event, state.steps))],
        )
        assert seen[:2] == [("start", 7), ("step", 8)]
        assert seen[-1] == ("end", EPOCHS * BATCHES)


class TestTheFile:
    def test_public_tools_read_it(self, tmp_path: Path) -> None:
        interrupt(tmp_path, 7)
        (name,) = names(tmp_path)
        arrays = load_file(tmp_path / name)
        assert arrays["parts.model.6.weight"].shape == (64, 3)
        assert sum(name.startswith("parts.optimizer.arrays.6.weight.") for name in arrays) == 2
        header = (tmp_path / name).read_bytes()[8:]
        state = json.loads(json.JSONDecoder().raw_decode(header.decode("latin-1"))[0][
            "__metadata__"
        ]["state"])  # fmt: skip
        assert state["steps"] == 7
        assert state["versions"]["numpy"] == np.__version__
        assert state["parts"]["loader"]["position"] == 2

    def test_the_last_ones_are_kept(self, tmp_path: Path) -> None:
        checkpoints = Checkpoints(tmp_path, keep=2)
        checkpoints.track(model=nn.Linear(2, 2))
        for _ in range(5):
            checkpoints.after_step()
            checkpoints.save()
        assert names(tmp_path) == [f"step-{n:012d}.safetensors" for n in (4, 5)]

    def test_files_of_others_stay(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("mine")
        interrupt(tmp_path, 2)
        assert (tmp_path / "notes.txt").read_text() == "mine"

    def test_temporary_files_of_a_killed_process_are_removed(self, tmp_path: Path) -> None:
        (tmp_path / ".step-000000000001.safetensors.0123").write_bytes(b"half")
        Checkpoints(tmp_path)
        assert names(tmp_path) == []


class TestDamage:
    def test_a_damaged_one_is_reported_and_the_one_before_used(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        interrupt(tmp_path, 4)
        interrupt(tmp_path, 9)
        last = tmp_path / names(tmp_path)[-1]
        last.write_bytes(last.read_bytes()[:-100])
        assert train(Checkpoints(tmp_path)).fingerprint() == train().fingerprint()
        said = capsys.readouterr().err
        assert "step-000000000009.safetensors is not an intact safetensors file" in said
        assert "resuming from" in said
        assert "step-000000000004.safetensors, step 4" in said

    def test_checkpoints_after_a_damaged_later_one_are_kept(self, tmp_path: Path) -> None:
        interrupt(tmp_path, 9)
        (tmp_path / "step-000000000099.safetensors").write_bytes(b"damaged")
        checkpoints = Checkpoints(tmp_path, keep=1)
        checkpoints._saved.clear()
        checkpoints.track(model=nn.Linear(2, 2))
        checkpoints.after_step()
        checkpoints.save()
        assert names(tmp_path)[0] == "step-000000000010.safetensors"

    def test_none_is_intact(self, tmp_path: Path) -> None:
        for step in (1, 2):
            (tmp_path / f"step-{step:012d}.safetensors").write_bytes(b"nothing of use")
        with pytest.raises(
            FileFormatError, match=r"step-000000000001\.safetensors is not an intact"
        ):
            Checkpoints(tmp_path)

    def test_a_model_file_is_not_a_checkpoint(self, tmp_path: Path) -> None:
        tinynn.save(nn.Linear(2, 2), tmp_path / "step-000000000001.safetensors")
        with pytest.raises(FileFormatError, match=r"000001.safetensors is not a tinynn checkpoint"):
            Checkpoints(tmp_path)

    def test_a_thousand_damaged_files(self, tmp_path: Path) -> None:
        interrupt(tmp_path, 3)
        path = tmp_path / names(tmp_path)[0]
        intact, rng = path.read_bytes(), np.random.default_rng(0)
        header = 8 + int.from_bytes(intact[:8], "little")
        for number in range(1000):
            damaged = bytearray(intact)
            kind = number % 5
            if kind == 0:  # cut off
                del damaged[int(rng.integers(len(intact))) :]
            elif kind == 1:  # one bit, anywhere
                damaged[int(rng.integers(len(intact)))] ^= 1 << int(rng.integers(8))
            elif kind == 2:  # one bit of the header
                damaged[int(rng.integers(header))] ^= 1 << int(rng.integers(8))
            elif kind == 3:  # a sector that was never written
                start = int(rng.integers(len(intact) - 1))
                damaged[start : start + 512] = bytes(len(damaged[start : start + 512]))
            else:  # another file
                damaged = bytearray(rng.bytes(int(rng.integers(2000))))
            if damaged == intact:  # zeros over zeros
                continue
            path.write_bytes(damaged)
            with pytest.raises(FileFormatError, match=path.name):
                Checkpoints(tmp_path)


class TestRefusals:
    def test_never_resumes(self, tmp_path: Path) -> None:
        interrupt(tmp_path, 2)
        with pytest.raises(ArgumentError, match="already contains checkpoints, the last is step-0"):
            Checkpoints(tmp_path, resume="never")

    def test_one_by_name(self, tmp_path: Path) -> None:
        interrupt(tmp_path, 2)
        interrupt(tmp_path, 4)
        name = "step-000000000002.safetensors"
        assert Checkpoints(tmp_path, resume=name).steps == 2
        with pytest.raises(StorageError, match=r"cannot read .*step-7.safetensors: No such file"):
            Checkpoints(tmp_path, resume="step-7.safetensors")

    def test_another_configuration(self, tmp_path: Path) -> None:
        checkpoints = Checkpoints(tmp_path, config={"batch": 5, "size": (3, 4)})
        checkpoints.track(model=nn.Linear(2, 2))
        checkpoints.save()
        Checkpoints(tmp_path, config={"batch": 5, "size": (3, 4)})
        with pytest.raises(FileFormatError, match=r"another run: batch was 5, is 6; size was"):
            Checkpoints(tmp_path, config={"batch": 6})

    def test_another_model(self, tmp_path: Path) -> None:
        first = Checkpoints(tmp_path)
        first.track(model=nn.Linear(2, 2))
        first.save()
        with pytest.raises(FileFormatError, match=r"(?s)model does not fit.*wrong shape: weight"):
            Checkpoints(tmp_path).track(model=nn.Linear(3, 2))

    def test_other_batches(self, tmp_path: Path) -> None:
        interrupt(tmp_path, 2)
        loader = DataLoader(
            tinynn.data.ArrayDataset(np.zeros((9, 2), np.float32), np.zeros(9, int)), 3
        )
        checkpoints = Checkpoints(tmp_path)
        with pytest.raises(FileFormatError, match="examples was 22, is 9; batch_size was 5, is 3"):
            checkpoints.track(loader=loader)

    def test_a_saved_part_that_is_not_tracked(self, tmp_path: Path) -> None:
        first = Checkpoints(tmp_path)
        first.track(model=nn.Linear(2, 2), other=nn.Linear(1, 1))
        first.save()
        second = Checkpoints(tmp_path)
        second.track(model=nn.Linear(2, 2))
        with pytest.raises(FileFormatError, match="contains other, which is not tracked"):
            second.save()

    def test_a_part_without_a_state(self, tmp_path: Path) -> None:
        with pytest.raises(ArgumentError, match="cannot track numbers"):
            Checkpoints(tmp_path).track(numbers=[1, 2])  # type: ignore[arg-type]

    def test_a_list_of_batches_has_no_position(self, tmp_path: Path) -> None:
        model = nn.Linear(2, 2)
        batches = [(tinynn.zeros((1, 2)), tinynn.zeros(1, dtype="int64"))]
        with pytest.raises(ArgumentError, match=r"with state_dict\(\).*got a list"):
            fit(
                model, batches, optim.SGD(model, 0.1), F.cross_entropy, epochs=1,
                checkpoints=Checkpoints(tmp_path), description=None,
            )  # fmt: skip

    @pytest.mark.parametrize("options", [{"every": -1}, {"keep": 0}])
    def test_invalid_settings(self, options: dict[str, Any], tmp_path: Path) -> None:
        with pytest.raises(ArgumentError, match="every >= 0 s and keep >= 1"):
            Checkpoints(tmp_path, **options)

    def test_a_state_with_nan_is_not_saved(self, tmp_path: Path) -> None:
        def spoil(event: str, state: TrainingState) -> None:
            if event == "step" and state.steps == 4:
                state.model[6].weight.data[...] = np.nan

        with pytest.raises(NonFiniteError):
            train(Checkpoints(tmp_path, every=0), callbacks=[spoil])
        for name in names(tmp_path):
            assert Checkpoints(tmp_path, resume=name).steps <= 4


FULL = """
import resource, signal, sys
import tinynn
from tinynn import nn
from tinynn.errors import StorageError
from tinynn.files import Content
from tinynn.training import Checkpoints
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
checkpoints = Checkpoints(sys.argv[1])
model = nn.Linear(200, 200)
checkpoints.track(model=model)
checkpoints.after_step()
checkpoints.save()
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))  # like a full disk
checkpoints.every = 0
for _ in range(3):
    checkpoints.after_step()
try:
    checkpoints.save()
except StorageError as error:
    print(error)
"""


def run_python(program: str, *arguments: object, user: int | None = None) -> str:
    finished = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=120, user=user,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    return finished.stdout + finished.stderr


class TestStorageFailures:
    def test_a_full_disk(self, tmp_path: Path) -> None:
        said = run_python(FULL, tmp_path)
        assert "NOT SAVED, continuing: cannot write" in said
        assert said.count("File too large") >= 2
        assert names(tmp_path) == ["step-000000000001.safetensors"]  # and no incomplete file
        assert Checkpoints(tmp_path).steps == 1

    @pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux")
    def test_a_folder_that_cannot_be_written(self) -> None:
        with pytest.raises(StorageError, match=r"^cannot (make the folder|write) /proc/"):
            Checkpoints("/proc/self")
        with pytest.raises(StorageError, match=r"^cannot make the folder /proc/nothing: "):
            Checkpoints("/proc/nothing")

    def test_a_file_instead_of_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(StorageError, match="cannot make the folder"):
            Checkpoints(tmp_path / "file")

    def test_a_write_that_fails_is_tried_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        checkpoints = Checkpoints(tmp_path, every=0)
        checkpoints.track(model=nn.Linear(2, 2))
        real, times = Folder.write, []

        def write(self: Folder, name: str, content: Content) -> None:
            times.append(name)
            if len(times) == 1:
                raise StorageError("the network is gone")
            real(self, name, content)

        monkeypatch.setattr(Folder, "write", write)
        with checkpoints:
            for _ in range(3):
                checkpoints.after_step()
                while checkpoints._writing is not None and not checkpoints._writing.done():
                    time.sleep(0.001)
        assert "NOT SAVED, continuing: the network is gone" in capsys.readouterr().err
        assert Checkpoints(tmp_path).steps == 3

    @pytest.mark.parametrize("method", ["delete", "names"])
    @pytest.mark.parametrize("hangs", [False, True])
    def test_one_that_is_written_is_saved_whatever_becomes_of_older_ones(
        self, method: str, hangs: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        monkeypatch.setattr(module, "_WAIT_WHEN_STOPPED", 0.1)
        monkeypatch.setattr(module, "_WAIT_AT_LEAST", 0.1)
        interrupt(tmp_path, 2)
        checkpoints = Checkpoints(tmp_path, keep=1)
        answer = threading.Event()

        def fail(*_: object) -> None:
            if hangs:
                answer.wait()
            raise StorageError("access denied")

        def break_it(*_: object) -> None:
            patch.setattr(checkpoints._store, method, fail)

        with pytest.MonkeyPatch.context() as patch:
            with pytest.raises(Interrupted, match=r"step-000000000004.safetensors is written"):
                train(checkpoints, callbacks=[break_it, ends_after(4)])
            answer.set()
        said = capsys.readouterr().err
        assert "NOT SAVED" not in said
        if not hangs:
            assert "4.safetensors is saved, but older ones are not deleted: access denied" in said
        assert Checkpoints(tmp_path).steps == 4

    def test_a_folder_that_was_deleted_is_made_again(self, tmp_path: Path) -> None:
        checkpoints = Checkpoints(tmp_path / "run")
        checkpoints.track(model=nn.Linear(2, 2))
        with checkpoints:
            checkpoints.after_step()
            checkpoints.save()
            shutil.rmtree(tmp_path / "run")
            checkpoints.after_step()
        assert Checkpoints(tmp_path / "run").steps == 2

    def test_a_failure_at_the_end_keeps_the_result(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def write(self: Folder, name: str, content: Content) -> None:
            raise StorageError("the network is gone")

        checkpoints = Checkpoints(tmp_path)
        monkeypatch.setattr(Folder, "write", write)
        assert train(checkpoints).fingerprint() == train().fingerprint()
        assert "NOT SAVED, continuing: the network is gone" in capsys.readouterr().err

    def test_a_signal_when_nothing_can_be_saved(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def write(self: Folder, name: str, content: Content) -> None:
            raise StorageError("the network is gone")

        checkpoints = Checkpoints(tmp_path)
        real = Folder.write
        monkeypatch.setattr(Folder, "write", write)
        with pytest.raises(StorageError, match="the network is gone; there is no checkpoint"):
            train(checkpoints, callbacks=[ends_after(4)])
        monkeypatch.setattr(Folder, "write", real)
        interrupt(tmp_path, 2)
        checkpoints = Checkpoints(tmp_path)
        monkeypatch.setattr(Folder, "write", write)
        with pytest.raises(
            Interrupted, match=r"step 4; .* NOT SAVED: .* from .*/step-000000000002"
        ):
            train(checkpoints, callbacks=[ends_after(4)])


class TestMemory:
    def test_saving_takes_one_copy_of_the_state(self, tmp_path: Path) -> None:
        """The snapshot itself: neither the optimizer nor the writer makes another copy."""
        model = nn.Linear(700, 700)
        optimizer = optim.Adam(model, 0.01)
        (model(tinynn.ones((1, 700))) ** 2).sum().backward()
        optimizer.step()
        size = 3 * sum(parameter.data.nbytes for parameter in model.parameters())
        checkpoints = Checkpoints(tmp_path, every=3600)
        checkpoints.track(model=model, optimizer=optimizer)
        checkpoints.save()
        checkpoints.after_step()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            checkpoints.save()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert (tmp_path / names(tmp_path)[-1]).stat().st_size > size
        assert peak - before <= 1.1 * size

    def test_resuming_takes_the_file_and_its_arrays(self, tmp_path: Path) -> None:
        model = nn.Linear(700, 700)
        checkpoints = Checkpoints(tmp_path)
        checkpoints.track(model=model)
        checkpoints.save()
        size = sum(parameter.data.nbytes for parameter in model.parameters())
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            Checkpoints(tmp_path).track(model=model)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak - before <= 2.1 * size

    def test_a_snapshot_is_freed_without_the_garbage_collector(self) -> None:
        gc.collect()
        gc.disable()
        try:
            arrays, _ = capture({"weights": np.ones(3), "steps": [1, (2, {"three": 3})]})
            snapshot = weakref.ref(arrays["weights"])
            del arrays
            assert snapshot() is None
        finally:
            gc.enable()


class TestInTheBackground:
    def test_saves_the_state_at_the_time_of_the_snapshot(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = nn.Linear(2, 2)
        before = model.weight.numpy().copy()
        real = Folder.write

        def slow(self: Folder, name: str, content: Content) -> None:
            time.sleep(0.2)
            real(self, name, content)

        checkpoints = Checkpoints(tmp_path, every=0)
        monkeypatch.setattr(Folder, "write", slow)
        checkpoints.track(model=model)
        checkpoints.after_step()  # starts to write
        model.weight.data += 1  # training goes on
        checkpoints._finish_writing()
        arrays = load_file(tmp_path / names(tmp_path)[0])
        np.testing.assert_array_equal(arrays["parts.model.weight"], before)

    def test_saves_at_the_interval(self, tmp_path: Path) -> None:
        checkpoints = Checkpoints(tmp_path, every=3600)
        checkpoints.track(model=nn.Linear(2, 2))
        for _ in range(10):
            checkpoints.after_step()
        assert names(tmp_path) == []
