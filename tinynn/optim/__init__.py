"""Level 4: optimizers, learning-rate schedules, gradient clipping, loss scaling.

Each module lists its public names in ``__all__``; this package re-exports them.
"""

from tinynn.optim.algorithms import *
from tinynn.optim.clipping import *
from tinynn.optim.optimizer import *
from tinynn.optim.scaling import *
from tinynn.optim.schedules import *

__all__ = sorted(name for name, value in vars().items() if callable(value))
