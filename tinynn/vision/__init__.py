"""Photos, bounding boxes, an object detector, and saliency maps.

A public name is listed in the ``__all__`` of the module that defines it, and nowhere else.
"""

from tinynn.vision.boxes import *
from tinynn.vision.detector import *
from tinynn.vision.drawing import *
from tinynn.vision.explanation import *
from tinynn.vision.photo import *
from tinynn.vision.pyramid import *

__all__ = sorted(name for name, value in vars().items() if callable(value) and name[0] != "_")
