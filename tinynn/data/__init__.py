"""Datasets, splits, data augmentation and the data loader.

A public name is listed in the ``__all__`` of the module that defines it, and nowhere else.
"""

from tinynn.data.augment import *
from tinynn.data.dataset import *
from tinynn.data.loader import *
from tinynn.data.split import *

__all__ = sorted(name for name, value in vars().items() if callable(value) and name[0] != "_")
