"""What may be trained on: checked where it is handed over, before anything is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ddpmlib.condition import Condition, count, each, emptied, is_conditional
from ddpmlib.data.samples import Samples

CHUNK = 4096  # samples at a time


def checked_samples(x: Any) -> Tensor | Samples:
    """Training data as a trainer holds them; NumPy arrays become tensors.

    Args:
        x: uint8 images, float images (N, C, H, W) in [-1, 1], other float samples (N, ...) in any
            range, or :class:`ddpmlib.data.samples.Samples`.

    Raises:
        TypeError: if it is something else.
        ValueError: for other numbers, float images beyond [-1, 1], or what is not finite.
    """
    if isinstance(x, np.ndarray):
        x = torch.from_numpy(np.ascontiguousarray(x).copy())
    if not isinstance(x, Tensor):
        if hasattr(x, "batch") and hasattr(x, "__len__"):
            return x
        raise TypeError(
            f"training data are a tensor, a NumPy array or samples read in batches, got "
            f"{type(x).__name__}: ddpmlib.data.from_map_style reads a map-style data set"
        )
    if not x.ndim or not len(x):
        raise ValueError(f"training data are samples (N, ...), at least one, got {tuple(x.shape)}")
    if x.dtype != torch.uint8 and not x.is_floating_point():
        raise ValueError(f"data are uint8 images or float points, got {x.dtype}")
    if x.is_floating_point():
        _check_range(x)
    return x


def sample_shape(x: Tensor | Samples) -> tuple[int, ...]:
    """The shape of one sample."""
    first = x if isinstance(x, Tensor) else x.batch(torch.zeros(1, dtype=torch.int64))
    return tuple(first.shape[1:])


def _check_range(x: Tensor) -> None:
    for part in x.split(CHUNK):
        if not bool(part.isfinite().all()):
            raise ValueError("training data hold NaN or infinity")
        if x.ndim == 4 and float(part.abs().max()) > 1:
            low, high = float(x.min()), float(x.max())
            raise ValueError(
                f"float images lie in [-1, 1], got {low:.3g}..{high:.3g}: give uint8 images, or "
                "scale them"
            )


def checked_condition(y: Any, n: int, model: nn.Module) -> Condition | None:
    """Labels or another condition as a trainer holds it; whole numbers (N,) become int64.

    Args:
        y: one entry for each of ``n`` samples, or None.
        n: number of samples.
        model: if it says how many classes it knows, labels must be among them; its null label,
            which means none, is no class to be trained.

    Raises:
        TypeError: if it is no array, tensor or list of numbers, nor a mapping of these.
        ValueError: if there are more or fewer than samples, or a label is no class.
    """
    if y is None:
        return None
    y = {k: _tensor(v) for k, v in y.items()} if isinstance(y, Mapping) else _tensor(y)
    if (labels := count(y)) != n:
        raise ValueError(f"need one label per sample, got {labels} labels for {n} samples")
    y = each(_whole, y)
    classes = _classes_of(model, y)
    if isinstance(y, Tensor) and y.dtype == torch.int64 and y.ndim == 1 and classes and n:
        low, high = int(y.min()), int(y.max())
        if low < 0 or high >= classes:
            raise ValueError(
                f"labels must lie in 0..{classes - 1}, as the model knows {classes} classes, got "
                f"{low}..{high}" + (": count them from 0" if (low, high) == (1, classes) else "")
            )
    return y


def _tensor(values: Any) -> Tensor:
    if isinstance(values, list | tuple):
        values = _array(values)
    if isinstance(values, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(values).copy())
    if not isinstance(values, Tensor):
        raise TypeError(f"labels are a tensor, an array or a list, got {type(values).__name__}")
    return values


def _array(values: list[Any] | tuple[Any, ...]) -> np.ndarray:
    try:
        found = np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"labels in a list must make an array: {error}") from error
    if found.dtype.kind not in "buif":
        raise TypeError(f"labels in a list must be numbers, got {found.dtype}")
    return found


def _whole(y: Tensor) -> Tensor:
    """Labels of a smaller type as int64."""
    whole = not y.is_floating_point() and y.dtype != torch.bool and not y.is_complex()
    return y.long() if whole and y.ndim == 1 else y


def _classes_of(model: nn.Module, y: Condition) -> int:
    """How many classes a model knows; 0 if it does not say."""
    config = getattr(getattr(model, "net", model), "config", None)
    if isinstance(known := getattr(config, "num_classes", None), int):
        return known
    if not is_conditional(model) or not isinstance(y, Tensor) or y.ndim != 1 or not len(y):
        return 0
    null = emptied(model, y[:1])
    return int(null) if isinstance(null, Tensor) and null.dtype == torch.int64 else 0
