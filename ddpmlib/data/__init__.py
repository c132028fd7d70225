"""Data sets as uint8 tensors, batches of them, and toy points in the plane."""

from ddpmlib.data.archives import (
    DIGESTS,
    DataNotAvailable,
    archive_path,
    digest,
    directory,
    is_genuine,
    unpack,
)
from ddpmlib.data.augment import Augment, random_flip, random_shift
from ddpmlib.data.batches import Batches
from ddpmlib.data.scale import to_float, to_uint8
from ddpmlib.data.sets import DATASETS, Dataset, load
from ddpmlib.data.toys import checkerboard, moons, ring, ring_means, spiral

__all__ = [
    "DATASETS",
    "DIGESTS",
    "Augment",
    "Batches",
    "DataNotAvailable",
    "Dataset",
    "archive_path",
    "checkerboard",
    "digest",
    "directory",
    "is_genuine",
    "load",
    "moons",
    "random_flip",
    "random_shift",
    "ring",
    "ring_means",
    "spiral",
    "to_float",
    "to_uint8",
    "unpack",
]
