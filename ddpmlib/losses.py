"""Training objectives, one number per sample; how times are weighted, and how they are drawn."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ddpmlib.broadcast import flat_mean
from ddpmlib.denoiser import Denoiser, Prediction
from ddpmlib.equations import equation
from ddpmlib.likelihood import Decoder, bits_per_dim, discretised, reverse_step_term
from ddpmlib.process import DDPM

VLB_SHARE = 1e-3  # λ of Nichol & Dhariwal (2021, section 3.1)
Weighting = Callable[[DDPM, Tensor], Tensor]
"""(process, t (B,)) -> weight of the squared error of ε at these times, float64 (B,)."""


@equation("3.2")
def l_simple(
    denoiser: Denoiser, x0: Tensor, t: Tensor, eps: Tensor, y: Tensor | None = None
) -> Tensor:
    """Squared error of the network's output, unweighted (Ho et al. 2020, eq. 14).

    For an ε-network this is L_simple itself; an x_0- or v-network regresses on its own target,
    which weights the times differently.

    Args:
        denoiser: network, process and parameterization.
        x0: clean data (B, ...), images in [-1, 1].
        t: times (B,), int64 in 1..T.
        eps: standard normal, shape of ``x0``.
        y: class labels (B,) or None.

    Returns:
        the loss of each sample, (B,), in the dtype of ``x0``.
    """
    x_t = denoiser.process.q_sample(x0, t, eps)
    output, _ = denoiser.raw(x_t, t, y)
    return _squared_error(denoiser, output, x0, t, eps)


@equation("6.7")
def l_vlb(
    denoiser: Denoiser,
    x0: Tensor,
    t: Tensor,
    eps: Tensor,
    y: Tensor | None = None,
    decoder: Decoder = discretised,
) -> Tensor:
    """One-term estimate of the variational bound: T · L_{t−1}, in bits per dimension.

    With t uniform on 1..T its mean is the bound without L_T, which no network can change (Ho et
    al. 2020, eq. 5); t = 1 is the ``decoder``. Other arguments as in :func:`l_simple`.

    Returns:
        (B,), in the dtype of ``x0``.
    """
    x_t = denoiser.process.q_sample(x0, t, eps)
    return _vlb(denoiser, x0, x_t, t, denoiser(x_t, t, y), decoder)


@equation("6.9")
def l_hybrid(
    denoiser: Denoiser,
    x0: Tensor,
    t: Tensor,
    eps: Tensor,
    y: Tensor | None = None,
    decoder: Decoder = discretised,
    share: float = VLB_SHARE,
) -> Tensor:
    """L_simple + λ L_vlb, where L_vlb sees the mean but may only move the variance.

    The mean is detached in the second term, so that L_simple alone decides about it (Nichol &
    Dhariwal 2021, eq. 16). Arguments as in :func:`l_vlb`; ``share`` is λ.

    Returns:
        (B,), in the dtype of ``x0``.
    """
    x_t = denoiser.process.q_sample(x0, t, eps)
    output, var_mix = denoiser.raw(x_t, t, y)
    frozen = denoiser.read(output.detach(), var_mix, x_t, t)
    vlb = _vlb(denoiser, x0, x_t, t, frozen, decoder)
    return _squared_error(denoiser, output, x0, t, eps) + share * vlb


def _squared_error(
    denoiser: Denoiser, output: Tensor, x0: Tensor, t: Tensor, eps: Tensor
) -> Tensor:
    scale, std = denoiser.process.kernel(t, x0)
    target = denoiser.parameterization.target(x0, eps, scale, std)
    return flat_mean((output - target) ** 2)


def _vlb(
    denoiser: Denoiser,
    x0: Tensor,
    x_t: Tensor,
    t: Tensor,
    prediction: Prediction,
    decoder: Decoder,
) -> Tensor:
    term = reverse_step_term(denoiser.process, x0, x_t, prediction, t, t - 1, decoder)
    return denoiser.process.T * bits_per_dim(flat_mean(term), 1)


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


# ---- how times are drawn ---------------------------------------------------------------------


class UniformTimes(nn.Module):
    """Every time in 1..T equally often; every sample weighs 1."""

    def __init__(self, T: int) -> None:
        super().__init__()
        self.T = T

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """n times (n,) int64 and their weights (n,), on the generator's device."""
        t = torch.randint(1, self.T + 1, (n,), device=generator.device, generator=generator)
        return t, torch.ones(n, device=t.device)

    def update(self, t: Tensor, losses: Tensor) -> None:
        """Nothing to learn."""


@equation("6.10", "6.12")
class ImportanceTimes(nn.Module):
    """Times drawn where the loss is large: p_t ∝ √E[L_t²] (Nichol & Dhariwal 2021, eq. 18).

    The weights 1/(T p_t) undo the choice, so that the mean of weight · loss stays that of uniform
    times. Until every time has been seen ``memory`` times, times are uniform. The history lies in
    buffers: a training state that holds this module resumes it.

    Args:
        T: number of steps.
        memory: how many of the latest losses per time make its second moment.
        uniform: share of draws that stay uniform, so that no weight grows without bound.

    Raises:
        ValueError: if T or ``memory`` < 1, or ``uniform`` leaves (0, 1].
    """

    def __init__(self, T: int, memory: int = 10, uniform: float = 1e-3) -> None:
        super().__init__()
        if T < 1 or memory < 1 or not 0 < uniform <= 1:
            raise ValueError(
                f"need T >= 1, memory >= 1 and uniform in (0, 1], got {T}, {memory}, {uniform}"
            )
        self.T, self.memory, self.uniform = T, memory, uniform
        self.history: Tensor
        self.seen: Tensor
        self.register_buffer("history", torch.zeros(T, memory))
        self.register_buffer("seen", torch.zeros(T, dtype=torch.int64))

    def probabilities(self) -> Tensor:
        """p_1, …, p_T, (T,) float64."""
        flat = torch.full((self.T,), 1 / self.T, dtype=torch.float64, device=self.seen.device)
        if bool((self.seen < self.memory).any()):
            return flat
        root = (self.history.double() ** 2).mean(1).sqrt()
        total = root.sum()
        if not float(total) > 0:
            return flat
        return (1 - self.uniform) * root / total + self.uniform * flat

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """n times (n,) int64 and their weights (n,), on the generator's device."""
        p = self.probabilities().to(generator.device)
        index = torch.multinomial(p, n, replacement=True, generator=generator)
        return index + 1, (1 / (self.T * p[index])).float()

    @torch.no_grad()
    def update(self, t: Tensor, losses: Tensor) -> None:
        """Note the unweighted losses (B,) of the times (B,) that were drawn."""
        if len(t) != len(losses) or not 1 <= int(t.min()) <= int(t.max()) <= self.T:
            raise ValueError(f"need one loss for each time in 1..{self.T}, got times {t}")
        for i, loss in zip((t - 1).tolist(), losses.detach().float().tolist(), strict=True):
            if not math.isfinite(loss):
                continue  # whoever trains stops at it; the history stays usable
            self.history[i, self.seen[i] % self.memory] = loss
            self.seen[i] += 1
