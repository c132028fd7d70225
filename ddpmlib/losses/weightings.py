"""How much the error at each time counts."""

from collections.abc import Callable

import torch
from torch import Tensor

from ddpmlib.denoiser.denoiser import Denoiser
from ddpmlib.equations import equation
from ddpmlib.losses.objectives import l_simple
from ddpmlib.process.ddpm import DDPM

Weighting = Callable[[DDPM, Tensor], Tensor]
"""(process, t (B,)) -> weight of the squared error of ε at these times, float64 (B,)."""


# ---- how much each time counts ---------------------------------------------------------------


def _at(process: DDPM, name: str, t: Tensor) -> Tensor:
    # Looking into a GPU tensor would make the CPU wait, so only CPU times are ranged.
    if t.device.type == "cpu" and t.numel() and not 1 <= int(t.min()) <= int(t.max()) <= process.T:
        raise ValueError(
            f"weights belong to times in 1..{process.T}, got {int(t.min())}..{int(t.max())}"
        )
    return process.table(name, t.device)[t]


def _snr(process: DDPM, t: Tensor) -> Tensor:
    alpha_bar = _at(process, "alpha_bar", t)
    return alpha_bar / (1 - alpha_bar)


def simple(process: DDPM, t: Tensor) -> Tensor:
    """1 for every time (Ho et al. 2020, eq. 14); on x_0 that is SNR weighting."""
    return torch.ones_like(t, dtype=torch.float64)


@equation("4.12", "5.6")
def vlb(process: DDPM, t: Tensor) -> Tensor:
    """The exact weight of the bound with σ² = β̃: β_t² / (2 β̃_t α_t (1−ᾱ_t)), for t ≥ 2.

    On x_0 it is ½ (SNR(t−1) − SNR(t)) (Ho et al. 2020, eq. 12; Kingma et al. 2021, eq. 13). At
    t = 1, where the bound has a decoder instead, it is infinite.
    """
    beta, alpha, alpha_bar, beta_tilde = (
        _at(process, name, t) for name in ("beta", "alpha", "alpha_bar", "beta_tilde")
    )
    return beta**2 / (2 * beta_tilde * alpha * (1 - alpha_bar))


def uniform_on_x0(process: DDPM, t: Tensor) -> Tensor:
    """1/SNR: the squared error of x_0, unweighted."""
    return 1 / _snr(process, t)


def truncated_snr(process: DDPM, t: Tensor) -> Tensor:
    """max(SNR, 1) on x_0 (Salimans & Ho 2022, section 4): never less than the plain x_0-loss."""
    return torch.clamp(1 / _snr(process, t), min=1)


def min_snr(gamma: float = 5.0) -> Weighting:
    """min(SNR, γ) on x_0, which is min(1, γ/SNR) on ε (Hang et al. 2023, eq. 5).

    Raises:
        ValueError: if γ is not positive.
    """
    if not gamma > 0:
        raise ValueError(f"gamma is a signal-to-noise ratio and must be positive, got {gamma}")

    def weight(process: DDPM, t: Tensor) -> Tensor:
        return torch.clamp(gamma / _snr(process, t), max=1)

    return weight


@equation("4.11", "5.13")
def on_x0(weighting: Weighting, process: DDPM, t: Tensor) -> Tensor:
    """The weight of |x_0 − x̂_0|² that equals ``weighting`` on |ε − ε̂|²: times SNR(t); (B,)."""
    return weighting(process, t) * _snr(process, t)


@equation("5.12", "5.13", "7.1")
def weighted(
    weighting: Weighting,
    denoiser: Denoiser,
    x0: Tensor,
    t: Tensor,
    eps: Tensor,
    y: Tensor | None = None,
) -> Tensor:
    """A weighting times the squared error of ε, whatever the network predicts.

    Other arguments as in :func:`l_simple`. The error is taken of the network's own output, where
    nothing is divided by a small number: |ε−ε̂|² = SNR |x_0−x̂_0|² = ᾱ |v−v̂|².

    Returns:
        (B,), in the dtype of ``x0``.
    """
    own: dict[str, Weighting] = {
        "eps": simple,
        "x0": _snr,
        "v": lambda process, t: _at(process, "alpha_bar", t),
    }
    process = denoiser.process
    weight = weighting(process, t) * own[denoiser.parameterization.name](process, t)
    return weight.to(x0.dtype) * l_simple(denoiser, x0, t, eps, y)
