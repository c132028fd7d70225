"""Noise in continuous time: variance preserving, exploding, straight lines, EDM, and VDM's labels.

Each is a :class:`~ddpmlib.process.process.Process`: two functions, and where its times begin and
end. The papers' smallest noise level, σ_min, is reached just before clean data; at the time of
clean data itself there is none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ddpmlib.broadcast import Pair
from ddpmlib.equations import equation
from ddpmlib.inputs import check_floats
from ddpmlib.process.ddpm import DDPM
from ddpmlib.process.process import Process


@equation("B.3")
def kernel(log_snr: Tensor) -> Pair:
    """The book's scale √ᾱ and std √(1−ᾱ) at a log-SNR, same shape: ᾱ = 1 / (1 + e^−λ)."""
    check_floats(log_snr, "log_snr")
    return (0.5 * logsigmoid(log_snr)).exp(), (0.5 * logsigmoid(-log_snr)).exp()


@equation("B.8")
@dataclass(frozen=True)
class VP(Process):
    """Variance preserving SDE, dx = −½ β(t) x dt + √β(t) dω with a straight β(t), t in [0, 1].

    a = √ᾱ and b = √(1−ᾱ) with ᾱ = exp(−∫β); b by ``expm1``, which float32 needs near t = 0 (Song
    et al. 2021, score SDE, eq. 11).

    Args:
        beta_min, beta_max: β at 0 and at 1, 0 ≤ beta_min < beta_max.

    Raises:
        ValueError: if they are not ordered like that.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0 <= self.beta_min < self.beta_max < math.inf:
            raise ValueError(
                f"β(t) must rise from 0 or above, got {self.beta_min:g} to {self.beta_max:g}"
            )

    def coefficients(self, t: Tensor) -> Pair:
        """√ᾱ and √(1−ᾱ)."""
        total = self._total(t)
        return (-total / 2).exp(), (-torch.expm1(-total)).sqrt()

    def time_of(self, log_snr: Tensor) -> Tensor:
        """The root of a quadratic equation for ∫β; pure noise comes after infinite time."""
        return self._time_after(-logsigmoid(log_snr))

    def _total(self, t: Tensor) -> Tensor:
        """∫β from 0 to t, which is −log ᾱ."""
        return self.beta_min * t + (self.beta_max - self.beta_min) / 2 * t**2

    def _time_after(self, total: Tensor) -> Tensor:
        slope = self.beta_max - self.beta_min
        t = 2 * total / (self.beta_min + (self.beta_min**2 + 2 * slope * total).sqrt())
        t = torch.where(total == 0, total, t)  # 0/0 where beta_min is 0
        return torch.where(total.isinf(), total, t)


@dataclass(frozen=True)
class SubVP(VP):
    """Sub-VP: the same signal a = √ᾱ as :class:`VP`, and less noise, b = 1 − ᾱ.

    g² = β(t) (1 − ᾱ²) (Song et al. 2021, score SDE, eq. 12).
    """

    def coefficients(self, t: Tensor) -> Pair:
        """√ᾱ and 1−ᾱ."""
        total = self._total(t)
        return (-total / 2).exp(), -torch.expm1(-total)

    def time_of(self, log_snr: Tensor) -> Tensor:
        """√ᾱ/(1−ᾱ) = r is solved for √ᾱ = 2 r / (1 + √(1 + 4 r²))."""
        # With u = 1/(2r) that is √(1 + u²) − u = exp(−arsinh u), which no r overflows.
        return self._time_after(2 * torch.asinh((-log_snr / 2).exp() / 2))


@equation("B.10")
@dataclass(frozen=True)
class VE(Process):
    """Variance exploding SDE: x_t = x_0 + σ(t) ε, σ(t) = σ_min (σ_max/σ_min)^t, t in (0, 1].

    Integrated from clean data its SDE gives σ² − σ_min²; the kernel in use has σ², as if the data
    carried σ_min, so the noise jumps at t = 0 (Song et al. 2021, score SDE, eq. 9 and appendix C).

    Raises:
        ValueError: unless 0 < sigma_min < sigma_max.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(
                f"σ(t) must rise from above 0, got {self.sigma_min:g} to {self.sigma_max:g}"
            )

    @property
    def prior_std(self) -> float:  # type: ignore[override]
        """σ_max."""
        return self.sigma_max

    def coefficients(self, t: Tensor) -> Pair:
        """1 and σ(t)."""
        low, rise = self._logs()
        return torch.ones_like(t), torch.where(t == 0, 0.0, (low + rise * t).exp())

    def time_of(self, log_snr: Tensor) -> Tensor:
        """Where log σ is −λ/2; clean data at 0."""
        low, rise = self._logs()
        return torch.where(log_snr == torch.inf, 0.0, (-log_snr / 2 - low) / rise)

    def _logs(self) -> tuple[float, float]:
        return math.log(self.sigma_min), math.log(self.sigma_max / self.sigma_min)


