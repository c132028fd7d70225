"""Densities at the end of a chain: log p(x_0|x_1) of real numbers and of 8-bit values."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ddpmlib.broadcast import check_broadcast
from ddpmlib.equations import equation

Decoder = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x0, mean, log_var), broadcast together -> log p(x_0|x_1) of each dimension, in nats."""


def continuous(x0: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """Log-density of a Gaussian decoder, for data that are real numbers."""
    check_broadcast(x0, mean, log_var)
    return -0.5 * ((x0 - mean) ** 2 / log_var.exp() + log_var + math.log(2 * math.pi))


@equation("4.13")
def discretised(x0: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """Log-probability of an 8-bit value under a Gaussian: the mass of its bin.

    The 256 bins are 2/255 wide around −1, −1 + 2/255, …, 1; the outer ones reach to infinity, so
    the probabilities of all bins add up to one (Ho et al. 2020, eq. 13). Accurate in float32 for a
    Gaussian much narrower than a bin and for one much wider, as far out as a logarithm can be
    written.
    """
    check_broadcast(x0, mean, log_var)
    half = 1 / 255
    centre, h = (x0 - mean) * torch.exp(-0.5 * log_var), half * torch.exp(-0.5 * log_var)
    lowest, highest = torch.special.log_ndtr(centre + h), torch.special.log_ndtr(h - centre)
    inner = _log_mass(centre.abs(), h)
    return torch.where(x0 < -1 + half, lowest, torch.where(x0 > 1 - half, highest, inner))


def _log_mass(c: Tensor, h: Tensor) -> Tensor:
    """log(Φ(c + h) − Φ(c − h)) for c ≥ 0 and h > 0."""
    wide = h * (1 + c) < 0.1  # the bin is small against the Gaussian: integrate Taylor's series
    small = torch.where(wide, h, 0.0) ** 2  # where() on the way in as well, for the gradient's sake
    c2 = torch.where(wide, c, 0.0) ** 2
    fourth, sixth = c2**2 - 6 * c2 + 3, c2**3 - 15 * c2**2 + 45 * c2 - 15  # Hermite's
    series = torch.log1p(small * ((c2 - 1) / 6 + small * (fourth / 120 + small * sixth / 5040)))
    density = math.log(2 / math.sqrt(2 * math.pi)) - 0.5 * c2
    # On the left side of the bell, Φ(h − c) − Φ(−h − c), neither logarithm cancels.
    h = torch.where(wide, 1.0, h)
    above, below = torch.special.log_ndtr(h - c), torch.special.log_ndtr(-h - c)
    return torch.where(
        wide, density + torch.where(wide, small, 1.0).log() / 2 + series,
        above + _log1mexp(below - above),
    )  # fmt: skip


def _log1mexp(d: Tensor) -> Tensor:
    """log(1 − eᵈ) for d < 0, without cancellation at either end."""
    near = d > -math.log(2)
    return torch.where(
        near,
        torch.log(-torch.expm1(torch.where(near, d, -1.0))),
        torch.log1p(-torch.exp(torch.where(near, -1.0, d))),
    )
