"""Where checkpoints are stored: a local folder, or any URL that fsspec supports, such as S3.

Writes are atomic and streamed: a name refers to a complete file or to none. A folder gets that by
renaming, an object store because an object appears when its multipart upload is completed, other
file systems by a move on the server.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tinynn.errors import StorageError
from tinynn.files import Content, FilePath, write_atomically, write_into

_PROBE = ".tinynn-can-write-here"
_PART_BYTES = 5 << 20  # of a multipart upload: the least that S3 allows, as it is held in memory
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "memory"}  # whose uploads fsspec can discard


def open_store(location: FilePath) -> Folder | Remote:
    """The store at a path or a URL; StorageError if it is not writable."""
    text = os.fspath(location).removeprefix("file://")
    store = Remote(text) if "://" in text else Folder(text)
    store.write(_PROBE, b"")
    store.delete(_PROBE)
    return store


class Folder:
    """A local folder, created if necessary."""

    def __init__(self, location: str) -> None:
        self.location = location
        with _failing(f"cannot make the folder {location}"):
            Path(location).mkdir(parents=True, exist_ok=True)
            for unfinished in Path(location).glob(".step-*.safetensors.*"):  # the writer was killed
                unfinished.unlink(missing_ok=True)

    def names(self) -> list[str]:
        """The existing files, sorted; none if the location does not exist."""
        with _failing(f"cannot list {self.location}"):
            return sorted(path.name for path in Path(self.location).iterdir() if path.is_file())

    def read(self, name: str) -> bytes:
        """The content of a file."""
        with _failing(f"cannot read {self.location}/{name}"):
            return Path(self.location, name).read_bytes()

    def write(self, name: str, content: Content) -> None:
        """Create or replace a file, atomically."""
        with _failing(f"cannot write {self.location}/{name}"):
            write_atomically(Path(self.location, name), content)

    def delete(self, name: str) -> None:
        """Remove a file."""
        with _failing(f"cannot delete {self.location}/{name}"):
            Path(self.location, name).unlink(missing_ok=True)


class Remote:
    """A URL, opened by fsspec and the package for its protocol."""

    def __init__(self, location: str) -> None:
        self.location = location.rstrip("/")
        try:
            from fsspec.core import url_to_fs

            files, root = url_to_fs(self.location)
        except ImportError as error:
            raise StorageError(
                f"{location} needs a package that is not installed ({error}): "
                "pip install -e '.[s3]' installs fsspec and s3fs, other protocols need their own"
            ) from error
        except ValueError as error:
            raise StorageError(f"{location} is not a URL that fsspec supports: {error}") from error
        self._files: Any = files
        self._root = str(root).rstrip("/")
        self._is_object_store = location.partition("://")[0] in _OBJECT_STORES

    def names(self) -> list[str]:
        """The existing files, sorted; none if the location does not exist."""
        with _failing(f"cannot list {self.location}"):
            self._files.invalidate_cache()  # other processes may have written since
            try:
                found = self._files.ls(self._root, detail=False)
            except FileNotFoundError:
                return []
            return sorted(str(path).rsplit("/", 1)[-1] for path in found)

    def read(self, name: str) -> bytes:
        """The content of a file."""
        with _failing(f"cannot read {self.location}/{name}"):
            return bytes(self._files.cat_file(f"{self._root}/{name}"))

    def write(self, name: str, content: Content) -> None:
        """Create or replace a file, atomically."""
        target, temporary = f"{self._root}/{name}", f"{self._root}/.{name}"
        with _failing(f"cannot write {self.location}/{name}"):
            if self._is_object_store:
                with self._files.transaction:  # completes the upload, or discards it on an error
                    self._stream(target, content)
                return
            self._files.makedirs(self._root, exist_ok=True)
            self._stream(temporary, content)
            self._files.mv(temporary, target)

    def _stream(self, path: str, content: Content) -> None:
        with self._files.open(path, "wb", block_size=_PART_BYTES) as file:
            write_into(file, content)

    def delete(self, name: str) -> None:
        """Remove a file."""
        with _failing(f"cannot delete {self.location}/{name}"), suppress(FileNotFoundError):
            self._files.rm_file(f"{self._root}/{name}")


# files by name in one ``location``; every failure is a StorageError that names it
Store = Folder | Remote


@contextmanager
def _failing(what: str) -> Iterator[None]:
    """Turn every kind of storage failure into a StorageError of one line."""
    try:
        yield
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise StorageError(f"{what}: {' '.join(str(reason).split())}") from error
