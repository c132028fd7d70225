"""Random flips, shifts and changes of appearance of image batches."""

from collections.abc import Callable

import torch
from torch import Tensor

Augment = Callable[[Tensor, torch.Generator], Tensor]


def random_flip(x: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image (B, C, H, W) with probability one half."""
    flip = torch.rand(len(x), device=x.device, generator=generator) < 0.5
    return torch.where(flip[:, None, None, None], x.flip(-1), x)


def random_shift(x: Tensor, generator: torch.Generator, reach: int = 2) -> Tensor:
    """Shift each image (B, C, H, W) by up to ``reach`` pixels each way, filling with black (-1)."""
    b, c, h, w = x.shape
    padded = torch.nn.functional.pad(x, [reach] * 4, value=-1.0)
    dy, dx = torch.randint(0, 2 * reach + 1, (2, b), device=x.device, generator=generator)
    rows = (dy[:, None] + torch.arange(h, device=x.device))[:, None, :, None]
    cols = (dx[:, None] + torch.arange(w, device=x.device))[:, None, None, :]
    samples = torch.arange(b, device=x.device)[:, None, None, None]
    planes = torch.arange(c, device=x.device)[None, :, None, None]
    return padded[samples, planes, rows, cols]


def random_appearance(x: Tensor, generator: torch.Generator) -> Tensor:
    """Vary contrast, brightness, sharpness and grain of images (B, C, H, W) in [-1, 1].

    Each image for itself, and what is shown stays: values are stretched about mid-grey by 0.7 to
    1.2 and moved by up to 0.2, up to all of the image is replaced by its mean over 3×3 pixels
    (weights 1, 2, 1 each way), noise of standard deviation up to 0.15 is added, and all is clipped
    to [-1, 1]. A classifier that is trained so looks less at them: see chapter 8 of the book.
    """
    amounts = torch.rand(4, len(x), 1, 1, 1, device=x.device, generator=generator).to(x.dtype)
    contrast, brightness, blur, grain = amounts
    x = x * (0.7 + 0.5 * contrast) + 0.4 * (brightness - 0.5)
    x = x + blur * (_blurred(x) - x)
    noise = torch.randn(x.shape, device=x.device, generator=generator, dtype=x.dtype)
    return (x + 0.15 * grain * noise).clamp(-1, 1)


def _blurred(x: Tensor) -> Tensor:
    """The mean over 3×3 pixels with weights 1, 2, 1 each way; edges are continued outwards."""
    x = torch.nn.functional.pad(x, [1] * 4, mode="replicate")
    x = (x[..., :-2, :] + 2 * x[..., 1:-1, :] + x[..., 2:, :]) / 4
    return (x[..., :-2] + 2 * x[..., 1:-1] + x[..., 2:]) / 4
