"""What comes in from outside: tensors, arrays of NumPy, images; what is none of it is refused.

Kind, dtype and shape are checked everywhere. Values are looked into only where work is done once,
by a metric or a plot: in a step of a sampler or of training the CPU would have to wait for the GPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

PIXELS = 8.0
"""Floats without a negative one that go beyond this are pixels 0..255, not images in [-1, 1]."""


def as_tensor(x: Any, name: str = "data") -> Tensor:
    """A tensor as it is; an array of NumPy as a tensor that shares its memory where it can.

    Args:
        x: tensor or array.
        name: what an error calls it.

    Raises:
        ValueError: for anything else, or an array of what are no numbers.
    """
    if isinstance(x, Tensor):
        return x
    if not isinstance(x, np.ndarray):
        raise ValueError(f"{name} must be a tensor or an array of NumPy, got {type(x).__name__}")
    # PyTorch shares no memory that must not be written to, or that runs backwards.
    shared = x.flags.writeable and all(step >= 0 for step in x.strides)
    try:
        return torch.from_numpy(x if shared else x.copy())
    except TypeError as error:
        raise ValueError(f"{name} must hold numbers, got an array of {x.dtype}") from error


def as_floats(x: Any, name: str = "data") -> Tensor:
    """As :func:`as_tensor`, of floating-point numbers.

    Raises:
        ValueError: for integers (uint8 images: see :func:`ddpmlib.data.to_float`) and others.
    """
    x = as_tensor(x, name)
    check_floats(x, name)
    return x


def check_floats(x: Any, name: str = "data") -> None:
    """Raise ValueError unless ``x`` is a tensor of floating-point numbers."""
    if not isinstance(x, Tensor):
        raise ValueError(f"{name} must be a tensor, got {type(x).__name__}")
    if not x.is_floating_point():
        raise ValueError(f"{name} must be floating point, images in [-1, 1], got {x.dtype}")


def check_readable(x: Tensor, name: str = "data") -> None:
    """Raise ValueError if the tensor holds no values that could be looked at."""
    if x.is_meta:
        raise ValueError(f"{name} are on the meta device, where tensors hold no values")


def as_values(x: Any, name: str) -> Tensor:
    """As :func:`as_tensor`, of real numbers that can be read and are finite.

    Raises:
        ValueError: for complex numbers, NaN, infinity, and tensors of the meta device.
    """
    x = as_tensor(x, name)
    check_readable(x, name)
    if x.is_complex() or x.dtype == torch.bool:
        raise ValueError(f"{name} are real numbers, got {x.dtype}")
    if not bool(x.isfinite().all()):
        raise ValueError(f"{name} hold NaN or infinity, with which nothing can be compared")
    return x


def as_images(x: Any, name: str = "images") -> Tensor:
    """Images as uint8 0..255, or as floats that are meant to lie in [-1, 1].

    Samples and noisy images leave [-1, 1]; what cannot be meant is refused.

    Args:
        x: tensor or array, of any shape.
        name: what an error calls them.

    Raises:
        ValueError: for other integers, for NaN, and for floats that are pixels 0..255.
    """
    x = as_tensor(x, name)
    if x.dtype != torch.uint8 and not x.is_floating_point():
        raise ValueError(f"{name} are uint8 0..255 or floats in [-1, 1], got {x.dtype}")
    check_readable(x, name)
    if x.dtype == torch.uint8 or not x.numel():
        return x
    low, high = x.detach().aminmax()
    if bool(low.isnan()):
        raise ValueError(f"{name} hold NaN: the network that made them has diverged")
    if low >= 0 and high > PIXELS:
        raise ValueError(
            f"{name} of floats lie in [-1, 1], but these in [{float(low):g}, {float(high):g}]: "
            "give pixels 0..255 as uint8"
        )
    return x


def check_asked(x: Any, t: Any, weight: Tensor) -> None:
    """Raise ValueError unless a network with this weight can be asked at (x, t).

    Args:
        x: must be floats of the weight's dtype, but under autocast, and on its device.
        t: must be one time per sample, (B,); None: the network is told none.
        weight: one of the network's.
    """
    check_floats(x, "x")
    autocast = torch.is_autocast_enabled(x.device.type) if not x.is_meta else False
    if x.device != weight.device or (x.dtype != weight.dtype and not autocast):
        raise ValueError(
            f"the network computes in {weight.dtype} on {weight.device}, and x is {x.dtype} on "
            f"{x.device}: move one to the other"
        )
    if t is None:
        return
    if not isinstance(t, Tensor) or t.shape != x.shape[:1] or t.is_complex():
        got = f"{t.dtype} {tuple(t.shape)}" if isinstance(t, Tensor) else type(t).__name__
        raise ValueError(f"a network is told one time per sample, ({len(x)},), got {got}")
    if t.device != x.device:
        raise ValueError(f"times lie on the device of the data, {x.device}, got {t.device}")


def check_whole(name: str, value: Any, least: int = 1) -> None:
    """Raise ValueError unless the value is a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name} must be a whole number, at least {least}, got {value!r}")
