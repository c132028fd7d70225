"""Numbers per sample against tensors of any rank: the only places that know about shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    pass


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


Time = int | Tensor
Coefficient = float | Tensor


def check_same_shape(x: Tensor, other: Tensor, name: str) -> None:
    if other.shape != x.shape:
        raise ValueError(
            f"{name} must have the shape of the data, {tuple(x.shape)}, got {tuple(other.shape)}"
        )


def cast(c: Coefficient, x: Tensor) -> Coefficient:
    return c.to(x.dtype) if isinstance(c, Tensor) else c
