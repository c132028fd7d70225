"""Other people's notation, to and from the book's: noise levels, noisy data, what a network says.

Every convention writes noisy data as z = a x_0 + b ε and has a label u for the pair (a, b): a step,
a time in [0, 1], a σ, a γ. The common currency is the log-SNR λ = 2 log(a/b), which all of them
can name; the book's own data at that level are x_t = z / √(a² + b²). What a network says is a
:class:`~ddpmlib.denoiser.Parameterization`, whatever the convention: its ``scale`` and ``std`` are
then a and b.
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
from ddpmlib.denoiser import Parameterization
from ddpmlib.equations import equation
from ddpmlib.process import DDPM, Coefficient
from ddpmlib.schedules import log_snr as log_snr_of

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


# ---- the book's own levels, and tables that are indexed differently ----------------------


@equation("B.3")
def kernel(log_snr: Tensor) -> Pair:
    """The book's scale √ᾱ and std √(1−ᾱ) at a log-SNR, same shape: ᾱ = 1 / (1 + e^−λ)."""
    return (0.5 * logsigmoid(log_snr)).exp(), (0.5 * logsigmoid(-log_snr)).exp()


def nearest_time(process: DDPM, log_snr: Tensor) -> Tensor:
    """The time 0..T whose log-SNR is nearest, int64; 0 for clean data (λ = ∞) alone.

    Raises:
        ValueError: on the CPU, for what is not a number: a negative σ, say, is no noise level.
    """
    # Looking into a GPU tensor would make the CPU wait.
    if log_snr.device.type == "cpu" and bool(log_snr.isnan().any()):
        raise ValueError("a log-SNR is not a number: did the label leave its range?")
    table = log_snr_of(process.alpha_bar)
    between = (table[:-1] + table[1:]) / 2
    # searchsorted wants a rising table, and λ falls. A last entry of −∞ is between nothing.
    time = torch.searchsorted(-between.to(log_snr), -log_snr.contiguous())
    return torch.where(log_snr == -torch.inf, process.T, time)


def discrete(process: DDPM) -> Convention:
    """The book's own: u is the time t in 0..T, int64 (Ho et al. 2020; Nichol & Dhariwal 2021).

    Between two times it knows no label: ``label`` takes the nearest one.
    """

    def coefficients(t: Tensor) -> Pair:
        process._check_time(t)  # an index of −1 would be the noisiest entry
        return process.scale.to(t.device)[t], process.std.to(t.device)[t]

    return Convention(coefficients, lambda lam: nearest_time(process, lam))


def zero_based(process: DDPM) -> Convention:
    """Programs that count 0..T−1, as diffusers does: their index i is our t = i + 1.

    Clean data have no index; the label of λ = ∞ is −1, where their tables hold the noisiest entry.
    """
    ours = discrete(process)
    return Convention(lambda i: ours.coefficients(i + 1), lambda lam: ours.label(lam) - 1)


@equation("B.6")
def beta_from_alpha_bar(alpha_bar: Tensor) -> Tensor:
    """The book's β table of running products: β_t = 1 − ᾱ_t/ᾱ_{t−1}, with β_0 = 0.

    Args:
        alpha_bar: ᾱ_1, ..., ᾱ_T, shape (T,): ``alphas_cumprod`` of diffusers, α_1, ..., α_T of the
            DDIM paper.

    Returns:
        beta, float64 (T+1,), as :class:`~ddpmlib.process.DDPM` takes it.

    Raises:
        ValueError: if the products do not fall from below 1, as they do when β were given.
    """
    table = alpha_bar.double()
    falls = table.ndim == 1 and bool(torch.diff(table, prepend=table.new_ones(1)).lt(0).all())
    if not falls or bool((table < 0).any()):
        raise ValueError("running products fall: 1 > alpha_bar_1 > alpha_bar_2 > ...; are these β?")
    before = torch.cat([table.new_ones(1), table[:-1]])
    return torch.cat([table.new_zeros(1), 1 - table / before])


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
    _check_sigma_min(sigma_min)
    fall = 1 - sigma_min
    # u = r / (1 + (1−σ_min) r) with r = a/b = e^{λ/2}, written so that no r overflows.
    return Convention(lambda u: (u, 1 - fall * u), lambda lam: 1 / (torch.exp(-lam / 2) + fall))


