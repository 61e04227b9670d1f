"""What only informs never stops the work, and never reaches a file of its own choice."""

import io
import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from tqdm import tqdm

from tinynn import functional as F
from tinynn import messages, nn
from tinynn.data import ArrayDataset, DataLoader
from tinynn.errors import StorageError
from tinynn.optim import SGD
from tinynn.training import History, TrainingState, fit, log_csv, log_json_lines, log_tensorboard
from tinynn.training.progress import track

ROOT = Path(__file__).parents[1]

PROGRAM = """
import json, os, signal, sys, time
import numpy as np
import safetensors.numpy, tempfile, tqdm, uuid  # once for all children
from tinynn import functional as F, messages, nn, optim
from tinynn.data import ArrayDataset, DataLoader
from tinynn.errors import Interrupted
from tinynn.training import Checkpoints, fit
from tinynn.training.progress import track
messages._WAIT = 10
def train(**options):
    model = nn.Linear(4, 2)
    loader = DataLoader(ArrayDataset(np.zeros((8, 4), np.float32), np.arange(8) % 2), 4)
    return fit(model, loader, optim.SGD(model, 0.1), F.cross_entropy, epochs=3, **options)
class Raises:
    encoding = "utf-8"
    def __getattr__(self, name):
        raise RuntimeError("lost")
def run(break_it, signals):
    exec(break_it, globals())
    print(len(train(description="訓練").training), len(list(track([1, 2], "mining"))))
    for name in signals:
        stop = lambda event, run: run.steps == 2 and signal.raise_signal(signal.Signals[name])
        try:
            train(checkpoints=Checkpoints(name, every=0), callbacks=[stop])
        except Interrupted:
            print(name, max(os.listdir(name)))
kinds, signals = map(json.loads, sys.argv[1:])
codes = {}
for kind, break_it in kinds.items():
    child = os.fork()
    if not child:
        os.mkdir(kind)
        os.chdir(kind)
        os.dup2(os.open("printed", os.O_WRONLY | os.O_CREAT), 1)
        run(break_it, signals)
        sys.exit()
    for _ in range(2000):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended: break
        time.sleep(0.005)
    else:
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
    codes[kind] = os.waitstatus_to_exitcode(status)
print(json.dumps(codes))
"""

UNREAD = """
read, write = os.pipe()
os.set_blocking(write, False)
try:
    while True: os.write(write, b"x" * 4096)
except BlockingIOError:
    os.set_blocking(write, True)
os.dup2(write, 2)
"""

UNUSABLE = {
    "missing": "sys.stderr = sys.__stderr__ = None",
    "closed": "sys.stderr.close()",
    "descriptor closed": "os.close(2)",
    "descriptor of another file": "os.close(2); other = open('other', 'w+')",
    "full disk": "os.dup2(os.open('/dev/full', os.O_WRONLY), 2)",
    "no reader": "read, write = os.pipe(); os.dup2(write, 2); os.close(read); os.close(write)",
    "no reader, and the default effect of SIGPIPE": "signal.signal(signal.SIGPIPE, signal.SIG_DFL);"
    "read, write = os.pipe(); os.dup2(write, 2); os.close(read); os.close(write)",
    "a reader that does not read": UNREAD,
    "a terminal that is stopped": "os.dup2(os.openpty()[1], 2); messages._PIECE = 64",
    "a terminal that is gone": "main, other = os.openpty(); os.dup2(other, 2); os.close(main)",
    "replaced by an object that fails": "sys.stderr = Raises()",
    "replaced by a file that is closed": "sys.stderr = open('log', 'w'); sys.stderr.close()",
    "encoding": "sys.stderr = open('log', 'w', encoding='ascii')",
}
SIGNALS = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """Trainings in children of one process: their folders by kind, and their exit codes."""
    folder = tmp_path_factory.mktemp("unusable")
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(UNUSABLE), json.dumps(SIGNALS)], cwd=folder,
        stdout=subprocess.PIPE, text=True, timeout=300, check=True,
        env={**os.environ, "PYTHONPATH": os.fspath(ROOT)},
    )  # fmt: skip
    return folder, json.loads(finished.stdout)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
@pytest.mark.parametrize("kind", UNUSABLE)
def test_a_standard_error_that_is_unusable(kind: str, ended: tuple[Path, dict[str, int]]) -> None:
    """Training finishes, and each signal ends it with a checkpoint."""
    folder, codes = ended
    printed = (folder / kind / "printed").read_text().splitlines()
    assert printed == ["3 2", *(f"{name} step-000000000002.safetensors" for name in SIGNALS)]
    if kind != "replaced by an object that fails":  # Python itself flushes it at the exit
        assert codes[kind] == 0
    if kind == "descriptor of another file":
        assert (folder / kind / "other").read_bytes() == b""


