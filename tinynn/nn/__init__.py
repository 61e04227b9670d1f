"""Floor 3: modules, layers, initial values. Images are channels last, (N, H, W, C)."""

from tinynn.nn import init
from tinynn.nn.activation import (
    ELU,
    GELU,
    Dropout,
    Flatten,
    Identity,
    LeakyReLU,
    LogSoftmax,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from tinynn.nn.containers import ModuleDict, ModuleList, Sequential
from tinynn.nn.convolution import Conv2d, ConvTranspose2d
from tinynn.nn.fusion import constant_weights
from tinynn.nn.linear import Linear
from tinynn.nn.module import Module, Parameter
from tinynn.nn.normalization import BatchNorm1d, BatchNorm2d, GroupNorm, LayerNorm
from tinynn.nn.pooling import AvgPool2d, GlobalAvgPool2d, GlobalMaxPool2d, MaxPool2d, Resize

__all__ = [
    "ELU",
    "GELU",
    "AvgPool2d",
    "BatchNorm1d",
    "BatchNorm2d",
    "Conv2d",
    "ConvTranspose2d",
    "Dropout",
    "Flatten",
    "GlobalAvgPool2d",
    "GlobalMaxPool2d",
    "GroupNorm",
    "Identity",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "MaxPool2d",
    "Module",
    "ModuleDict",
    "ModuleList",
    "Parameter",
    "ReLU",
    "Resize",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Tanh",
    "constant_weights",
    "init",
]