def _check_sigma_min(sigma_min: float) -> None:
    if not 0 <= sigma_min < 1:
        raise ValueError(f"sigma_min must lie in [0, 1), got {sigma_min:g}")


# ---- what a network says -----------------------------------------------------------------


@equation("B.4", "B.5")
def linear(
    name: str, weights: Callable[[Coefficient, Coefficient], tuple[Coefficient, Coefficient]]
) -> Parameterization:
    """The parameterization of an answer F = p x_0 + q ε.

    Args:
        name: what to call it.
        weights: (a, b) -> (p, q), the coefficients of noisy data to those of the answer.

    Returns:
        target and split; the split divides by a q − b p, which is 0 where F only repeats z.
    """

    def target(x0: Tensor, eps: Tensor, a: Coefficient, b: Coefficient) -> Tensor:
        p, q = weights(a, b)
        return p * x0 + q * eps

    def split(output: Tensor, z: Tensor, a: Coefficient, b: Coefficient) -> Pair:
        p, q = weights(a, b)
        volume = a * q - b * p
        return (q * z - b * output) / volume, (a * output - p * z) / volume

    return Parameterization(name, target, split)


SCORE = linear("score", lambda a, b: (0.0, -1 / b))
"""The score of noisy data, ∇_z log p(z) = −E[ε|z]/b, in any convention."""

VELOCITY = linear("velocity", lambda a, b: (-1.0, 1.0))
"""dz/du of :data:`RECTIFIED`, ε − x_0: from the data to the noise."""


def flow_matching_velocity(sigma_min: float = 0.0) -> Parameterization:
    """dz/du of :func:`flow_matching`, x_0 − (1−σ_min) ε: from the noise to the data.

    Raises:
        ValueError: unless 0 ≤ sigma_min < 1.
    """
    _check_sigma_min(sigma_min)
    return linear("flow-matching velocity", lambda a, b: (1.0, sigma_min - 1.0))


@equation("B.11")
def edm_output(sigma_data: float = 0.5) -> Parameterization:
    """The raw network F_θ of Karras et al. (2022), D = c_skip z + c_out F, to use with :data:`EDM`.

    Args:
        sigma_data: their standard deviation of the data; 0.5 for images in [−1, 1]. With 1, F is
            −v.

    Raises:
        ValueError: if it is not positive.
    """
    if not 0 < sigma_data < math.inf:
        raise ValueError(f"sigma_data is a standard deviation, positive, got {sigma_data:g}")

    def weights(a: Coefficient, b: Coefficient) -> tuple[Coefficient, Coefficient]:
        length = (b**2 + sigma_data**2) ** 0.5  # (x_0 − c_skip z) / c_out, without 1 − c_skip
        return b / (sigma_data * length), -sigma_data / length

    return linear("EDM output", weights)


def edm_preconditioning(
    sigma: Coefficient, sigma_data: float = 0.5
) -> tuple[Coefficient, Coefficient, Coefficient]:
    """c_in, c_skip and c_out of Karras et al. (2022, table 1): D = c_skip z + c_out F(c_in z)."""
    total = sigma**2 + sigma_data**2
    return total**-0.5, sigma_data**2 / total, sigma * sigma_data / total**0.5


@equation("B.14")
def weight(p: Parameterization, a: Coefficient, b: Coefficient) -> Coefficient:
    """By what ‖x̂_0 − x_0‖² is multiplied in the squared error of the answer, at the same z.

    Args:
        p: a linear parameterization, see :func:`linear`; also EPS, X0 and V.
        a, b: coefficients of the noisy data, b > 0.

    Returns:
        the factor, as broad as a and b.
    """
    # An x̂_0 that is too large by one has, at the same z, an ε̂ that is too small by a/b.
    one = torch.ones((), dtype=torch.float64)
    return p.target(one, -(a / b) * one, a, b) ** 2
