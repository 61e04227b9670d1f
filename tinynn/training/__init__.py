"""Training: the training loop, checkpoints that survive the loss of the machine, metrics, logs.

Each module lists its public names in ``__all__``; this package re-exports them.
"""

from tinynn.training.checkpoints import *
from tinynn.training.curves import *
from tinynn.training.epoch_metrics import *
from tinynn.training.evaluation import *
from tinynn.training.interruption import *
from tinynn.training.learning_rate_finder import *
from tinynn.training.logs import *
from tinynn.training.loop import *
from tinynn.training.metrics import *
from tinynn.training.micro_batches import *
from tinynn.training.state import *

__all__ = sorted(n for n, value in vars().items() if callable(value) or n == "EXIT_CODE")
