"""Tensors, NumPy arrays and .npz files as data sets, checked where they come in."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddpmlib.data import pictures
from ddpmlib.data.archives import KEYS
from ddpmlib.data.folders import TEST_SHARE, most_bytes
from ddpmlib.data.sets import Dataset, Source

IMAGES, LABELS = ("x", "images", "arr_0"), ("y", "labels", "arr_1")  # names in an .npz file
MOST_CHANNELS = 16


def from_arrays(
    name: str,
    x: np.ndarray | Tensor,
    y: Any = None,
    x_test: np.ndarray | Tensor | None = None,
    y_test: Any = None,
    *,
    classes: Sequence[str] = (),
    source: Source | None = None,
) -> Dataset:
    """A data set of images that are at hand.

    >>> import numpy as np
    >>> photos = np.zeros((30, 40, 56, 3), dtype=np.uint8)
    >>> images = from_arrays("photos", photos)
    >>> images.image_shape, len(images.x_train), len(images.x_test)
    ((3, 40, 56), 27, 3)

    Args:
        name: of the data set, a plain file name.
        x: uint8 images: an array (N, H, W) or (N, H, W, C), a tensor (N, H, W) or (N, C, H, W).
        y: whole numbers 0..K−1, one per image, or None.
        x_test, y_test: to measure with; without ``x_test`` every tenth image is kept for it.
        classes: names of the K classes; by default their numbers.
        source: see :class:`ddpmlib.data.sets.Source`.

    Raises:
        TypeError: if something is neither an array nor a tensor.
        ValueError: for other numbers or shapes, labels that are negative or no whole numbers.
    """
    images, labels = _planes("x", x), None if y is None else _whole("y", y)
    if labels is not None and len(labels) != len(images):
        raise ValueError(f"need one label per image, got {len(labels)} for {len(images)} images")
    if x_test is None:
        test = torch.arange(len(images)) % TEST_SHARE == TEST_SHARE - 1
        parts = images[~test], images[test]
        y_train, y_own = (None, None) if labels is None else (labels[~test], labels[test])
    else:
        parts = images, _planes("x_test", x_test)
        y_train, y_own = labels, None if y_test is None else _whole("y_test", y_test)
    if y_train is not None and not classes:
        most = max(int(part.max()) for part in (y_train, y_own) if part is not None and len(part))
        classes = [str(k) for k in range(most + 1)]
    return Dataset(name, parts[0], y_train, parts[1], y_own, tuple(classes), source)


def _tensor(name: str, values: Any) -> Tensor:
    if isinstance(values, np.ndarray):
        if values.dtype.kind not in "buif":
            raise ValueError(f"{name} must hold numbers, got an array of {values.dtype}")
        return torch.from_numpy(np.ascontiguousarray(values).copy())
    if not isinstance(values, Tensor):
        raise TypeError(f"{name} must be a NumPy array or a tensor, got {type(values).__name__}")
    return values


def _planes(name: str, values: Any) -> Tensor:
    """(N, C, H, W) uint8."""
    last = isinstance(values, np.ndarray)  # channels come last in arrays, first in tensors
    x = _tensor(name, values)
    if x.dtype != torch.uint8:
        raise ValueError(
            f"{name} must hold uint8 images 0..255, got {x.dtype}: multiply by 255 or 127.5 what "
            "was scaled, and convert it yourself, as only you know its range"
        )
    layout = "(N, H, W) or (N, H, W, C)" if last else "(N, H, W) or (N, C, H, W)"
    if x.ndim not in (3, 4) or not x.numel():
        raise ValueError(f"{name} must be images {layout}, got shape {tuple(x.shape)}")
    if x.ndim == 3:
        return x[:, None].contiguous()
    if last:
        x = x.permute(0, 3, 1, 2).contiguous()
    if x.shape[1] > MOST_CHANNELS:
        raise ValueError(
            f"{name} must be images {layout} of at most {MOST_CHANNELS} channels, got "
            f"{x.shape[1]}: is the axis of the channels at another place?"
        )
    return x


def _whole(name: str, values: Any) -> Tensor:
    """(N,) int64, not negative."""
    y = _tensor(name, np.asarray(values) if isinstance(values, list | tuple) else values)
    if y.ndim != 1 or y.is_floating_point() or y.dtype == torch.bool:
        raise ValueError(
            f"{name} must hold whole numbers, one per image, got {y.dtype} {tuple(y.shape)}"
        )
    y = y.long()
    if len(y) and int(y.min()) < 0:
        raise ValueError(f"{name} must hold labels 0..K−1, got {int(y.min())}")
    return y


# ---- sizes -------------------------------------------------------------------------------------


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 images (N, C, h, w) -> (N, C, H, W), as :func:`ddpmlib.data.pictures.resized` does."""
    from PIL import Image

    if tuple(x.shape[2:]) == tuple(size):
        return x
    out = torch.empty(*x.shape[:2], *size, dtype=torch.uint8)
    for i, image in enumerate(x):
        for c, plane in enumerate(image):
            scaled = pictures.resized(Image.fromarray(plane.numpy()), size)
            out[i, c] = torch.from_numpy(np.array(scaled))
    return out


