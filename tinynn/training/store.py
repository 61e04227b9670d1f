"""Where checkpoints lie: a folder, or any place that fsspec knows by a URL (S3 among them).

Whatever happens, a name shows a whole file or none: in a folder by rename, in an object store
because an upload appears when it is complete, elsewhere by a move on the other side.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from tinynn.errors import StorageError
from tinynn.files import write_atomically

_PROBE = ".tinynn-can-write-here"
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oci", "oss", "memory"}


class Store(Protocol):
    """Files by name in one place; every failure is a StorageError that names the place."""

    place: str

    def names(self) -> list[str]:
        """The files that are there, sorted; none where there is no such place yet."""
        ...

    def read(self, name: str) -> bytes:
        """The content of a file."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Make a file, or replace it: all of it or nothing."""
        ...

    def delete(self, name: str) -> None:
        """Remove a file."""
        ...


def open_store(place: str | os.PathLike[str]) -> Store:
    """The store at a path or a URL; StorageError if it cannot be written to."""
    text = os.fspath(place)
    store: Store
    if text.startswith("file://"):
        store = Folder(text.removeprefix("file://"))
    else:
        store = Remote(text) if "://" in text else Folder(text)
    store.write(_PROBE, b"")
    store.delete(_PROBE)
    return store


class Folder:
    """A folder of this machine, made if need be."""

    def __init__(self, place: str) -> None:
        self.place = place
        with _failing(f"cannot make the folder {place}"):
            Path(place).mkdir(parents=True, exist_ok=True)
            for left in Path(place).glob(".step-*.safetensors.*"):  # by a process that was killed
                left.unlink(missing_ok=True)

    def names(self) -> list[str]:
        with _failing(f"cannot list {self.place}"):
            return sorted(path.name for path in Path(self.place).iterdir() if path.is_file())

    def read(self, name: str) -> bytes:
        with _failing(f"cannot read {self.place}/{name}"):
            return Path(self.place, name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        with _failing(f"cannot write {self.place}/{name}"):
            write_atomically(Path(self.place, name), content)

    def delete(self, name: str) -> None:
        with _failing(f"cannot delete {self.place}/{name}"):
            Path(self.place, name).unlink(missing_ok=True)


class Remote:
    """A place behind a URL, by fsspec and the package for its protocol."""

    def __init__(self, place: str) -> None:
        self.place = place.rstrip("/")
        protocol = place.partition("://")[0]
        try:
            from fsspec.core import url_to_fs

            files, root = url_to_fs(self.place)
        except ImportError as error:
            raise StorageError(
                f"{place} needs a package that is not installed ({error}): "
                "pip install -e '.[s3]' brings fsspec and s3fs, other places need their own"
            ) from error
        except ValueError as error:
            raise StorageError(f"{place} is no place that fsspec knows: {error}") from error
        self._files: Any = files
        self._root = str(root).rstrip("/")
        self._appears_whole = protocol in _OBJECT_STORES

    def names(self) -> list[str]:
        with _failing(f"cannot list {self.place}"):
            self._files.invalidate_cache()  # others may have written since
            try:
                found = self._files.ls(self._root, detail=False)
            except FileNotFoundError:
                return []
            return sorted(str(path).rsplit("/", 1)[-1] for path in found)

    def read(self, name: str) -> bytes:
        with _failing(f"cannot read {self.place}/{name}"):
            content: bytes = self._files.cat_file(f"{self._root}/{name}")
            return content

    def write(self, name: str, content: bytes) -> None:
        target = f"{self._root}/{name}"
        with _failing(f"cannot write {self.place}/{name}"):
            if self._appears_whole:
                self._files.pipe_file(target, content)
                return
            self._files.makedirs(self._root, exist_ok=True)
            self._files.pipe_file(f"{self._root}/.{name}", content)
            self._files.mv(f"{self._root}/.{name}", target)

    def delete(self, name: str) -> None:
        with _failing(f"cannot delete {self.place}/{name}"), suppress(FileNotFoundError):
            self._files.rm_file(f"{self._root}/{name}")


@contextmanager
def _failing(what: str) -> Iterator[None]:
    """Storage of any kind fails in its own way: one error, one line."""
    try:
        yield
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise StorageError(f"{what}: {' '.join(str(reason).split())}") from error
