"""Samples that lie elsewhere than in memory, and the SHA-256 that says which data these are."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ddpmlib.condition import Condition

LOOKS = 256  # samples that are read of a set that does not lie in memory
CHUNK = 4096  # samples at a time: the bytes of a set are never copied as a whole


class Samples(Protocol):
    """Samples that lie elsewhere than in memory, read by their places.

    ``batch`` is a pure function of the places: augmentation belongs into the loss, whose random
    numbers are resumed to the bit.
    """

    def __len__(self) -> int:
        """Number of samples."""

    def batch(self, indices: Tensor) -> Tensor:
        """The samples at int64 ``indices`` (B,): uint8 images (B, C, H, W), or float points."""


def fingerprint(
    x: Tensor | Samples, y: Condition | None = None, classes: Sequence[str] = ()
) -> str:
    """SHA-256 of shapes, types and bytes of samples and labels, and of the names of classes.

    Of :class:`Samples` that do not lie in memory it is a cheaper one: of their number, of
    :data:`LOOKS` of them, evenly spaced from the first to the last, and of all labels. So a change
    in a sample that is not among these goes unnoticed.

    Args:
        x: (N, ...), at least one sample.
        y: labels (N,), or tensors by name, or None.
        classes: in the order of their labels.
    """
    digest = hashlib.sha256()
    if isinstance(x, Tensor):
        _add(digest, "x", x)
    else:
        digest.update(f"{len(x)} samples".encode())
        _add(digest, "x", x.batch(torch.linspace(0, len(x) - 1, min(LOOKS, len(x))).long()))
    labels = {"y": y} if isinstance(y, Tensor) else dict(y or {})
    for name in sorted(labels):
        _add(digest, name, labels[name])
    for name in classes:
        digest.update(f"class {len(name)} {name}".encode())
    return digest.hexdigest()


def _add(digest: Any, name: str, values: Tensor) -> None:
    """Numbers count as they lie in memory: little-endian on all machines that PyTorch runs on."""
    digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
    for part in values.detach().split(CHUNK) if values.ndim else [values]:
        digest.update(part.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
