"""Numbers per sample against tensors of any rank: the only places that know about shapes."""

from __future__ import annotations

import torch
from torch import Tensor

Time = int | float | Tensor
"""A time for the whole batch, or one for each sample, (B,)."""
Coefficient = float | Tensor
"""What multiplies data: a number, or one per sample in a shape that broadcasts."""
Pair = tuple[Tensor, Tensor]


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
    if v.ndim != 1 or len(v) != len(x):
        raise ValueError(
            f"expected one number per sample, shape ({len(x)},), but got shape {tuple(v.shape)}"
        )
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


def check_same_shape(x: Tensor, other: Tensor, name: str) -> None:
    """Raise ValueError, calling ``other`` by ``name``, unless it has the shape of ``x``."""
    if other.shape != x.shape:
        raise ValueError(
            f"{name} must have the shape of the data, {tuple(x.shape)}, got {tuple(other.shape)}"
        )


def cast(c: Coefficient, x: Tensor) -> Coefficient:
    """The coefficient in the dtype of ``x``; numbers stay as they are."""
    return c.to(x.dtype) if isinstance(c, Tensor) else c


def exact(x: Tensor) -> torch.dtype:
    """The dtype in which coefficients are formed: float64, but on Apple's GPU, which has none."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def per_sample(t: Time, x: Tensor) -> Tensor:
    """A time as one for each sample of ``x``, (B,), on its device: int64 where it is whole."""
    if isinstance(t, Tensor):
        return t
    dtype = torch.int64 if isinstance(t, int) else exact(x)
    return torch.full((len(x),), t, device=x.device, dtype=dtype)
