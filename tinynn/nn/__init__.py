"""Level 3: modules, layers, initializers. Images are channels last, (N, H, W, C).

Each module lists its public names in ``__all__``; this package re-exports them.
"""

from tinynn.nn import init
from tinynn.nn.activation import *
from tinynn.nn.containers import *
from tinynn.nn.convolution import *
from tinynn.nn.fusion import *
from tinynn.nn.linear import *
from tinynn.nn.module import *
from tinynn.nn.normalization import *
from tinynn.nn.pooling import *

__all__ = sorted(name for name, value in vars().items() if callable(value) or value is init)
