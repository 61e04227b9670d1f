"""The exceptions of the library.

A message states what was expected, what was passed, where in the model, and what to do. Every
exception also subclasses the matching built-in one: ``except ValueError`` catches a wrong shape.
"""

from tinynn.messages import printable


class TinynnError(Exception):
    """Base class of every exception that tinynn raises on purpose.

    Its text has control characters escaped: names in files may contain those of terminals.
    """

    def __str__(self) -> str:
        return "\n".join(map(printable, super().__str__().split("\n")))


class ShapeError(TinynnError, ValueError):
    """An array has the wrong shape for a function or a layer."""


class InvalidIndexError(TinynnError, IndexError):
    """An index is out of range, or of a type that does not select elements."""


class DtypeError(TinynnError, TypeError):
    """An array has the wrong dtype, or a function would widen the model's dtype."""


class DeviceError(TinynnError, RuntimeError):
    """Operands are on different devices, or a device is missing or unusable."""


class DeviceMemoryError(TinynnError, MemoryError):
    """The GPU, or the computer, is out of memory."""


class GradientError(TinynnError, RuntimeError):
    """A gradient was requested that the computational graph cannot provide."""


class LabelError(TinynnError, ValueError):
    """A class label is out of range."""


class DataError(TinynnError, ValueError):
    """An image file is damaged, a dataset is inconsistent, or a split leaks."""


class NonFiniteError(TinynnError, FloatingPointError):
    """The loss became infinite or NaN during training."""


class StorageError(TinynnError, OSError):
    """The checkpoint storage cannot be read or written."""


class Interrupted(TinynnError):  # noqa: N818 - like KeyboardInterrupt, not a failure
    """Training was interrupted, by a signal for example; its checkpoint is written."""


class NotSavedError(Interrupted, StorageError):
    """Training was interrupted, but its last checkpoint could not be written."""


class FileFormatError(TinynnError, ValueError):
    """A weight or checkpoint file is damaged or belongs to another model."""


class ArgumentError(TinynnError, ValueError):
    """An argument is invalid for any other reason."""
