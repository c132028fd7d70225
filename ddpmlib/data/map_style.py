"""Map-style data sets of PyTorch, torchvision or Hugging Face: into memory, or read by workers."""

from __future__ import annotations

import os
from collections.abc import Sequence, Sized
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ddpmlib.data import pictures
from ddpmlib.data.folders import most_bytes


class Items(Protocol):
    """What ``torch.utils.data.Dataset`` asks of a map-style data set."""

    def __getitem__(self, index: int, /) -> Any: ...

    def __len__(self) -> int: ...


class MapStyle:
    """Images of a map-style data set, which stay where they are and are read in batches.

    It is a :class:`ddpmlib.data.samples.Samples`.

    Args:
        items: (image, label) by number as torchvision has them, or dictionaries as Hugging Face.
            An image is a Pillow image, a uint8 array (H, W) or (H, W, C), or a uint8 tensor (H, W)
            or (C, H, W). A Pillow image is made plain as a file's is, see
            :func:`ddpmlib.data.pictures.plain`. All have one shape, and number i is always the
            same: augmentation belongs into the loss.
        image: where in an item the image is, by default 0 in a tuple, "image" in a dictionary.
    """

    def __init__(self, items: Items, image: int | str | None = None) -> None:
        self.items, self.image = items, image
        if not len(items):
            raise ValueError("this data set is empty")
        self.shape = tuple(self._planes(0).shape)

    def __len__(self) -> int:
        return len(self.items)

    def batch(self, indices: Tensor) -> Tensor:
        """uint8 (B, C, H, W) of the images at ``indices``.

        Raises:
            ValueError: if an image has another shape than the first one.
        """
        found = []
        for i in indices.tolist():
            found.append(self._planes(i))
            if tuple(found[-1].shape) != self.shape:
                raise ValueError(
                    f"image {i} is {tuple(found[-1].shape)} and image 0 is {self.shape}: resize "
                    "and crop them to one shape in the data set's transform"
                )
        return torch.stack(found)

    def _planes(self, i: int) -> Tensor:
        """Image number i, (C, H, W)."""
        value = _part(self.items[i], self.image, 0, "image")
        if not isinstance(value, Tensor | np.ndarray) and hasattr(value, "convert"):
            try:
                value = np.array(pictures.plain(value))
            except pictures.BrokenPicture as error:
                raise ValueError(f"image {i} cannot be read: {error}") from error
        if isinstance(value, np.ndarray):
            planes = torch.from_numpy(np.ascontiguousarray(value).copy())
            planes = planes.permute(2, 0, 1) if planes.ndim == 3 else planes
        else:
            planes = value
        if not isinstance(planes, Tensor) or planes.dtype != torch.uint8:
            got = planes.dtype if isinstance(planes, Tensor) else type(planes).__name__
            raise ValueError(
                f"image {i} must be a Pillow image or hold uint8 numbers 0..255, got {got}: leave "
                "scaling out of the data set's transform (PILToTensor in place of ToTensor)"
            )
        if planes.ndim not in (2, 3):
            raise ValueError(f"image {i} must be (H, W) or have channels, got {planes.ndim} axes")
        return planes[None] if planes.ndim == 2 else planes


def from_map_style(
    items: Items,
    *,
    image: int | str | None = None,
    label: int | str | None = None,
    labels: Sequence[int] | Tensor | None = None,
    limit: int | None = None,
) -> tuple[Tensor | MapStyle, Tensor | None]:
    """Images and labels of a map-style data set, as a trainer takes them.

    >>> from torchvision.datasets import FakeData
    >>> x, y = from_map_style(FakeData(size=8, image_size=(3, 16, 16), num_classes=2))
    >>> x.shape, x.dtype, y.shape
    (torch.Size([8, 3, 16, 16]), torch.uint8, torch.Size([8]))

    Args:
        items: see :class:`MapStyle`.
        image, label: where in an item they are, by default 0 and 1 in a tuple, "image" and "label"
            in a dictionary; items without a label are images without classes. A ``label`` that is
            given comes before what the items keep as ``targets``.
        labels: whole numbers, one per item, if they are known, which come before both: items whose
            images do not fit into memory then need not all be read for the sake of their labels.
        limit: bytes of images that are kept in memory; by default half of what is free.

    Returns:
        uint8 (N, C, H, W), or a :class:`MapStyle` if that is more than the limit; and labels (N,)
        int64 or None.

    Raises:
        ValueError: for images of other shapes or types, or labels that are no whole numbers or
            are missing in some items.
    """
    samples = MapStyle(items, image)
    n, each = len(samples), int(np.prod(samples.shape))
    known = None if label is not None and labels is None else _known_labels(items, labels)
    fits = n * each <= (most_bytes() if limit is None else limit)
    if not fits and known is not None:
        return samples, known
    x, found = torch.empty(n if fits else 1, *samples.shape, dtype=torch.uint8), []
    for i in _progress(items):
        if fits:
            x[i] = samples.batch(torch.tensor([i]))[0]
        if known is None:
            found.append(_part(items[i], label, 1, "label"))
    return (x if fits else samples), _found_labels(found, label) if known is None else known


def _found_labels(found: Sequence[Any], label: int | str | None) -> Tensor | None:
    """The labels of all items; None if no item has one."""
    missing = [i for i, value in enumerate(found) if value is None]
    if missing and (label is not None or len(missing) < len(found)):
        where = "" if label is None else f" at {label!r}"
        raise ValueError(
            f"{len(missing):,} of {len(found):,} items have no label{where}, the first of them "
            f"item {missing[0]}: give every image a label, or none"
        )
    return None if missing else _whole(found)


def _known_labels(items: Any, labels: Sequence[int] | Tensor | None) -> Tensor | None:
    """As given, or as torchvision keeps them beside the images."""
    kept = getattr(items, "target_transform", None) is None and getattr(items, "targets", None)
    given = labels if labels is not None else kept
    if given is None or given is False:
        return None
    found = _whole(given)
    if len(found) != len(items):
        raise ValueError(f"need one label per image, got {len(found)} for {len(items)} images")
    return found


def _whole(values: Any) -> Tensor:
    y = torch.as_tensor(values)
    if y.ndim != 1 or y.is_floating_point() or y.dtype == torch.bool:
        raise ValueError(f"labels are whole numbers, one per image, got {y.dtype} {tuple(y.shape)}")
    return y.long()


def _part(item: Any, where: int | str | None, place: int, key: str) -> Any:
    """Image or label of an item; None for a label that is not there."""
    if isinstance(item, dict):
        return item.get(key if where is None else where)
    if isinstance(item, tuple | list):
        place = place if where is None else int(where)
        return item[place] if place < len(item) else None
    return item if place == 0 else None


def _progress(items: Sized) -> Any:
    from tqdm import tqdm

    quiet = True if os.environ.get("RANK", "0") != "0" else None
    return tqdm(range(len(items)), desc="reading", unit="image", disable=quiet, delay=1)
