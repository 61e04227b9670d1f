"""Level 2: differentiable functions of tensors, by kind. Images are channels last, (N, H, W, C).

Each module lists its public functions in ``__all__``; this package re-exports them.
"""

from tinynn.functional import operators
from tinynn.functional.arithmetic import *
from tinynn.functional.convolution import *
from tinynn.functional.dropout import *
from tinynn.functional.elementwise import *
from tinynn.functional.linear import *
from tinynn.functional.loss import *
from tinynn.functional.normalization import *
from tinynn.functional.pooling import *
from tinynn.functional.reduction import *
from tinynn.functional.resizing import *
from tinynn.functional.shape import *

operators.install()

__all__ = sorted(name for name, value in vars().items() if callable(value) and name[0] != "_")
