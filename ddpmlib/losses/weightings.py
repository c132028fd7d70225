"""How much the error at each time counts."""

from collections.abc import Callable

import torch
from torch import Tensor

from ddpmlib.broadcast import exact
from ddpmlib.condition import Condition
from ddpmlib.denoiser.denoiser import Denoiser
from ddpmlib.denoiser.parameterization import weight
from ddpmlib.equations import equation
from ddpmlib.losses.objectives import l_simple
from ddpmlib.process.ddpm import DDPM
from ddpmlib.process.process import Process

Weighting = Callable[[Process, Tensor], Tensor]
"""(process, t (B,)) -> weight of the squared error of ε at these times, float64 (B,)."""


def _snr(process: Process, t: Tensor) -> Tensor:
    """SNR at noisy times."""
    _check_times(t)
    # Looking into a GPU tensor would make the CPU wait, so only CPU times are ranged.
    if t.device.type == "cpu" and t.numel():
        low, high = sorted((process.clean, process.end))
        if bool(((t == process.clean) | (t < low) | (t > high)).any()):
            what = f"1..{high}" if process.times_are_whole else f"noise in {process}"
            raise ValueError(f"weights belong to times in {what}, got {t.min():g}..{t.max():g}")
    return process.snr(t)


def _check_times(t: Tensor) -> None:
    if not isinstance(t, Tensor) or t.is_complex():
        raise ValueError(f"weights belong to times, a tensor (B,) of real numbers, got {t!r:.40}")


def simple(process: Process, t: Tensor) -> Tensor:
    """1 for every time (Ho et al. 2020, eq. 14); on x_0 that is SNR weighting."""
    _check_times(t)
    return torch.ones_like(t, dtype=exact(t))


@equation("4.12", "5.6")
def vlb(process: Process, t: Tensor) -> Tensor:
    """The exact weight of the bound with σ² = β̃: β_t² / (2 β̃_t α_t (1−ᾱ_t)), for t ≥ 2.

    On x_0 it is ½ (SNR(t−1) − SNR(t)) (Ho et al. 2020, eq. 12; Kingma et al. 2021, eq. 13). At
    t = 1, where the bound has a decoder instead, it is infinite.

    Raises:
        ValueError: if the process is no chain of steps, or a time is not in 1..T.
    """
    if not isinstance(process, DDPM):
        raise ValueError(f"the bound's weights are those of a chain of steps, not of {process}")
    _snr(process, t)  # refuses clean data
    beta, alpha, alpha_bar, beta_tilde = (
        process.table(name, t.device)[t] for name in ("beta", "alpha", "alpha_bar", "beta_tilde")
    )
    return beta**2 / (2 * beta_tilde * alpha * (1 - alpha_bar))


def uniform_on_x0(process: Process, t: Tensor) -> Tensor:
    """1/SNR: the squared error of x_0, unweighted."""
    return 1 / _snr(process, t)


def truncated_snr(process: Process, t: Tensor) -> Tensor:
    """max(SNR, 1) on x_0 (Salimans & Ho 2022, section 4): never less than the plain x_0-loss."""
    return torch.clamp(1 / _snr(process, t), min=1)


def min_snr(gamma: float = 5.0) -> Weighting:
    """min(SNR, γ) on x_0, which is min(1, γ/SNR) on ε (Hang et al. 2023, eq. 5).

    Raises:
        ValueError: if γ is not positive.
    """
    if not gamma > 0:
        raise ValueError(f"gamma is a signal-to-noise ratio and must be positive, got {gamma}")

    def weight(process: Process, t: Tensor) -> Tensor:
        return torch.clamp(gamma / _snr(process, t), max=1)

    return weight


@equation("4.11", "5.13")
def on_x0(weighting: Weighting, process: Process, t: Tensor) -> Tensor:
    """The weight of |x_0 − x̂_0|² that equals ``weighting`` on |ε − ε̂|²: times SNR(t); (B,)."""
    return weighting(process, t) * _snr(process, t)


@equation("5.12", "5.13", "7.1")
def weighted(
    weighting: Weighting,
    denoiser: Denoiser,
    x0: Tensor,
    t: Tensor,
    eps: Tensor,
    y: Condition | None = None,
) -> Tensor:
    """A weighting times the squared error of ε, whatever the network predicts.

    Other arguments as in :func:`l_simple`. The error is taken of the network's own output, where
    nothing is divided by a small number: |ε−ε̂|² = SNR |x_0−x̂_0|² = ᾱ |v−v̂|².

    Returns:
        (B,), in the dtype of ``x0``.
    """
    process, p = denoiser.process, denoiser.parameterization
    _check_times(t)
    scale, std = process.coefficients(t.to(exact(t)) if t.is_floating_point() else t)
    own = _snr(process, t) / weight(p, scale, std)  # both are weights of the same |x_0−x̂_0|²
    factor = weighting(process, t) * own
    loss = l_simple(denoiser, x0, t, eps, y)
    return factor.to(loss.dtype) * loss
