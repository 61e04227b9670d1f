"""Data sets, their splits, and the batches that training eats."""

from tinynn.data.augment import (
    Compose,
    RandomAffine,
    RandomBlur,
    RandomBrightness,
    RandomContrast,
    RandomCrop,
    RandomFlip,
    RandomGamma,
    RandomLightGradient,
    RandomNoise,
)
from tinynn.data.dataset import ArrayDataset, Dataset, ImageFolder
from tinynn.data.loader import DataLoader
from tinynn.data.split import check_disjoint, split_by_group, split_stratified

__all__ = [
    "ArrayDataset",
    "Compose",
    "DataLoader",
    "Dataset",
    "ImageFolder",
    "RandomAffine",
    "RandomBlur",
    "RandomBrightness",
    "RandomContrast",
    "RandomCrop",
    "RandomFlip",
    "RandomGamma",
    "RandomLightGradient",
    "RandomNoise",
    "check_disjoint",
    "split_by_group",
    "split_stratified",
]
