"""Conditions: labels (B,), or several tensors (B, ...) by name, treated alike.

A network says what "without condition" is by two members, which denoisers and wrappers pass on:
``conditional``, whether it takes conditions at all, and ``without(y)``, the same condition emptied:
labels become the null label, an embedding of text that of the empty text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ddpmlib.broadcast import expand
from ddpmlib.inputs import as_tensor

Condition = Tensor | Mapping[str, Tensor]
"""What a network is told beside x_t and t."""
C = TypeVar("C", bound=Condition)


def as_condition(y: Any, x: Tensor) -> Any:
    """The condition of the samples ``x``, for which labels may be said in other ways.

    Args:
        y: a label for all samples, or a list or an array of NumPy with one for each; else a
            condition, which is handed on as it is, or None for none.
        x: the samples, (B, ...).

    Returns:
        labels (B,) int64 on the device of ``x``, the condition itself, or None.

    Raises:
        ValueError: for anything else, a negative label, or if there is not one entry per sample.
    """
    if y is None:
        return None
    if isinstance(y, Mapping):
        if not all(isinstance(v, Tensor) for v in y.values()):
            y = {
                name: as_tensor(v, f"the condition {name!r}").to(x.device) for name, v in y.items()
            }
    elif not isinstance(y, Tensor):
        y = _labels(y, len(x)).to(x.device)
    if (n := count(y)) != len(x):
        raise ValueError(f"need one condition per sample, got {n} for {len(x)} samples")
    if device_of(y).type == "meta" != x.device.type:
        raise ValueError("the condition is on the meta device, where tensors hold no values")
    return y


def _labels(y: Any, n: int) -> Tensor:
    if isinstance(y, int | np.integer) and not isinstance(y, bool):
        y = [int(y)] * n
    if isinstance(y, list | tuple | range):
        whole = all(isinstance(v, int | np.integer) and not isinstance(v, bool) for v in y)
        y = np.array(y, dtype=np.int64) if whole else y
    if not isinstance(y, np.ndarray) or y.dtype.kind not in "iuf":
        raise ValueError(
            "a condition is a tensor or a mapping of tensors by name, and labels are whole numbers,"
            f" one or one per sample, got {_kind(y)}"
        )
    if y.dtype.kind == "f":
        return as_tensor(y, "the condition")
    if y.size and y.min() < 0:
        raise ValueError(f"labels are counted from 0, got {y.min()}")
    return torch.from_numpy(y.astype(np.int64))


def each(function: Callable[..., Tensor], *conditions: Any) -> Any:
    """The function of a tensor, or of the tensors of each name.

    Args:
        function: of as many tensors as there are conditions.
        conditions: of one kind, with the same names.

    Raises:
        ValueError: if they are not of one kind.
    """
    first = conditions[0]
    if all(isinstance(y, Tensor) for y in conditions):
        return function(*conditions)
    named = all(isinstance(y, Mapping) and y.keys() == first.keys() for y in conditions)
    if not named:
        kinds = " and ".join(_kind(y) for y in conditions)
        raise ValueError(f"a condition is a tensor or a mapping of tensors by name, got {kinds}")
    return {name: function(*(y[name] for y in conditions)) for name in first}


def joined(a: C, b: C) -> C:
    """Both conditions as one of a batch as long as both."""
    return each(lambda u, v: torch.cat([u, v]), a, b)


def chosen(keep: Tensor, a: C, b: C) -> C:
    """``a`` for the samples where ``keep`` (B,) is true, ``b`` for the others."""
    return each(lambda u, v: torch.where(expand(keep, u), u, v), a, b)


def taken(y: C, index: Tensor | slice) -> C:
    """The condition of some samples of the batch."""
    return each(lambda u: u[index], y)


def moved(y: C, device: torch.device | str) -> C:
    """The condition on a device."""
    return each(lambda u: u.to(device), y)


def count(y: Condition) -> int:
    """Number of samples.

    Raises:
        ValueError: if the tensors of a mapping differ in it, or there are none.
    """
    sizes = {v.shape[:1] for v in ([y] if isinstance(y, Tensor) else y.values())}
    if len(sizes) != 1 or () in sizes:
        found = [tuple(size) for size in sizes] or None
        raise ValueError(f"a condition has one entry per sample in each tensor: {found}")
    return sizes.pop()[0]


def device_of(y: Condition) -> torch.device:
    """The device of its tensors."""
    return next(iter([y] if isinstance(y, Tensor) else y.values())).device


def is_conditional(denoiser: Any) -> bool:
    """Whether a network, a denoiser or a wrapper takes conditions that it can be without."""
    return bool(getattr(denoiser, "conditional", hasattr(denoiser, "without")))


def emptied(denoiser: Any, y: C) -> C:
    """What ``denoiser.without(y)`` says.

    Raises:
        ValueError: if it takes no condition that it can be without.
    """
    if not is_conditional(denoiser):
        raise ValueError(f"{type(denoiser).__name__} takes no condition that it can be without")
    found: C = denoiser.without(y)
    return found


def _kind(y: Any) -> str:
    return f"names {sorted(y)}" if isinstance(y, Mapping) else type(y).__name__
