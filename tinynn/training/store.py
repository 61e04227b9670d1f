"""Where checkpoints are stored: a local folder, or any URL that fsspec supports, such as S3.

Writes are atomic and streamed: a name refers to a complete file or to none. A folder gets that by
renaming, an object store because an object appears when its multipart upload is completed, other
file systems by a move on the server.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from typing import Any
from urllib.parse import unquote

from tinynn import files, messages
from tinynn.backend import get_backend
from tinynn.errors import FileFormatError, StorageError
from tinynn.training.lock import lock_of

_PROBE = ".tinynn-can-write-here"
_PART_BYTES = 5 << 20  # of a multipart upload: the least that S3 allows, as it is held in memory
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "memory"}  # whose uploads fsspec can discard


def open_store(location: files.FilePath) -> Folder | Remote:
    """The store at a path or a URL; StorageError if it is not writable."""
    with _failing(f"cannot open {location!r:.80}"):
        text = files.path_text(location)
    if re.match(r"[a-z][a-z0-9+]+:/[^/]", text):
        raise StorageError(f"{text} is a URL that has become a path: pass it as a string")
    store = Remote(text) if "://" in text else Folder(text)
    store.check()
    return store


class Folder:
    """A local folder, created if necessary.

    The path is absolute, so that a program can change its working directory; ~ is home.
    """

    def __init__(self, location: str) -> None:
        with _failing(f"cannot make the folder {location}"):
            self._path = files.local_path(location).absolute()
            files.make_folder(self._path)
        self.location = location.rstrip("/") or "/"  # for messages
        self._lock = lock_of(self._path)
        with suppress(StorageError), self.locked():
            pass  # removes what a killed process has left

    def check(self) -> None:
        """StorageError if nothing can be written."""
        with _failing(f"cannot write {self.location}"):
            files.check_writable(self._path / _PROBE)

    @contextmanager
    def locked(self, patience: float = 0.0) -> Iterator[None]:
        """Keep other processes from writing; StorageError if one still does after ``patience``."""
        with ExitStack() as stack:
            with _failing(f"cannot lock {self.location}"):
                files.make_folder(self._path)  # it may have been deleted during the training
                stack.enter_context(self._lock.held(self._remove_unfinished, patience))
            yield

    def _remove_unfinished(self) -> None:
        """Remove temporary files whose writer was killed."""
        for unfinished in self._path.glob(".step-*.safetensors.*"):
            with suppress(OSError):
                unfinished.unlink()

    def names(self) -> list[str]:
        """The existing files, sorted; none if the location does not exist."""
        with _failing(f"cannot list {self.location}"):
            return sorted(path.name for path in self._path.iterdir() if path.is_file())

    def read(self, name: str) -> bytes:
        """The content of a file."""
        with _failing(f"cannot read {self.location}/{name}"):
            return files.read_bytes(self._path / name, get_backend("cpu").available_memory())

    def write(self, name: str, content: files.Content) -> None:
        """Create or replace a file, atomically."""
        with self.locked(), _failing(f"cannot write {self.location}/{name}"):
            files.write_atomically(self._path / name, content)

    def delete(self, name: str) -> None:
        """Remove a file."""
        with _failing(f"cannot delete {self.location}/{name}"):
            (self._path / name).unlink(missing_ok=True)


class Remote:
    """A URL, opened by fsspec and the package for its protocol."""

    def __init__(self, location: str) -> None:
        secret = re.search(r"(?<=://)([^/@]*|[^/@:]*:.*)(?=@)|(?<=[?]).*", location)
        self._secret = secret[0] if secret else ""  # a password or token, not for messages
        self.location = _hidden(location.rstrip("/"), self._secret)
        with _failing(f"cannot open {self.location}", self._secret):
            if not re.match(r"[A-Za-z][\w+.:-]*://", location):
                raise ValueError("it is not a URL")
            try:
                from fsspec.core import url_to_fs

                system, root = url_to_fs(location.rstrip("/"))  # this may connect already
            except ImportError as error:
                raise StorageError(
                    f"{self.location} needs a package that is not installed ({error}): pip install "
                    "-e '.[s3]' installs fsspec and s3fs, other protocols need their own"
                ) from error
            except ValueError as error:
                raise ValueError(f"it is not a URL that fsspec supports: {error}") from error
        self._files: Any = system
        self._root = str(root).rstrip("/")
        self._is_object_store = location.partition("://")[0] in _OBJECT_STORES

    def check(self) -> None:
        """StorageError if nothing can be written."""
        self.write(_PROBE, b"")
        self.delete(_PROBE)

    def locked(self, patience: float = 0.0) -> nullcontext[None]:
        """Nothing: URLs have no lock."""
        return nullcontext()

    def names(self) -> list[str]:
        """The existing files, sorted; none if the location does not exist."""
        with _failing(f"cannot list {self.location}", self._secret):
            self._files.invalidate_cache()  # other processes may have written since
            try:
                found = self._files.ls(self._root, detail=False)
            except FileNotFoundError:
                return []
            return sorted(str(path).rsplit("/", 1)[-1] for path in found)

    def read(self, name: str) -> bytes:
        """The content of a file."""
        with _failing(f"cannot read {self.location}/{name}", self._secret):
            return bytes(self._files.cat_file(f"{self._root}/{name}"))

    def write(self, name: str, content: files.Content) -> None:
        """Create or replace a file, atomically."""
        target, temporary = f"{self._root}/{name}", f"{self._root}/.{name}"
        with _failing(f"cannot write {self.location}/{name}", self._secret):
            if self._is_object_store:
                with self._files.transaction:  # completes the upload, or discards it on an error
                    self._stream(target, content)
                return
            self._files.makedirs(self._root, exist_ok=True)
            self._stream(temporary, content)
            self._files.mv(temporary, target)

    def _stream(self, path: str, content: files.Content) -> None:
        with self._files.open(path, "wb", block_size=_PART_BYTES) as file:
            files.write_into(file, content)

    def delete(self, name: str) -> None:
        """Remove a file."""
        what = f"cannot delete {self.location}/{name}"
        with _failing(what, self._secret), suppress(FileNotFoundError):
            self._files.rm_file(f"{self._root}/{name}")


# files by name in one ``location``; every failure is a StorageError that names it
Store = Folder | Remote


@contextmanager
def _failing(what: str, secret: str = "") -> Iterator[None]:
    """Turn every kind of storage failure into a StorageError of one line."""
    try:
        yield
    except (StorageError, FileFormatError):
        raise
    except Exception as error:
        raise StorageError(_hidden(f"{what}: {messages.reason(error)}", secret)) from error


def _hidden(text: str, secret: str) -> str:
    """The text without the secret and its parts, such as the password after the name of a user."""
    parts = [secret, *(part for part in re.split("[:=&]", secret)[1:] if len(part) > 2)]
    for part in filter(None, parts):
        text = text.replace(part, "***").replace(unquote(part), "***")
    return text
