"""Whatever a file contains, reading it raises an error of the library."""

import json
import os
import random
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy

import tinynn
from tinynn import files, nn, optim
from tinynn import functional as F
from tinynn.data import ArrayDataset, DataLoader
from tinynn.errors import ArgumentError, FileFormatError, StorageError
from tinynn.training import Checkpoints, fit
from tinynn.training.packing import unpack
from tinynn.training.store import open_store

NESTED = "[" * 100_000
VALUES = ["0", "-1", "1e999", "-1e999", "NaN", "1" * 400, "1e5", "true", "null", '""', '"x"']
VALUES += ["[]", "{}", "[[]]", '{"":{}}', NESTED, '{"a":' * 2000, '"\\ud800"', "[0,1e400]"]


def file(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("model") / "model"
    tinynn.save(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), path, extra={"a": [1]})
    return path.read_bytes()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("run")
    saved = Checkpoints(folder)
    saved.track(model=nn.Linear(2, 2))
    saved.save()
    (path,) = folder.iterdir()
    return path.read_bytes()


def mutations(content: bytes, count: int) -> Iterator[bytes]:
    """Damaged copies: flipped, cut, repeated and exchanged bytes, and values in the header."""
    rng = random.Random(0)
    length = struct.unpack("<Q", content[:8])[0]
    text, data = content[8 : 8 + length].decode(), content[8 + length :]
    for number in range(count):
        damaged = bytearray(content)
        for _ in range(rng.randint(1, 4)):
            # more often in the header, which is what is interpreted
            damaged[rng.randrange(8 + length if number % 4 else len(damaged))] = rng.randrange(256)
        kind = number % 5
        start, end = sorted(rng.randrange(len(content)) for _ in range(2))
        if kind == 1:
            damaged = bytearray(content[:start])
        elif kind == 2:
            damaged = bytearray(content[:start] + content[start:end] * 2 + content[end:])
        elif kind == 3:
            damaged = bytearray(content[:start] + content[end:])
        elif kind == 4:
            digits = [i for i, character in enumerate(text) if character in '0123456789]}",']
            place = rng.choice(digits)
            damaged = bytearray(
                file((text[:place] + rng.choice(VALUES) + text[place + 1 :]).encode(), data)
            )
        yield bytes(damaged)


def is_read(read: Callable[[], object]) -> bool:
    try:
        read()
    except (FileFormatError, StorageError):
        return False
    return True


def test_damaged_weight_files(model: bytes, tmp_path: Path) -> None:
    accepted = 0
    for content in mutations(model, 3000):
        accepted += is_read(lambda content=content: files.from_bytes(content, "damaged"))
    assert accepted < 30  # a byte may be replaced with the same one
    path = tmp_path / "damaged"
    for content in mutations(model, 200):
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        is_read(lambda: tinynn.load(path))
        is_read(lambda: tinynn.load_extra(path))


