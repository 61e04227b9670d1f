"""Output shapes, parameters, multiply-adds and memory of a model, layer by layer."""

from typing import Any, NamedTuple

from tinynn.arguments import sizes
from tinynn.autograd import Tensor, no_grad
from tinynn.creation import zeros
from tinynn.errors import TinynnError
from tinynn.nn.module import ForwardHook, Module, observe
from tinynn.profiler import format_table


class LayerSummary(NamedTuple):
    """One call of a layer; sizes are for the whole batch."""

    path: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    multiply_adds: int
    activation_bytes: int


class Summary(NamedTuple):
    """The layers of a model in the order of execution; printing it shows a table.

    Attributes:
        parameters: Parameters of the whole model; shared ones count once.
    """

    model: str
    input_shape: tuple[int, ...]
    layers: tuple[LayerSummary, ...]
    parameters: int
    parameter_bytes: int

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one forward pass."""
        return sum(layer.multiply_adds for layer in self.layers)

    @property
    def activation_bytes(self) -> int:
        """Bytes of the outputs of all layers."""
        return sum(layer.activation_bytes for layer in self.layers)

    @property
    def training_bytes(self) -> int:
        """Upper estimate of the memory of a training step, in bytes.

        Parameters, their gradients and an optimizer state of twice their size; all activations and
        their gradients.
        """
        return 4 * self.parameter_bytes + 2 * self.activation_bytes

    def __str__(self) -> str:
        head = ("layer", "output shape", "parameters", "multiply-adds", "activations")
        rows = [head, ("input", str(self.input_shape), "", "", "")]
        rows += [
            _row(f"{layer.path} ({layer.kind})" if layer.path else layer.kind, layer)
            for layer in self.layers
        ]
        rows.append(_row(f"{self.model} in total", self))
        titles, *lines, total = format_table(rows)
        rule = "-" * len(titles)
        memory = f"memory of a training step with this batch: about {_bytes(self.training_bytes)}"
        return "\n".join([titles, rule, *lines, rule, total, memory])


def summary(model: Module, input_shape: tuple[int, ...], batch_size: int = 1) -> Summary:
    """Run the model once on zeros, in evaluation mode, and describe the output of each layer.

    Only layers without children are listed, no other operations of a ``forward``.

    Args:
        input_shape: The shape of one example, without the batch axis, such as (48, 48, 3).
        batch_size: The number of examples.

    Example:
        >>> print(tinynn.summary(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), (48, 48, 3)))
    """
    layers: list[LayerSummary] = []
    shape = sizes("batch_size and input_shape", (batch_size, *sizes("input_shape", input_shape)))
    try:
        recorders = [
            (module, _recorder(path, layers))
            for path, module in model.named_modules()
            if next(module.named_children(), None) is None
        ]
        with model.in_mode(training=False), no_grad(), observe(recorders):
            model(_zeros(model, shape))
    except TinynnError as error:
        error.add_note(
            f"summary({input_shape}) ran the model on {shape}: pass the shape of one example, "
            "without the batch axis"
        )
        raise
    held = sum(int(parameter.data.nbytes) for parameter in model.parameters())
    return Summary(type(model).__name__, shape, tuple(layers), model.num_parameters(), held)


def _zeros(model: Module, shape: tuple[int, ...]) -> Tensor:
    """An input with the model's dtype, on its device."""
    first = next(model.parameters(), None)
    dtype, device = ("float32", "cpu") if first is None else (first.dtype, first.device)
    return zeros(shape, dtype, device)


def _recorder(path: str, layers: list[LayerSummary]) -> ForwardHook:
    def record(module: Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor):
            shape = output.shape
            sizes = module.num_parameters(), module.multiply_adds(shape), int(output.data.nbytes)
            layers.append(LayerSummary(path, type(module).__name__, shape, *sizes))

    return record


def _row(name: str, sizes: LayerSummary | Summary) -> tuple[str, str, str, str, str]:
    return (
        name,
        str(sizes.output_shape) if isinstance(sizes, LayerSummary) else "",
        f"{sizes.parameters:,}",
        f"{sizes.multiply_adds:,}",
        _bytes(sizes.activation_bytes),
    )


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
