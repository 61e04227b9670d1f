"""Models in files: safetensors for the numbers, the model's construction in the header.

The header holds the class names and constructor arguments of the layers, as JSON. Loading builds
the model from classes that are known by name (those of ``tinynn.nn`` and the ones handed in) and
copies the numbers into it: a file cannot make it run anything else.
"""

from __future__ import annotations

# import tinynn is to be quick: what only files need is imported by the functions that use it
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from tinynn.backend import default_device
from tinynn.errors import ArgumentError, FileFormatError
from tinynn.files import read_safetensors, to_bytes, write_atomically
from tinynn.nn import init
from tinynn.nn.module import Module

FORMAT = "tinynn-1"
_SPARE = 1_000_000  # numbers that constructors may make and drop again


def save(model: Module, path: str | os.PathLike[str], extra: dict[str, Any] | None = None) -> None:
    """Write a model to a safetensors file: its parameters, buffers and construction.

    ``extra`` is JSON data of your own, which ``load_extra`` gives back. The file appears under its
    name only when it is complete. Raises ArgumentError if the model would not come back as it is:
    because an argument that it was made with cannot be written down, or because layers were
    exchanged, shared or changed after they were made.
    """
    import json

    description = _describe(model, type(model).__name__)
    _check_comes_back(model, description)
    arrays = {name: t.numpy() for name, t in model.state_dict().items()}
    header = {"tinynn": FORMAT, "model": json.dumps(description)}
    if extra is not None:
        header["extra"] = json.dumps(extra)
    write_atomically(path, to_bytes(arrays, header))


def load(
    path: str | os.PathLike[str],
    classes: Iterable[type[Module]] = (),
    device: str | None = None,
) -> Module:
    """The model from a file that ``save`` wrote, in evaluation mode.

    ``classes`` are the module classes of your own that it is made of. Raises FileFormatError,
    naming the file, if it is damaged, foreign, or needs a class that was not handed in.
    """
    import json

    header, arrays = read_safetensors(path)
    known = {cls.__name__: cls for cls in (*_library_classes(), *classes)}
    if header.get("tinynn") != FORMAT or "model" not in header:
        raise FileFormatError(
            f"{path} is a safetensors file, but not one of tinynn.save: its header has no "
            f'"tinynn": "{FORMAT}"; load its numbers with load_state_dict into a model of your own'
        )
    place = default_device() if device is None else device
    try:
        held = sum(array.size for array in arrays.values())
        with default_device(place), init.skip_initialization(limit=2 * held + _SPARE):
            model = _build(json.loads(header["model"]), known)
        if not isinstance(model, Module):
            raise FileFormatError("its header describes no module")
        _take_dtypes(model, arrays)
        model.load_state_dict(arrays)
    except Exception as error:  # a damaged header makes constructors fail in every way there is
        raise FileFormatError(f"cannot build the model of {path}: {error}") from error
    model.eval()
    return model.to(place)


def _take_dtypes(model: Module, arrays: dict[str, np.ndarray[Any, Any]]) -> None:
    """Give new parameters and buffers the floating-point dtypes of the file."""
    for name, tensor in model.state_dict().items():
        if name in arrays and arrays[name].dtype.kind == tensor.dtype.kind == "f":
            tensor.data = tensor.backend.xp.asarray(tensor.data, arrays[name].dtype)


def load_extra(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON data that was handed to ``save`` as ``extra``; empty if there was none."""
    import json

    header, _ = read_safetensors(path)
    try:
        extra = json.loads(header.get("extra", "{}"))
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path} has a damaged header: {error}") from error
    if not isinstance(extra, dict):
        raise FileFormatError(f"{path} has a damaged header: extra is no object")
    return extra


# -- the construction of a model as JSON -----------------------------------------------------------


def _describe(value: Any, where: str) -> Any:
    """A constructor argument as JSON; tuples and modules are marked."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list):
        return [_describe(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, tuple):
        return {"tuple": [_describe(item, f"{where}[{i}]") for i, item in enumerate(value)]}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _describe(item, f"{where}.{key}") for key, item in value.items()}}
    if isinstance(value, Module):
        args, kwargs = value._arguments
        return {
            "class": type(value).__name__,
            "args": [_describe(a, f"{where}({i})") for i, a in enumerate(args)],
            "kwargs": {k: _describe(a, f"{where}({k})") for k, a in kwargs.items()},
        }
    raise ArgumentError(
        f"cannot write down the argument {where} = {value!r:.60}: a model that is saved is made "
        "from numbers, strings, tuples, lists, dicts and modules; or store state_dict() yourself"
    )


def _check_comes_back(model: Module, description: Any) -> None:
    """Build the model anew from its description and compare the two."""
    known = {cls.__name__: cls for cls in (*_library_classes(), *map(type, model.modules()))}
    held = sum(tensor.size for tensor in model.state_dict().values())
    with init.skip_initialization(limit=2 * held + _SPARE):
        own, twin = _structure(model), _structure(_build(description, known))
    for path in (*own, *twin):
        if own.get(path) != twin.get(path):
            raise ArgumentError(
                f"{type(model).__name__} would not come back from the file as it is: "
                f"{path or 'it'} is {own.get(path, 'missing')}, but its constructor arguments "
                f"make {twin.get(path, 'nothing')}; make the model from arguments, without "
                "changing its layers afterwards, or store its state_dict() yourself"
            )


def _structure(model: Module) -> dict[str, str]:
    """By path what each module is, and the shape of each tensor; things that are shared say so."""
    first: dict[int, str] = {}
    found: dict[str, str] = {}
    for path, module in model.named_modules():
        same = first.setdefault(id(module), path)
        found[path] = _class_and_settings(module) if same == path else f"the same as {same}"
    for path, tensor in model.state_dict().items():
        same = first.setdefault(id(tensor), path)
        found[path] = f"of shape {tensor.shape}" if same == path else f"the same as {same}"
    return found


def _class_and_settings(module: Module) -> str:
    """The class, and for layers of this library the settings too."""
    name = type(module).__name__
    if not type(module).__module__.startswith("tinynn.nn."):
        return name
    simple = {k: v for k, v in vars(module).items() if isinstance(v, (bool, int, float, str))}
    simple.pop("training", None)
    return f"{name} {simple}" if simple else name


def _build(value: Any, known: dict[str, type[Module]]) -> Any:
    """The argument that ``_describe`` wrote down."""
    if isinstance(value, list):
        return [_build(item, known) for item in value]
    if not isinstance(value, dict):
        return value
    if "tuple" in value:
        return tuple(_build(item, known) for item in value["tuple"])
    if "dict" in value:
        return {key: _build(item, known) for key, item in value["dict"].items()}
    name = value["class"]
    if name not in known:
        raise FileFormatError(
            f"it needs the class {name!r}, which is not one of tinynn.nn: hand it in, "
            f"tinynn.load(path, classes=[{name}])"
        )
    args = [_build(item, known) for item in value["args"]]
    return known[name](*args, **{k: _build(item, known) for k, item in value["kwargs"].items()})


def _library_classes() -> list[type[Module]]:
    from tinynn import nn

    members = vars(nn).values()
    return [m for m in members if isinstance(m, type) and issubclass(m, Module) and m is not Module]
