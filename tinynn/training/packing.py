"""A nested state of numbers, strings and arrays as one safetensors file, and back.

The arrays become tensors named by their path, all else is JSON in the header: other programs read
the file with the public safetensors tools, and reading it never runs code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from tinynn.autograd import Tensor
from tinynn.backend import backend_of
from tinynn.errors import ArgumentError, FileFormatError
from tinynn.files import Arrays, from_bytes, to_bytes

FORMAT = "checkpoint-1"
_TENSOR = "$tensor"  # what stands in the JSON for an array: {"$tensor": name}


def capture(state: Mapping[str, Any]) -> tuple[str, Arrays]:
    """The state as it is now: JSON, and copies of the arrays on the host; waits for a GPU."""
    arrays: Arrays = {}
    described = _describe(state, "", arrays)
    return json.dumps(described), arrays


def pack(captured: tuple[str, Arrays]) -> bytes:
    """The file of a captured state."""
    described, arrays = captured
    return to_bytes(arrays, {"tinynn": FORMAT, "state": described})


def unpack(content: bytes, name: str) -> dict[str, Any]:
    """The state in a file; FileFormatError, naming it, if it is damaged or another kind of file."""
    metadata, arrays = from_bytes(content, name)
    if metadata.get("tinynn") != FORMAT or "state" not in metadata:
        raise FileFormatError(
            f'{name} is no checkpoint of tinynn: its header has no "tinynn": "{FORMAT}"'
        )
    try:
        state = _restore(json.loads(metadata["state"]), arrays)
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise FileFormatError(f"{name} has a damaged header: {error}") from error
    if not isinstance(state, dict):
        raise FileFormatError(f"{name} has a damaged header: its state is no object")
    return state


def _describe(value: Any, path: str, arrays: Arrays) -> Any:
    """JSON of a value whose arrays are put aside."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {k: _describe(v, f"{path}.{k}" if path else k, arrays) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_describe(item, f"{path}.{i}", arrays) for i, item in enumerate(value)]
    data = value.data if isinstance(value, Tensor) else value
    backend = backend_of(data)
    if backend is None:
        raise ArgumentError(
            f"a checkpoint holds numbers, strings, lists, dicts and arrays; {path} is {value!r:.60}"
        )
    name = path
    while name in arrays:
        name += "'"
    arrays[name] = np.array(backend.to_host(data), order="C")
    return {_TENSOR: name}


def _restore(value: Any, arrays: Arrays) -> Any:
    if isinstance(value, list):
        return [_restore(item, arrays) for item in value]
    if isinstance(value, dict):
        if set(value) == {_TENSOR}:
            return arrays[value[_TENSOR]]
        return {key: _restore(item, arrays) for key, item in value.items()}
    return value
