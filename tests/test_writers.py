"""Every function that writes a file, through links, to long names, and to what is no file."""

import json
import os
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tinynn
from examples.faces import report
from tinynn import nn
from tinynn.errors import ArgumentError
from tinynn.files import check_writable, write_atomically
from tinynn.gpucheck import __main__ as gpucheck
from tinynn.training import Checkpoints, log_csv, log_json_lines
from tinynn.vision import write_photo

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import vs_pytorch  # noqa: E402

LONGEST = 255  # bytes of a name


def trace() -> tinynn.Trace:
    with tinynn.trace("cpu") as found:
        tinynn.ones(2)
    return found


def log(make: Callable[[Path], Any], path: Path) -> None:
    state = SimpleNamespace(history=SimpleNamespace(rows=lambda: [{"epoch": 1, "loss": 0.5}]))
    make(path)("epoch", state)


def plot(path: Path) -> None:
    pytest.importorskip("matplotlib")
    quartiles = {"title": "a", "ratio": 1.5, "ratio_quartiles": (1.4, 1.6)}
    vs_pytorch.plot([quartiles], path, "title")


WRITERS: dict[str, Callable[[Path], object]] = {
    "write_atomically": lambda path: write_atomically(path, b"content"),
    "save": lambda path: tinynn.save(nn.Linear(2, 1), path),
    "log_csv": lambda path: log(log_csv, path),
    "log_json_lines": lambda path: log(log_json_lines, path),
    "Trace.save_json": lambda path: trace().save_json(path),
    "Trace.save_chrome": lambda path: trace().save_chrome(path),
    "write_photo": lambda path: write_photo(path, np.zeros((2, 2, 3), np.uint8)),
    "gpucheck": lambda path: gpucheck._finish(path, {}, "OK", 0),
    "vs_pytorch": plot,
    "face_detect": lambda path: report.write_json(path, {}),
}
SUFFIX = {"write_photo": ".png", "vs_pytorch": ".png"}


@pytest.fixture(params=WRITERS)
def writer(request: pytest.FixtureRequest) -> Callable[[Path], object]:
    return WRITERS[request.param]


@pytest.fixture
def name(request: pytest.FixtureRequest, writer: object) -> str:
    """A file name with the suffix that the writer expects."""
    return "new" + next((SUFFIX[key] for key in SUFFIX if WRITERS[key] is writer), ".out")


