"""Checks of chapter 11: classifier-free guidance."""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ddpmlib.denoiser import oracle
from ddpmlib.guidance.classifier_free import ClassifierFree
from ddpmlib.prediction import Prediction
from ddpmlib.process import schedules
from ddpmlib.process.ddpm import DDPM
from ddpmlib.teaching.exercises import exercise

F64 = torch.float64


def _mixture(process: DDPM) -> oracle.Mixture:
    means = torch.tensor([[-1.0, 0.2], [0.8, 0.9], [0.5, -1.0]], dtype=F64)
    weights, stds = torch.tensor([1.0, 2, 1], dtype=F64), torch.tensor([0.5, 0.4, 0.6], dtype=F64)
    return oracle.Mixture(process, weights, means, stds, torch.arange(3))


@exercise(
    "11.1", hint="At scale 1 nothing is guided, and at scale 0 only the null prediction is left."
)
def _(answer: Any) -> None:
    """The same guidance in both conventions."""
    to_w, combine = answer
    process = DDPM(schedules.cosine(40))
    exact, g = _mixture(process), torch.Generator().manual_seed(0)
    x, y = torch.randn(3, 2, generator=g, dtype=F64), torch.arange(3)
    eps_c, eps_null = (process.eps_from_x0(x, exact(x, 20, label).x0, 20) for label in (y, None))
    for scale in (1.0, 0.0, 7.5):
        theirs = eps_null + scale * (eps_c - eps_null)
        yours = combine(eps_c, eps_null, scale)
        assert yours.shape == theirs.shape, "combine returns noise, in the shape of eps_c."
        assert torch.allclose(yours, theirs), f"At scale {scale} combine returns other noise."
        guided = ClassifierFree(exact, float(to_w(scale)))(x, 20, y).x0
        ours = process.eps_from_x0(x, guided, 20)
        assert torch.allclose(ours, theirs), (
            f"ClassifierFree with w = {float(to_w(scale)):g} is not their scale {scale:g}."
        )


@exercise("11.2", hint="ClassifierFree.forward with z in the place of the null label.")
def _(answer: Any) -> None:
    """Towards one class and away from another, for the price of one call."""
    process = DDPM(schedules.cosine(40))
    exact, g = _mixture(process), torch.Generator().manual_seed(1)
    asked: list[int] = []

    def denoiser(x_t: Tensor, t: Any, y: Tensor | None = None, /) -> Prediction:
        asked.append(len(x_t))
        return exact(x_t, t, y)

    x = torch.randn(4, 2, generator=g, dtype=F64)
    y, z = torch.tensor([0, 1, 2, 0]), torch.tensor([1, 2, 0, 3])
    towards, against = exact(x, 15, y).x0, exact(x, 15, z).x0
    for w in (0.0, 2.5):
        asked.clear()
        yours = answer(denoiser, x, 15, y, z, w)
        assert yours.shape == x.shape, "Return x_0 in the shape of x_t."
        assert torch.allclose(yours, towards + w * (towards - against)), (
            f"At w = {w} the prediction is another one."
        )
        assert len(asked) == 1, f"The denoiser was asked {len(asked)} times."


@exercise("11.3", hint="Let w grow in (11.10), where the sum is geometric; solve (11.9) for w.")
def _(answer: Any) -> None:
    """Where strong guidance leads, and how fast DDIM gets there."""
    limit, halving = answer
    for m, c, C in ((1.0, 0.25, 1.0), (-0.7, 0.5, 2.0), (2.0, 0.3, 0.4)):
        x = torch.linspace(-20, 20, 400_001, dtype=F64)
        log_odds = -((x - m) ** 2) / (2 * c) + x**2 / (2 * C)  # log p(x|y) − log p(x)
        place = float(x[log_odds.argmax()])
        assert abs(float(limit(m, c, C)) - place) < 2e-4, (
            f"For m = {m}, c = {c}, C = {C} the samples gather elsewhere."
        )
        left = (c / C) ** float(halving(c, C))
        assert abs(left - 0.5) < 1e-9, (
            f"For c = {c}, C = {C} DDIM keeps {left:.3f} of the variance at your w."
        )


def _measured(c: float, C: float, w: float, low: int, high: int) -> float:
    """Variance of a DDIM chain of affine steps guided at low ≤ t ≤ high; error of first order."""
    process = DDPM(schedules.cosine(2000))
    u = (1 - process.alpha_bar) / process.alpha_bar
    start = 1900
    var = C + float(u[start])  # of x̄; where the data no longer matter
    for t, s in pairwise(range(start, -1, -1)):
        weight = w if low <= t <= high else 0.0
        half = (1 + weight) / (c + float(u[t])) - weight / (C + float(u[t]))
        var *= (1 - 0.5 * float(u[t] - u[s]) * half) ** 2
    return var


