"""Numbers per sample against tensors of any rank: the only places that know about shapes."""

from __future__ import annotations

import torch
from torch import Tensor

from ddpmlib.inputs import check_floats

Time = int | float | Tensor
"""A time for the whole batch, or one for each sample, (B,)."""
Coefficient = float | Tensor
"""What multiplies data: a number, or one per sample in a shape that broadcasts."""
Pair = tuple[Tensor, Tensor]
NO_FLOAT64 = ("mps",)
"""Kinds of devices that have no double precision: Apple's GPUs."""


def expand(v: Tensor, x: Tensor) -> Tensor:
    """Give one number per sample the rank of ``x``.

    Args:
        v: shape (B,).
        x: shape (B, ...), any rank.

    Returns:
        ``v`` with shape (B, 1, ..., 1), ready to be multiplied with ``x``.

    Raises:
        ValueError: if ``v`` does not hold exactly one number per sample of ``x``.
    """
    if v.shape != x.shape[:1] or v.ndim != 1:
        raise ValueError(
            f"expected one number per sample, shape {tuple(x.shape[:1])}, but got shape "
            f"{tuple(v.shape)}"
        )
    if v.device != x.device:
        raise ValueError(f"numbers per sample lie on {v.device}, and the data on {x.device}")
    return v.reshape(-1, *[1] * (x.ndim - 1))


def flat_mean(x: Tensor) -> Tensor:
    """Mean over everything but the batch: (B, ...) -> (B,)."""
    return x.flatten(1).mean(1) if x.ndim > 1 else x


def weighted_sum(a: float | Tensor, x: Tensor, b: float | Tensor, y: Tensor) -> Tensor:
    """a·x + b·y, with one pass over the data less than it is written with.

    Args:
        a, b: numbers, or tensors of ``x``'s rank that broadcast.
        x, y: the same shape.
    """
    x = x if isinstance(a, int) and a == 1 else a * x
    return torch.addcmul(x, b, y) if isinstance(b, Tensor) else torch.add(x, y, alpha=b)


def check_alike(x: Tensor, other: Tensor, name: str) -> None:
    """Raise ValueError, calling ``other`` by ``name``, unless it has the shape of ``x``.

    Both must be floating point, of one dtype and on one device: mixed numbers would change the
    dtype of a chain on its way.
    """
    check_floats(x)
    if not isinstance(other, Tensor):
        raise ValueError(f"{name} must be a tensor like the data, got {type(other).__name__}")
    if other.shape != x.shape:
        raise ValueError(
            f"{name} must have the shape of the data, {tuple(x.shape)}, got {tuple(other.shape)}"
        )
    if other.dtype != x.dtype or other.device != x.device:
        raise ValueError(
            f"{name} must be of the dtype and on the device of the data, {x.dtype} on {x.device}, "
            f"got {other.dtype} on {other.device}"
        )


def check_broadcast(*tensors: Tensor) -> None:
    """Raise ValueError unless these are floats of one dtype, on one device, that broadcast."""
    for x in tensors:
        check_floats(x)
    kinds = {(x.dtype, x.device) for x in tensors}
    shapes = [tuple(x.shape) for x in tensors]
    try:
        torch.broadcast_shapes(*shapes)
    except RuntimeError:
        raise ValueError(f"shapes must broadcast, got {shapes}") from None
    if len(kinds) > 1:
        found = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
        raise ValueError(f"tensors must be of one dtype and on one device, got {found}")


def check_both_times(t: Time, s: Time) -> None:
    """Raise ValueError if both are tensors, of other shapes or on other devices."""
    if not isinstance(t, Tensor) or not isinstance(s, Tensor):
        return
    if (t.shape, t.device) != (s.shape, s.device):
        raise ValueError(
            f"both times of a step are of one shape and on one device, got {tuple(t.shape)} on "
            f"{t.device} and {tuple(s.shape)} on {s.device}"
        )


def cast(c: Coefficient, x: Tensor) -> Coefficient:
    """The coefficient in the dtype of ``x``; numbers stay as they are."""
    return c.to(x.dtype) if isinstance(c, Tensor) else c


def exact_on(device: torch.device) -> torch.dtype:
    """The dtype in which coefficients are formed: float64, but on Apple's GPU, which has none."""
    return torch.float32 if device.type in NO_FLOAT64 else torch.float64


def exact(x: Tensor) -> torch.dtype:
    """:func:`exact_on` the device of ``x``."""
    return exact_on(x.device)


def per_sample(t: Time, x: Tensor) -> Tensor:
    """A time as one for each sample of ``x``, (B,), on its device: int64 where it is whole.

    Raises:
        ValueError: unless ``x`` is (B, ...) and a tensor of times is (B,).
    """
    check_floats(x)
    if not x.ndim:
        raise ValueError("data are (B, ...), a batch of samples, got a single number")
    if isinstance(t, Tensor):
        expand(t, x)  # refuses what is not one per sample
        return t
    if isinstance(t, bool) or not isinstance(t, int | float):
        raise ValueError(f"a time is a number or a tensor (B,), got {type(t).__name__}")
    dtype = torch.int64 if isinstance(t, int) else exact(x)
    return torch.full((len(x),), t, device=x.device, dtype=dtype)
