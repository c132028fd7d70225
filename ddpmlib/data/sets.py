"""Data sets, as uint8 tensors that stay where the model is, and toy points in the plane.

``digits`` comes with scikit-learn and needs no download. The others are fetched once by
torchvision, checked by checksum, and kept as one ``NAME.npz`` in the data directory:
``$DDPMLIB_DATA``, else ``~/.cache/ddpmlib``. An archive that already lies there is used as it is.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ddpmlib.data.archives import DOWNLOADS, cached

NAMES = ("digits", *DOWNLOADS)


@dataclass(frozen=True)
class Images:
    """A labelled image set.

    Attributes:
        name: one of :data:`NAMES`.
        x_train, x_test: uint8 (N, C, H, W).
        y_train, y_test: int64 (N,).
        num_classes: labels lie in 0..num_classes−1.
    """

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    num_classes: int = 10

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        c, h, w = self.x_train.shape[1:]
        return c, h, w


def load(name: str) -> Images:
    """The data set ``name``: "digits", "mnist", "fashion_mnist" or "cifar10".

    Raises:
        ValueError: for another name, or a damaged archive in the data directory.
        DataNotAvailable: if a download is needed and fails.
    """
    if name not in NAMES:
        raise ValueError(f"unknown data set {name!r}: choose one of {', '.join(NAMES)}")
    arrays = _digits() if name == "digits" else cached(name)
    x_train, y_train, x_test, y_test = (torch.from_numpy(a) for a in arrays)
    return Images(name, _planes(x_train), y_train.long(), _planes(x_test), y_test.long())


# ---- image sets ------------------------------------------------------------------------------


def _digits() -> tuple[np.ndarray, ...]:
    from sklearn.datasets import load_digits

    bunch = load_digits()  # 1,797 scans, 8×8, grey values 0..16
    x = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    y = bunch.target.astype(np.int64)
    rank = np.empty(len(y), dtype=np.int64)
    for k in range(10):  # every fifth scan *of each class*, so that both parts are balanced
        rank[y == k] = np.arange((y == k).sum())
    test = rank % 5 == 4
    return x[~test], y[~test], x[test], y[test]


def _planes(x: Tensor) -> Tensor:
    """(N, H, W) or (N, H, W, C) -> (N, C, H, W)."""
    return (x[:, None] if x.ndim == 3 else x.permute(0, 3, 1, 2)).contiguous()
