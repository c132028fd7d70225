"""Noise schedules: how much noise each forward step adds.

Every function returns the table ``beta`` of shape (T+1,), float64, with ``beta[0] == 0``: the
index *is* the time, t = 1..T, and t = 0 is clean data.
"""

import math
from collections.abc import Callable
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from ddpmlib.equations import equation

# The end points of Ho et al. (2020) belong to T = 1000; other T keep the same total noise.
BETA_FIRST, BETA_LAST, T_REFERENCE = 1e-4, 0.02, 1000


@equation("1.13", "5.3")
def linear(T: int, first: float | None = None, last: float | None = None) -> Tensor:
    """β_t rises on a straight line from ``first`` at t = 1 to ``last`` at t = T.

    The defaults are Ho et al. (2020, section 4), 1e-4 and 0.02 at T = 1000, times 1000/T at
    another T, so that the betas add up to the same sum; ᾱ_T is then nearly the same for T ≥ 100. A
    single step, T = 1, has β_1 = ``first``.

    Returns:
        beta, float64 (T+1,).

    Raises:
        ValueError: if T < 1 or an end point leaves (0, 1); the default end points need T > 20.
    """
    first, last = _end_points(T, first, last)
    return _with_zero(torch.linspace(first, last, T, dtype=torch.float64))


@equation("5.1")
def sigmoid(
    T: int, first: float | None = None, last: float | None = None, steepness: float = 6.0
) -> Tensor:
    """β_t rises on a logistic curve from near ``first`` to near ``last`` (Xu et al. 2022, GeoDiff).

    ``steepness`` is the half-width of the logistic's argument. End points as in :func:`linear`.

    Returns:
        beta, float64 (T+1,).

    Raises:
        ValueError: as :func:`linear`, or if ``steepness`` is not positive.
    """
    first, last = _end_points(T, first, last)
    if not 0 < steepness < math.inf:
        raise ValueError(f"steepness must be positive and finite, got {steepness}")
    u = torch.linspace(-steepness, steepness, T, dtype=torch.float64)
    return _with_zero(first + (last - first) * torch.sigmoid(u))


@equation("1.14", "5.5")
def cosine(T: int, offset: float = 0.008, max_beta: float = 0.999) -> Tensor:
    """β_t such that ᾱ_t falls as a squared cosine (Nichol & Dhariwal 2021, eq. 17).

    Args:
        T: number of steps, at least 1.
        offset: the paper's s, which keeps β_1 from being vanishingly small.
        max_beta: clip that keeps the last step from erasing the image altogether.

    Returns:
        beta, float64 (T+1,).
    """

    def alpha_bar(u: float) -> float:
        return math.cos((u + offset) / (1 + offset) * math.pi / 2) ** 2

    return from_alpha_bar(T, alpha_bar, max_beta)


def from_alpha_bar(T: int, alpha_bar: Callable[[float], float], max_beta: float = 0.999) -> Tensor:
    """The β table of a decreasing curve ᾱ(u), u = t/T in [0, 1], each β_t clipped at ``max_beta``.

    Returns:
        beta, float64 (T+1,): β_t = min(1 − ᾱ(t/T)/ᾱ((t−1)/T), max_beta).

    Raises:
        ValueError: if T < 1, ``max_beta`` leaves (0, 1], or the curve does not decrease.
    """
    _check_T(T)
    if not 0 < max_beta <= 1:
        raise ValueError(f"max_beta must lie in (0, 1], got {max_beta}")
    curve = torch.tensor([alpha_bar(t / T) for t in range(T + 1)], dtype=torch.float64)
    beta = 1 - curve[1:] / curve[:-1]
    if not bool((beta > 0).all() and curve[-1] >= 0):
        raise ValueError("alpha_bar must be positive and decrease strictly from u = 0 to u = 1")
    return _with_zero(beta.clamp(max=max_beta))


@equation("1.12", "5.2")
def log_snr(alpha_bar: Tensor) -> Tensor:
    """log of the signal-to-noise ratio ᾱ/(1−ᾱ); +inf where ᾱ = 1 (clean data). Same shape."""
    return torch.log(alpha_bar) - torch.log1p(-alpha_bar)


def _with_zero(beta: Tensor) -> Tensor:
    return torch.cat([beta.new_zeros(1), beta])


def _check_T(T: Any) -> None:
    if isinstance(T, bool) or not isinstance(T, Integral) or T < 1:
        raise ValueError(f"a process counts whole steps and needs at least one step, got T = {T!r}")


def _end_points(T: int, first: float | None, last: float | None) -> tuple[float, float]:
    _check_T(T)
    first = BETA_FIRST * T_REFERENCE / T if first is None else first
    last = BETA_LAST * T_REFERENCE / T if last is None else last
    for name, value in (("first", first), ("last", last)):
        if not 0 < value < 1:
            raise ValueError(
                f"{name} = {value:g} is not a beta: it must lie in (0, 1); for T = {T} steps "
                "give the end points yourself (the default ones need T > 20)"
            )
    return first, last
