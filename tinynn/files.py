"""Files: named arrays as safetensors with checksums, nested state as JSON, atomic writes.

Everything that the library writes goes through ``write_atomically`` or a checkpoint store, array
after array: writing takes no memory besides the arrays themselves.
"""

import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from tinynn.errors import ArgumentError, FileFormatError

FilePath = str | os.PathLike[str]
Arrays = dict[str, np.ndarray[Any, Any]]
Encode = Callable[[Any, str], Any]  # of (value, path of the value)
Content = bytes | Iterable[bytes | memoryview]  # of a file, at once or in pieces

_LARGEST_HEADER = 100_000_000  # bytes; the limit of safetensors itself
_PIECE = 1 << 20  # bytes per write: small relative to the buffers of object stores
_CHECKSUMS = "crc32"
# the order of the data in a file: as in the safetensors package, by descending alignment
_DTYPES = ("U64", "I64", "F64", "C64", "F32", "U32", "I32", "F16", "U16", "I16", "I8", "U8", "BOOL")


# -- safetensors -----------------------------------------------------------------------------------


def safetensors_content(arrays: Arrays, metadata: dict[str, str]) -> Iterator[bytes | memoryview]:
    """The content of a safetensors file in pieces; equal arrays make equal bytes.

    The pieces are views of the arrays, which must not change in between. The header stores the
    CRC-32 of each array and of the metadata, which ``from_bytes`` checks.
    """
    dtypes = {name: _dtype(name, array) for name, array in arrays.items()}
    names = sorted(arrays, key=lambda name: (_DTYPES.index(dtypes[name]), name))
    checksums = json.dumps(_checksums(arrays, metadata), sort_keys=True)
    header: dict[str, Any] = {"__metadata__": {**metadata, _CHECKSUMS: checksums}}
    end = 0
    for name in names:
        start, end = end, end + arrays[name].nbytes
        shape = arrays[name].shape
        header[name] = {"dtype": dtypes[name], "shape": shape, "data_offsets": (start, end)}
    text = json.dumps(header, sort_keys=True).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in names:
        content = _bytes_of(arrays[name])
        for start in range(0, len(content), _PIECE):
            yield content[start : start + _PIECE]


def _dtype(name: str, array: np.ndarray[Any, Any]) -> str:
    """The dtype in the notation of safetensors, such as "F32"."""
    kind, bits = array.dtype.kind, 8 * array.dtype.itemsize
    dtype = "BOOL" if kind == "b" else f"{kind.upper()}{bits}"
    if dtype not in _DTYPES:
        raise ArgumentError(f"safetensors cannot store {name}: its dtype is {array.dtype}")
    return dtype


def from_bytes(content: bytes, name: str) -> tuple[dict[str, str], Arrays]:
    """The metadata and arrays of a safetensors file; FileFormatError, naming it, if damaged.

    Files of other programs have no checksums, so they are not verified.
    """
    from safetensors.numpy import load

    with _reading(name):
        arrays = load(content)
        length = min(int.from_bytes(content[:8], "little"), _LARGEST_HEADER)
        metadata = dict(json.loads(content[8 : 8 + length]).get("__metadata__") or {})
        checksums = json.loads(metadata.pop(_CHECKSUMS, "null"))
    if checksums is not None and checksums != _checksums(arrays, metadata):
        raise FileFormatError(f"{name} is damaged: its content does not match its checksums")
    return metadata, arrays


def read_safetensors(path: FilePath) -> tuple[dict[str, str], Arrays]:
    """The metadata and arrays of a safetensors file; FileFormatError if it is damaged."""
    return from_bytes(_existing(path).read_bytes(), str(path))


