"""Files: named arrays as safetensors with checksums, nested state as JSON, atomic writes.

Everything that the library writes goes through ``write_atomically`` or a checkpoint store, array
after array: writing takes no memory besides the arrays themselves. Reading a file raises
FileFormatError or StorageError, whatever it contains, and takes the memory of its size.
"""

import errno
import io
import json
import math
import os
import re
import stat
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from numbers import Integral
from pathlib import Path
from typing import IO, Any

import numpy as np

from tinynn.errors import ArgumentError, FileFormatError, StorageError
from tinynn.messages import reason, say

FilePath = str | os.PathLike[str]
Arrays = dict[str, np.ndarray[Any, Any]]
Encode = Callable[[Any, str], Any]  # of (value, path of the value)
_Tensor = tuple[str, np.dtype[Any], tuple[int, ...]]  # name, dtype, shape
Content = bytes | Iterable[bytes | memoryview]  # of a file, at once or in pieces

_LARGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors format
_PIECE = 1 << 20  # bytes per write: small relative to the buffers of object stores
_CHECKSUMS = "crc32"
_WRITTEN_HERE = "tinynn"  # key in the metadata of every file of this library
# dtypes by their names in a file. The data has this order, as in the safetensors package: by
# descending alignment
_DTYPES = {
    code: np.dtype(f"<{code[0].lower()}{int(code[1:]) // 8}")
    for code in ("U64", "I64", "F64", "C64", "F32", "U32", "I32", "F16", "U16", "I16", "I8", "U8")
} | {"BOOL": np.dtype(np.bool_)}
_CODES = {dtype.name: code for code, dtype in _DTYPES.items()}


def local_path(path: FilePath) -> Path:
    """The path of a file or folder; "~" is the home folder, "file://" is dropped.

    Raises:
        ArgumentError: It is not a path, or a URL.
    """
    text = path_text(path)
    scheme = re.match(r"([\w+.:-]{2,})://", text)
    if scheme:
        raise ArgumentError(f"expected the path of a file, got a URL of {scheme[1]!r}")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        if os.sep in text:
            raise ArgumentError(f"there is no home folder for the path {text!r:.80}") from error
        return Path(text)  # a name that begins with ~


def make_folder(path: Path) -> None:
    """Make a folder and those above it, if necessary; a link may refer to one that is missing."""
    Path(os.path.realpath(path)).mkdir(parents=True, exist_ok=True)


def path_text(path: FilePath) -> str:
    """A path or a URL as text, without "file://"; ArgumentError if it is neither."""
    try:
        text = re.sub(r"^file://(localhost(?=/))?", "", os.fsdecode(path))
        if text and b"\0" not in os.fsencode(text):
            return text
        raise ValueError("no file has this name")
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"expected the path of a file, got {path!r:.80}") from error


# -- safetensors -----------------------------------------------------------------------------------


def safetensors_content(arrays: Arrays, metadata: dict[str, str]) -> Iterator[bytes | memoryview]:
    """The content of a safetensors file in pieces; equal arrays make equal bytes.

    The pieces are views of the arrays, which must not change in between. The header stores the
    CRC-32 of each array and of the metadata, which ``from_bytes`` checks.
    """
    dtypes = {name: _dtype(name, array) for name, array in arrays.items()}
    names = sorted(arrays, key=lambda name: (list(_DTYPES).index(dtypes[name]), name))
    checksums = {"arrays": _checksums(arrays), "metadata": _metadata_checksum(metadata)}
    text = json.dumps(checksums, sort_keys=True)
    header: dict[str, Any] = {"__metadata__": {**metadata, _CHECKSUMS: text}}
    end = 0
    for name in names:
        start, end = end, end + arrays[name].nbytes
        shape = arrays[name].shape
        header[name] = {"dtype": dtypes[name], "shape": shape, "data_offsets": (start, end)}
    content = json.dumps(header, sort_keys=True).encode()
    content += b" " * (-len(content) % 8)
    if len(content) > _LARGEST_HEADER:
        size = f"{len(content):,} bytes, the limit is {_LARGEST_HEADER:,}"
        raise ArgumentError(f"the header takes {size}: store arrays instead of lists of numbers")
    yield len(content).to_bytes(8, "little") + content
    for name in names:
        data = _bytes_of(arrays[name])
        for start in range(0, len(data), _PIECE):
            yield data[start : start + _PIECE]


