"""Messages to the user on standard error, and the results of programs on standard output.

What only informs never stops the work: what cannot be written is dropped. A standard stream may be
missing (pythonw, a service), closed, on a full disk, or a pipe whose reader has ended.
"""

import os
import re
import sys
import warnings
from contextlib import ExitStack, suppress
from typing import Any

_PIECE = 4096  # bytes; a pipe that is ready for writing takes as many without blocking
_WAIT = 1000  # milliseconds that a message waits for a reader

# of a URL: the name and password of a user, and the query, which may contain a token
_USER = re.compile(r"(?<=://)(?:[^/@\s]*|[^/@:\s]*:[^@\s]*)(?=@)")
_QUERY = re.compile(r"(://[^\s?]*\?)[^\s;,)'\"]+")


def say(text: str) -> None:
    """Write one line, above the progress bars; control characters are escaped."""
    line = printable(" ".join(text.split())) + "\n"
    with suppress(Exception), ExitStack() as bars:
        if "tqdm" in sys.modules and sys.stderr is not None:
            from tqdm import tqdm

            for stream in (sys.stderr, TERMINAL):
                with suppress(Exception):
                    bars.enter_context(tqdm.external_write_mode(file=stream))
        if is_descriptor():
            write_unbuffered(line)
        else:  # a notebook, a test, a log
            sys.stderr.write(line)
            sys.stderr.flush()


def show(text: str) -> None:
    """Print on standard output; characters that it cannot show are escaped, line ends are not."""
    with suppress(Exception):
        stream = sys.stdout
        encoding = stream.encoding or "utf-8"
        lines = "\n".join(map(printable, text.split("\n")))
        try:
            stream.write(lines.encode(encoding, "backslashreplace").decode(encoding) + "\n")
            stream.flush()
        except OSError:  # drop what is buffered, or Python reports the error again as it exits
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def printable(text: str) -> str:
    """The text with control characters and undecodable bytes escaped, without passwords of URLs."""
    if "://" in text:
        text = _QUERY.sub(r"\1***", _USER.sub("***", text))
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def reason(error: BaseException) -> str:
    """What an error says, in one line; without its file, which the message around it names."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())


def warn(text: str, category: type[Warning] = UserWarning, stacklevel: int = 1) -> None:
    """Warn as ``warnings.warn`` does, also while standard error is unusable."""
    with suppress(OSError, ValueError, AttributeError):
        warnings.warn(text, category, stacklevel + 1)


def is_descriptor() -> bool:
    """Whether ``sys.stderr`` can be written to by its descriptor."""
    return os.name == "posix" and sys.stderr is sys.__stderr__


class Terminal:
    """Standard error for a progress bar: a terminal that is stopped (Ctrl-S) does not stop it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.__stderr__, name)

    def write(self, text: str) -> None:
        """Write what the terminal takes at once."""
        write_unbuffered(text, wait=0)

    def flush(self) -> None:
        """Nothing is buffered."""


TERMINAL = Terminal()


def write_unbuffered(text: str, wait: int | None = None) -> None:
    """Write to the standard error of the process; a signal handler may do so at any time.

    Writes nothing to a file that was opened after the descriptor of standard error was closed, and
    has its number now: children inherit standard error, but no file that Python opens.
    """
    with suppress(Exception):
        stream = sys.__stderr__
        if stream is None:
            return
        descriptor = stream.fileno()
        content = text.encode(stream.encoding, "backslashreplace")
        for start in range(0, len(content), _PIECE):
            if os.name == "posix" and not _is_ready(descriptor, _WAIT if wait is None else wait):
                return
            os.write(descriptor, content[start : start + _PIECE])


def _is_ready(descriptor: int, wait: int) -> bool:
    """Whether it is still standard error, has a reader, and a write does not block."""
    from select import POLLOUT, poll

    ready = poll()
    ready.register(descriptor, POLLOUT)
    return os.get_inheritable(descriptor) and ready.poll(wait) == [(descriptor, POLLOUT)]