def read_metadata(path: FilePath) -> dict[str, str]:
    """The metadata of a safetensors file, without reading its arrays."""
    from safetensors import safe_open

    _existing(path).open("rb").close()  # OSError with number and name: safe_open has neither
    with _reading(path), safe_open(path, framework="np") as file:
        metadata = dict(file.metadata() or {})
        checksums = json.loads(metadata.pop(_CHECKSUMS, "null"))
        intact = checksums is None or checksums["metadata"] == _metadata_checksum(metadata)
    if not intact:
        raise FileFormatError(f"{path} is damaged: its header does not match its checksum")
    return metadata


@contextmanager
def _reading(name: FilePath) -> Iterator[None]:
    """Turn every error that a damaged file causes into a FileFormatError."""
    from safetensors import SafetensorError

    try:
        yield
    except (SafetensorError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise FileFormatError(f"{name} is not an intact safetensors file ({error})") from error


def _existing(path: FilePath) -> Path:
    if Path(path).is_dir():
        raise FileFormatError(f"{path} is a directory, not a safetensors file")
    return Path(path)


def _checksums(arrays: Arrays, metadata: dict[str, str]) -> Any:
    """CRC-32 of each array with its dtype and shape, and of the metadata, by name."""
    found = {
        name: zlib.crc32(_bytes_of(array), zlib.crc32(f"{array.dtype}{array.shape}".encode()))
        for name, array in arrays.items()
    }
    return {"arrays": found, "metadata": _metadata_checksum(metadata)}


def _metadata_checksum(metadata: dict[str, str]) -> int:
    return zlib.crc32("".join(f"{key}\0{metadata[key]}\0" for key in sorted(metadata)).encode())


def _bytes_of(array: np.ndarray[Any, Any]) -> memoryview:
    """The elements in C order; without a copy if the array is contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def read_only(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A read-only contiguous copy, or the array itself if it already is one."""
    flags = array.flags
    if flags.owndata and flags.c_contiguous and not flags.writeable:
        return array
    copied = np.array(array, order="C")
    copied.flags.writeable = False
    return copied


# -- nested state as JSON --------------------------------------------------------------------------


def to_json(value: Any, encode: Encode, path: str = "") -> Any:
    """JSON data of a nested value; ``encode(value, path)`` converts the values that are not JSON.

    These are all values but None, bool, int, float, str and list.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list):
        return [to_json(item, encode, f"{path}.{i}") for i, item in enumerate(value)]
    return encode(value, path)


def entries_to_json(entries: Mapping[str, Any], encode: Encode, path: str) -> dict[str, Any]:
    """JSON data of each entry; the path of an entry is ``path.key``."""
    prefix = f"{path}." if path else ""
    return {key: to_json(value, encode, prefix + key) for key, value in entries.items()}


def json_object(
    text: str, name: str, decode: Callable[[dict[str, Any]], Any] | None = None
) -> dict[str, Any]:
    """The JSON object in the header of the file ``name``; FileFormatError if it is damaged.

    ``decode``, if given, replaces each object, the inner ones first.
    """
    try:
        value = json.loads(text, object_hook=decode)
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise FileFormatError(f"{name} has a damaged header: {error}") from error
    if not isinstance(value, dict):
        raise FileFormatError(f"{name} has a damaged header: {value!r:.40} is not an object")
    return value


# -- writing ---------------------------------------------------------------------------------------


def write_into(file: IO[bytes], content: Content) -> None:
    """Write the content piece by piece into an open file."""
    file.writelines([content] if isinstance(content, bytes) else content)


def write_atomically(path: FilePath, content: Content) -> None:
    """Write a file so that its name always refers to the complete old or complete new content."""
    from uuid import uuid4

    _occupy_standard_descriptors()
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            write_into(file, content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush_directory(target.parent)


def _occupy_standard_descriptors() -> None:
    """Open closed descriptors of standard input, output and error on the null device.

    A file would get their numbers otherwise, and what libraries print would be written into it.
    """
    with suppress(OSError):
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(descriptor)


def _flush_directory(folder: Path) -> None:
    """Make the new name durable, on systems that support it."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems refuse; the file itself is durable
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
