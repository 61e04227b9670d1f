"""Checkpoints as people use them: notebooks, several processes, full disks, servers that hang."""

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.scenario import BATCHES, EPOCHS, train
from tinynn import nn
from tinynn.errors import ArgumentError, FileFormatError, Interrupted, StorageError
from tinynn.files import Content, safetensors_content
from tinynn.training import Checkpoints, EpochMetrics, TrainingState
from tinynn.training import checkpoints as module
from tinynn.training.packing import capture
from tinynn.training.snapshot import copy_weights
from tinynn.training.store import Folder, Remote, open_store

ROOT = Path(__file__).parents[2]
ENDS = ["SIGTERM", "SIGINT", "SIGHUP", "KeyboardInterrupt", "error"]
Callback = Callable[[str, TrainingState], None]


def ends_after(step: int, how: str) -> Callback:
    """A callback that ends the training in step ``step``."""

    def callback(event: str, state: TrainingState) -> None:
        if event == "step" and state.steps == step:
            if how == "KeyboardInterrupt":
                raise KeyboardInterrupt
            if how == "error":
                raise ZeroDivisionError
            signal.raise_signal(signal.Signals[how])

    return callback


def step_names(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir() if path.name.startswith("step-"))


def saved(place: Path, *steps: int, **options: Any) -> Checkpoints:
    """Checkpoints of a small model after these steps."""
    checkpoints = Checkpoints(place, **options)
    checkpoints._saved.clear()
    checkpoints.track(model=nn.Linear(2, 2))
    for step in steps:
        checkpoints.steps = step
        checkpoints.save()
    return checkpoints


class TestAnObjectThatIsUsedAgain:
    """A cell of a notebook that is interrupted, and run again."""

    @pytest.mark.parametrize("how", ENDS)
    @pytest.mark.parametrize("step", [3, BATCHES, BATCHES + 2])
    def test_takes_up_the_newest(self, how: str, step: int, tmp_path: Path) -> None:
        checkpoints = Checkpoints(tmp_path, every=0)
        with pytest.raises((Interrupted, KeyboardInterrupt, ZeroDivisionError)):
            train(checkpoints, callbacks=[ends_after(step, how)])
        steps: list[int] = []
        again = train(checkpoints, callbacks=[lambda event, state: steps.append(state.steps)])
        assert again.fingerprint() == train().fingerprint()
        assert not how.startswith("SIG") or steps[0] == step

    def test_interrupted_many_times(self, tmp_path: Path) -> None:
        checkpoints = Checkpoints(tmp_path)
        for step in range(1, EPOCHS * BATCHES + 1, 2):
            with pytest.raises(Interrupted):
                train(checkpoints, callbacks=[ends_after(step, "SIGINT")])
        assert train(checkpoints).fingerprint() == train().fingerprint()

    def test_a_finished_one_is_fetched(self, tmp_path: Path) -> None:
        checkpoints = Checkpoints(tmp_path)
        first = train(checkpoints).fingerprint()
        events: list[str] = []
        again = train(checkpoints, callbacks=[lambda event, state: events.append(event)])
        assert again.fingerprint() == first
        assert events == ["start", "end"]
        assert step_names(tmp_path) == [f"step-{EPOCHS * BATCHES:012d}.safetensors"]

    def test_in_a_hand_written_loop(self, tmp_path: Path) -> None:
        checkpoints = Checkpoints(tmp_path)
        for end in (3, 5):
            model = nn.Linear(1, 1)
            with checkpoints:
                checkpoints.track(model=model)
                while checkpoints.steps < end:
                    model.weight.data += 1
                    checkpoints.after_step()
        assert checkpoints.steps == 5

    def test_before_anything_was_written(self, tmp_path: Path) -> None:
        saved(tmp_path, 1, 2, 3)
        name = "step-000000000001.safetensors"
        checkpoints = Checkpoints(tmp_path, resume=name)
        for _ in range(2):
            checkpoints.__enter__()
            checkpoints.track(model=nn.Linear(2, 2))
            assert checkpoints.resumed_from == name
            checkpoints.__exit__(KeyboardInterrupt, None, None)