@dataclass(frozen=True)
class EDM(Process):
    """Karras et al. (2022): the time is σ itself, x_σ = x_0 + σ ε. A network is told ¼ log σ.

    Args:
        end: σ_max, where samplers start.

    Raises:
        ValueError: if it is not positive and finite.
    """

    end: float = 80.0

    def __post_init__(self) -> None:
        if not 0 < self.end < math.inf:
            raise ValueError(f"the largest σ must be positive and finite, got {self.end:g}")

    @property
    def prior_std(self) -> float:  # type: ignore[override]
        """σ_max."""
        return self.end

    def coefficients(self, t: Tensor) -> Pair:
        """1 and σ."""
        return torch.ones_like(t), t

    def time_of(self, log_snr: Tensor) -> Tensor:
        """σ = e^(−λ/2)."""
        return (-log_snr / 2).exp()

    def network_time(self, t: Tensor) -> Tensor:
        """c_noise = ¼ log σ (Karras et al. 2022, table 1)."""
        return t.log() / 4


@dataclass(frozen=True)
class RectifiedFlow(Process):
    """Straight lines with the data at t = 0: x_t = (1−t) x_0 + t ε (Esser et al. 2024)."""

    def coefficients(self, t: Tensor) -> Pair:
        """1−t and t."""
        return 1 - t, t

    def time_of(self, log_snr: Tensor) -> Tensor:
        """t = sigmoid(−λ/2)."""
        return torch.sigmoid(-log_snr / 2)


@dataclass(frozen=True)
class FlowMatching(Process):
    """Lipman et al. (2023), data at t = 1: x_t = t x_0 + (1 − (1−σ_min) t) ε.

    With ``sigma_min`` = 0 it is also Liu et al. (2023), who call our x_0 X_1 and our ε X_0.

    Raises:
        ValueError: unless 0 ≤ sigma_min < 1.
    """

    sigma_min: float = 0.0
    clean, end = 1.0, 0.0

    def __post_init__(self) -> None:
        check_sigma_min(self.sigma_min)

    def coefficients(self, t: Tensor) -> Pair:
        """t and 1 − (1−σ_min) t."""
        return t, torch.where(t == 1, 0.0, 1 - (1 - self.sigma_min) * t)

    def time_of(self, log_snr: Tensor) -> Tensor:
        """t = r / (1 + (1−σ_min) r) with r = a/b, written so that no r overflows."""
        t = 1 / (torch.exp(-log_snr / 2) + (1 - self.sigma_min))
        return torch.where(log_snr == torch.inf, 1.0, t)


@dataclass(frozen=True)
class VDM(Process):
    """Variational diffusion (Kingma et al. 2021): the time is γ = −λ, a = √sigmoid(−γ)."""

    clean, end = -math.inf, math.inf

    def coefficients(self, t: Tensor) -> Pair:
        """√sigmoid(−γ) and √sigmoid(γ)."""
        return kernel(-t)

    def time_of(self, log_snr: Tensor) -> Tensor:
        """γ = −λ."""
        return -log_snr


class Interpolated(Process):
    """The chain of a :class:`~ddpmlib.process.ddpm.DDPM` with times between its whole numbers.

    The angle φ = arctan(b/a) is straight from one time to the next, so a² + b² = 1 everywhere and
    at whole times nothing changes. A network that was trained on the chain is told the time between
    (as k-diffusion's wrappers do).

    Args:
        process: the chain.
    """

    def __init__(self, process: DDPM) -> None:
        self.process, self.end = process, float(process.T)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Interpolated) and self.process == other.process

    def __hash__(self) -> int:
        return hash(("interpolated", self.process))

    def coefficients(self, t: Tensor) -> Pair:
        """cos φ and sin φ."""
        angles = self.process.table("angle", t.device).to(t)
        below = t.nan_to_num().floor().clamp(0, self.end - 1)
        k = below.long()
        angle = angles[k] + (t - below) * (angles[k + 1] - angles[k])
        return angle.cos(), angle.sin()

    def time_of(self, log_snr: Tensor) -> Tensor:
        """Where the straight piece of φ passes arctan(e^(−λ/2))."""
        angles = self.process.table("angle", log_snr.device).to(log_snr)
        angle = torch.atan((-log_snr / 2).exp())
        k = torch.searchsorted(angles, angle.contiguous(), right=True).clamp(1, len(angles) - 1)
        share = (angle - angles[k - 1]) / (angles[k] - angles[k - 1])
        return (k - 1 + share).clamp(max=self.end)


def check_sigma_min(sigma_min: float) -> None:
    """Raise ValueError unless 0 ≤ σ_min < 1."""
    if not 0 <= sigma_min < 1:
        raise ValueError(f"sigma_min must lie in [0, 1), got {sigma_min:g}")
