"""The two networks that the examples, benchmarks and GPU checks share.

``layers`` is the module that provides the layers: ``tinynn.nn``, or ``torch.nn`` for a comparison.
Both accept the same names and arguments.
"""

from typing import Any

from tinynn import nn


def face_cnn(layers: Any = nn, dropout: float = 0.0) -> Any:
    """Two classes of 48 x 48 color images: three 3 x 3 convolutions with pooling, 128 units."""
    body: list[Any] = []
    for inputs, outputs in ((3, 16), (16, 32), (32, 64)):
        convolution = layers.Conv2d(inputs, outputs, 3, padding="same")
        body += [convolution, layers.ReLU(), layers.MaxPool2d(2)]
    body += [layers.Flatten(), layers.Linear(6 * 6 * 64, 128), layers.ReLU()]
    body += [layers.Dropout(dropout)] if dropout else []
    return layers.Sequential(*body, layers.Linear(128, 2))


def original_cnn(layers: Any = nn, classes: int = 2) -> Any:
    """The CNN of 2017 for 91 x 91 gray images: two 10 x 10 convolutions with pooling, 1024 units.

    It has 34,879,714 parameters for two classes.
    """
    body: list[Any] = []
    for inputs, outputs in ((1, 32), (32, 64)):
        convolution = layers.Conv2d(inputs, outputs, 10, padding="same")
        body += [convolution, layers.ReLU(), layers.MaxPool2d(2, ceil_mode=True)]
    body += [layers.Flatten(), layers.Linear(23 * 23 * 64, 1024), layers.ReLU()]
    return layers.Sequential(*body, layers.Dropout(0.2), layers.Linear(1024, classes))
