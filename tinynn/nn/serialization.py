"""Models in files: safetensors for the weights, the architecture of the model in the header.

The header stores the class names and constructor arguments of the layers as JSON. Loading builds
the model from classes known by name (those of ``tinynn.nn`` and those passed in) and copies the
weights into it: a file cannot execute any other code.
"""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from tinynn import files, nn
from tinynn.arguments import DTYPES, real_dtype
from tinynn.autograd import Tensor
from tinynn.backend import default_device, get_backend
from tinynn.errors import ArgumentError, FileFormatError
from tinynn.files import FilePath
from tinynn.nn import init
from tinynn.nn.module import Module

FORMAT = "tinynn-1"
_SPARE = 4_000_000  # bytes that constructors may allocate temporarily
_Classes = dict[str, type[Module]]


def save(model: Module, path: FilePath, extra: dict[str, Any] | None = None) -> None:
    """Write a model to a safetensors file: parameters, buffers and architecture.

    The write is atomic: the file appears under its name when it is complete. A symbolic link stays,
    and an existing file keeps its permissions.

    Args:
        extra: JSON data of your own, which ``load_extra`` returns.

    Raises:
        ArgumentError: The model could not be rebuilt from the file, because a constructor argument
            is not JSON, or because layers were replaced, shared or changed after construction; or
            ``extra`` is not JSON, or ``path`` not the path of a file.
        OSError: The file cannot be written.

    Example:
        >>> tinynn.save(model, "model.safetensors", extra={"classes": ["cat", "dog"]})
    """
    name = type(model).__name__
    try:
        description = _encode(model, name)
        _check_rebuilds(model, description)
    except RecursionError as error:
        raise ArgumentError(f"cannot store {name}: it is nested too deeply") from error
    header = {"tinynn": FORMAT, "model": _json_text(name, description)}
    if extra is not None:
        header["extra"] = _json_text("extra", extra)
    arrays = {name: t.numpy() for name, t in model.state_dict().items()}
    files.write_atomically(path, files.safetensors_content(arrays, header))


def load(path: FilePath, classes: Iterable[type[Module]] = (), device: str | None = None) -> Module:
    """Load a model that ``save`` wrote; it is in evaluation mode.

    Args:
        classes: Your own module classes that the model contains.
        device: The device of its parameters; None: the default device.

    Raises:
        FileFormatError: The file is damaged, of another format, needs a class that is not in
            ``classes``, or more memory than there is.
        OSError: There is no such file, or it cannot be read.
    """
    target, known = default_device() if device is None else device, _by_name(classes)
    get_backend(target)  # an error of the device is none of the file
    header, arrays = files.read_safetensors(path, get_backend("cpu").available_memory())
    if header.get("tinynn") != FORMAT or "model" not in header:
        raise FileFormatError(
            f"{path} is a safetensors file, but not one of tinynn.save: its header has no "
            f'"tinynn": "{FORMAT}"; load its arrays with load_state_dict into a model of your own'
        )
    try:
        held = sum(array.nbytes for array in arrays.values())
        with default_device(target):
            model = _build(json.loads(header["model"]), known, held)
        if not isinstance(model, Module):
            raise FileFormatError("its header describes no module")
        _take_dtypes(model, arrays)
        model.load_state_dict(arrays)
    except Exception as error:  # constructors called with damaged arguments raise anything
        raise FileFormatError(f"cannot build the model of {path}: {error}") from error
    model.eval()
    return model.to(target)


def _take_dtypes(model: Module, arrays: files.Arrays) -> None:
    """Convert new parameters and buffers to the floating-point dtypes of the file."""
    for name, tensor in model.state_dict().items():
        if name in arrays and arrays[name].dtype.kind == tensor.dtype.kind == "f":
            tensor.data = tensor.backend.xp.asarray(tensor.data, arrays[name].dtype)


def load_extra(path: FilePath) -> dict[str, Any]:
    """The JSON data that was passed to ``save`` as ``extra``; empty if there was none.

    Reads the header of the file only.
    """
    return files.json_object(files.read_metadata(path).get("extra", "{}"), str(path))


