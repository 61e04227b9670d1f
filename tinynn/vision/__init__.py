"""Photos, bounding boxes, an object detector, and explanations of what a network responds to.

A public name is listed in the ``__all__`` of the module that defines it, and nowhere else.
"""

from tinynn.vision import boxes, detector, drawing, explanation, photo, pyramid
from tinynn.vision.boxes import *
from tinynn.vision.detector import *
from tinynn.vision.drawing import *
from tinynn.vision.explanation import *
from tinynn.vision.photo import *
from tinynn.vision.pyramid import *

__all__ = [
    *boxes.__all__,
    *detector.__all__,
    *drawing.__all__,
    *explanation.__all__,
    *photo.__all__,
    *pyramid.__all__,
]
