"""The errors of the library.

A message says what was expected, what came, where in the model, and what to do about it. Every
error is also the fitting built-in one, so that ``except ValueError`` catches a wrong shape.
"""


class TinynnError(Exception):
    """Base of every error that tinynn raises on purpose."""


class ShapeError(TinynnError, ValueError):
    """An array has the wrong shape for a function or a layer."""


class DtypeError(TinynnError, TypeError):
    """An array has the wrong dtype, or a result would be wider than the model's dtype."""


class DeviceError(TinynnError, RuntimeError):
    """Arrays of two devices meet, or a device is missing or not usable."""


class DeviceMemoryError(TinynnError, MemoryError):
    """The memory of a GPU is full."""


class GradientError(TinynnError, RuntimeError):
    """A gradient was asked for that the recorded graph cannot give."""


class LabelError(TinynnError, ValueError):
    """A class label is outside of the classes."""


class DataError(TinynnError, ValueError):
    """An image file is damaged, a data set is inconsistent, or a split leaks."""


class NonFiniteError(TinynnError, FloatingPointError):
    """A loss, and with it the training, became infinite or not a number."""


class StorageError(TinynnError, OSError):
    """The place of the checkpoints cannot be read or written."""


class Interrupted(TinynnError):  # noqa: N818 - like KeyboardInterrupt, it is no fault
    """A training was asked to end; its checkpoint is written."""


class FileFormatError(TinynnError, ValueError):
    """A weights or checkpoint file is damaged or fits another model."""


class ArgumentError(TinynnError, ValueError):
    """Any other argument that makes no sense."""
