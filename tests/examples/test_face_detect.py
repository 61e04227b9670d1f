"""The command line of ``examples/face_detect.py``."""

import importlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

import tinynn
from examples.faces import detection, report
from tinynn import functional, nn
from tinynn.vision import read_photo, write_photo

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "face_detect.py"


class Result(NamedTuple):
    """Exit code and output of the program."""

    returncode: int
    stdout: str
    stderr: str


Program = Callable[..., Result]


@pytest.fixture(scope="session")
def script() -> ModuleType:
    """The script as a module, imported with its own directory first in the path."""
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        return importlib.import_module("face_detect")
    finally:
        sys.path.remove(str(SCRIPT.parent))


@pytest.fixture
def program(
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Program:
    """Runs the program in an empty directory and returns its result."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Result:
        capsys.readouterr()
        try:
            code = script.main([str(argument) for argument in arguments])
        except SystemExit as end:  # argparse
            code = end.code
        return Result(code, *capsys.readouterr())

    return run


def command(*arguments: object) -> list[str]:
    return [sys.executable, str(SCRIPT), *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def two_people(tmp_path: Path) -> list[str]:
    """Two arrays of 12 images each, with one person lit from the left and one from the right."""
    rng = np.random.default_rng(0)
    light = np.linspace(40, 200, 30)[None, None, :]
    arguments = []
    for name, picture in (("ann", light), ("bob", light[..., ::-1])):
        noisy = picture + rng.normal(0, 10, (12, 40, 30))
        np.save(tmp_path / f"{name}.npy", noisy.clip(0, 255).astype(np.uint8))
        arguments.append(f"{name}={name}.npy")
    return arguments


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output directory of ``--quick``."""
    folder = tmp_path_factory.mktemp("quick")
    result = subprocess.run(
        command("--quick"), cwd=folder, env=environment(), capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return folder / "face_detect_out"


# -- all stages -----------------------------------------------------------------------------------


def test_the_quick_run_writes_all_documented_files(quick: Path) -> None:
    names = {path.name for path in quick.iterdir()}
    assert {"detect.safetensors", "identify.safetensors", "report.json", "report.html"} <= names
    assert {"astronaut.png", "identify_curves.png", "identify_confusion.png"} <= names
    assert not [name for name in names if name.startswith(".")], "an unfinished file was left"


def test_the_report_has_the_documented_keys(quick: Path) -> None:
    report = json.loads((quick / "report.json").read_text())
    montage, astronaut = report["detect"]["montage"], report["detect"]["astronaut"]
    assert 0 <= montage["recall"] <= 1
    assert montage["false_positives_per_photo"] >= 0
    assert montage["photos"] > 0
    assert montage["faces"] > 0
    assert isinstance(astronaut["found"], bool)
    assert all(set(box) == {"x", "y", "width", "height", "score"} for box in astronaut["boxes"])
    identify = report["identify"]
    assert identify["accuracy"] + identify["error"] == pytest.approx(1)
    assert (identify["train_images"], identify["test_images"]) == (200, 200)
    assert (identify["classes"], identify["epochs"]) == (
        40,
        len(identify["curves"]["training_loss"]),
    )
    assert report["seconds"]["total"] > 0
    assert (report["seed"], report["device"]) == (0, "cpu")
    assert {"tinynn", "python", "numpy"} <= set(report["versions"])


def test_the_page_needs_no_network_and_claims_no_more_than_was_shown(quick: Path) -> None:
    html = (quick / "report.html").read_text()
    words = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "PICTURE", html)
    assert words.count('src="PICTURE"') == words.count("<img") >= 4
    assert "://" not in words
    assert "url(" not in words
    assert "40 people, mostly light-skinned men, photographed from 1992 to 1994" in html
    assert "AT&amp;T Laboratories Cambridge" in html
    assert "no general accuracy is claimed" in html


def test_detect_draws_boxes_and_lists_them(quick: Path, program: Program, tmp_path: Path) -> None:
    photo = np.full((90, 120, 3), 128, dtype=np.uint8)
    write_photo(tmp_path / "wall.png", photo)
    result = program("detect", "wall.png", "--weights", quick / "detect.safetensors", "--out", "o")
    assert result.returncode == 0, result.stderr
    detections = json.loads((tmp_path / "o" / "detections.json").read_text())
    assert list(detections) == ["wall.png"]
    assert all(set(box) == {"x", "y", "width", "height", "score"} for box in detections["wall.png"])
    assert read_photo(tmp_path / "o" / "wall_faces.png").shape == photo.shape


# -- identification --------------------------------------------------------------------------------


def identify_report(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report


def test_arrays_are_two_people(program: Program, two_people: list[str], tmp_path: Path) -> None:
    result = program("identify", "--arrays", *two_people, "--epochs", 8, "--out", "o")
    assert result.returncode == 0, result.stderr
    identify = identify_report(tmp_path / "o")["identify"]
    assert identify["classes"] == 2
    assert identify["train_images"] + identify["test_images"] == 24
    assert identify["epochs"] == 8
    assert (tmp_path / "o" / "identify.safetensors").exists()


def test_a_folder_per_person_is_a_data_set(program: Program, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for person in ("ann", "bob", "cleo"):
        (tmp_path / "people" / person).mkdir(parents=True)
        for number in range(4):
            photo = rng.integers(0, 256, (60, 50, 3)).astype(np.uint8)
            write_photo(tmp_path / "people" / person / f"{number}.png", photo)
    result = program("identify", "--data", "people", "--epochs", 1, "--out", "o")
    assert result.returncode == 0, result.stderr
    identify = identify_report(tmp_path / "o")["identify"]
    assert (identify["classes"], identify["train_images"], identify["test_images"]) == (3, 9, 3)


def test_the_same_seed_gives_the_same_report_and_weights(
    program: Program, two_people: list[str], tmp_path: Path
) -> None:
    for out in ("one", "two"):
        arguments = ("--arrays", *two_people, "--epochs", 2, "--seed", 7, "--out", out)
        assert program("identify", *arguments).returncode == 0
    first, second = (identify_report(tmp_path / out) for out in ("one", "two"))
    first.pop("seconds")
    second.pop("seconds")
    assert first == second
    one, two = (
        tinynn.load(tmp_path / out / "identify.safetensors").state_dict() for out in ("one", "two")
    )
    assert one.keys() == two.keys()
    for path in one:
        np.testing.assert_array_equal(one[path].numpy(), two[path].numpy(), err_msg=path)


def test_an_image_in_both_parts_is_refused(program: Program, tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (20, 20, 20)).astype(np.uint8)
    pictures[13] = pictures[2]
    np.save(tmp_path / "ann.npy", pictures[:10])
    np.save(tmp_path / "bob.npy", pictures[10:])
    message = refusal(program("identify", "--arrays", "ann=ann.npy", "bob=bob.npy"))
    assert "ann.npy[2] and bob.npy[3] are identical" in message


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Four photos each of two people."""
    rng = np.random.default_rng(0)
    for person in ("ann", "bob"):
        (tmp_path / "album" / person).mkdir(parents=True)
        for number in range(4):
            photo = rng.integers(0, 256, (60, 50, 3)).astype(np.uint8)
            write_photo(tmp_path / "album" / person / f"{number}.png", photo)
    return tmp_path / "album"


def test_duplicate_photos_are_named(program: Program, album: Path) -> None:
    shutil.copy(album / "ann" / "1.png", album / "ann" / "copy.png")
    message = refusal(program("identify", "--data", album))
    assert str(album / "ann" / "1.png") in message
    assert str(album / "ann" / "copy.png") in message


def test_unreadable_photos_stop_or_are_skipped(program: Program, album: Path) -> None:
    (album / "ann" / "Thumbs.db").write_bytes(b"no image")
    (album / "ann" / "holiday").mkdir()
    message = refusal(program("identify", "--data", album))
    assert "--skip-bad" in message
    result = program("identify", "--data", album, "--skip-bad", "--epochs", 1, "--out", "o")
    assert result.returncode == 0, result.stderr
    warned = [line for line in result.stderr.splitlines() if "warning" in line]
    assert ["Thumbs.db" in line for line in warned] == [True, False]
    assert "holiday" in warned[1]
    report = identify_report(Path("o"))["identify"]
    assert (report["train_images"], report["test_images"]) == (6, 2)


# -- invalid input: one line and exit code 2 -------------------------------------------------------


def refusal(result: Result) -> str:
    """The one-line error message for invalid input."""
    assert result.returncode == 2, result.stderr
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("face_detect.py: error: ")
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["detect", "nowhere.jpg", "--weights", "nowhere.safetensors"], "nowhere.safetensors"),
        (["detect", "nowhere.jpg"], "face_detect.py train"),
        (["detect"], "PHOTO"),
        (["identify", "--data", "nowhere"], "nowhere"),
        (["identify", "--arrays", "ann=nowhere.npy", "bob=nowhere.npy"], "nowhere.npy"),
        (["identify", "--arrays", "ann.npy"], "NAME=FILE.npy"),
        (["identify", "--model", "huge"], "huge"),
        (["identify", "--epochs", "0"], "--epochs: must be at least 1, got 0"),
        (["identify", "--batch-size", "many"], "--batch-size: must be an integer"),
        (["identify", "--seed", "-1"], "--seed"),
        (["train", "--seed", str(2**64)], "--seed: must be an integer from 0 to 2**64 - 1"),
        (["train", "--seed", "9" * 5000], "--seed: must be an integer from 0 to 2**64 - 1"),
        (["--data", "nowhere", "train"], "--data goes with identify"),
        (["identify", "--skip-bad"], "--skip-bad needs --data"),
        (["identify", "--device", "tpu"], "tpu"),
        (["train", "--data", "nowhere"], "--data"),
        (["identify", "--out", ""], "--out: expected the path of a file, got ''"),
        (["identify", "--tensorboard", "s3://bucket/run"], "--tensorboard: expected the path"),
        (["identify", "--checkpoint-dir", ""], "--checkpoint-dir: must be a directory or a URL"),
        (["dance"], "dance"),
        (["--color"], "--color"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_invalid_input_is_reported_in_one_line(
    program: Program, arguments: list[str], words: str
) -> None:
    assert words in refusal(program(*arguments))


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((5, 91, 91), dtype=np.float32), "float32 (5, 91, 91)"),
        (np.zeros((5, 91), dtype=np.uint8), "uint8 (5, 91)"),
        (np.zeros((0, 91, 91), dtype=np.uint8), "no image"),
        (np.zeros((5, 80, 91), dtype=np.uint8), "80 x 91"),
        (np.zeros((1, 40, 30), dtype=np.uint8), "'ann' has one image"),
    ],
    ids=["dtype", "axes", "empty", "another size", "one picture"],
)
def test_a_wrong_array_is_named(
    program: Program, two_people: list[str], tmp_path: Path, array: np.ndarray, words: str
) -> None:
    np.save(tmp_path / "ann.npy", array)
    message = refusal(program("identify", "--arrays", *two_people))
    assert "ann" in message
    assert words in message


def test_a_file_that_is_no_array_is_named(
    program: Program, two_people: list[str], tmp_path: Path
) -> None:
    for content in (b"not an array", b"PK\x03\x04 no archive", b"\x93NUMPY", b""):
        (tmp_path / "ann.npy").write_bytes(content)
        message = refusal(program("identify", "--arrays", *two_people))
        assert message.endswith("ann.npy is not a NumPy array file (.npy), or it is damaged")


def test_a_header_that_claims_more_than_the_file_holds_is_named(
    program: Program, two_people: list[str], tmp_path: Path
) -> None:
    with (tmp_path / "ann.npy").open("wb") as file:
        shape = (100_000, 100_000, 1000)
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": shape}
        )
    assert "ann.npy is not a NumPy array file" in refusal(
        program("identify", "--arrays", *two_people)
    )


@pytest.mark.parametrize("arguments", [[], ["train", "--quick"], ["identify"]], ids=str)
def test_a_missing_extra_is_reported_before_training(
    program: Program, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    message = refusal(program(*arguments))
    assert "matplotlib not installed: pip install -e '.[examples]'" in message


@pytest.fixture
def untrained(tmp_path: Path) -> Path:
    """A detector's weights."""
    path = tmp_path / "untrained.safetensors"
    detection.save(detection.face_detector(detection.face_network()), path)
    return path


def test_no_photo_of_the_users_own_is_replaced(
    program: Program, tmp_path: Path, untrained: Path
) -> None:
    (tmp_path / "ow").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "ow")
    for gray, name in enumerate(("a.png", "a_faces.png")):
        write_photo(tmp_path / "ow" / name, np.full((60, 60, 3), gray, dtype=np.uint8))
    before = (tmp_path / "ow" / "a_faces.png").read_bytes()
    arguments = ("ow/a.png", "link/a_faces.png", "--weights", untrained, "--out", "ow")
    assert program("detect", *arguments).returncode == 0
    assert (tmp_path / "ow" / "a_faces.png").read_bytes() == before
    assert {path.name for path in (tmp_path / "ow").iterdir()} == {
        "a.png", "a_faces.png", "a_faces_2.png", "a_faces_faces.png", "detections.json",
    }  # fmt: skip


def test_photos_of_the_same_name_get_separate_outputs(script: ModuleType) -> None:
    drawn = script._drawn_paths([Path("a/x.jpg"), Path("b/x.jpg"), Path("c/X.JPG")], Path("o"))
    assert [path.name for path in drawn] == ["x_faces.jpg", "x_faces_2.jpg", "X_faces_3.JPG"]


def test_a_bad_photo_does_not_keep_the_others_from_their_boxes(
    program: Program, tmp_path: Path, untrained: Path
) -> None:
    for name in ("a.png", "c.png"):
        write_photo(tmp_path / name, np.zeros((60, 60, 3), dtype=np.uint8))
    (tmp_path / "b.png").write_bytes(b"no image")
    photos = ("a.png", "b.png", "nowhere.png", "c.png")
    result = program("detect", *photos, "--weights", untrained, "--out", "o")
    assert result.returncode == 2
    first, second = result.stderr.splitlines()
    assert "b.png" in first
    assert "nowhere.png" in second
    assert set(json.loads((tmp_path / "o" / "detections.json").read_text())) == {"a.png", "c.png"}
    assert (tmp_path / "o" / "c_faces.png").exists()


def spoil(photo: Path, out: Path, trouble: str) -> None:
    """Make ``photo`` one that cannot be read, or its picture one that cannot be written."""
    if trouble == "unreadable":
        photo.write_bytes(b"no image")
    elif trouble == "pipe":
        photo.unlink()
        os.mkfifo(photo)
    elif trouble == "taken":
        for name in ("b_faces.jpg", "old.png"):
            (out / name).mkdir(parents=True)
    elif trouble == "dark":
        Image.fromarray(np.uint16([[0, 900]])).save(photo, "PNG")


@pytest.mark.skipif(os.name != "posix", reason="pipes with names")
@pytest.mark.parametrize("trouble", ["unreadable", "pipe", "too wide", "taken", "memory", "dark"])
def test_one_bad_item_does_not_end_all(
    program: Program,
    script: ModuleType,
    tmp_path: Path,
    untrained: Path,
    monkeypatch: pytest.MonkeyPatch,
    trouble: str,
) -> None:
    shape = (24, 65501, 3) if trouble == "too wide" else (60, 60, 3)
    for name, size in (("a.png", (60, 60, 3)), ("b.png", shape), ("c.png", (60, 60, 3))):
        write_photo(tmp_path / name, np.zeros(size, dtype=np.uint8))
    (tmp_path / "b.png").rename(tmp_path / "b.jpg")
    spoil(tmp_path / "b.jpg", tmp_path / "o", trouble)
    if trouble == "memory":

        def read(path: Path) -> np.ndarray:
            if path.name == "b.jpg":
                raise MemoryError
            return read_photo(path)

        monkeypatch.setattr(script, "read_photo", read)
    result = program("detect", "a.png", "b.jpg", "c.png", "--weights", untrained, "--out", "o")
    assert result.returncode == (0 if trouble == "dark" else 2), result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert "b.jpg" in result.stderr or "65501" in result.stderr or "b_faces.jpg" in result.stderr
    found = json.loads((tmp_path / "o" / "detections.json").read_text())
    assert {"a.png", "c.png"} <= set(found)
    assert ("b.jpg" in found) == (trouble in ("too wide", "taken", "dark"))
    for name in ("a_faces.png", "c_faces.png"):
        assert read_photo(tmp_path / "o" / name).shape == (60, 60, 3)


def test_ctrl_c_leaves_what_was_found(
    program: Program,
    script: ModuleType,
    tmp_path: Path,
    untrained: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def read(path: Path) -> np.ndarray:
        if path.name == "b.png":
            raise KeyboardInterrupt
        return read_photo(path)

    monkeypatch.setattr(script, "read_photo", read)
    write_photo(tmp_path / "a.png", np.zeros((60, 60, 3), dtype=np.uint8))
    arguments = ("a.png", "b.png", "--weights", untrained, "--out", "o")
    assert program("detect", *arguments).returncode == 130
    assert list(json.loads((tmp_path / "o" / "detections.json").read_text())) == ["a.png"]


# -- names are bytes -------------------------------------------------------------------------------

NAMES = [
    *(b"caf\xe9", b"\xff\xfe" * 100, b"$a^$", b"a$_$b", b"$\\alpha", b"\\frac{", b"<script>"),
    *(b"a&amp;b", b"new\nline", b"\x1b[31mred", b"n" * 251, "é".encode() * 120, "\u9854".encode()),
    *("ar\u202ebic".encode(), b"{0}%s%n", b" ", b"~$draft", b"a\rb", "\U0001f600".encode()),
]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are Unicode")
@pytest.mark.parametrize("name", NAMES, ids=lambda name: name[:12].hex())
def test_a_photo_of_any_name_is_done(
    program: Program, tmp_path: Path, untrained: Path, name: bytes
) -> None:
    odd = os.fsdecode(name + b".png")
    for path in ("a.png", odd, "c.png"):
        write_photo("plain.png", np.zeros((60, 60, 3), dtype=np.uint8))
        os.rename("plain.png", path)  # noqa: PTH104 - a name with surrogates
    result = program("detect", "a.png", odd, "c.png", "--weights", untrained, "--out", "o")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)
    assert set(json.loads((tmp_path / "o" / "detections.json").read_text())) == {
        "a.png", odd, "c.png",
    }  # fmt: skip
    assert len(os.listdir(tmp_path / "o")) == 4  # noqa: PTH208


class Unusable(io.StringIO):
    """Standard output on a full disk, or a pipe whose reader has ended."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def closed(stream: io.StringIO) -> io.StringIO:
    stream.close()
    return stream


@pytest.mark.parametrize(
    "stream",
    [
        lambda: io.TextIOWrapper(io.BytesIO(), "cp1252"),
        lambda: io.TextIOWrapper(io.BytesIO(), "ascii"),
        lambda: None,
        Unusable,
        lambda: closed(io.StringIO()),
    ],
    ids=["cp1252", "ascii", "missing", "broken", "closed"],
)
def test_what_cannot_be_printed_ends_nothing(
    script: ModuleType,
    tmp_path: Path,
    untrained: Path,
    monkeypatch: pytest.MonkeyPatch,
    stream: Callable[[], Any],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdout", stream())
    write_photo("\u9854.png", np.zeros((60, 60, 3), dtype=np.uint8))
    assert script.main(["detect", "\u9854.png", "--weights", str(untrained), "--out", "o"]) == 0
    assert list(json.loads((tmp_path / "o" / "detections.json").read_text())) == ["\u9854.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are Unicode")
def test_people_of_any_names_are_identified(program: Program, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in NAMES:
        folder = os.fsencode(tmp_path) + b"/people/" + name
        os.makedirs(folder)  # noqa: PTH103
        for number in range(2):
            write_photo("plain.png", rng.integers(0, 256, (40, 40, 1)).astype(np.uint8))
            os.rename("plain.png", folder + b"/%d.png" % number)  # noqa: PTH104
    arguments = ("--epochs", 1, "--checkpoint-dir", "saved", "--out", "o")
    result = program("identify", "--data", "people", *arguments)
    assert result.returncode == 0, result.stderr
    known = {os.fsdecode(name) for name in NAMES}
    mistakes = identify_report(tmp_path / "o")["identify"]["mistakes"]
    assert mistakes
    assert {mistake["taken_for"] for mistake in mistakes} <= known
    assert "\x1b" not in (tmp_path / "o" / "report.html").read_text()


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name[:12].hex())
def test_a_person_of_any_name_is_plotted(name: bytes) -> None:
    assert report.plot_confusion(np.eye(2, dtype=np.int64), [os.fsdecode(name), "b"])


# -- before training -------------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="a limit of POSIX")
@pytest.mark.parametrize("command", ["train", "identify"])
def test_too_little_room_for_the_results_is_reported_before_training(
    program: Program, two_people: list[str], command: str
) -> None:
    import resource

    arrays = ["--arrays", *two_people] if command == "identify" else []
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        result = program(command, *arrays, "--epochs", 1, "--out", "full")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert re.search("full: .*, 8 MiB are needed", refusal(result))
    assert result.stdout == ""


@pytest.mark.parametrize("name", ["identify.safetensors", "report.json", "report.html"])
def test_a_result_that_cannot_be_written_is_reported_before_training(
    program: Program, two_people: list[str], tmp_path: Path, name: str
) -> None:
    (tmp_path / "o" / name).mkdir(parents=True)
    result = program("identify", "--arrays", *two_people, "--epochs", 1, "--out", "o")
    assert f"o/{name} is not a regular file" in refusal(result)
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tensorboard", "/proc/nowhere"], "/proc/nowhere"),
        (["--checkpoint-dir", "saved"], "saved/identify already contains checkpoints"),
        (["--checkpoint-dir", "saved", "--resume", "auto"], "belongs to another run"),
        (["--data", "people"], "'bob' has one image"),
    ],
)
def test_what_identification_refuses_is_reported_before_the_detector_is_trained(
    program: Program, two_people: list[str], tmp_path: Path, options: list[str], words: str
) -> None:
    if "saved" in options:
        arguments = ["--arrays", *two_people, "--epochs", 1, "--checkpoint-dir", "saved"]
        assert program("identify", *arguments).returncode == 0
    for number, name in enumerate(["ann", "ann", "bob"]):
        (tmp_path / "people" / name).mkdir(parents=True, exist_ok=True)
        photo = np.full((8, 8, 3), number, np.uint8)
        Image.fromarray(photo).save(tmp_path / "people" / name / f"{number}.png")
    result = program("--quick", "--epochs", 1, *options)
    assert words in refusal(result)
    assert "Detection" not in result.stdout


def test_a_tilde_is_home_in_every_option(
    program: Program, two_people: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shells do not expand it in --out=~/results."""
    (tmp_path / "home").mkdir()
    for name in ("ann.npy", "bob.npy"):
        (tmp_path / name).rename(tmp_path / "home" / name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    result = program(
        "identify", "--epochs", 1, "--arrays", "ann=~/ann.npy", "bob=~/bob.npy", "--out=~/results",
        "--tensorboard=~/board", "--checkpoint-dir=~/saved",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    assert {"results", "board", "saved"} <= {path.name for path in (tmp_path / "home").iterdir()}


def test_matplotlib_needs_no_home_and_no_directory_for_temporary_files(
    two_people: list[str], tmp_path: Path
) -> None:
    """The script runs with no candidates for such a directory."""
    without = (
        "import runpy, sys, tempfile; tempfile._candidate_tempdir_list = list; "
        "sys.path.insert(0, sys.argv[1]); sys.argv = sys.argv[2:]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    nowhere = dict.fromkeys(("MPLCONFIGDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"), "/proc/nowhere")
    arguments = ["identify", "--arrays", *two_people, "--epochs", "1", "--out", "o"]
    result = subprocess.run(
        [sys.executable, "-c", without, str(SCRIPT.parent), str(SCRIPT), *arguments],
        cwd=tmp_path, env={**environment(), **nowhere, "HOME": "/proc/nowhere"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "o" / "report.html").exists()
    assert not [path for path in (tmp_path / "o").iterdir() if path.name.startswith(".")]


def test_a_matplotlib_that_cannot_draw_is_reported_before_training(
    program: Program, script: ModuleType, two_people: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script.report, "new_figure", lambda **size: 1 / 0)
    result = program("identify", "--arrays", *two_people)
    assert "matplotlib cannot draw: division by zero" in refusal(result)
    assert result.stdout == ""


def test_too_little_memory_is_reported(
    program: Program, script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(options: object) -> int:
        raise MemoryError

    monkeypatch.setattr(script, "train_and_test", fail)
    assert refusal(program("train")).endswith("error: not enough memory")


def test_photos_are_read_one_at_a_time(
    program: Program,
    script: ModuleType,
    tmp_path: Path,
    untrained: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps: list[str] = []
    for step in ("read_photo", "write_photo"):
        original = getattr(script, step)

        def noted(path: Path, *rest: Any, step: str = step, original: Any = original) -> Any:
            steps.append(step)
            return original(path, *rest)

        monkeypatch.setattr(script, step, noted)
    for name in ("a.png", "b.png"):
        write_photo(tmp_path / name, np.zeros((60, 60, 3), dtype=np.uint8))
    assert program("detect", "a.png", "b.png", "--weights", untrained).returncode == 0
    assert steps == ["read_photo", "write_photo"] * 2


def test_the_weights_are_read_once_and_batch_norm_is_folded_once(
    program: Program, tmp_path: Path, untrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    convolved: list[tinynn.Tensor] = []  # kept, so that no two of them share an id

    def load(
        path: Path, original: Callable[..., nn.Module] = tinynn.load, **rest: Any
    ) -> nn.Module:
        read.append(path)
        return original(path, **rest)

    monkeypatch.setattr(tinynn, "load", load)
    for name in ("conv2d", "conv2d_relu_max_pool2d"):
        original = getattr(functional, name)

        def convolve(x: Any, weight: Any, *rest: Any, original: Any = original) -> Any:
            convolved.append(weight)
            return original(x, weight, *rest)

        monkeypatch.setattr(functional, name, convolve)
    for name in ("a.png", "b.png"):
        write_photo(tmp_path / name, np.zeros((60, 60, 3), dtype=np.uint8))
    assert program("detect", "a.png", "b.png", "--weights", untrained).returncode == 0
    assert read == [untrained]
    layers = sum(isinstance(m, nn.Conv2d) for m in detection.face_network().modules())
    assert len(convolved) >= 2 * 5 * layers  # five levels of each photo
    assert len({id(weight) for weight in convolved}) == layers


def test_one_person_is_too_few(program: Program, two_people: list[str]) -> None:
    message = refusal(program("identify", "--arrays", two_people[0]))
    assert "two people" in message


def test_one_name_for_two_people_is_refused(program: Program, two_people: list[str]) -> None:
    message = refusal(program("identify", "--arrays", two_people[0], two_people[0]))
    assert "'ann'" in message


def test_a_damaged_photo_is_named(quick: Path, program: Program, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    weights = quick / "detect.safetensors"
    assert "broken.jpg" in refusal(program("detect", "broken.jpg", "--weights", weights))


@pytest.mark.parametrize("content", ["text", "another model"])
def test_weights_that_are_not_a_detectors_are_refused(
    program: Program, tmp_path: Path, content: str
) -> None:
    weights = tmp_path / "odd.safetensors"
    if content == "text":
        weights.write_text("no weights")
    else:
        tinynn.save(nn.Sequential(nn.Linear(2, 2)), weights)
    write_photo(tmp_path / "wall.png", np.zeros((60, 60, 3), dtype=np.uint8))
    assert "odd.safetensors" in refusal(program("detect", "wall.png", "--weights", weights))


def test_an_unwritable_output_folder_is_reported_before_training(
    program: Program, two_people: list[str], tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("a file")
    assert "taken" in refusal(program("identify", "--arrays", *two_people, "--out", "taken"))


def test_help_shows_what_can_be_done(program: Program) -> None:
    result = program("--help")
    assert result.returncode == 0
    for word in ("train", "detect", "identify", "--quick", "examples:", "default"):
        assert word in result.stdout


def test_help_offers_only_what_a_command_takes(program: Program) -> None:
    offered = {c: program(c, "--help").stdout for c in ("train", "identify", "detect")}
    assert {c for c, text in offered.items() if "--data" in text} == {"identify"}
    assert "epochs of the first and of the last round" in " ".join(offered["train"].split())
    assert "--data" in program("--help").stdout


def test_the_output_folder_keeps_what_is_in_it(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / ".writable").write_text("mine")
    assert script._writable(tmp_path) == tmp_path
    assert [path.name for path in tmp_path.iterdir()] == [".writable"]
    assert (tmp_path / ".writable").read_text() == "mine"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for another process")
def test_ctrl_c_ends_with_one_line_and_130(tmp_path: Path) -> None:
    with subprocess.Popen(
        command("identify", "--epochs", 1000), cwd=tmp_path, env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A background job may ignore SIGINT, and its children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("Identification")
            time.sleep(1)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "face_detect.py: interrupted"
    assert "Traceback" not in errors


# -- interruption ----------------------------------------------------------------------------------


def started(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*arguments), cwd=folder, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_identification_resumes(
    number: signal.Signals, program: Program, two_people: list[str], tmp_path: Path
) -> None:
    options = ["identify", "--arrays", *two_people, "--epochs", 40, "--batch-size", 4]
    assert program(*options, "--out", "undisturbed").returncode == 0
    options += ["--checkpoint-dir", "saved", "--checkpoint-every", 0, "--resume", "auto"]
    process = started(tmp_path, *options)
    while not list(tmp_path.glob("saved/identify/step-*")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    if number is signal.SIGTERM:
        assert process.returncode == 75, said
        assert "SIGTERM: ended after step" in said
        assert said.rstrip().endswith("(--resume auto)")
    else:
        assert process.returncode == -signal.SIGKILL
    result = program(*options)
    assert result.returncode == 0, result.stderr
    assert "resuming from saved/identify/step-" in result.stderr
    for name in ("identify.safetensors", "identify_log.csv"):
        resumed, undisturbed = tmp_path / "face_detect_out" / name, tmp_path / "undisturbed" / name
        assert resumed.read_bytes() == undisturbed.read_bytes()


def test_a_directory_with_checkpoints_is_not_used_by_accident(
    program: Program, two_people: list[str]
) -> None:
    options = ["identify", "--arrays", *two_people, "--epochs", 1, "--checkpoint-dir", "saved"]
    assert program(*options).returncode == 0
    again = program(*options)
    assert again.returncode == 2
    assert "saved/identify already contains checkpoints" in again.stderr
    assert again.stderr.count("\n") == 1


def test_other_options_are_not_the_same_run(program: Program, two_people: list[str]) -> None:
    options = ["identify", "--arrays", *two_people, "--checkpoint-dir", "saved"]
    assert program(*options, "--epochs", 1).returncode == 0
    other = program(*options, "--epochs", 2, "--resume", "auto")
    assert other.returncode == 2
    assert "belongs to another run: epochs was 1, is 2" in other.stderr


def test_resume_needs_a_checkpoint_directory(program: Program, two_people: list[str]) -> None:
    result = program("identify", "--arrays", *two_people, "--resume", "auto")
    assert result.returncode == 2
    assert "need a --checkpoint-dir" in result.stderr


def test_invalid_numbers_of_seconds(program: Program) -> None:
    result = program("identify", "--checkpoint-every", "soon")
    assert result.returncode == 2
    assert "must be a number of seconds >= 0, got 'soon'" in result.stderr


def test_micro_batches_and_tensorboard(
    program: Program, two_people: list[str], tmp_path: Path
) -> None:
    result = program(
        "identify", "--arrays", *two_people, "--epochs", 2, "--micro-batch", "auto",
        "--tensorboard", "board",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert len(list((tmp_path / "board").iterdir())) == 1