def _coloured(x: Tensor, grey: bool | None, before: bool) -> Tensor:
    """With one channel or three, if that is asked; with one anyway if three are the same."""
    c = x.shape[1]
    if before and not grey and c not in (1, 3):
        return x
    if c == 3 and (grey or (grey is None and bool((x == x[:, :1]).all()))):
        weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)  # ITU-R 601, as Pillow's
        return x[:, :1].clone() if grey is None else (x * weights).sum(1, True).round().byte()
    if c == 1 and grey is False:
        return x.expand(-1, 3, -1, -1).contiguous()
    if c not in (1, 3) and grey is not None:
        raise ValueError(f"images of {c} channels are neither grey nor RGB, and stay as they are")
    return x


# ---- files -------------------------------------------------------------------------------------


def from_npz(
    path: Path | str,
    name: str,
    *,
    size: tuple[int, int] | None = None,
    grey: bool | None = None,
    fit: Callable[[tuple[int, int]], tuple[int, int]] = lambda size: size,
    before: bool = False,
) -> Dataset:
    """A data set from an .npz file, from which nothing is ever unpickled.

    Args:
        path: a file with x_train, y_train, x_test, y_test (both y may be missing); or with one
            array of images named x, images or arr_0 (the tools for FID write that), and maybe
            labels named y, labels or arr_1, of which every tenth is kept for the test. Names of
            the classes may lie beside them as an array of words, classes.
        name: of the data set.
        size: height and width to bring the images to; by default their own.
        grey: one channel or three; None for one if the three are always the same.
        fit: what becomes of the size, see :func:`ddpmlib.data.folders.nearest`.
        before: whether ``grey`` is that of a :class:`ddpmlib.data.sets.Source`, where False also
            stands for images of neither one channel nor three, which stay as they are.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no such archive, too large for the memory, or holds other arrays.
    """
    arrays = _arrays(Path(path))
    if "x_train" in arrays:
        found = [arrays.get(key) for key in KEYS]
    else:
        found = [next((arrays[k] for k in keys if k in arrays), None) for keys in (IMAGES, LABELS)]
    x, *others = found
    if x is None:
        raise ValueError(
            f"{path} holds {', '.join(sorted(arrays)) or 'nothing'}: images are looked for under "
            f"the names {', '.join(KEYS)}, or {', '.join(IMAGES)} with {', '.join(LABELS)}"
        )
    try:
        words = [str(word) for word in arrays.get("classes", ())]
        plain = from_arrays(name, x, *others, classes=words)
        x_train, x_test = (_coloured(x, grey, before) for x in (plain.x_train, plain.x_test))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if x_train.shape[1] != x_test.shape[1]:  # grey by chance in one part alone
        x_train, x_test = plain.x_train, plain.x_test
    own = fit(size or (plain.image_shape[1], plain.image_shape[2]))
    source = Source(str(Path(path).resolve()), own, x_train.shape[1] == 1)
    parts = resized(x_train, own), plain.y_train, resized(x_test, own), plain.y_test
    return Dataset(name, *parts, plain.classes, source)


def _arrays(path: Path) -> Mapping[str, np.ndarray]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            needed = sum(member.file_size for member in archive.infolist())
        if needed > (limit := most_bytes()):
            raise ValueError(f"{needed / 2**30:.1f} GiB do not fit into {limit / 2**30:.1f} GiB")
        with np.load(path, allow_pickle=False) as npz:
            return {key: npz[key] for key in npz.files}
    except Exception as error:
        raise ValueError(f"{path} is not a readable .npz file of arrays ({error})") from error