class TestBranches:
    @pytest.mark.parametrize("keep", [1, 2, 3])
    @pytest.mark.parametrize("chosen", [1, 2, 3])
    def test_auto_stays_on_the_branch(self, keep: int, chosen: int, tmp_path: Path) -> None:
        saved(tmp_path, 10, 20, 30)
        first = Checkpoints(tmp_path, resume=f"step-{chosen:011d}0.safetensors", keep=keep)
        first.track(model=nn.Linear(2, 2))
        first.after_step()
        first.save()
        second = Checkpoints(tmp_path)
        assert second.steps == 10 * chosen + 1
        assert len(step_names(tmp_path)) == keep
        second.track(model=nn.Linear(2, 2))
        second.after_step()
        second.save()
        assert Checkpoints(tmp_path).steps == 10 * chosen + 2

    def test_a_copy_by_another_name(self, tmp_path: Path) -> None:
        saved(tmp_path, 10, 20, 30)
        (tmp_path / step_names(tmp_path)[0]).rename(tmp_path / "good")
        saved(tmp_path, 11, resume="good")
        assert Checkpoints(tmp_path).steps == 11

    def test_branch_of_a_branch(self, tmp_path: Path) -> None:
        saved(tmp_path, 10, 20, 30)
        for number in (2, 3, 4):
            names = Checkpoints(tmp_path)._names()
            saved(tmp_path, 12, 13, keep=9, resume=names[0])
            assert Checkpoints(tmp_path).resumed_from == (
                f"step-000000000013.branch-{number}.safetensors"
            )


