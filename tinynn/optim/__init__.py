"""Floor 4: optimizers, learning-rate schedules, gradient clipping."""

from tinynn.optim.adam import Adam, AdamW
from tinynn.optim.clipping import clip_grad_norm, clip_grad_value
from tinynn.optim.optimizer import Optimizer, Schedule
from tinynn.optim.rmsprop import RMSprop
from tinynn.optim.scaling import LossScaler
from tinynn.optim.schedules import constant, cosine, one_cycle, step_decay, warm_up
from tinynn.optim.sgd import SGD

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "LossScaler",
    "Optimizer",
    "RMSprop",
    "Schedule",
    "clip_grad_norm",
    "clip_grad_value",
    "constant",
    "cosine",
    "one_cycle",
    "step_decay",
    "warm_up",
]