def _json_text(what: str, value: Any) -> str:
    def plain(item: Any) -> Any:
        if isinstance(item, (np.generic, np.ndarray)):
            return item.tolist()
        raise TypeError(f"{item!r:.60} is not JSON")

    try:
        if not isinstance(value, dict):
            raise TypeError(f"{value!r:.60} is not a dict")
        return json.dumps(value, default=plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise ArgumentError(f"save: {what} must be a dict of JSON data: {error}") from error


# -- the construction of a model as JSON -----------------------------------------------------------


def _encode(value: Any, path: str) -> Any:
    """A constructor argument as JSON; tuples, dicts, arrays and modules are tagged."""
    if isinstance(value, (np.generic, np.ndarray)) and value.dtype.newbyteorder("=") in DTYPES:
        if not value.ndim:
            return value.item()
        return {"array": value.tolist(), "dtype": value.dtype.name, "shape": list(value.shape)}
    if isinstance(value, tuple):
        return {"tuple": files.to_json(list(value), _encode, path)}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": files.entries_to_json(value, _encode, path)}
    if isinstance(value, Module):
        args, kwargs = value._arguments
        return {
            "class": type(value).__name__,
            "args": files.to_json(list(args), _encode, path),
            "kwargs": files.entries_to_json(kwargs, _encode, path),
        }
    raise ArgumentError(
        f"cannot store the argument {path} = {value!r:.60}: constructor arguments of a saved model "
        "must be numbers, strings, tuples, lists, dicts, NumPy arrays or modules; or save "
        "state_dict() yourself"
    )


def _build(description: Any, known: _Classes, held: int) -> Any:
    """The model of a description, uninitialized, for a file that holds ``held`` bytes."""

    def decode(value: Any) -> Any:
        if isinstance(value, list):
            return [decode(item) for item in value]
        if not isinstance(value, dict):
            return value
        if "tuple" in value:
            return tuple(decode(value["tuple"]))
        if "array" in value:
            array = np.array(value["array"], real_dtype("an array", value["dtype"]))
            return array.reshape(value["shape"])
        if "dict" in value:
            return {key: decode(item) for key, item in value["dict"].items()}
        name = value["class"]
        if name not in known:
            advice = f"pass it with tinynn.load(path, classes=[{name}])"
            raise FileFormatError(f"it needs the class {name!r}, not one of tinynn.nn: {advice}")
        kwargs = {key: decode(item) for key, item in value["kwargs"].items()}
        return known[name](*decode(value["args"]), **kwargs)

    # new parameters are float32, those of the file may be float16
    with init.skip_initialization(limit=4 * held + _SPARE):
        return decode(description)


def _by_name(classes: Iterable[type[Module]]) -> _Classes:
    """The layers of the library and ``classes``, by name."""
    layers = [c for c in vars(nn).values() if isinstance(c, type) and issubclass(c, Module)]
    return {cls.__name__: cls for cls in (*layers, *classes) if cls is not Module}


def _check_rebuilds(model: Module, description: Any) -> None:
    """Build the model again from its description and compare the two."""
    held = sum(tensor.data.nbytes for tensor in model.state_dict().values())
    twin = _build(description, _by_name(map(type, model.modules())), held)
    own, rebuilt = _structure(model), _structure(twin)
    for path in (*own, *rebuilt):
        if own.get(path) != rebuilt.get(path):
            raise ArgumentError(
                f"{type(model).__name__} could not be rebuilt from the file: {path or 'it'} is "
                f"{own.get(path, 'missing')}, but its constructor arguments make "
                f"{rebuilt.get(path, 'nothing')}; pass everything to constructors, without "
                "changing layers afterwards, or save its state_dict() yourself"
            )


def _structure(model: Module) -> dict[str, str]:
    """The module or tensor at each path; a shared one refers to its first path."""
    first: dict[int, str] = {}
    found: dict[str, str] = {}
    for path, item in (*model.named_modules(), *model.state_dict().items()):
        same = first.setdefault(id(item), path)
        found[path] = _class_and_settings(item) if same == path else f"the same as {same}"
    return found


def _class_and_settings(item: object) -> str:
    """The class, and for layers of this library the settings; the shape of a tensor."""
    if isinstance(item, Tensor):
        return f"of shape {item.shape}"
    name = type(item).__name__
    if not type(item).__module__.startswith("tinynn.nn."):
        return name
    simple = {k: v for k, v in vars(item).items() if isinstance(v, (bool, int, float, str))}
    simple.pop("training", None)
    return f"{name} {simple}" if simple else name