class TestEveryWriter:
    def test_a_chain_of_links_stays(
        self, writer: Callable[[Path], object], name: str, tmp_path: Path
    ) -> None:
        (tmp_path / "there").mkdir()
        target = tmp_path / "there" / f"v1.{name}"
        target.write_bytes(b"old")
        (tmp_path / f"middle.{name}").symlink_to(Path("there", target.name))
        link = tmp_path / f"latest.{name}"
        link.symlink_to(f"middle.{name}")
        writer(link)
        assert link.readlink() == Path(f"middle.{name}")
        assert (tmp_path / f"middle.{name}").is_symlink()
        assert not target.is_symlink()
        assert target.read_bytes() not in (b"", b"old")

    def test_a_link_to_nothing_gets_its_file(
        self, writer: Callable[[Path], object], name: str, tmp_path: Path
    ) -> None:
        (tmp_path / f"link.{name}").symlink_to(f"later.{name}")
        writer(tmp_path / f"link.{name}")
        assert (tmp_path / f"link.{name}").is_symlink()
        assert (tmp_path / f"later.{name}").stat().st_size > 0

    @pytest.mark.parametrize("character", ["n", "\U0001f600"])
    def test_the_longest_name(
        self, character: str, writer: Callable[[Path], object], name: str, tmp_path: Path
    ) -> None:
        suffix = Path(name).suffix
        stem = character * ((LONGEST - len(suffix)) // len(character.encode()))
        writer(tmp_path / (stem + suffix))
        assert [path.name for path in tmp_path.iterdir()] == [stem + suffix]

    @pytest.mark.parametrize("mode", [0o600, 0o755])
    def test_permissions_are_kept(
        self, mode: int, writer: Callable[[Path], object], name: str, tmp_path: Path
    ) -> None:
        (tmp_path / name).touch()
        (tmp_path / name).chmod(mode)
        writer(tmp_path / name)
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == mode
        assert (tmp_path / name).stat().st_size > 0

    def test_a_new_file_has_the_permissions_of_the_umask(
        self, writer: Callable[[Path], object], name: str, tmp_path: Path
    ) -> None:
        before = os.umask(0o027)
        try:
            writer(tmp_path / name)
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o640

    def test_a_pipe(self, writer: Callable[[Path], object], name: str, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / name)
        found: list[bytes] = []
        reader = threading.Thread(
            target=lambda: found.append((tmp_path / name).read_bytes()), daemon=True
        )
        reader.start()
        writer(tmp_path / name)
        if (tmp_path / name).is_fifo():
            reader.join()
        assert (tmp_path / name).is_fifo()
        assert found[0]

    def test_a_device(self, writer: Callable[[Path], object], name: str, tmp_path: Path) -> None:
        (tmp_path / name).symlink_to("/dev/null")
        writer(tmp_path / name)
        assert Path("/dev/null").is_char_device()
        assert (tmp_path / name).is_symlink()

    def test_errors_name_the_file(
        self,
        writer: Callable[[Path], object],
        name: str,
        tmp_path: Path,
        request: pytest.FixtureRequest,
    ) -> None:
        if any(kind in request.node.callspec.id for kind in ("log", "gpucheck", "vs_pytorch")):
            pytest.skip("is reported, and the program goes on")
        (tmp_path / name).mkdir()
        for path in (tmp_path / name, tmp_path / "absent" / name, tmp_path / f"{'n' * 256}{name}"):
            with pytest.raises(OSError, match=re.escape(str(path))) as caught:
                writer(path)
            assert caught.value.filename == str(path)
            assert str(caught.value).endswith(f": {str(path)!r}")
        (tmp_path / f"loop{name}").symlink_to(f"loop{name}")
        with pytest.raises(OSError, match="loop"):
            writer(tmp_path / f"loop{name}")
        assert {path.name for path in tmp_path.iterdir()} == {name, f"loop{name}"}


class TestPlaces:
    def test_a_folder_behind_a_link_is_made(self, tmp_path: Path) -> None:
        (tmp_path / "latest").symlink_to("runs/17")
        Checkpoints(tmp_path / "latest").save()
        assert list((tmp_path / "runs" / "17").glob("step-*"))
        log(log_csv, tmp_path / "latest" / "log.csv")
        assert (tmp_path / "runs" / "17" / "log.csv").stat().st_size > 0

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
    def test_the_owner_is_kept(self, tmp_path: Path) -> None:
        path = tmp_path / "model"
        path.touch()
        os.chown(path, 1234, 5678)
        path.chmod(0o640)
        tinynn.save(nn.ReLU(), path)
        found = path.stat()
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1234, 5678, 0o640)

    def test_a_hard_link_keeps_the_old_content(self, tmp_path: Path) -> None:
        write_atomically(tmp_path / "a", b"old")
        (tmp_path / "b").hardlink_to(tmp_path / "a")
        write_atomically(tmp_path / "a", b"new")
        assert (tmp_path / "b").read_bytes() == b"old"

    def test_a_file_in_a_folder_that_takes_no_new_files(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "model"
        write_atomically(path, b"old and long")
        monkeypatch.setattr(os, "access", lambda *_: False)  # root may always
        before = path.stat().st_ino
        write_atomically(path, b"new")
        assert (path.read_bytes(), path.stat().st_ino) == (b"new", before)

    def test_a_file_that_is_a_mount_point(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def busy(self: Path, target: Path) -> None:
            raise OSError(16, "Device or resource busy")

        write_atomically(tmp_path / "a", b"old")
        monkeypatch.setattr(Path, "replace", busy)
        write_atomically(tmp_path / "a", b"new")
        assert (tmp_path / "a").read_bytes() == b"new"
        assert len(list(tmp_path.iterdir())) == 1

    @pytest.mark.parametrize("redirected", ["pipe", "file"])
    def test_standard_output_is_not_replaced(self, redirected: str, tmp_path: Path) -> None:
        """What was printed before and what is printed afterwards stays."""
        code = (
            "import sys; from tinynn.files import write_atomically\n"
            "print('before'); write_atomically(sys.argv[1], b'content\\n'); print('after')"
        )
        (tmp_path / "link").symlink_to("/dev/stdout")  # not itself: a fault would replace it
        for target in ("link", "/proc/self/fd/1"):
            with (tmp_path / "out").open("wb") as file:
                done = subprocess.run(
                    [sys.executable, "-c", code, str(tmp_path / target)],
                    cwd=ROOT, stdout=subprocess.PIPE if redirected == "pipe" else file, check=True,
                )  # fmt: skip
            printed = done.stdout or (tmp_path / "out").read_bytes()
            assert printed.endswith(b"before\ncontent\nafter\n")

    def test_the_home_folder_and_file_urls(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        tinynn.save(nn.ReLU(), "~/model")
        assert isinstance(tinynn.load("~/model"), nn.ReLU)
        assert isinstance(tinynn.load(f"file://{tmp_path}/model"), nn.ReLU)
        assert isinstance(tinynn.load(f"file://localhost{tmp_path}/model"), nn.ReLU)
        assert isinstance(tinynn.load(os.fsencode(tmp_path / "model")), nn.ReLU)  # type: ignore[arg-type]

    def test_names_that_begin_with_a_tilde(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        tinynn.save(nn.ReLU(), "~$model")
        assert isinstance(tinynn.load(tmp_path / "~$model"), nn.ReLU)
        with pytest.raises(ArgumentError, match="there is no home folder"):
            tinynn.save(nn.ReLU(), "~nobody-of-this-name/model")

    @pytest.mark.parametrize(
        "path",
        ["", "a\0b", "a\ud800b", 3, None, b"", object(), "s3://bucket/model", "hf://a:secret@b/c"],
    )
    def test_what_is_no_path(self, path: Any) -> None:
        for function in (lambda p: tinynn.save(nn.ReLU(), p), tinynn.load, tinynn.load_extra):
            with pytest.raises(ArgumentError, match="expected the path of a file") as caught:
                function(path)
            assert "secret" not in str(caught.value)


def test_a_report_is_complete_json(tmp_path: Path) -> None:
    trace().save_chrome(tmp_path / "trace.json")
    assert "traceEvents" in json.loads((tmp_path / "trace.json").read_bytes())


@pytest.mark.parametrize("write", [write_atomically, check_writable])
def test_a_name_with_a_slash_at_its_end_is_a_directory(
    write: Callable[..., object], tmp_path: Path
) -> None:
    """A file of that name would be in the way of the directory that was meant."""
    content = (b"content",) if write is write_atomically else ()
    with pytest.raises(IsADirectoryError):
        write(f"{tmp_path}/new/", *content)
    assert not list(tmp_path.iterdir())
