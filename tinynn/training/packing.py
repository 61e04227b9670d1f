"""The checkpoint format: a nested state as one safetensors file.

Arrays become tensors named by their path in the state, everything else JSON in the header. Public
safetensors tools read the file, and reading it runs no code.
"""

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from tinynn import files
from tinynn.autograd import Tensor
from tinynn.backend import backend_of
from tinynn.errors import ArgumentError, FileFormatError

FORMAT = "checkpoint-1"
_TENSOR = "$tensor"  # key of a reference to an array in the JSON: {"$tensor": name}


def capture(state: Mapping[str, Any]) -> tuple[files.Arrays, dict[str, str]]:
    """A snapshot of the state: the arrays and metadata of a safetensors file; synchronizes.

    The arrays are copies in host memory. Read-only arrays that own their memory cannot change and
    are not copied.
    """
    arrays: files.Arrays = {}
    described = json.dumps(_encode(arrays, state, ""))
    return arrays, {"tinynn": FORMAT, "state": described}


def _encode(arrays: files.Arrays, value: Any, path: str) -> Any:
    """A value as JSON, its arrays added to ``arrays``.

    Not a closure that calls itself: such a cycle would keep the arrays until the garbage collector
    runs.
    """
    encode = partial(_encode, arrays)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple):
        return files.to_json(list(value), encode, path)
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return files.entries_to_json(value, encode, path)
    data = value.data if isinstance(value, Tensor) else value
    backend = backend_of(data)
    if backend is None:
        raise ArgumentError(f"cannot store {path}, neither JSON nor an array: {value!r:.60}")
    name = path
    while name in arrays:
        name += "'"
    arrays[name] = files.read_only(backend.to_host(data))
    return {_TENSOR: name}


def unpack(content: bytes, name: str) -> dict[str, Any]:
    """The state in a file; FileFormatError, naming it, if it is damaged or of another format."""
    metadata, arrays = files.from_bytes(content, name)
    if metadata.get("tinynn") != FORMAT or "state" not in metadata:
        raise FileFormatError(f'{name} is not a tinynn checkpoint, "tinynn": "{FORMAT}"')

    def decode(value: dict[str, Any]) -> Any:
        return arrays[value[_TENSOR]] if value.keys() == {_TENSOR} else value

    return files.json_object(metadata["state"], name, decode)


def equal(one: Any, other: Any) -> bool:
    """Whether two states are equal once they are stored; NaN equals NaN."""
    (arrays, first), (others, second) = capture({"": one}), capture({"": other})
    states = [json.loads(metadata["state"]) for metadata in (first, second)]
    return (first == second or states[0] == states[1]) and all(
        np.array_equal(array, others[name], equal_nan=array.dtype.kind in "fc")
        for name, array in arrays.items()
    )