@pytest.mark.parametrize("key", ["model", "extra"])
def test_headers_with_valid_checksums(
    key: str, model: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    header, arrays = files.from_bytes(model, "intact")
    text = header[key]
    rng = random.Random(0)
    for number in range(1500):
        start = rng.randrange(len(text))
        end = start + rng.randrange(1, 9) * (number % 2)
        damaged = text[:start] + rng.choice(VALUES) + text[end:]
        monkeypatch.setattr(
            files, "read_safetensors", lambda *_, text=damaged: ({**header, "model": text}, arrays)
        )
        monkeypatch.setattr(files, "read_metadata", lambda _, text=damaged: {"extra": text})
        is_read(lambda: tinynn.load("damaged") if key == "model" else tinynn.load_extra("damaged"))


def test_damaged_checkpoints(checkpoint: bytes) -> None:
    accepted = sum(
        is_read(lambda content=content: unpack(content, "damaged"))
        for content in mutations(checkpoint, 3000)
    )
    assert accepted < 30


def test_the_safetensors_package_accepts_the_same_files() -> None:
    arrays = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.array(7), "c": np.ones(0)}
    content = safetensors.numpy.save(arrays, metadata={"key": "value"})
    for damaged in mutations(content, 2000):
        try:
            expected = safetensors.numpy.load(damaged)
        except Exception:
            expected = None
        if expected is None:
            assert not is_read(lambda damaged=damaged: files.from_bytes(damaged, "damaged"))
        elif is_read(lambda damaged=damaged: files.from_bytes(damaged, "damaged")):
            found = files.from_bytes(damaged, "damaged")[1]
            assert found.keys() == expected.keys()
            for name, array in found.items():
                np.testing.assert_array_equal(array, expected[name])
                assert array.dtype == expected[name].dtype


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b" ",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe{}",
        NESTED.encode(),
        b'{"a":' * 3000,
        {"w": 5},
        {"w": {}},
        {"w": [1, 2]},
        {"w": tensor(shape=[-2])},
        {"w": tensor(shape=[2.0])},
        {"w": tensor(shape=[True, 2])},
        {"w": tensor(shape=[1] * 70 + [3])},
        {"w": tensor(shape=[10**30, 0], offsets=[0, 0]), "v": tensor(shape=[3])},
        {"w": tensor(shape=[1 << 62, 1 << 62, 4])},
        {"w": tensor(shape=[10**4000] * 2000)},  # would multiply for minutes
        {"w": tensor(shape="ab")},
        {"w": tensor(dtype=["F32"])},
        {"w": tensor(dtype="F31")},
        {"w": tensor(offsets=[0, 4])},
        {"w": tensor(offsets=[4, 12])},
        {"w": tensor(offsets=[8, 0])},
        {"w": tensor(offsets=[0])},
        {"w": tensor(offsets="08")},
        {"w": tensor(offsets=[0, 1e400])},
        {"w": tensor(), "v": tensor()},
        {"w": tensor(), "v": tensor(offsets=["0", 8])},
        {"__metadata__": 5, "w": tensor()},
        {"__metadata__": [["a", "b"]], "w": tensor()},
        {"__metadata__": {"a": 1}, "w": tensor()},
        {"__metadata__": {"crc32": NESTED}, "w": tensor()},
        {"__metadata__": {"crc32": "5"}, "w": tensor()},
        {"__metadata__": {"crc32": '{"metadata": 1}'}, "w": tensor()},
        b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"w":{}}',
        b'{"w":{"dtype":"F32","shape":[' + b"1" * 5000 + b'],"data_offsets":[0,8]}}',
    ],
    ids=lambda header: str(header)[:60],
)
def test_headers(header: Any, tmp_path: Path) -> None:
    path = tmp_path / "odd"
    path.write_bytes(file(header, bytes(8)))
    for read in (files.read_safetensors, files.read_metadata, tinynn.load, tinynn.load_extra):
        with pytest.raises(FileFormatError, match="odd"):
            read(path)
    with pytest.raises(FileFormatError, match="odd"):
        unpack(path.read_bytes(), "odd")


@pytest.mark.parametrize(
    "dtype", ["BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F6_E2M3", "F4", "C128", "nonsense"]
)
def test_dtypes_that_numpy_lacks_are_named(dtype: str, tmp_path: Path) -> None:
    path = tmp_path / "foreign"
    path.write_bytes(file({"layer.weight": tensor(dtype)}, bytes(8)))
    name = {"BF16": "bfloat16"}.get(dtype, dtype)
    with pytest.raises(FileFormatError, match=f"foreign: the dtype of 'layer.weight', {name}, is"):
        tinynn.load(path)