@exercise("11.4", hint="log V is an integral of a(u); the part with w acts on the interval only.")
def _(answer: Any) -> None:
    """Guidance in an interval of noise levels, exactly."""
    process = DDPM(schedules.cosine(2000))
    u = ((1 - process.alpha_bar) / process.alpha_bar).tolist()
    c, C = 0.25, 1.0
    whole = float(answer(c, C, 2.0, 0.0, math.inf))
    assert abs(whole - c * (c / C) ** 2) < 1e-9, "From 0 to infinity (11.9) is not what you return."
    none = float(answer(c, C, 2.0, 0.3, 0.3))
    assert abs(none - c) < 1e-9, "An empty interval should leave the class as it is."
    for w, low, high in ((2.0, 1, 500), (2.0, 600, 1400), (4.0, 300, 1000), (-0.5, 300, 1000)):
        yours = float(answer(c, C, w, u[low], u[high]))
        chain = _measured(c, C, w, low, high)
        assert abs(yours / chain - 1) < 0.03, (
            f"For w = {w:g} and u from {u[low]:.2g} to {u[high]:.2g} a chain leaves {chain:.4f}."
        )


def _cases() -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Queries, points, probabilities and likelihoods: on the line, and 64-dimensional."""
    g = torch.Generator().manual_seed(2)
    grid = torch.linspace(-2, 2, 81, dtype=F64)[:, None]
    for points in (grid, torch.randn(40, 64, generator=g, dtype=F64)):
        p = torch.rand(len(points), generator=g, dtype=F64) + 0.1
        sure = torch.rand(len(points), generator=g, dtype=F64)
        x = 1.5 * torch.randn(5, points.shape[1], generator=g, dtype=F64)
        yield x, points, p / p.sum(), torch.where(sure < 0.3, torch.zeros_like(sure), sure)


def _tilted_mean(
    x: Tensor, a: float, b: float, points: Tensor, p: Tensor, L: Tensor, s: float
) -> Tensor:
    """The mean by a sum over the points that are possible, one query at a time."""
    possible, means = L > 0, []
    for query in x:
        distance = ((query - a * points[possible]) ** 2).sum(1)
        share = p[possible] * L[possible] ** s * torch.exp((distance.min() - distance) / (2 * b**2))
        means.append(share @ points[possible] / share.sum())
    return torch.stack(means)


def _line_share(w: float) -> float:
    """Share of the tilted density of Fig. 11.3 that lies beyond 0.65."""
    means, stds = torch.tensor([-1.0, 0.1, 1.2]), torch.tensor([0.4, 0.3, 0.3])
    weights, labels = torch.tensor([2.0, 1.0, 1.0]), torch.tensor([0, 1, 1])
    process, x = DDPM(schedules.cosine(40)), torch.linspace(-4, 4, 8001, dtype=F64)
    line = oracle.Mixture(process, weights.double(), means.double(), stds.double(), labels)
    log_p = line.log_prob(x, 0) + (1 + w) * line.class_logits(x, 0)[:, 1]
    return float(torch.softmax(log_p, 0)[x > 0.65].sum())


@exercise("11.5", hint="Add the logarithms of p, L to the power s, and the kernel; then a softmax.")
def _(answer: Any) -> None:
    """A chain that does sample the tilted density, since (11.7) is in its prediction."""
    predict, shares = answer
    for x, points, p, likelihood in _cases():
        for a, b, s in ((0.8, 0.6, 1.0), (0.8, 0.6, 5.0), (0.3, 0.95, 2.0), (0.9999, 0.01, 3.0)):
            yours = predict(x, a, b, points, p, likelihood, s)
            assert yours.shape == x.shape, "Return x_0 in the shape of x_t, (B, D)."
            assert bool(yours.isfinite().all()), f"At std = {b:g} some predictions are not finite."
            assert torch.allclose(yours, _tilted_mean(x, a, b, points, p, likelihood, s)), (
                f"For scale {a:g}, std {b:g}, s = {s:g} and D = {x.shape[1]} the mean is another."
            )
    for w in (1.0, 4.0):
        assert abs(float(shares[w]) - _line_share(w)) < 0.01, (
            f"At w = {w:g} the share beyond 0.65 is not that of the tilted density."
        )
