"""One place to see shapes and sizes, layer by layer."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from tinynn.autograd import Tensor, no_grad
from tinynn.errors import TinynnError
from tinynn.nn.module import Module


class LayerSummary(NamedTuple):
    """One layer as it ran: sizes are per call, with the batch that was asked for."""

    path: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    multiply_adds: int
    activation_bytes: int


class Summary(NamedTuple):
    """The layers of a model in the order they ran; printing it gives a table."""

    model: str
    input_shape: tuple[int, ...]
    layers: tuple[LayerSummary, ...]
    parameters: int
    """Parameters of the whole model, each counted once."""
    parameter_bytes: int

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one forward pass."""
        return sum(layer.multiply_adds for layer in self.layers)

    @property
    def activation_bytes(self) -> int:
        """Bytes of all layers' outputs."""
        return sum(layer.activation_bytes for layer in self.layers)

    @property
    def training_bytes(self) -> int:
        """Bytes that a training step takes, an estimate from above.

        Parameters, gradients and two numbers each for an optimizer; all outputs and their
        gradients.
        """
        return 4 * self.parameter_bytes + 2 * self.activation_bytes

    def __str__(self) -> str:
        head = ("layer", "output shape", "parameters", "multiply-adds", "activations")
        rows = [("input", str(self.input_shape), "", "", "")]
        rows += [
            (
                f"{layer.path} ({layer.kind})" if layer.path else layer.kind,
                str(layer.output_shape),
                f"{layer.parameters:,}",
                f"{layer.multiply_adds:,}",
                _bytes(layer.activation_bytes),
            )
            for layer in self.layers
        ]
        total = (
            f"{self.model} in total",
            "",
            f"{self.parameters:,}",
            f"{self.multiply_adds:,}",
            _bytes(self.activation_bytes),
        )
        widths = [max(map(len, column)) for column in zip(head, *rows, total, strict=True)]
        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        lines = [_line(head, widths), rule, *(_line(row, widths) for row in rows), rule]
        memory = f"memory of a training step with this batch: about {_bytes(self.training_bytes)}"
        return "\n".join([*lines, _line(total, widths), memory])


def summary(model: Module, input_shape: tuple[int, ...], batch_size: int = 1) -> Summary:
    """Run the model once on zeros and tell what each layer makes of them.

    ``input_shape`` is the shape of one example, without the batch axis: (48, 48, 3). The model runs
    in evaluation mode and is left as it was. Layers without children are listed; what a
    ``forward`` computes besides calling layers is not.
    """
    layers: list[LayerSummary] = []
    removers = [
        module.register_forward_hook(_observer(path, layers))
        for path, module in model.named_modules()
        if next(module.named_children(), None) is None
    ]
    shape = (batch_size, *input_shape)
    try:
        with model.in_mode(training=False), no_grad():
            model(_zeros(model, shape))
    except TinynnError as error:
        error.add_note(
            f"summary({input_shape}) ran the model on {shape}: it takes the shape of one example, "
            "without the batch axis"
        )
        raise
    finally:
        for remove in removers:
            remove()
    held = sum(int(parameter.data.nbytes) for parameter in model.parameters())
    return Summary(type(model).__name__, shape, tuple(layers), model.num_parameters(), held)


def _zeros(model: Module, shape: tuple[int, ...]) -> Tensor:
    """An input of zeros with the model's dtype, on its device."""
    from tinynn.backend import get_backend

    first = next(model.parameters(), None)
    backend = get_backend("cpu") if first is None else first.backend
    return Tensor(backend.xp.zeros(shape, dtype="float32" if first is None else first.dtype))


def _observer(path: str, layers: list[LayerSummary]) -> Any:
    def observe(module: Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor):
            layers.append(
                LayerSummary(
                    path,
                    type(module).__name__,
                    output.shape,
                    module.num_parameters(),
                    module.multiply_adds(output.shape),
                    math.prod(output.shape) * output.dtype.itemsize,
                )
            )

    return observe


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    padded = [
        cell.ljust(width) if i < 2 else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(padded).rstrip()


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