def test_checkpoints_do_not_get_the_descriptor_of_standard_error(tmp_path: Path) -> None:
    """A library that prints to a closed standard error would write into the checkpoint."""
    program = """
import os
os.close(2)
from tinynn.files import write_atomically
def content():
    try: os.write(2, b"printed by a library")
    except OSError: pass
    yield b"content"
write_atomically("file", content())
"""
    subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, check=True,
        env={**os.environ, "PYTHONPATH": os.fspath(ROOT)},
    )  # fmt: skip
    assert (tmp_path / "file").read_bytes() == b"content"


def test_one_line_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    messages.say("a\nb \x1b[31m red \udcff é")
    assert capsys.readouterr().err == "a b \\x1b[31m red \\udcff é\n"


def test_above_a_bar_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with tqdm(total=2) as bar:
        bar.update()
        messages.say("a message")
    assert "\r" in sys.stderr.getvalue().partition("a message\n")[0][-5:]


class TestTrack:
    def test_shows_a_bar_on_a_terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        terminal = io.StringIO()
        terminal.isatty = lambda: True
        monkeypatch.setattr(sys, "stderr", terminal)
        assert list(track("abc", "mining")) == ["a", "b", "c"]
        assert "mining: 100%" in terminal.getvalue()
        assert "3/3" in terminal.getvalue()

    def test_shows_nothing_elsewhere(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert list(track("abc", "mining")) == ["a", "b", "c"]
        assert capsys.readouterr().err == ""


def test_a_warning_that_cannot_be_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda *_: sys.stderr.write("")
        messages.warn("something")
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="something"):
            messages.warn("something")


LOGS = [log_csv, log_json_lines, log_tensorboard]


def train(*callbacks: object) -> tuple[History, int]:
    """The history of three epochs, and the steps done; an error has the steps as a note."""
    model = nn.Linear(4, 2)
    loader = DataLoader(ArrayDataset(np.zeros((8, 4), np.float32), np.arange(8) % 2), 4)
    optimizer = SGD(model, 0.1)
    try:
        history = fit(
            model, loader, optimizer, F.cross_entropy, epochs=3, callbacks=callbacks,
            description=None,
        )  # fmt: skip
    except Exception as error:
        error.steps = optimizer.steps
        raise
    return history, optimizer.steps


@pytest.mark.parametrize("log", LOGS)
class TestLogs:
    def test_a_folder_that_is_missing_is_made(self, log, tmp_path: Path) -> None:
        train(log(tmp_path / "no" / "such" / "log"))
        path = tmp_path / "no" / "such" / "log"
        files = list(path.iterdir()) if path.is_dir() else [path]
        assert files[0].stat().st_size > 0

    def test_one_that_cannot_be_written_is_an_error_before_the_first_step(
        self, log, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(StorageError, match=r"cannot write the log .*file/log") as error:
            train(log(tmp_path / "file" / "log"))
        assert error.value.steps == 0

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX")
    def test_a_pipe_whose_reader_could_stop_the_training(self, log, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "log")
        with pytest.raises(StorageError, match=r"cannot write the log .*log: ") as error:
            train(log(tmp_path / "log"))
        assert error.value.steps == 0

    def test_one_that_fails_later_is_reported(
        self, log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        def disk_full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        def fill_the_disk(event: str, state: TrainingState) -> None:
            if event == "epoch" and len(state.history.training) == 1:
                monkeypatch.setattr("tinynn.files.write_atomically", disk_full)
                events = pytest.importorskip("tensorboardX.event_file_writer").EventsWriter
                monkeypatch.setattr(events, "write_event", disk_full)

        history, _ = train(log(tmp_path / "log"), fill_the_disk)
        assert len(history.training) == 3
        assert "log NOT WRITTEN, continuing: No space left" in capsys.readouterr().err

    def test_the_working_directory_changes(
        self, log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path)
        callback = log("log")
        monkeypatch.chdir(tmp_path / "elsewhere")
        train(callback)
        assert (tmp_path / "log").exists()

    def test_a_name_that_is_bytes(self, log, tmp_path: Path) -> None:
        train(log(os.fsencode(tmp_path / "log")))
        assert (tmp_path / "log").exists()

    @pytest.mark.parametrize("path", [None, 3, "a\0b", "~nobody-of-this-name/log", "http://log"])
    def test_no_path(self, log, path: object) -> None:
        with pytest.raises(StorageError, match="cannot write the log"):
            train(log(path))

    def test_home(self, log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", os.fspath(tmp_path))
        train(log("~/log"))
        assert (tmp_path / "log").exists()

    def test_an_older_log_stays_until_the_first_epoch(self, log, tmp_path: Path) -> None:
        if log is log_tensorboard:
            pytest.skip("has a new file per run")
        (tmp_path / "log").write_text("older")
        seen: list[str] = []
        train(log(tmp_path / "log"), lambda *_: seen.append((tmp_path / "log").read_text()))
        assert seen[0] == "older"
        assert seen[-1] != "older"
