"""What a network's output means: a pair (x_0, ε) described by one tensor, and the way back."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ddpmlib.broadcast import Coefficient, Pair, weighted_sum
from ddpmlib.equations import equation
from ddpmlib.inputs import check_floats
from ddpmlib.process.continuous import check_sigma_min

Weights = Callable[[Coefficient, Coefficient], tuple[Coefficient, Coefficient]]
"""(a, b) -> (p, q), the coefficients of noisy data to those of a linear answer p x_0 + q ε."""


@dataclass(frozen=True)
class Parameterization:
    """One way to describe a pair (x_0, ε), and the way back.

    All that it holds are functions of a module or records, so that it is equal to one that is made
    alike, and a denoiser with it can be copied and sent to another process.

    Attributes:
        name: ``"eps"``, ``"x0"`` or ``"v"``.
        target: (x0, eps, scale, std) -> what the network should say.
        split: (output, x_t, scale, std) -> (x0, eps) that the output stands for.
        scale_in: (scale, std) -> what x_t is multiplied with before the network sees it; None: 1.
    """

    name: str
    target: Callable[[Tensor, Tensor, Coefficient, Coefficient], Tensor]
    split: Callable[[Tensor, Tensor, Coefficient, Coefficient], tuple[Tensor, Tensor]]
    scale_in: Callable[[Coefficient, Coefficient], Coefficient] | None = None


def _target_eps(x0: Tensor, eps: Tensor, scale: Coefficient, std: Coefficient) -> Tensor:
    return eps


@equation("3.4")
def _split_eps(
    eps: Tensor, x_t: Tensor, scale: Coefficient, std: Coefficient
) -> tuple[Tensor, Tensor]:
    return weighted_sum(1, x_t, -std, eps) / scale, eps


def _target_x0(x0: Tensor, eps: Tensor, scale: Coefficient, std: Coefficient) -> Tensor:
    return x0


def _split_x0(
    x0: Tensor, x_t: Tensor, scale: Coefficient, std: Coefficient
) -> tuple[Tensor, Tensor]:
    return x0, (x_t - scale * x0) / std


def _target_v(x0: Tensor, eps: Tensor, scale: Coefficient, std: Coefficient) -> Tensor:
    return scale * eps - std * x0


@equation("3.6")
def _split_v(v: Tensor, x_t: Tensor, scale: Coefficient, std: Coefficient) -> tuple[Tensor, Tensor]:
    return weighted_sum(scale, x_t, -std, v), weighted_sum(scale, v, std, x_t)


EPS = Parameterization("eps", _target_eps, _split_eps)
"""Predict the noise (Ho et al. 2020). Undefined where ᾱ_t = 0."""
X0 = Parameterization("x0", _target_x0, _split_x0)
"""Predict the clean data. Its implied noise is undefined at t = 0."""
V = Parameterization("v", _target_v, _split_v)
"""Predict the velocity v = √ᾱ_t ε − √(1−ᾱ_t) x_0 (Salimans & Ho 2022): tame at both ends."""

PARAMETERIZATIONS = {p.name: p for p in (EPS, X0, V)}


@dataclass(frozen=True)
class _Target:
    weights: Weights

    def __call__(self, x0: Tensor, eps: Tensor, a: Coefficient, b: Coefficient) -> Tensor:
        p, q = self.weights(a, b)
        return p * x0 + q * eps


@dataclass(frozen=True)
class _Split:
    weights: Weights

    def __call__(self, output: Tensor, z: Tensor, a: Coefficient, b: Coefficient) -> Pair:
        p, q = self.weights(a, b)
        volume = a * q - b * p
        return (q * z - b * output) / volume, (a * output - p * z) / volume


@equation("B.4", "B.5")
def linear(
    name: str,
    weights: Weights,
    scale_in: Callable[[Coefficient, Coefficient], Coefficient] | None = None,
) -> Parameterization:
    """The parameterization of an answer F = p x_0 + q ε.

    Args:
        name: what to call it.
        weights: see :data:`Weights`; a function of a module or a record, as all of
            :class:`Parameterization`, if the denoiser is to be copied to another process.
        scale_in: see :class:`Parameterization`.

    Returns:
        target and split; the split divides by a q − b p, which is 0 where F only repeats z.
    """
    return Parameterization(name, _Target(weights), _Split(weights), scale_in)


def _score_weights(a: Coefficient, b: Coefficient) -> tuple[Coefficient, Coefficient]:
    return 0.0, -1 / b


def _velocity_weights(a: Coefficient, b: Coefficient) -> tuple[Coefficient, Coefficient]:
    return -1.0, 1.0


SCORE = linear("score", _score_weights)
"""The score of noisy data, ∇_z log p(z) = −E[ε|z]/b, in any convention."""

VELOCITY = linear("velocity", _velocity_weights)
"""dx/dt of straight lines with the data at t = 0, ε − x_0: from the data to the noise."""


@dataclass(frozen=True)
class _FlowMatching:
    sigma_min: float

    def __call__(self, a: Coefficient, b: Coefficient) -> tuple[Coefficient, Coefficient]:
        return 1.0, self.sigma_min - 1.0


def flow_matching_velocity(sigma_min: float = 0.0) -> Parameterization:
    """dx/dt of Lipman et al. (2023), x_0 − (1−σ_min) ε: from the noise to the data.

    Raises:
        ValueError: unless 0 ≤ sigma_min < 1.
    """
    check_sigma_min(sigma_min)
    return linear("flow-matching velocity", _FlowMatching(sigma_min))


@dataclass(frozen=True)
class _EDMWeights:
    sigma_data: float

    def __call__(self, a: Coefficient, b: Coefficient) -> tuple[Coefficient, Coefficient]:
        # (x_0 − c_skip z) / c_out, without 1 − c_skip
        length = (b**2 + self.sigma_data**2) ** 0.5
        return b / (self.sigma_data * length), -self.sigma_data / length


@dataclass(frozen=True)
class _EDMScale:
    sigma_data: float

    def __call__(self, a: Coefficient, b: Coefficient) -> Coefficient:
        return (b**2 + (a * self.sigma_data) ** 2) ** -0.5


@equation("B.11")
def edm_output(sigma_data: float = 0.5) -> Parameterization:
    """The network F_θ of Karras et al. (2022), for EDM's process: D = c_skip z + c_out F(c_in z).

    Args:
        sigma_data: their standard deviation of the data; 0.5 for images in [−1, 1]. With 1, F is
            −v.

    Raises:
        ValueError: if it is not positive.
    """
    if not 0 < sigma_data < math.inf:
        raise ValueError(f"sigma_data is a standard deviation, positive, got {sigma_data:g}")
    return linear("EDM output", _EDMWeights(sigma_data), _EDMScale(sigma_data))


def edm_preconditioning(
    sigma: Coefficient, sigma_data: float = 0.5
) -> tuple[Coefficient, Coefficient, Coefficient]:
    """c_in, c_skip and c_out of Karras et al. (2022, table 1): D = c_skip z + c_out F(c_in z)."""
    if not isinstance(sigma, int | float):
        check_floats(sigma, "sigma")
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
    one = torch.ones_like(a) if isinstance(a, Tensor) else torch.ones((), dtype=torch.float64)
    return p.target(one, -(a / b) * one, a, b) ** 2
