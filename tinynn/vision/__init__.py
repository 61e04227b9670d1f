"""Photos, boxes, a detector that looks at every place and size, and what a network looks at."""

from tinynn.vision.boxes import (
    clip_boxes,
    drop_nested,
    iou,
    merge_overlapping,
    non_maximum_suppression,
)
from tinynn.vision.detector import Detections, Detector, Windows
from tinynn.vision.drawing import draw_boxes
from tinynn.vision.explanation import (
    first_filters,
    grad_cam,
    hires_cam,
    occlusion_map,
    overlay,
)
from tinynn.vision.photo import read_photo, to_gray, write_photo
from tinynn.vision.pyramid import Level, image_pyramid

__all__ = [
    "Detections",
    "Detector",
    "Level",
    "Windows",
    "clip_boxes",
    "draw_boxes",
    "drop_nested",
    "first_filters",
    "grad_cam",
    "hires_cam",
    "image_pyramid",
    "iou",
    "merge_overlapping",
    "non_maximum_suppression",
    "occlusion_map",
    "overlay",
    "read_photo",
    "to_gray",
    "write_photo",
]
