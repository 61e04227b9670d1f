"""Checkpoint stores: a folder, memory, and an S3 server in a process of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.training.scenario import train
from tinynn import nn
from tinynn.errors import Interrupted, StorageError
from tinynn.training import Checkpoints, TrainingState
from tinynn.training.store import Folder, open_store

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The URL of an empty bucket on a server that speaks S3's protocol."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    settings = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        _until_it_answers(settings["AWS_ENDPOINT_URL"])
        request = urllib.request.Request(f"{settings['AWS_ENDPOINT_URL']}/faces", method="PUT")
        urllib.request.urlopen(request, timeout=10).close()
        yield "s3://faces"
    finally:
        server.terminate()
        server.wait(10)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _until_it_answers(address: str) -> None:
    for _ in range(600):
        try:
            urllib.request.urlopen(address, timeout=10).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"the S3 server at {address} did not start")


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
class TestS3:
    def test_a_run_on_another_machine(self, s3: str) -> None:
        """Two processes that share nothing but the URL."""
        command = [sys.executable, "-m", "tests.training.scenario", f"{s3}/run", "0"]
        lost = subprocess.Popen(
            [*command, "0.2", "3", "cpu"], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        while not [n for n in open_store(f"{s3}/run").names() if n.startswith("step-")]:
            assert lost.poll() is None, lost.communicate()
            time.sleep(0.05)
        lost.send_signal(signal.SIGKILL)
        lost.communicate()
        second = subprocess.run(
            [*command, "0", "3", "cpu"], cwd=ROOT, capture_output=True, text=True, timeout=120
        )
        assert second.returncode == 0, second.stderr
        assert f"resuming from {s3}/run/step-" in second.stderr
        assert second.stdout.strip() == train().fingerprint()

    def test_interrupted_by_a_signal(self, s3: str) -> None:
        def end(event: str, state: TrainingState) -> None:
            if event == "step" and state.steps == 4:
                signal.raise_signal(signal.SIGTERM)

        with pytest.raises(Interrupted, match=f"{s3}/asked/step-000000000004.safetensors is"):
            train(Checkpoints(f"{s3}/asked"), callbacks=[end])
        assert Checkpoints(f"{s3}/asked").steps == 4

    def test_a_damaged_newest_one(self, s3: str, capsys: pytest.CaptureFixture[str]) -> None:
        checkpoints = Checkpoints(f"{s3}/damaged", keep=2)
        checkpoints.track(model=nn.Linear(2, 2))
        for _ in range(3):
            checkpoints.after_step()
            checkpoints.save()
        store = open_store(f"{s3}/damaged")
        assert [name[-14:] for name in store.names()] == ["02.safetensors", "03.safetensors"]
        store.write("step-000000000003.safetensors", b"damaged")
        assert Checkpoints(f"{s3}/damaged").steps == 2
        assert "step-000000000003.safetensors is not an intact" in capsys.readouterr().err

    def test_a_large_file_is_uploaded_in_parts(self, s3: str) -> None:
        store = open_store(f"{s3}/parts")
        pieces = [bytes([number]) * (1 << 20) for number in range(12)]
        store.write("a", map(memoryview, pieces))
        assert store.read("a") == b"".join(pieces)
        assert store.names() == ["a"]

    def test_an_upload_that_fails_leaves_the_old_file(self, s3: str) -> None:
        store = open_store(f"{s3}/failing")
        store.write("a", b"old")
        with pytest.raises(StorageError, match=r"cannot write .*/failing/a: connection lost"):
            store.write("a", interrupted())
        assert store.read("a") == b"old"
        store.write("a", b"new")
        assert store.read("a") == b"new"
        assert store.names() == ["a"]

    def test_a_bucket_that_is_not_there(self, s3: str) -> None:
        assert s3
        with pytest.raises(StorageError, match=r"^cannot write s3://nobody/.*: .*bucket"):
            Checkpoints("s3://nobody/run")


def test_memory(tmp_path: Path) -> None:
    checkpoints = Checkpoints("memory://runs/one")
    checkpoints.track(model=nn.Linear(2, 2))
    checkpoints.after_step()
    checkpoints.save()
    assert Checkpoints("memory://runs/one").steps == 1


def interrupted() -> Iterator[bytes]:
    """Content whose last piece never comes."""
    yield b"new " * 4_000_000  # more than one part of a multipart upload
    raise OSError("connection lost")


def test_an_upload_to_memory_that_fails() -> None:
    store = open_store("memory://runs/failing")
    store.write("a", b"old")
    with pytest.raises(StorageError, match=r"cannot write .*/failing/a: connection lost"):
        store.write("a", interrupted())
    assert store.read("a") == b"old"


def test_file_systems_without_uploads_get_a_temporary_name(tmp_path: Path) -> None:
    """fsspec's own local files stand for SFTP and the like."""
    store = open_store(f"local://{tmp_path}/there")
    store.write("a", b"old")
    with pytest.raises(StorageError, match=r"cannot write .*/there/a: connection lost"):
        store.write("a", interrupted())
    assert store.read("a") == b"old"
    store.write("a", iter([b"n", memoryview(b"ew")]))
    assert store.read("a") == b"new"
    assert (tmp_path / "there" / "a").read_bytes() == b"new"


def test_a_url_of_a_folder_is_a_folder(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/run")
    assert isinstance(store, Folder)
    store.write("a", b"1")
    assert (tmp_path / "run" / "a").read_bytes() == b"1"


def test_an_unknown_protocol() -> None:
    with pytest.raises(StorageError, match="not a URL that fsspec supports"):
        open_store("nowhere://run")


def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(StorageError, match=r"pip install -e '\.\[s3\]'"):
        open_store("s3://faces/run")
