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
from ddpmlib.data.arrays import from_arrays, from_npz
from ddpmlib.data.augment import Augment, random_flip, random_shift
from ddpmlib.data.batches import Batches
from ddpmlib.data.map_style import MapStyle, from_map_style
from ddpmlib.data.own import from_folder, from_path
from ddpmlib.data.samples import Samples, fingerprint
from ddpmlib.data.scale import to_float, to_uint8
from ddpmlib.data.sets import DATASETS, Dataset, Source, load
from ddpmlib.data.toys import checkerboard, moons, ring, ring_means, spiral

__all__ = [
    "DATASETS",
    "DIGESTS",
    "Augment",
    "Batches",
    "DataNotAvailable",
    "Dataset",
    "MapStyle",
    "Samples",
    "Source",
    "archive_path",
    "checkerboard",
    "digest",
    "directory",
    "fingerprint",
    "from_arrays",
    "from_folder",
    "from_map_style",
    "from_npz",
    "from_path",
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
