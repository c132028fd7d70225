"""Other people's notation, to and from the book's: noise levels, noisy data, what a network says.

Every convention writes noisy data as z = a x_0 + b ε and has a label u for the pair (a, b): a step,
a time in [0, 1], a σ, a γ. The common currency is the log-SNR λ = 2 log(a/b), which all of them
can name; the book's own data at that level are x_t = z / √(a² + b²). What a network says is a
:class:`~ddpmlib.denoiser.parameterization.Parameterization`, whatever the convention: its
``scale`` and ``std`` are then a and b.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.functional import jvp
from torch.nn.functional import logsigmoid

from ddpmlib.broadcast import expand
from ddpmlib.equations import equation

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Convention:
    """One way to write noisy data and to name their noise level.

    Attributes:
        coefficients: labels u, any shape -> a and b of z = a x_0 + b ε, shape of u.
        label: log-SNR, any shape -> the label of that noise level, shape of it.
    """

    coefficients: Callable[[Tensor], Pair]
    label: Callable[[Tensor], Tensor]

    @equation("B.2")
    def log_snr(self, u: Tensor) -> Tensor:
        """λ = 2 log(a/b) of the labels u; +inf for clean data, −inf for pure noise."""
        a, b = self.coefficients(u)
        return 2 * (a.log() - b.log())

    @equation("B.2")
    def to_book(self, u: Tensor, z: Tensor) -> Pair:
        """The book's log-SNR (B,) and x_t (B, ...) of data z (B, ...) with labels u (B,)."""
        a, b = self.coefficients(u)
        return self.log_snr(u), z / expand(torch.hypot(a, b), z).to(z.dtype)

    @equation("B.2")
    def from_book(self, log_snr: Tensor, x_t: Tensor) -> Pair:
        """Labels u (B,) and data z (B, ...) of the book's x_t (B, ...) with log-SNR (B,)."""
        u = self.label(log_snr)
        a, b = self.coefficients(u)
        return u, x_t * expand(torch.hypot(a, b), x_t).to(x_t.dtype)

    @equation("B.12")
    def velocity(self, u: Tensor, x0: Tensor, eps: Tensor) -> Tensor:
        """dz/du = a'(u) x_0 + b'(u) ε; with beliefs in their place, the probability-flow ODE.

        Args:
            u: labels (B,), floating point.
            x0, eps: (B, ...).

        Raises:
            ValueError: if the labels are whole numbers, between which nothing flows.
        """
        if not u.is_floating_point():
            raise ValueError("a velocity needs a label that flows, but these labels count steps")
        # Forward-mode derivatives (torch.func) warn when they are loaded. These need a tensor that
        # autograd may record, whatever mode the caller is in.
        with torch.inference_mode(False):
            u = u.detach().clone()
            da, db = jvp(self.coefficients, u, torch.ones_like(u))[1]
        return expand(da, x0).to(x0.dtype) * x0 + expand(db, eps).to(eps.dtype) * eps


@equation("B.3")
def kernel(log_snr: Tensor) -> Pair:
    """The book's scale √ᾱ and std √(1−ᾱ) at a log-SNR, same shape: ᾱ = 1 / (1 + e^−λ)."""
    return (0.5 * logsigmoid(log_snr)).exp(), (0.5 * logsigmoid(-log_snr)).exp()


# ---- continuous levels -------------------------------------------------------------------

VDM = Convention(lambda gamma: kernel(-gamma), lambda lam: -lam)
"""Variational diffusion (Kingma et al. 2021): u is γ = −λ, a = α = √sigmoid(−γ), b = σ."""

EDM = Convention(lambda sigma: (torch.ones_like(sigma), sigma), lambda lam: (-lam / 2).exp())
"""Karras et al. (2022): u is σ and z = x_0 + σ ε."""

RECTIFIED = Convention(lambda u: (1 - u, u), lambda lam: torch.sigmoid(-lam / 2))
"""Straight lines with the data at u = 0: z = (1−u) x_0 + u ε (Esser et al. 2024)."""


@equation("B.8")
def vp_sde(beta_min: float = 0.1, beta_max: float = 20.0) -> Convention:
    """Song et al. (2021): u in [0, 1], dz = −½ β(u) z du + √β(u) dω with a straight β(u).

    Args:
        beta_min, beta_max: β at 0 and at 1, 0 ≤ beta_min < beta_max.

    Raises:
        ValueError: if they are not ordered like that.
    """
    if not 0 <= beta_min < beta_max < math.inf:
        raise ValueError(f"β(u) must rise from 0 or above, got {beta_min:g} to {beta_max:g}")
    slope = beta_max - beta_min

    def coefficients(u: Tensor) -> Pair:
        total = beta_min * u + slope / 2 * u**2  # ∫β from 0 to u
        return (-total / 2).exp(), (-torch.expm1(-total)).sqrt()

    def label(lam: Tensor) -> Tensor:
        total = -logsigmoid(lam)  # −log ᾱ
        u = 2 * total / (beta_min + (beta_min**2 + 2 * slope * total).sqrt())
        return torch.where(total.isinf(), total, u)  # pure noise: after infinite time

    return Convention(coefficients, label)


@equation("B.10")
def ve_sde(sigma_min: float = 0.01, sigma_max: float = 50.0) -> Convention:
    """Song et al. (2021): u in [0, 1], z = x_0 + σ(u) ε, σ(u) = σ_min (σ_max/σ_min)^u.

    Raises:
        ValueError: unless 0 < sigma_min < sigma_max.
    """
    if not 0 < sigma_min < sigma_max < math.inf:
        raise ValueError(f"σ(u) must rise from above 0, got {sigma_min:g} to {sigma_max:g}")
    low, rise = torch.tensor([sigma_min, sigma_max / sigma_min], dtype=torch.float64).log().tolist()

    def coefficients(u: Tensor) -> Pair:
        return torch.ones_like(u), (low + rise * u).exp()

    return Convention(coefficients, lambda lam: (-lam / 2 - low) / rise)


def flow_matching(sigma_min: float = 0.0) -> Convention:
    """Lipman et al. (2023), data at u = 1: z = u x_0 + (1 − (1−σ_min) u) ε.

    With ``sigma_min`` = 0 it is also Liu et al. (2023), who call our x_0 X_1 and our ε X_0.

    Raises:
        ValueError: unless 0 ≤ sigma_min < 1.
    """
    check_sigma_min(sigma_min)
    fall = 1 - sigma_min
    # u = r / (1 + (1−σ_min) r) with r = a/b = e^{λ/2}, written so that no r overflows.
    return Convention(lambda u: (u, 1 - fall * u), lambda lam: 1 / (torch.exp(-lam / 2) + fall))


def check_sigma_min(sigma_min: float) -> None:
    """Raise ValueError unless 0 ≤ σ_min < 1."""
    if not 0 <= sigma_min < 1:
        raise ValueError(f"sigma_min must lie in [0, 1), got {sigma_min:g}")
