"""Checks for the exercises of chapter 2, the reverse process."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ddpmlib.denoiser import oracle
from ddpmlib.prediction import Prediction
from ddpmlib.process import schedules
from ddpmlib.process.ddpm import DDPM
from ddpmlib.teaching.exercises import exercise

Sampler = Callable[..., Tensor]


@exercise("2.1", hint="First the running products of 1 − β_t from ᾱ_0 = 1 on, then equation (2.7).")
def _(answer: Any) -> None:
    """Three posterior variances, the first of them zero."""
    assert len(answer) == 3, "Give one number for each of the three steps."
    got = [float(v) for v in answer]
    assert abs(got[0]) < 1e-9, "At t = 1 the posterior knows x_0: nothing is left to draw."
    want = DDPM(torch.tensor([0.0, 0.1, 0.2, 0.3])).beta_tilde.tolist()[1:]
    assert all(abs(g - w) < 5e-4 for g, w in zip(got, want, strict=True))


@exercise(
    "2.2",
    hint="The logarithm of the density of x_s is even; where is its curvature at 0 still negative?",
)
def _(answer: Any) -> None:
    """The longest step back from between two modes that keeps a single peak."""
    for a_t in (0.001, 0.05, 0.35, 0.8):
        for c in (0.3, 1.0, 2.5):
            a_s = float(answer(a_t, c))
            case = f"At alpha_bar_t = {a_t:g} and c = {c:g}"
            assert a_t < a_s < 1, f"{case} alpha_bar_s does not lie between alpha_bar_t and 1."
            one, two = (_curvature(a_t, a_t + f * (a_s - a_t), c) for f in (0.99, 1.005))
            assert one < 0, f"{case} there are two peaks a little before that alpha_bar_s already."
            assert two > 0, f"{case} there is still one peak beyond that alpha_bar_s."


def _curvature(a_t: float, a_s: float, c: float) -> float:
    """Second derivative at 0 of log q(x_s | x_t = 0) for data at ±c, by differences."""

    def log_density(x: float) -> float:
        forward = -(a_t / a_s) * x**2 / (2 * (1 - a_t / a_s))
        left, right = (-((x - a_s**0.5 * m) ** 2) / (2 * (1 - a_s)) for m in (-c, c))
        return forward + max(left, right) + math.log1p(math.exp(-abs(left - right)))

    h = 1e-3 * (1 - a_s) ** 0.5 * min(1.0, (1 - a_t / a_s) ** 0.5)
    return (log_density(h) + log_density(-h) - 2 * log_density(0.0)) / h**2


@exercise("2.3", hint="Equation (2.12); what the prior and x_t tell of x_0 adds up in precision.")
def _(answer: Any) -> None:
    """The exact reverse variance of Gaussian data, β̃ at v = 0 and β at v = 1."""
    for a_t, a_s in ((0.3, 0.8), (0.05, 0.5), (0.9, 1.0)):
        beta = 1 - a_t / a_s
        ends = ((1 - a_s) / (1 - a_t) * beta, beta)
        assert abs(answer(0.0, a_t, a_s) - ends[0]) < 1e-9, "At v = 0 it should be β̃."
        assert abs(answer(1.0, a_t, a_s) - ends[1]) < 1e-9, "At v = 1 it should be β."
        for v in (0.2, 0.7, 3.0):
            # The conditional variance of a Gaussian pair: var_s − cov² / var_t.
            var_s, var_t = a_s * v + 1 - a_s, a_t * v + 1 - a_t
            want = var_s - (a_t / a_s) * var_s**2 / var_t
            assert abs(answer(v, a_t, a_s) - want) < 1e-9, "Right at both ends, but not between."


@exercise("2.4", hint="In each step one call, one draw with √β, and think about the step to s = 0.")
def _(answer: Any) -> None:
    """A sampler of your own: exact on a point, and right in distribution."""
    process = DDPM(schedules.cosine(200))
    _returns_a_certain_point(answer, process)
    _draws_with_beta(answer, process)
    _draws_a_mixture(answer, process)


def _returns_a_certain_point(sampler: Sampler, process: DDPM) -> None:
    calls: list[int] = []

    def certain(x: Tensor, t: int, y: Tensor | None = None) -> Prediction:
        calls.append(t)
        return Prediction(torch.full_like(x, 0.25))

    generator = torch.Generator().manual_seed(0)
    for shape in ((3,), (3, 2), (2, 1, 4, 4)):
        start = torch.randn(shape, generator=generator)
        x = sampler(certain, process, start, [200, 90, 7, 0], generator)
        assert isinstance(x, Tensor), "Return the last x."
        assert x.shape == shape, f"From shape {shape} came shape {tuple(x.shape)}."
        off = float((x - 0.25).abs().max())
        assert off < 1e-5, f"A certain denoiser must get its point back; it is off by {off:.2g}."
    assert calls == [200, 90, 7] * 3, "Call the denoiser once per step, at the time that is left."


def _draws_with_beta(sampler: Sampler, process: DDPM) -> None:
    """Two steps with a denoiser that shows what it was handed: the noise is then seen alone."""
    seen: list[Tensor] = []

    def watching(x: Tensor, t: int, y: Tensor | None = None) -> Prediction:
        seen.append(x)
        return Prediction(torch.zeros_like(x))

    start = torch.zeros(20_000, dtype=torch.float64)
    for _ in range(2):
        sampler(watching, process, start, [160, 60, 0], torch.Generator().manual_seed(1))
    assert torch.equal(seen[1], seen[3]), "The same seed of the generator gives other noise."
    beta, got = process.posterior_std(160, 60, 1.0), float(seen[1].std())
    assert abs(got / float(beta) - 1) < 0.05, "The noise of a step does not have the variance β."


def _draws_a_mixture(sampler: Sampler, process: DDPM) -> None:
    weights, means, stds = torch.tensor([[0.3, 0.7], [-1.3, 0.6], [0.2, 0.3]]).double()
    mixture = oracle.Mixture(process, weights, means, stds)
    generator = torch.Generator().manual_seed(2)
    start = torch.randn(20_000, generator=generator).double()
    x = sampler(mixture, process, start, list(range(200, -1, -2)), generator).sort().values
    exact = (weights * torch.special.ndtr((x[:, None] - means) / stds)).sum(1)
    distance = float((exact - torch.linspace(0, 1, len(x)).double()).abs().max())
    assert distance < 0.025, f"The samples are not distributed as the data (KS {distance:.3f})."


@exercise("2.5", hint="Differentiate (2.18); E[x_0|x_t] has the slope √ᾱ/(1−ᾱ) Var(x_0|x_t).")
def _(answer: Any) -> None:
    """The best variance of a reverse step, from the score alone."""
    of_x0, best = answer
    _check_ignorance(of_x0)
    x = torch.randn(100_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x / x.square().mean().sqrt()
    for v in (0.0, 0.5, 1.0, 2.0):  # Gaussian data again
        for a, b in ((0.1, 0.3), (0.6, 0.95), (0.02, 0.99)):
            var_t, beta = a * v + 1 - a, 1 - a / b
            want = (1 - b) / (1 - a) * beta + b * beta**2 * v / (1 - a) / var_t
            found = float(best(-x / var_t**0.5, a, b))
            assert abs(found - want) < 1e-9, "The best variance fails on Gaussian data."
    # Two points at ±1: the error of the denoiser is what it does not know.
    a, b, sign = 0.4, 0.8, torch.where(torch.arange(len(x)) % 2 == 0, 1.0, -1.0).double()
    x_t = a**0.5 * sign + (1 - a) ** 0.5 * x
    x0 = torch.tanh(a**0.5 * x_t / (1 - a))
    of_points = float((1 - x0**2).mean())
    want = (1 - b) / (1 - a) * (1 - a / b) + b * (1 - a / b) ** 2 / (1 - a) ** 2 * of_points
    found = float(best((a**0.5 * x0 - x_t) / (1 - a), a, b))
    assert abs(found / want - 1) < 0.02, "The best variance fails on two points."


def _check_ignorance(answer: Callable[..., Any]) -> None:
    """Var(x_0|x_t), where it is known in closed form."""
    for v in (0.0, 0.5, 1.0, 2.0):
        for a in (0.1, 0.6, 0.95):
            var_t = a * v + 1 - a
            want = v * (1 - a) / var_t
            assert abs(answer(a, -1 / var_t) - want) < 1e-9, "Var(x_0|x_t) fails on Gaussian data."
    # Between two modes the curvature is positive and the ignorance large.
    a = 0.4
    h = a / (1 - a) ** 2 - 1 / (1 - a)  # at x_t = 0, for two points at ±1
    assert abs(answer(a, h) - 1.0) < 1e-9, "Var(x_0|x_t) fails between two modes."