@pytest.mark.parametrize("code", ["U64", "C64", "F32", "I32", "F16", "U16", "I8", "BOOL"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_byte_orders(code: str, order: str) -> None:
    """Big-endian arrays were written as they are, and refused when they were read."""
    little = files._DTYPES[code]
    values = np.array([0, 1, 1, 0, 1], dtype=little.newbyteorder(order)).reshape(1, 5)
    for array in (values, values[:, ::2], values.T):
        content = b"".join(files.safetensors_content({"a": array}, {}))
        np.testing.assert_array_equal(files.from_bytes(content, "file")[1]["a"], array)
        np.testing.assert_array_equal(safetensors.numpy.load(content)["a"], array)


@pytest.mark.parametrize("dtype", ["<U1", "<U2", "S4", "O", "M8[s]", "V4", "g", "c16", "f4,f4"])
def test_dtypes_that_cannot_be_stored(dtype: str) -> None:
    """Strings of one or two characters were stored as uint32 and uint64."""
    with pytest.raises(ArgumentError, match="cannot store a: its dtype is"):
        list(files.safetensors_content({"a": np.zeros(2, dtype)}, {}))


def test_what_could_not_be_read_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_LARGEST_HEADER", 1000)
    list(files.safetensors_content({}, {"a": "x" * 800}))
    with pytest.raises(ArgumentError, match=r"header takes 1,.* store arrays instead of lists"):
        list(files.safetensors_content({}, {"a": "x" * 1000}))


class TestChecksums:
    """A file of the library without checksums was changed; what it holds is not known."""

    @pytest.mark.parametrize("removed", ["all", "value", "arrays", "one array", "metadata"])
    @pytest.mark.parametrize("kind", ["model", "checkpoint"])
    def test_removed(
        self, kind: str, removed: str, tmp_path: Path, request: pytest.FixtureRequest
    ) -> None:
        content = request.getfixturevalue(kind)
        with safetensors.safe_open(_written(tmp_path, content), framework="np") as opened:
            metadata = dict(opened.metadata())
        arrays = safetensors.numpy.load(content)
        checksums = json.loads(metadata.pop("crc32"))
        if removed == "value":
            metadata["crc32"] = "null"
        elif removed == "arrays":
            metadata["crc32"] = json.dumps(checksums | {"arrays": None})
        elif removed == "one array":
            checksums["arrays"].popitem()
            metadata["crc32"] = json.dumps(checksums)
        elif removed == "metadata":
            metadata["crc32"] = json.dumps(checksums["arrays"])
        path = _written(tmp_path, safetensors.numpy.save(arrays, metadata=metadata))
        expected = r"has no checksums|is not an intact|does not match its checksums"
        for read in (files.read_safetensors, files.read_metadata)[: 1 + (removed != "one array")]:
            with pytest.raises(FileFormatError, match=expected):
                read(path)
        with pytest.raises(FileFormatError, match=expected):
            unpack(path.read_bytes(), "file") if kind == "checkpoint" else tinynn.load(path)


def _written(folder: Path, content: bytes) -> Path:
    (folder / "file").write_bytes(content)
    return folder / "file"


class TestWhatIsNoFile:
    @pytest.mark.parametrize("read", [tinynn.load, tinynn.load_extra, files.read_bytes])
    def test_pipes_devices_and_folders(
        self, read: Callable[[Path], object], tmp_path: Path
    ) -> None:
        os.mkfifo(tmp_path / "pipe")
        for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
            with pytest.raises(FileFormatError, match=r"is a (pipe or a device|directory)"):
                read(path)

    @pytest.mark.parametrize("read", [tinynn.load, files.read_bytes])
    def test_larger_than_memory(self, read: Callable[..., object], tmp_path: Path) -> None:
        """A sparse file of 1 TB takes no space on the disk."""
        path = tmp_path / "sparse"
        header = file({"w": tensor("U8", [1 << 40], [0, 1 << 40])})
        path.write_bytes(header)
        os.truncate(path, len(header) + (1 << 40))
        limit = () if read is tinynn.load else (1 << 30,)
        with pytest.raises(FileFormatError, match=r"sparse has 1,099,511,627,8.* bytes of memory"):
            read(path, *limit)

    def test_a_disk_that_fails(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fails(*_: object) -> None:
            raise OSError(5, "Input/output error")

        tinynn.save(nn.ReLU(), tmp_path / "model")
        monkeypatch.setattr(files, "_read_header", fails)
        for read in (tinynn.load, tinynn.load_extra):
            with pytest.raises(StorageError, match=r"cannot read .*model: Input/output error"):
                read(tmp_path / "model")


def test_shapes_that_numpy_lacks() -> None:
    for shape, offsets in (([1] * 70 + [2], [0, 8]), ([10**30, 0], [0, 0])):
        content = file({"w": tensor(shape=shape, offsets=offsets)}, bytes(offsets[1]))
        with pytest.raises(FileFormatError, match="file is not an intact safetensors file"):
            files.from_bytes(content, "file")


class TestModels:
    def test_an_error_of_the_device_is_none_of_the_file(self, tmp_path: Path) -> None:
        tinynn.save(nn.ReLU(), tmp_path / "model")
        with pytest.raises(tinynn.errors.DeviceError):
            tinynn.load(tmp_path / "model", device="tpu")

    @pytest.mark.parametrize(
        "extra", [[1], "text", {"a": {1}}, {"a": 1j}, {(1, 2): 3}, {"a": object()}]
    )
    def test_extra_data_that_is_not_json(self, extra: Any, tmp_path: Path) -> None:
        with pytest.raises(ArgumentError, match="extra must be a dict of JSON data"):
            tinynn.save(nn.ReLU(), tmp_path / "model", extra=extra)
        recursive: dict[str, Any] = {}
        recursive["self"] = recursive
        with pytest.raises(ArgumentError, match="extra must be a dict of JSON data"):
            tinynn.save(nn.ReLU(), tmp_path / "model", extra=recursive)

    def test_arguments_that_json_cannot_hold(self, tmp_path: Path) -> None:
        class Holder(nn.Module):
            def __init__(self, value: Any) -> None:
                self.value = value

        nested: list[Any] = []
        for _ in range(2000):
            nested = [nested]
        recursive: list[Any] = []
        recursive.append(recursive)
        for value in (10**5000, nested, recursive, 1j, {1: 2}, b"", len, ...):
            with pytest.raises(ArgumentError, match=r"Holder|path"):
                tinynn.save(Holder(value), tmp_path / "model")

    def test_extra_data_of_numpy(self, tmp_path: Path) -> None:
        extra = {"threshold": np.float32(0.5), "mean": np.arange(3), "flag": np.bool_(True)}
        tinynn.save(nn.ReLU(), tmp_path / "model", extra=extra)
        expected = {"threshold": 0.5, "mean": [0, 1, 2], "flag": True}
        assert tinynn.load_extra(tmp_path / "model") == expected

    @pytest.mark.parametrize(
        "argument",
        [np.int64(3), np.float32(0.5), np.bool_(True), np.str_("a"), np.arange(3), np.zeros((0, 2)),
         np.arange(4, dtype=">i2"), [np.int8(1)], {"a": (np.uint8(1),)}],
        ids=repr,
    )  # fmt: skip
    def test_arguments_of_numpy(self, argument: Any, tmp_path: Path) -> None:
        class Holder(nn.Module):
            def __init__(self, value: Any) -> None:
                self.value = value

        tinynn.save(Holder(argument), tmp_path / "model")
        loaded = tinynn.load(tmp_path / "model", classes=[Holder])
        np.testing.assert_equal(loaded.value, argument)
        if isinstance(argument, np.ndarray):
            assert loaded.value.dtype.name == argument.dtype.name
            assert loaded.value.shape == argument.shape


class TestCheckpoints:
    @pytest.fixture
    def folder(self, checkpoint: bytes, tmp_path: Path) -> Path:
        """A checkpoint of step 1 and another of step 2."""
        saved = Checkpoints(tmp_path)
        saved.track(model=nn.Linear(2, 2))
        for _ in range(2):
            saved.after_step()
            saved.save()
        return tmp_path

    @pytest.mark.parametrize(
        "change",
        [
            *({"steps": value} for value in (1e999, -1, 1.5, True, None, "2", [], 10**400, NESTED)),
            *({key: 5} for key in ("parts", "config", "versions")),
            *({key: {"$tensor": name}} for key in ("config", "parts") for name in ("a", 5, [1])),
            "NaN",
            "[]",
            NESTED,
            '{"a":' * 3000,
            '{"steps": 1' + "0" * 5000 + "}",
        ],
        ids=lambda change: str(change)[:40],
    )
    def test_a_damaged_one_is_passed_over(
        self, change: Any, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        newest = max(folder.glob("step-*"))
        metadata, arrays = files.read_safetensors(newest)
        text = change
        if isinstance(change, dict):
            text = json.dumps(json.loads(metadata["state"]) | change)
        content = files.safetensors_content(arrays, {**metadata, "state": text})
        newest.write_bytes(b"".join(content))
        resumed = Checkpoints(folder)
        resumed.track(model=nn.Linear(2, 2))
        assert resumed.steps == 1
        assert f"{newest.name}" in capsys.readouterr().err

    @pytest.mark.parametrize("what", ["pipe", "folder", "loop", "sparse", "unreadable"])
    def test_one_that_cannot_be_read_is_passed_over(
        self, what: str, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        newest = max(folder.glob("step-*"))
        if what == "sparse":
            os.truncate(newest, 1 << 42)
        elif what == "unreadable":
            opened = Path.open

            def fails(path: Path, *mode: str, **options: Any) -> Any:
                if path == newest:
                    raise PermissionError(13, "Permission denied", str(path))
                return opened(path, *mode, **options)

            monkeypatch.setattr(Path, "open", fails)
        else:
            newest.unlink()
            make = {"pipe": os.mkfifo, "folder": os.mkdir, "loop": lambda p: p.symlink_to(p)}
            make[what](newest)
        assert Checkpoints(folder).steps == 1
        if what != "unreadable":
            with pytest.raises((FileFormatError, StorageError), match=newest.name):
                Checkpoints(folder, resume=newest.name)

    @pytest.mark.parametrize("part", ["model", "optimizer", "loader", "random", "run"])
    def test_states_with_valid_checksums(self, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
        place = f"memory://damaged/{part}"
        train(place)
        store = open_store(place)
        (name,) = (name for name in store.names() if name.startswith("step-"))
        metadata, arrays = files.from_bytes(store.read(name), name)
        state = json.loads(metadata["state"])
        text = json.dumps(state["parts"][part])
        spans = [match.span() for match in re.finditer(r'"[^"]*"|[-\d.e]+|[{[][^][{}]*[]}]', text)]
        rng = random.Random(0)
        refused = 0
        for _ in range(40):
            start, end = rng.choice(spans)
            damaged = text[:start] + rng.choice(VALUES) + text[end:]
            whole = json.dumps(state | {"parts": {**state["parts"], part: "HERE"}})
            changed = {**metadata, "state": whole.replace('"HERE"', damaged)}
            store.write(name, files.safetensors_content(arrays, changed))
            refused += not is_read(lambda: train(place))
        assert refused > 10


def train(place: str) -> None:
    images = np.random.default_rng(0).random((4, 2), dtype=np.float32)
    loader = DataLoader(ArrayDataset(images, [0, 1, 0, 1]), 2, shuffle=True)
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))
    optimizer = optim.Adam(model, 1e-3)
    fit(
        model, loader, optimizer, F.cross_entropy, epochs=1,
        checkpoints=Checkpoints(place),
    )  # fmt: skip


SECRETS = ["pass:word", "pa/ss", "p%40ss", "pässword"]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    "url",
    [
        *("nowhere://user:{}@host/run", "S3://user:{}@bucket/run", "://user:{}@host/x"),
        *("a b://user:{}@host/x", "simplecache::nowhere://user:{}@host/x", "sftp://user:{}@"),
        *("ftp://user:{}@127.0.0.1:1/run", "zip://user:{}@host", "http://h/x?token={}"),
    ],
)
def test_urls_that_cannot_be_used(url: str, secret: str) -> None:
    with pytest.raises((StorageError, ArgumentError)) as caught:
        Checkpoints(url.format(secret))
    assert secret not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", ["", "a\0b", 3, None, object()])
def test_what_is_no_place(place: Any) -> None:
    with pytest.raises(StorageError, match="expected the path of a file"):
        Checkpoints(place)
