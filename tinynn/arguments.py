"""Checks of arguments: integers, real numbers, shapes, dtypes.

A NumPy scalar, or an array or tensor without axes, counts as the number that it holds: a size may
be ``np.prod(shape)``. A bool is not a number here. The functions return plain Python numbers, which
do not widen the dtype of an array that they are combined with, and can be stored as JSON.
"""

import math
import operator
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any, TypeGuard

import numpy as np

from tinynn.errors import ArgumentError, ShapeError

DTYPES = frozenset(map(np.dtype, "?bhilqBHILQefd"))  # of tensors, in the machine's byte order
_INT = {int}
_MAX_ELEMENTS = 2**60  # NumPy's limit is 2**63 bytes


def integer(what: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """The value as an ``int``; ArgumentError unless it is an integer from least to most."""
    try:
        result = operator.index(value)
        fits = not isinstance(value, bool)
    except TypeError:  # a float, a string, an array with axes
        result, fits = 0, False
    low, high = -math.inf if least is None else least, math.inf if most is None else most
    if not (fits and low <= result <= high):
        bounds = "" if least is None else f" >= {least}" if most is None else f" from {least}"
        if most is not None:  # 2**64 - 1 is shown as that
            bounds += f" to {most}" if most < 2**32 else f" to 2**{most.bit_length()} - 1"
        raise ArgumentError(f"{what} must be an integer{bounds}, got {value!r:.80}")
    return result


def number(
    what: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    ends: str = "()",
) -> float:
    """The value as a ``float``; ArgumentError unless it is a real number in the interval.

    Args:
        what: The name of the argument, for the message.
        value: A number of any type.
        low: The lower end.
        high: The upper end.
        ends: "[" or "(", then "]" or ")": whether each end belongs to the interval. The default
            interval is that of all finite numbers. NaN is in none.
    """
    result = value if type(value) is float else _real(value)
    above = result is not None and (low <= result if ends[0] == "[" else low < result)
    if result is None or not above or not (result <= high if ends[1] == "]" else result < high):
        finite = (low, high, ends) == (-math.inf, math.inf, "()")
        interval = "finite number" if finite else f"number in {ends[0]}{low:g}, {high:g}{ends[1]}"
        raise ArgumentError(f"{what} must be a {interval}, got {value!r:.80}")
    return result


def exact_number(what: str, value: Any) -> float:
    """The value as an ``int`` if it is an integer, else as a ``float``, also infinite or NaN."""
    try:
        return integer(what, value, -(2**63), 2**64 - 1)
    except ArgumentError:
        found = _real(value)
        return number(what, value) if found is None else found


def flag(what: str, value: Any) -> bool:
    """True or False, also as NumPy's bool or as 1 or 0; ArgumentError for anything else."""
    try:
        return bool(value if isinstance(value, (bool, np.bool_)) else integer(what, value, 0, 1))
    except ArgumentError:
        raise ArgumentError(f"{what} must be True or False, got {value!r:.80}") from None


def choice(what: str, value: Any, *options: str) -> str:
    """The value, if it is one of the options."""
    if not isinstance(value, str) or value not in options:
        expected = " or ".join(f'"{option}"' for option in options)
        raise ArgumentError(f"{what} must be {expected}, got {value!r:.80}")
    return value


def _real(value: Any) -> float | None:
    """The value as a float, or None if it is no real number."""
    kind = getattr(getattr(value, "dtype", None), "kind", "f")
    if isinstance(value, (str, bytes, bool)) or kind not in "iuf" or getattr(value, "ndim", None):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def sizes(what: str, shape: Any, least: int | None = 0) -> tuple[int, ...]:
    """A shape as a tuple of ``int``, from one integer or several.

    Raises:
        ArgumentError: If a size is not an integer >= ``least``, or the elements are too many for
            any array.
    """
    try:
        if type(shape) is tuple and set(map(type, shape)) == _INT and min(shape) >= (least or 0):
            found = shape  # the common case, within the library
        else:
            parts = shape if is_sequence(shape) else [shape]
            found = tuple([integer(what, n, least) for n in parts])
    except ArgumentError:
        bound = "" if least is None else f" >= {least}"
        raise ArgumentError(f"{what} must be integers{bound}, got {shape!r:.80}") from None
    if math.prod(found) > _MAX_ELEMENTS or max(found, default=0) > _MAX_ELEMENTS:
        raise ArgumentError(f"{what}: {found} is larger than any array can be")
    return found


def as_array(what: str, values: Any) -> np.ndarray[Any, Any]:
    """The values as an array; ShapeError if they are rows of different lengths."""
    try:
        return np.asarray(values)
    except ValueError as error:
        raise ShapeError(f"{what} must be an array, got rows of different lengths") from error


def is_sequence(value: Any) -> TypeGuard[Sequence[Any]]:
    """Whether the value is several numbers rather than one."""
    return isinstance(value, Iterable) and getattr(value, "ndim", None) != 0


def real_dtype(what: str, dtype: Any) -> np.dtype[Any]:
    """A dtype of tensors, in the machine's byte order; ArgumentError for any other."""
    try:
        # by its type: NumPy's own object, which comparisons recognize at once
        found: np.dtype[Any] = np.dtype(np.dtype(dtype).type)
    except (TypeError, ValueError):
        found = np.dtype(object)
    if found not in DTYPES:
        expected = "a dtype of real numbers or booleans of up to 64 bits"
        raise ArgumentError(f"{what} expects {expected}, got {dtype!r:.80}")
    return found


def native(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The array in the machine's byte order: a copy if it is in the other one."""
    if array.dtype.kind not in "iuf" or array.dtype.isnative:
        return array
    return array.astype(array.dtype.type)


def check_array(data: Any) -> Any:
    """The array; ArgumentError if a tensor cannot hold it: a masked one, one of another dtype."""
    refuse_masked("the array of a tensor", data)
    if data.dtype not in DTYPES:
        hint = (
            "" if data.dtype.isnative else ", in the machine's byte order: tinynn.tensor() converts"
        )
        raise ArgumentError(
            f"a tensor holds real numbers or booleans of up to 64 bits{hint}, got an array of "
            f"dtype {data.dtype.str if hint else data.dtype}"
        )
    return data


@np.errstate(under="ignore")
def real_array(what: str, data: Any, dtype: Any) -> Any:
    """A copy of the data as an array that a tensor can hold.

    Raises:
        ArgumentError: If the data are not real numbers in a regular shape.
    """
    dtype = None if dtype is None else real_dtype(what, dtype)
    has_dtype = isinstance(data, (np.ndarray, np.generic))
    try:
        given = data if has_dtype else np.array(data)
        real = given.dtype.kind in "biuf"
        if given.dtype.kind == "O" and dtype is not None:  # None would become NaN
            real = all(isinstance(element, Real) for element in given.flat)
        if not real:
            raise TypeError(f"got {given.dtype}")
        refuse_masked(f"{what}: the array", given)
        if dtype is None and given.dtype == np.float64 and not has_dtype:
            dtype = np.float32
        return check_array(native(np.array(data, dtype)))
    except ArgumentError:
        raise
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:  # a tensor of PyTorch
        text = f"{what} expects real numbers in a regular shape: {error}: {data!r:.80}"
        raise ArgumentError(text) from error


def refuse_masked(what: str, array: Any) -> None:
    """Raise ArgumentError for an array with masked elements, whose mask would be lost."""
    if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
        raise ArgumentError(f"{what} has masked elements: replace them first, with .filled()")