class TestDiskFull:
    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
    @pytest.mark.parametrize("fit", [1, 2, 3])
    def test_the_oldest_is_given_up(
        self, code: int, fit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The disk has space for ``fit`` checkpoints: an intact one is never deleted first."""
        write = Folder.write

        def limited(self: Folder, name: str, content: Content) -> None:
            assert step_names(tmp_path) or not attempted
            attempted.append(name)
            if len(step_names(tmp_path)) >= fit:
                raise StorageError("no space") from OSError(code, "No space left on device")
            write(self, name, content)

        attempted: list[str] = []
        monkeypatch.setattr(Folder, "write", limited)
        checkpoints = Checkpoints(tmp_path)
        checkpoints.track(model=nn.Linear(2, 2))
        for step in range(1, 6):
            checkpoints.steps = step
            checkpoints.save_at_end()
        found = [int(name[5:17]) for name in step_names(tmp_path)]
        assert found == ([1] if fit == 1 else [5 - fit + n for n in range(1, fit + 1)])

    @pytest.mark.parametrize("code", [errno.EIO, errno.EFBIG, errno.EACCES, errno.ENETDOWN])
    def test_other_failures_delete_nothing(
        self, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        checkpoints = saved(tmp_path, 1, 2, 3)

        def fail(self: Folder, name: str, content: Content) -> None:
            raise StorageError("failed") from OSError(code, "failed")

        monkeypatch.setattr(Folder, "write", fail)
        checkpoints.steps = 4
        checkpoints.save_at_end()
        assert len(step_names(tmp_path)) == 3

    def test_no_memory_for_a_snapshot(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def refuse(state: object) -> None:
            raise MemoryError("Unable to allocate 3 GiB")

        checkpoints = Checkpoints(tmp_path, every=0)
        monkeypatch.setattr(module, "capture", refuse)
        assert train(checkpoints).fingerprint() == train().fingerprint()
        assert "NOT SAVED, continuing: no memory for a copy of the state" in capsys.readouterr().err

    def test_no_more_threads(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        start = threading.Thread.start

        def refuse(self: threading.Thread) -> None:
            if self.name.startswith("tinynn-checkpoint"):
                raise RuntimeError("can't start new thread")
            start(self)

        monkeypatch.setattr(threading.Thread, "start", refuse)
        train(Checkpoints(tmp_path, every=0))
        assert Checkpoints(tmp_path).steps == EPOCHS * BATCHES


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Call it: from then on writes do not return."""
    answer = threading.Event()
    monkeypatch.setattr(module, "_WAIT_WHEN_STOPPED", 0.2)
    monkeypatch.setattr(module, "_WAIT_AT_LEAST", 0.1)

    def hang(self: Folder, name: str, content: Content) -> None:
        answer.wait()

    yield lambda: monkeypatch.setattr(Folder, "write", hang)
    answer.set()


class TestAServerThatHangs:
    @pytest.mark.parametrize("step", [1, 4, EPOCHS * BATCHES])
    @pytest.mark.parametrize("every", [0, 3600])
    def test_a_signal_ends_the_training(
        self, every: float, step: int, tmp_path: Path, hanging: Callable[[], None]
    ) -> None:
        checkpoints = Checkpoints(tmp_path, every=every)
        hanging()
        with pytest.raises(StorageError, match=r"cannot write to .*: no answer in the 0 s after S"):
            train(checkpoints, callbacks=[ends_after(step, "SIGTERM")])

    def test_a_signal_while_the_end_is_saved(
        self, tmp_path: Path, hanging: Callable[[], None], monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        checkpoints = Checkpoints(tmp_path)
        hanging()
        hang, main = Folder.write, threading.main_thread().ident

        def signal_and_hang(self: Folder, name: str, content: Content) -> None:
            signal.pthread_kill(main, signal.SIGTERM)
            monkeypatch.setattr(Folder, "write", hang)
            hang(self, name, content)

        monkeypatch.setattr(Folder, "write", signal_and_hang)
        with pytest.raises(StorageError, match="no answer"):
            train(checkpoints)
        assert "NOT SAVED, continuing: cannot write to" in capsys.readouterr().err

    def test_the_program_ends(self, tmp_path: Path) -> None:
        """Also Python, which would wait for a thread that is no daemon."""
        program = """
import signal, sys, time
from tinynn import nn
from tinynn.errors import StorageError
from tinynn.training import Checkpoints, checkpoints as module
from tinynn.training.snapshot import copy_weights
from tinynn.training.store import Folder
module._WAIT_WHEN_STOPPED = module._WAIT_AT_LEAST = 0.1
try:
    with Checkpoints(sys.argv[1], every=0) as checkpoints:
        Folder.write = lambda *_: time.sleep(1000)
        checkpoints.track(model=nn.Linear(2, 2))
        checkpoints.after_step()
        signal.raise_signal(signal.SIGTERM)
        checkpoints.after_step()
except StorageError:
    sys.exit(3)
"""
        ended = run(program, tmp_path, timeout=30)
        assert ended.returncode == 3


@pytest.mark.parametrize("outer", [False, True])
def test_a_checkpoint_has_the_last_weights_not_the_best(
    outer: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A longer training continues from the last, although ``fit`` ends with the best."""
    losses = iter([1.0, 2.0, 3.0])
    monkeypatch.setattr(
        "tinynn.training.state.evaluate", lambda *_: EpochMetrics(next(losses), 0.5)
    )
    last: dict[str, Any] = {}

    def record(event: str, state: TrainingState) -> None:
        if event == "epoch":
            last.update(copy_weights(state.model))

    checkpoints = Checkpoints(tmp_path)
    with checkpoints if outer else nullcontext():
        trained = train(checkpoints, keep_best="loss", callbacks=[record])
    stored = Checkpoints(tmp_path)._saved["model"]
    for path, weights in copy_weights(trained.model).items():
        np.testing.assert_array_equal(stored[path], last[path])
        assert path.endswith("bias") or not np.array_equal(weights, last[path])


class TestConfig:
    ARRAY = np.arange(4, dtype=np.float32)

    @pytest.mark.parametrize(
        ("was", "now"),
        [
            ({"mean": ARRAY}, {"mean": ARRAY.copy()}),
            ({"mean": [ARRAY, {"a": (1, ARRAY)}]}, {"mean": [ARRAY, {"a": [1, ARRAY]}]}),
            ({"rate": float("nan")}, {"rate": float("nan")}),
            ({"rate": np.array([np.nan])}, {"rate": np.array([np.nan])}),
            ({"rate": np.float32(0.5)}, {"rate": 0.5}),
            ({"rate": 1}, {"rate": 1.0}),
            ({"none": None}, {}),
        ],
    )
    def test_equal(self, was: dict[str, Any], now: dict[str, Any], tmp_path: Path) -> None:
        saved(tmp_path, 1, config=was)
        assert Checkpoints(tmp_path, config=now).steps == 1

    @pytest.mark.parametrize(
        "now",
        [{}, {"mean": ARRAY + 1}, {"mean": ARRAY[:2]}, {"mean": 1}, {"mean": ARRAY.tolist()}],
    )
    def test_different(self, now: dict[str, Any], tmp_path: Path) -> None:
        saved(tmp_path, 1, config={"mean": self.ARRAY})
        with pytest.raises(FileFormatError, match=r"another run: mean was array\(\["):
            Checkpoints(tmp_path, config=now)

    @pytest.mark.parametrize(
        "value",
        [
            object(),
            {1: 2},
            {1, 2},
            np.array(["text"]),
            [object()],
            reduce(lambda x, _: [x], range(9999)),
        ],
    )
    def test_one_that_cannot_be_stored_is_refused_at_once(
        self, value: object, tmp_path: Path
    ) -> None:
        with pytest.raises(ArgumentError, match="store"):
            Checkpoints(tmp_path, config={"value": value})

    @pytest.mark.parametrize(
        "options",
        [
            {"config": [1]},
            {"config": "abc"},
            {"resume": None},
            {"resume": ""},
            {"every": "60"},
            {"every": np.nan},
            {"keep": 2.5},
            {"keep": True},
        ],
    )
    def test_wrong_arguments(self, options: dict[str, Any], tmp_path: Path) -> None:
        with pytest.raises(ArgumentError):
            Checkpoints(tmp_path, **options)


class TestPlaces:
    @pytest.mark.parametrize("kind", ["run", "./run", Path("run"), b"run", "run/", "a/../run"])
    def test_the_working_directory_changes(
        self, kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "a").mkdir()
        monkeypatch.chdir(tmp_path)
        checkpoints = Checkpoints(kind, every=0, keep=2)
        monkeypatch.chdir(tmp_path / "a")
        train(checkpoints)
        assert len(step_names(tmp_path / "run")) == 2
        assert list((tmp_path / "a").iterdir()) == []

    @pytest.mark.parametrize("kind", ["~", "~/run", Path("~/run/there"), "file://~/run"])
    def test_home(self, kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        monkeypatch.setenv("HOME", os.fspath(tmp_path / "home"))
        saved(kind, 1)
        assert list((tmp_path / "here").iterdir()) == []
        assert [path.name for path in (tmp_path / "home").rglob("step-*")]

    def test_a_home_that_does_not_exist(self) -> None:
        with pytest.raises(StorageError, match=r"cannot make the folder ~nobody-of-this-name/run"):
            Checkpoints("~nobody-of-this-name/run")

    @pytest.mark.parametrize("place", [None, 3, ["run"], "a\0b"])
    def test_no_path(self, place: Any) -> None:
        with pytest.raises(StorageError, match=r"cannot (open|make)"):
            Checkpoints(place)

    def test_a_url_that_has_become_a_path(self) -> None:
        with pytest.raises(StorageError, match=r"s3:/bucket/run .*pass it as a string"):
            Checkpoints(Path("s3://bucket/run"))

    @pytest.mark.parametrize(
        "url",
        [
            "nowhere://name:secret@host/run",
            "nowhere://name:sec/secret@host/run",
            "nowhere://secret@host/run",
            "nowhere://host/run?token=secret",
        ],
    )
    def test_passwords_are_not_shown(self, url: str) -> None:
        with pytest.raises(StorageError) as error:
            open_store(url)
        assert "secret" not in str(error.value)
        assert "host" in str(error.value)

    def test_a_password_in_the_message_of_a_server(self, monkeypatch: pytest.MonkeyPatch) -> None:
        store = Remote("memory://name:secret@runs")

        def refuse(path: str) -> None:
            raise OSError("name:secret is not allowed")

        monkeypatch.setattr(store._files, "cat_file", refuse)
        with pytest.raises(StorageError, match=r"read memory://\*\*\*@runs/a: \*\*\* is not"):
            store.read("a")


OWNER = """
import sys, time
from tinynn import nn
from tinynn.training import Checkpoints
checkpoints = Checkpoints(sys.argv[1])
with checkpoints:
    checkpoints.track(model=nn.Linear(2, 2))
    checkpoints.steps = 5
    checkpoints.save()
    print("ready", flush=True)
    sys.stdin.readline()
    checkpoints.after_step()
"""


def run(program: str, *arguments: object, timeout: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], timeout=timeout, text=True,
        env={**os.environ, "PYTHONPATH": os.fspath(ROOT)},
    )  # fmt: skip


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that trains in the folder; a line on its standard input ends it."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, os.fspath(tmp_path)], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.fspath(ROOT)},
    )  # fmt: skip
    with process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


@pytest.mark.skipif(sys.platform == "win32", reason="no locks")
class TestAnotherProcess:
    def test_is_named_and_nothing_of_it_is_touched(
        self, owner: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        monkeypatch.setattr(module, "_WAIT_FOR_OWNER", 0.2)
        unfinished = tmp_path / ".step-000000000006.safetensors.0123"
        unfinished.write_bytes(b"half")
        second = Checkpoints(tmp_path)  # reading is allowed
        assert second.steps == 5
        named = f"in use by process {owner.pid} on {socket.gethostname()} since 20"
        with pytest.raises(StorageError, match=named):
            second.__enter__()
        assert f"{named[:-2]}" in capsys.readouterr().err
        second.track(model=nn.Linear(2, 2))
        with pytest.raises(StorageError, match=named):
            second.save()
        assert unfinished.exists()
        assert step_names(tmp_path) == ["step-000000000005.safetensors"]

    def test_ends_in_time(self, owner: subprocess.Popen[str], tmp_path: Path) -> None:
        """A requeued job waits for the last checkpoint of the one before, and takes it up."""
        second = Checkpoints(tmp_path)
        end = threading.Timer(0.3, lambda: (owner.stdin.write("\n"), owner.stdin.flush()))
        end.start()
        with second:
            assert second.steps == 6
            second.track(model=nn.Linear(2, 2))
        end.join()

    def test_was_killed(self, owner: subprocess.Popen[str], tmp_path: Path) -> None:
        owner.kill()
        owner.wait()
        (tmp_path / ".step-000000000006.safetensors.0123").write_bytes(b"half")
        start = time.monotonic()
        with Checkpoints(tmp_path) as second:
            second.track(model=nn.Linear(2, 2))
            second.after_step()
        assert time.monotonic() - start < module._WAIT_FOR_OWNER
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            f"step-{step:012d}.safetensors" for step in (5, 6)
        ]

    def test_a_forked_child_has_not_its_lock(self, tmp_path: Path) -> None:
        program = """
import os, sys
from tinynn.errors import StorageError
from tinynn.training import Checkpoints, checkpoints as module
module._WAIT_FOR_OWNER = 0
with Checkpoints(sys.argv[1]):
    child = os.fork()
    if not child:
        try: Checkpoints(sys.argv[1]).__enter__()
        except StorageError: os._exit(7)
        os._exit(0)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
        assert run(program, tmp_path, timeout=60).returncode == 7

    def test_objects_of_one_process_share_it(self, tmp_path: Path) -> None:
        with Checkpoints(tmp_path) as one, Checkpoints(tmp_path) as other:
            one.track(model=nn.Linear(2, 2))
            one.after_step()
            one.save()
            other.track(model=nn.Linear(2, 2))
        assert step_names(tmp_path)
        assert not (tmp_path / ".tinynn-lock").exists()


def damaged(**entries: Any) -> bytes:
    """A checkpoint with an intact file format whose state has these entries."""
    state = {"steps": 9, "config": {}, "versions": {}, "parts": {}, **entries}
    arrays, metadata = capture({key: value for key, value in state.items() if value is not ...})
    return b"".join(bytes(piece) for piece in safetensors_content(arrays, metadata))


def test_a_program_without_a_block_waits_for_its_last_checkpoint(tmp_path: Path) -> None:
    program = """
import sys, time
from tinynn import nn
from tinynn.training import Checkpoints
from tinynn.training.store import Folder
checkpoints, write = Checkpoints(sys.argv[1], every=0), Folder.write
Folder.write = lambda *arguments: time.sleep(0.5) or write(*arguments)
checkpoints.track(model=nn.Linear(2, 2))
checkpoints.after_step()
"""
    assert run(program, tmp_path, timeout=60).returncode == 0
    assert step_names(tmp_path) == ["step-000000000001.safetensors"]


class TestTheOneBefore:
    @pytest.mark.parametrize(
        "content",
        [
            damaged(steps=...), damaged(steps=-1), damaged(steps=10**12), damaged(steps=1e400),
            damaged(steps="9"), damaged(steps=[9]), damaged(steps=None), damaged(steps=True),
            damaged(parts=...), damaged(parts=[]), damaged(parts="model"), damaged(parts=None),
            damaged(config=...), damaged(config=7), damaged(versions=...), damaged(versions=[[]]),
            b"", b"\0" * 100, None,
        ],
    )  # fmt: skip
    def test_is_used_if_the_newest_is_damaged(
        self, content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        saved(tmp_path, 1)
        last = tmp_path / "step-000000000009.safetensors"
        last.symlink_to("/proc/self/mem") if content is None else last.write_bytes(content)
        assert Checkpoints(tmp_path).steps == 1
        assert "step-000000000009.safetensors" in capsys.readouterr().err
