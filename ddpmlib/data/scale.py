"""Pixels 0..255 and floats in [-1, 1], to and fro."""

import torch
from torch import Tensor


def to_float(x: Tensor) -> Tensor:
    """uint8 0..255 -> float32 in [-1, 1].

    Raises:
        ValueError: if ``x`` is not uint8 (data scaled twice look almost right and train badly).
    """
    if x.dtype != torch.uint8:
        raise ValueError(f"to_float takes uint8 images 0..255, got {x.dtype}")
    return x.float() / 127.5 - 1


def to_uint8(x: Tensor) -> Tensor:
    """Float images -> uint8, rounded; values outside [-1, 1] are clipped first.

    Raises:
        ValueError: if ``x`` does not hold floating-point numbers, or holds NaN.
    """
    if not x.is_floating_point():
        raise ValueError(f"to_uint8 takes float images in [-1, 1], got {x.dtype}")
    if bool(x.isnan().any()):
        raise ValueError("images hold NaN: the network that made them has diverged")
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
