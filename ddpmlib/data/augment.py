"""Random flips and shifts of image batches."""

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