def _dtype(name: str, array: np.ndarray[Any, Any]) -> str:
    """The dtype in the notation of safetensors, such as "F32"."""
    if array.dtype.name not in _CODES:
        raise ArgumentError(f"safetensors cannot store {name}: its dtype is {array.dtype}")
    return _CODES[array.dtype.name]


def from_bytes(content: bytes, name: str) -> tuple[dict[str, str], Arrays]:
    """The metadata and arrays of a safetensors file; FileFormatError, naming it, if damaged.

    Files of other programs have no checksums, so they are not verified.
    """
    return _read(io.BytesIO(content), len(content), name)


def read_safetensors(path: FilePath, limit: float = math.inf) -> tuple[dict[str, str], Arrays]:
    """The metadata and arrays of a safetensors file.

    Args:
        limit: The bytes of memory that its arrays may take.

    Raises:
        FileFormatError: The file is damaged or larger than ``limit``.
        StorageError: The file cannot be read.
    """
    with _opened(path, limit) as (file, size):
        return _read(file, size, str(path))


def read_metadata(path: FilePath) -> dict[str, str]:
    """The metadata of a safetensors file, without reading its arrays."""
    with _opened(path) as (file, size):
        return _read_header(file, size, str(path))[0]


def read_bytes(path: FilePath, limit: float = math.inf) -> bytes:
    """The content of a file; the same errors as ``read_safetensors``."""
    with _opened(path, limit) as (file, _):
        return file.read()


@contextmanager
def _opened(path: FilePath, limit: float = math.inf) -> Iterator[tuple[io.BufferedIOBase, int]]:
    """An existing regular file and its size."""
    named = local_path(path)
    if not stat.S_ISREG(named.stat().st_mode):  # reading a pipe might never end
        kind = "a directory" if named.is_dir() else "a pipe or a device"
        raise FileFormatError(f"{path} is {kind}, not a file")
    with named.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise FileFormatError(
                f"{path} has {size:,} bytes, but only {limit:,.0f} bytes of memory are available"
            )
        try:
            yield file, size
        except OSError as error:
            raise StorageError(f"cannot read {path}: {reason(error)}") from error


def _read(file: io.BufferedIOBase, size: int, name: str) -> tuple[dict[str, str], Arrays]:
    metadata, checksums, tensors = _read_header(file, size, name)
    arrays: Arrays = {}
    with _reading(name):
        for tensor, dtype, shape in tensors:
            arrays[tensor] = array = np.empty(shape, dtype)
            if file.readinto(array.reshape(-1).view(np.uint8).data) != array.nbytes:
                raise ValueError("it was cut off meanwhile")
    if checksums is not None and checksums != _checksums(arrays):
        raise FileFormatError(f"{name} is damaged: its content does not match its checksums")
    return metadata, arrays


def _read_header(
    file: io.BufferedIOBase, size: int, name: str
) -> tuple[dict[str, str], dict[str, int] | None, list[_Tensor]]:
    """Metadata, checksums of the arrays, and tensors, whose data must take the rest of the file.

    Files of other programs have no checksums.
    """
    with _reading(name):
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(_LARGEST_HEADER, size - 8):
            text = f"its header would take {length:,} of {size:,} bytes"
            raise ValueError(f"{text}: it has another format, or was cut off")
        entries = json.loads(file.read(length).decode())
        metadata = entries.pop("__metadata__", None) or {}
        if not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("its metadata is not text")
        checksums = json.loads(metadata.pop(_CHECKSUMS, "null"))
        if checksums is None and _WRITTEN_HERE in metadata:
            raise FileFormatError(
                f"{name} is damaged: it has no checksums, which every file of tinynn has; if it "
                "was changed on purpose, pass its arrays to load_state_dict"
            )
        if checksums is not None and checksums["metadata"] != _metadata_checksum(metadata):
            raise FileFormatError(f"{name} is damaged: its header does not match its checksum")
        tensors = list(_tensors(entries, size - 8 - length, name))
        return metadata, checksums and dict(checksums["arrays"]), tensors


