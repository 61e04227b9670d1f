"""The networks that the benchmarks run, built from the layers of tinynn or of PyTorch.

``nn`` is ``tinynn.nn`` or ``torch.nn``; both accept the same names and arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from tinynn.vision.models import face_cnn, original_cnn


def residual_network(nn: Any) -> Any:
    """32x32 color images: a stem, then residual blocks of 16, 32 and 64 channels, batch norm."""

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
            self.shortcut = nn.Sequential()
            if stride > 1 or inputs != outputs:
                self.shortcut = nn.Sequential(
                    nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False),
                    nn.BatchNorm2d(outputs),
                )
            self.relu = nn.ReLU()

        def forward(self, x: Any) -> Any:
            return self.relu(self.body(x) + self.shortcut(x))

    stem = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    blocks = [Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2)]
    return nn.Sequential(*stem, *blocks, nn.AvgPool2d(8), nn.Flatten(), nn.Linear(64, 2))


def mlp(nn: Any) -> Any:
    """784 features, two hidden layers of 512 units, 10 classes."""
    hidden = [nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU()]
    return nn.Sequential(*hidden, nn.Linear(512, 10))


class Model(NamedTuple):
    """A network, the shape of one input, (height, width, channels) or (features,), and classes."""

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
    """A convolution with ReLU, and the smallest head that allows a training step."""

    def build(nn: Any) -> Any:
        layers = [nn.Conv2d(inputs, outputs, kernel, padding="same"), nn.ReLU()]
        return nn.Sequential(*layers, nn.AvgPool2d(size), nn.Flatten(), nn.Linear(outputs, 2))

    return Model(build, (size, size, inputs), 2)
