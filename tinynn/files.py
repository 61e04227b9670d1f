"""Files: named arrays as safetensors with checksums, nested state as JSON, atomic writes.

Everything that the library writes goes through ``write_atomically`` or a checkpoint store, array
after array: writing takes no memory besides the arrays themselves.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from tinynn.errors import ArgumentError, FileFormatError

Arrays = dict[str, np.ndarray[Any, Any]]
Content = bytes | Iterable[bytes | memoryview]
"""The content of a file, at once or in pieces."""

_LARGEST_HEADER = 100_000_000  # bytes; the limit of safetensors itself
_PIECE = 1 << 20  # bytes handed to a file at a time: small against the buffers of object stores
_CHECKSUMS = "crc32"
_DTYPES = {  # in the order of the data in the file: descending alignment, as safetensors has it
    "uint64": "U64",
    "int64": "I64",
    "float64": "F64",
    "complex64": "C64",
    "float32": "F32",
    "uint32": "U32",
    "int32": "I32",
    "float16": "F16",
    "uint16": "U16",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}


# -- safetensors -----------------------------------------------------------------------------------


def safetensors_content(
    arrays: Mapping[str, np.ndarray[Any, Any]], metadata: Mapping[str, str]
) -> Iterator[bytes | memoryview]:
    """The content of a safetensors file in pieces; equal arrays make equal bytes.

    The pieces are views of the arrays, which must not change in between. The header stores the
    CRC-32 of each array and of the metadata, which ``from_bytes`` checks.
    """
    import json  # here, because import tinynn must be fast

    for name, array in arrays.items():
        if array.dtype.name not in _DTYPES:
            raise ArgumentError(f"safetensors cannot store {name}: its dtype is {array.dtype}")
    order = list(_DTYPES)
    names = sorted(arrays, key=lambda name: (order.index(arrays[name].dtype.name), name))
    checksums = json.dumps(_checksums(arrays, metadata), sort_keys=True)
    header: dict[str, Any] = {"__metadata__": {**metadata, _CHECKSUMS: checksums}}
    end = 0
    for name in names:
        array = arrays[name]
        start, end = end, end + array.nbytes
        dtype = _DTYPES[array.dtype.name]
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": (start, end)}
    text = json.dumps(header, sort_keys=True).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in names:
        content = _bytes_of(arrays[name])
        for start in range(0, len(content), _PIECE):
            yield content[start : start + _PIECE]


def from_bytes(content: bytes, name: str) -> tuple[dict[str, str], Arrays]:
    """The metadata and arrays of a safetensors file; FileFormatError, naming it, if damaged.

    Files of other programs have no checksums and are read without.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = load(content)
        metadata, checksums = _metadata(content[8 : 8 + _header_length(content)])
    except (SafetensorError, *_DAMAGED) as error:
        raise _not_intact(name, error) from error
    if checksums is not None and checksums != _checksums(arrays, metadata):
        raise FileFormatError(f"{name} is damaged: its content does not match its checksums")
    return metadata, arrays


def read_safetensors(path: str | os.PathLike[str]) -> tuple[dict[str, str], Arrays]:
    """The metadata and arrays of a safetensors file; FileFormatError if it is damaged."""
    _refuse_directory(path)
    return from_bytes(Path(path).read_bytes(), str(path))


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The metadata of a safetensors file, without reading its arrays."""
    _refuse_directory(path)
    with Path(path).open("rb") as file:
        try:
            metadata, checksums = _metadata(file.read(_header_length(file.read(8))))
            intact = checksums is None or checksums["metadata"] == _metadata_checksum(metadata)
        except _DAMAGED as error:
            raise _not_intact(path, error) from error
    if not intact:
        raise FileFormatError(f"{path} is damaged: its header does not match its checksum")
    return metadata


_DAMAGED = (ValueError, LookupError, TypeError, AttributeError, RecursionError)


def _header_length(start: bytes) -> int:
    return min(int.from_bytes(start[:8], "little"), _LARGEST_HEADER)


def _metadata(header: bytes) -> tuple[dict[str, str], Any]:
    """The metadata in a header, and its checksums or None."""
    import json

    metadata = dict(json.loads(header).get("__metadata__") or {})
    return metadata, json.loads(metadata.pop(_CHECKSUMS, "null"))


def _not_intact(name: str | os.PathLike[str], error: Exception) -> FileFormatError:
    return FileFormatError(
        f"{name} is not an intact safetensors file ({error}): it is truncated or of another format"
    )


def _refuse_directory(path: str | os.PathLike[str]) -> None:
    if Path(path).is_dir():
        raise FileFormatError(f"{path} is a directory, not a safetensors file")


def _checksums(arrays: Mapping[str, np.ndarray[Any, Any]], metadata: Mapping[str, str]) -> Any:
    """CRC-32 of each array with its dtype and shape, and of the metadata, by name."""
    found = {
        name: zlib.crc32(_bytes_of(array), zlib.crc32(f"{array.dtype}{array.shape}".encode()))
        for name, array in arrays.items()
    }
    return {"arrays": found, "metadata": _metadata_checksum(metadata)}


def _metadata_checksum(metadata: Mapping[str, str]) -> int:
    return zlib.crc32("".join(f"{key}\0{metadata[key]}\0" for key in sorted(metadata)).encode())


def _bytes_of(array: np.ndarray[Any, Any]) -> memoryview:
    """The elements in C order; without a copy if the array is contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def read_only(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A read-only contiguous copy. What is one already is returned: it needs no second copy."""
    flags = array.flags
    if flags.owndata and flags.c_contiguous and not flags.writeable:
        return array
    copied = np.array(array, order="C")
    copied.flags.writeable = False
    return copied


# -- nested state as JSON --------------------------------------------------------------------------


def to_json(value: Any, encode: Callable[[Any, str], Any], path: str = "") -> Any:
    """JSON data of a nested value; ``encode(value, path)`` handles what is not JSON by itself.

    These are all values but None, bool, int, float, str and list.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list):
        return [to_json(item, encode, f"{path}.{i}") for i, item in enumerate(value)]
    return encode(value, path)


def entries_to_json(
    entries: Mapping[str, Any], encode: Callable[[Any, str], Any], path: str
) -> dict[str, Any]:
    """JSON data of each entry; the path of an entry is ``path.key``."""
    prefix = f"{path}." if path else ""
    return {key: to_json(value, encode, prefix + key) for key, value in entries.items()}


def from_json(value: Any, decode: Callable[[dict[str, Any]], Any]) -> Any:
    """The value that ``to_json`` described; ``decode`` gets every object."""
    if isinstance(value, list):
        return [from_json(item, decode) for item in value]
    return decode(value) if isinstance(value, dict) else value


# -- writing ---------------------------------------------------------------------------------------


def write_into(file: IO[bytes], content: Content) -> None:
    """Write the content piece by piece into an open file."""
    for piece in [content] if isinstance(content, bytes) else content:
        file.write(piece)


def write_atomically(path: str | os.PathLike[str], content: Content) -> None:
    """Write a file so that its name refers to the old content or to all of the new one."""
    from uuid import uuid4

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


def _flush_directory(folder: Path) -> None:
    """Make the new name durable, on systems that can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems refuse; the file itself is durable
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