def _tensors(entries: dict[str, Any], size: int, file: str) -> Iterator[_Tensor]:
    """The tensors of a header in the order of their data."""
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        code, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
        if code not in _DTYPES:
            names = {"BF16": "bfloat16"}
            raise FileFormatError(
                f"{file}: the dtype of {name!r}, {names.get(code, code)}, is not supported, as "
                "NumPy does not have it: convert it to float32 with the program that wrote it"
            )
        numbers = (*shape, start, stop)  # few and small: their product takes no time
        if len(numbers) > 66 or not all(type(n) is int and 0 <= n < 1 << 63 for n in numbers):
            raise ValueError(f"{name!r} has no shape and offsets of an array")
        dtype = _DTYPES[code]
        if start != end or stop - start != math.prod(shape) * dtype.itemsize or stop > size:
            raise ValueError(f"{name!r} has the wrong size or place: was the file cut off?")
        yield name, dtype, tuple(shape)
        end = stop
    if end != size:
        raise ValueError(f"its tensors have {end:,} bytes, its data has {size:,}")


@contextmanager
def _reading(name: FilePath) -> Iterator[None]:
    """Turn every error that a damaged file causes into a FileFormatError."""
    try:
        yield
    except (FileFormatError, OSError):
        raise
    except Exception as error:
        raise FileFormatError(f"{name} is not an intact safetensors file ({error})") from error


def _checksums(arrays: Arrays) -> dict[str, int]:
    """CRC-32 of each array with its dtype and shape."""
    return {
        name: zlib.crc32(_bytes_of(array), zlib.crc32(f"{array.dtype.name}{array.shape}".encode()))
        for name, array in arrays.items()
    }


def _metadata_checksum(metadata: dict[str, str]) -> int:
    return zlib.crc32("".join(f"{key}\0{metadata[key]}\0" for key in sorted(metadata)).encode())


def _bytes_of(array: np.ndarray[Any, Any]) -> memoryview:
    """The elements, little-endian in C order; without a copy if they are that already."""
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return array.reshape(-1).view(np.uint8).data


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
    except (ValueError, LookupError, TypeError, RecursionError, MemoryError) as error:
        raise FileFormatError(f"{name} has a damaged header: {error}") from error
    if not isinstance(value, dict):
        raise FileFormatError(f"{name} has a damaged header: {value!r:.40} is not an object")
    return value


def require_state(owner: str, state: Any, kinds: Mapping[str, type], *optional: str) -> None:
    """FileFormatError unless ``state`` has exactly these keys, with values of these types.

    Args:
        owner: What the state belongs to, for the message.
        kinds: The abstract type of each value: ``Integral``, ``Real``, ``Mapping`` and so on.
        optional: Keys that files of earlier versions lack.
    """
    if not isinstance(state, Mapping) or not set(kinds) - set(optional) <= set(state) <= set(kinds):
        got = sorted(map(str, state)) if isinstance(state, Mapping) else f"a {type(state).__name__}"
        raise FileFormatError(
            f"the state of {owner} has the keys {', '.join(kinds)}, got {got}: it belongs to "
            "something else"
        )
    for key, value in state.items():
        fits = isinstance(value, kinds[key])
        if not fits or (kinds[key] is Integral and int(value) < 0):
            expected = "a count" if kinds[key] is Integral else f"a {kinds[key].__name__.lower()}"
            raise FileFormatError(
                f"the state of {owner} is damaged: {key} is {value!r:.40}, expected {expected}"
            )


# -- writing ---------------------------------------------------------------------------------------


def write_into(file: IO[bytes], content: Content) -> None:
    """Write the content piece by piece into an open file."""
    file.writelines([content] if isinstance(content, bytes) else content)


def write_atomically(path: FilePath, content: Content) -> None:
    """Write a file so that its name always refers to the complete old or complete new content.

    The file that a symbolic link refers to is replaced, the link stays. A new file takes over the
    permissions and, as far as the system allows it, the owner of the old one; a hard link to the
    old file keeps the old content. Pipes and devices, and an existing file in a folder where no new
    file can be created, are written to directly, which is not atomic.

    Raises:
        OSError: The file cannot be written; ``filename`` is ``path``.
        ArgumentError: ``path`` is not the path of a file.
    """
    named = _file_path(path)
    _occupy_standard_descriptors()
    with _naming(named):
        old, target = _status(named), Path(os.path.realpath(named))
        if old is None or _can_be_replaced(old, target):
            _replace(target, content, old)
        else:
            with _open_directly(named, old) as file:
                write_into(file, content)


def _file_path(path: FilePath) -> Path:
    """The path of a file to write; one that ends with a slash is that of a directory."""
    if path_text(path).endswith(os.sep):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    return local_path(path)


