"""Toy points in the plane, roughly within [-2, 2]²."""

import math

import torch
from torch import Tensor

# ---- toy points in the plane, roughly within [-2, 2]² ------------------------------------------


def moons(n: int, noise: float = 0.05, generator: torch.Generator | None = None) -> Tensor:
    """Two interleaved half circles, (n, 2) float32."""
    angle = torch.rand(n, generator=generator) * math.pi
    x = torch.stack([angle.cos(), angle.sin()], 1)
    second = torch.rand(n, generator=generator) < 0.5
    x[second] = torch.tensor([1.0, 0.5]) - x[second]
    centred = x - torch.tensor([0.5, 0.25])
    return 1.25 * (centred + noise * torch.randn(n, 2, generator=generator))


def spiral(n: int, noise: float = 0.03, generator: torch.Generator | None = None) -> Tensor:
    """A spiral of one and a half turns, (n, 2) float32, evenly filled along its length."""
    turn = torch.rand(n, generator=generator).sqrt()
    angle = 3 * math.pi * turn
    x = 1.8 * turn[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
    return x + noise * torch.randn(n, 2, generator=generator)


def checkerboard(n: int, generator: torch.Generator | None = None) -> Tensor:
    """Uniform on the dark squares of a 4×4 board over [-2, 2]², (n, 2) float32."""
    column = torch.randint(0, 4, (n,), generator=generator)
    row = 2 * torch.randint(0, 2, (n,), generator=generator) + column % 2
    corner = torch.stack([column, row], 1).float() - 2
    return corner + torch.rand(n, 2, generator=generator)


def ring(
    n: int, modes: int = 8, noise: float = 0.1, generator: torch.Generator | None = None
) -> Tensor:
    """A ring of Gaussians of radius 1.5, (n, 2) float32; see :func:`ring_means`."""
    k = torch.randint(0, modes, (n,), generator=generator)
    return ring_means(modes)[k] + noise * torch.randn(n, 2, generator=generator)


def ring_means(modes: int = 8) -> Tensor:
    """Centres of :func:`ring`, (modes, 2) float32."""
    angle = 2 * math.pi * torch.arange(modes) / modes
    return 1.5 * torch.stack([angle.cos(), angle.sin()], 1)
