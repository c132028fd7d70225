"""Data sets: images as uint8 tensors that stay where the model is, and a table of those with names.

``digits`` comes with scikit-learn and needs no download. The others are fetched once by
torchvision, checked by our own SHA-256, and kept as one ``NAME.npz`` in the data directory:
``$DDPMLIB_DATA``, else ``~/.cache/ddpmlib``. An archive that already lies there is used as it is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ddpmlib.data.archives import cached
from ddpmlib.data.samples import fingerprint
from ddpmlib.records import check_plain_name


@dataclass(frozen=True)
class Source:
    """Where a user's own images lie and how they were read: enough to read them again.

    Attributes:
        path: of a folder or an .npz file, absolute.
        size: height and width that each image was brought to.
        grey: one channel, or as many as there are.
        skip_broken: whether files that could not be read were left out.
    """

    path: str
    size: tuple[int, ...]
    grey: bool
    skip_broken: bool = False


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images to train on and images to measure with; any that fit into memory.

    >>> import torch
    >>> pixels = torch.zeros(6, 3, 16, 16, dtype=torch.uint8)
    >>> Dataset("black", pixels[:4], None, pixels[4:], None).image_shape
    (3, 16, 16)

    Attributes:
        name: what recipes and messages call it, see
            :func:`ddpmlib.records.check_plain_name`.
        x_train, x_test: uint8 (N, C, H, W); there may be no images to test with.
        y_train, y_test: labels 0..K−1, int64 (N,); None for images without classes.
        classes: the names of the K classes, in the order of their labels; empty without classes.
        source: where images of a user's own were read from; None for all others.

    Raises:
        ValueError: if that is not so, in one sentence that says where.
    """

    name: str
    x_train: Tensor
    y_train: Tensor | None
    x_test: Tensor
    y_test: Tensor | None
    classes: tuple[str, ...] = ()
    source: Source | None = None

    def __post_init__(self) -> None:
        check_plain_name("data set", self.name)
        _check_images(self.name, "x_train", self.x_train)
        _check_images(self.name, "x_test", self.x_test)
        if not self.x_train.numel():
            raise ValueError(f"{self.name} has no images to train on")
        if self.x_train.shape[1:] != self.x_test.shape[1:]:
            found = [f"{tuple(x.shape[1:])}" for x in (self.x_train, self.x_test)]
            raise ValueError(f"images of {self.name} must have one shape, got {', '.join(found)}")
        _check_labels(self.name, "y_train", self.y_train, len(self.x_train), self.num_classes)
        _check_labels(self.name, "y_test", self.y_test, len(self.x_test), self.num_classes)

    @property
    def num_classes(self) -> int:
        """K; 0 without classes."""
        return len(self.classes)

    def labels(self, part: Literal["train", "test"]) -> Tensor:
        """``y_train`` or ``y_test``, for what cannot do without.

        Raises:
            ValueError: if these images have no classes.
        """
        y = self.y_train if part == "train" else self.y_test
        if y is None:
            raise ValueError(f"{self.name} has no classes, and this needs the class of each image")
        return y

    @cached_property
    def fingerprint(self) -> str:
        """Which data these are: SHA-256 of the training part and the names of the classes."""
        return fingerprint(self.x_train, self.y_train, self.classes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        c, h, w = self.x_train.shape[1:]
        return c, h, w


def _check_images(name: str, part: str, x: Tensor) -> None:
    if x.ndim != 4 or x.dtype != torch.uint8:
        raise ValueError(
            f"{part} of {name} must hold uint8 images (N, C, H, W), got {x.dtype} {tuple(x.shape)}"
        )


def _check_labels(name: str, part: str, y: Tensor | None, n: int, k: int) -> None:
    if y is None or not k:
        if y is not None or k:
            raise ValueError(f"{name} needs both labels and the names of its classes, or neither")
        return
    if y.dtype != torch.int64 or y.shape != (n,):
        raise ValueError(
            f"{part} of {name} must hold one int64 label for each of {n} images, got {y.dtype} "
            f"{tuple(y.shape)}"
        )
    if n and not 0 <= int(y.min()) <= int(y.max()) < k:
        raise ValueError(
            f"labels of {name} lie in 0..{k - 1}, one for each of its {k} classes, but {part} "
            f"holds {int(y.min())}..{int(y.max())}"
        )


# ---- sets with names ---------------------------------------------------------------------------


def load(name: str) -> Dataset:
    """The data set ``name`` of :data:`DATASETS`: "digits", "mnist", "fashion_mnist" or "cifar10".

    Raises:
        ValueError: for another name, or a damaged archive in the data directory.
        DataNotAvailable: if a download is needed and fails.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}: choose one of {', '.join(DATASETS)}")
    return DATASETS[name]()


DIGITS = tuple("0123456789")
FASHION = (
    "T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
    "ankle boot",
)  # fmt: skip
CIFAR10 = (
    "aeroplane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "lorry",
)  # fmt: skip

CLASSES = {"digits": DIGITS, "mnist": DIGITS, "fashion_mnist": FASHION, "cifar10": CIFAR10}
"""The names of the classes of each set, known without loading it."""


def _digits() -> Dataset:
    from sklearn.datasets import load_digits

    bunch = load_digits()  # 1,797 scans, 8×8, grey values 0..16
    x = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    y = bunch.target.astype(np.int64)
    rank = np.empty(len(y), dtype=np.int64)
    for k in range(10):  # every fifth scan *of each class*, so that both parts are balanced
        rank[y == k] = np.arange((y == k).sum())
    test = rank % 5 == 4
    return _of_arrays("digits", (x[~test], y[~test], x[test], y[test]), DIGITS)


def _archive(name: str, classes: tuple[str, ...]) -> Dataset:
    return _of_arrays(name, cached(name), classes)


def _of_arrays(name: str, arrays: tuple[np.ndarray, ...], classes: tuple[str, ...]) -> Dataset:
    x_train, y_train, x_test, y_test = (torch.from_numpy(a) for a in arrays)
    planes = _planes(x_train), _planes(x_test)
    return Dataset(name, planes[0], y_train.long(), planes[1], y_test.long(), classes)


def _planes(x: Tensor) -> Tensor:
    """(N, H, W) or (N, H, W, C) -> (N, C, H, W)."""
    return (x[:, None] if x.ndim == 3 else x.permute(0, 3, 1, 2)).contiguous()


DATASETS: dict[str, Callable[[], Dataset]] = {
    "digits": _digits,
    "mnist": partial(_archive, "mnist", DIGITS),
    "fashion_mnist": partial(_archive, "fashion_mnist", FASHION),
    "cifar10": partial(_archive, "cifar10", CIFAR10),
}
"""What :func:`load` finds; a set of your own is one line more, its name and what makes it."""