def check_writable(path: FilePath) -> None:
    """Raise the error that ``write_atomically`` would raise now, without changing the file."""
    named = _file_path(path)
    with _naming(named):
        old, target = _status(named), Path(os.path.realpath(named))
        if old is None or _can_be_replaced(old, target):
            (temporary := _temporary(target)).touch(exist_ok=False)
            temporary.unlink()
        elif not stat.S_ISFIFO(old.st_mode):  # opening a pipe waits for its reader
            named.open("ab").close()


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name the file in every OSError: the name of a temporary file would not help."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def output_file(text: str) -> Path:
    """The path of a file to be written, for argparse: an error before the work, not after it."""
    try:
        check_writable(text)
    except (OSError, ArgumentError) as error:
        from argparse import ArgumentTypeError

        raise ArgumentTypeError(f"cannot write {text!r}: {reason(error)}") from error
    return local_path(text)


def write_report(path: FilePath, content: bytes) -> int:
    """Write results of a program; returns its exit code: 1, after a message, if that failed."""
    try:
        write_atomically(path, content)
    except OSError as error:
        say(f"NOT WRITTEN: {error}")
        return 1
    return 0


def _status(path: Path) -> os.stat_result | None:
    """The status of the file that a path or a symbolic link refers to; None if there is none."""
    with suppress(FileNotFoundError):
        return path.stat()
    return None


def _can_be_replaced(old: os.stat_result, target: Path) -> bool:
    """Whether a new file can take the place of the old one, whose real path is ``target``.

    Not of what standard output refers to, such as /dev/stdout: more may be printed there.
    """
    found = _status(target)
    return (
        stat.S_ISREG(old.st_mode)
        and _standard_stream(old) is None
        and found is not None  # names in /proc may refer to deleted files
        and os.path.samestat(old, found)
        and os.access(target.parent, os.W_OK | os.X_OK)
    )


def _standard_stream(found: os.stat_result) -> int | None:
    """The descriptor of standard output or error, if ``found`` is open there."""
    for descriptor, stream in ((1, sys.__stdout__), (2, sys.__stderr__)):
        with suppress(OSError):
            if stream is not None and os.path.samestat(found, os.fstat(descriptor)):
                return descriptor
    return None


def _open_directly(path: Path, found: os.stat_result) -> IO[bytes]:
    """Open what is no regular file; a standard stream goes on behind what was printed."""
    stream = _standard_stream(found)
    if stream is None:
        return path.open("wb")
    for text in (sys.stdout, sys.stderr):
        if text is not None:
            text.flush()
    return os.fdopen(os.dup(stream), "wb")


def _replace(target: Path, content: Content, old: os.stat_result | None) -> None:
    """Write a temporary file and rename it."""
    temporary = _temporary(target)
    try:
        with temporary.open("xb") as file:
            if old is not None:
                _take_over_permissions(file, target, old)
            write_into(file, content)
            file.flush()
            os.fsync(file.fileno())
        _rename(temporary, target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _flush_directory(target.parent)


def _temporary(target: Path) -> Path:
    """A new name beside the target, of at most 210 bytes, whatever the name of the target.

    It contains the complete name of a checkpoint.
    """
    return target.with_name(f".{target.name[:48]}.{os.urandom(8).hex()}")


def _occupy_standard_descriptors() -> None:
    """Open closed descriptors of standard input, output and error on the null device.

    A file would get their numbers otherwise, and what libraries print would be written into it.
    """
    with suppress(OSError):
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(descriptor)


def _rename(temporary: Path, target: Path) -> None:
    try:
        temporary.replace(target)
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.EXDEV, errno.EPERM, errno.EACCES):
            raise
        from shutil import copyfile

        # a mount point, as in a container, or the file of another user in a folder such as /tmp
        copyfile(temporary, target)
        temporary.unlink()


def _take_over_permissions(file: IO[bytes], target: Path, old: os.stat_result) -> None:
    """Give a new file the group, owner, mode and access control lists of the old one."""
    from shutil import copystat  # here, so that ``import tinynn`` stays fast

    if os.name == "posix":
        for owner in ((-1, old.st_gid), (old.st_uid, -1)):
            with suppress(OSError):  # only root may give a file away
                os.fchown(file.fileno(), *owner)
    with suppress(OSError):
        copystat(target, file.name)


def _flush_directory(folder: Path) -> None:
    """Make the new name durable, on systems that support it."""
    if os.name != "posix":
        return
    with suppress(OSError):  # some folders and file systems refuse; the file itself is durable
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
