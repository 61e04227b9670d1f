"""Named arrays in files: safetensors, with a checksum for each array, written all or nothing."""

from __future__ import annotations

# import tinynn is to be quick: what only files need is imported by the functions that use it
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from tinynn.errors import FileFormatError

Arrays = dict[str, np.ndarray[Any, Any]]
_LARGEST_HEADER = 100_000_000  # bytes; the limit of safetensors itself
_CHECKSUMS = "crc32"


def to_bytes(arrays: Mapping[str, np.ndarray[Any, Any]], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file: equal content makes equal bytes.

    Its header gets the CRC-32 of each array and of the metadata, which ``from_bytes`` checks.
    """
    import json

    from safetensors.numpy import save

    # not ascontiguousarray, which gives an array without axes one
    contiguous = {name: np.array(array, order="C", copy=None) for name, array in arrays.items()}
    checksums = json.dumps(_checksums(contiguous, metadata), sort_keys=True)
    content: bytes = save(contiguous, metadata={**metadata, _CHECKSUMS: checksums})
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:start]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[start:]


def from_bytes(content: bytes, name: str) -> tuple[dict[str, str], Arrays]:
    """The metadata and the arrays of a safetensors file; FileFormatError if it is damaged.

    ``name`` is that of the file, for the message. Files of other programs have no checksums: they
    are read as they are.
    """
    import json

    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = load(content)
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + min(length, _LARGEST_HEADER)])
        metadata = dict(header.get("__metadata__") or {})
        checksums = json.loads(metadata.pop(_CHECKSUMS, "null"))
    except (SafetensorError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise FileFormatError(
            f"{name} is no intact safetensors file ({error}); was it cut off, or is it of "
            "another kind?"
        ) from error
    if checksums is not None and checksums != _checksums(arrays, metadata):
        raise FileFormatError(f"{name} is damaged: its content does not have its checksums")
    return metadata, arrays


def read_safetensors(path: str | os.PathLike[str]) -> tuple[dict[str, str], Arrays]:
    """The metadata and the arrays of a safetensors file; FileFormatError if it is damaged."""
    if Path(path).is_dir():
        raise FileFormatError(f"{path} is a directory, not a safetensors file")
    return from_bytes(Path(path).read_bytes(), str(path))


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file so that its name shows either the old content or all of the new."""
    from uuid import uuid4

    target = Path(path)
    temporary = target.with_name(f".{target.name}.{uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush_directory(target.parent)


def _flush_directory(folder: Path) -> None:
    """Bring the new name itself to the disk, on the systems that can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems refuse; the file itself is there
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checksums(arrays: Mapping[str, np.ndarray[Any, Any]], metadata: Mapping[str, str]) -> Any:
    """CRC-32 of each array with its dtype and shape, and of the metadata, by name."""
    import zlib

    found = {
        name: zlib.crc32(array.data, zlib.crc32(f"{array.dtype}{array.shape}".encode()))
        if array.size
        else zlib.crc32(f"{array.dtype}{array.shape}".encode())
        for name, array in arrays.items()
    }
    described = "".join(f"{key}\0{metadata[key]}\0" for key in sorted(metadata))
    return {"arrays": found, "metadata": zlib.crc32(described.encode())}
