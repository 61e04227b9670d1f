"""The networks that the benchmarks run, from the layers of tinynn or of PyTorch.

The names and arguments of both are the same; ``nn`` is the one or the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


def face_cnn(nn: Any) -> Any:
    """48x48 pixels in color; three convolutions of 3x3 with ReLU and pooling, then 128, then 2."""
    layers: list[Any] = []
    for inputs, outputs in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding="same"), nn.ReLU(), nn.MaxPool2d(2)]
    head = [nn.Flatten(), nn.Linear(6 * 6 * 64, 128), nn.ReLU(), nn.Linear(128, 2)]
    return nn.Sequential(*layers, *head)


def original_cnn(nn: Any) -> Any:
    """The network of 2017: 91x91 gray pixels, two convolutions of 10x10, then 1024, then 2."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 10, padding="same"),
        nn.ReLU(),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Conv2d(32, 64, 10, padding="same"),
        nn.ReLU(),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Flatten(),
        nn.Linear(23 * 23 * 64, 1024),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(1024, 2),
    )


def residual_network(nn: Any) -> Any:
    """32x32 pixels in color; a stem, then blocks of 16, 32 and 64 channels with batch norm."""

    class Block(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
                nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
            )
            self.short = nn.Sequential()
            if stride > 1 or inputs != outputs:
                self.short = nn.Sequential(
                    nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False),
                    nn.BatchNorm2d(outputs),
                )
            self.relu = nn.ReLU()

        def forward(self, x: Any) -> Any:
            return self.relu(self.body(x) + self.short(x))

    stem = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    blocks = [Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2)]
    return nn.Sequential(*stem, *blocks, nn.AvgPool2d(8), nn.Flatten(), nn.Linear(64, 2))


def mlp(nn: Any) -> Any:
    """784 numbers, two layers of 512, then 10."""
    hidden = [nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU()]
    return nn.Sequential(*hidden, nn.Linear(512, 10))


class Model(NamedTuple):
    """A network and what it is given: (height, width, channels), or (numbers,)."""

    build: Callable[[Any], Any]
    shape: tuple[int, ...]
    classes: int


MODELS = {
    "face CNN": Model(face_cnn, (48, 48, 3), 2),
    "original CNN": Model(original_cnn, (91, 91, 1), 2),
    "residual network": Model(residual_network, (32, 32, 3), 2),
    "MLP": Model(mlp, (784,), 10),
}


def one_convolution(size: int, inputs: int, outputs: int, kernel: int) -> Model:
    """A convolution with ReLU, and as little after it as a training step needs."""

    def build(nn: Any) -> Any:
        layers = [nn.Conv2d(inputs, outputs, kernel, padding="same"), nn.ReLU()]
        return nn.Sequential(*layers, nn.AvgPool2d(size), nn.Flatten(), nn.Linear(outputs, 2))

    return Model(build, (size, size, inputs), 2)
