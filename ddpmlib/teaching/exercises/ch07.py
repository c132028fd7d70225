"""Checks of chapter 07: DDIM, the same network with fewer steps."""

import functools
import math
from itertools import pairwise
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from ddpmlib import data
from ddpmlib.denoiser import oracle
from ddpmlib.prediction import Prediction
from ddpmlib.process import schedules
from ddpmlib.process.ddpm import DDPM
from ddpmlib.samplers import draw, uniform_times
from ddpmlib.teaching.exercises import exercise


@exercise("7.1", hint="Which variance does (1 − w) a + w b have? Make it one.")
def _(answer: Any) -> None:
    """An interpolation of noise that is noise at every weight."""
    a, b = torch.tensor([[1.0, 0.0, 3.0, -2.0], [0.0, 1.0, -1.0, 5.0]], dtype=torch.float64)
    for w in (0.0, 0.2, 0.5, 0.9, 1.0):
        mixed = answer(a, b, w)
        assert mixed.shape == a.shape, "Return a tensor of the shape of a and b."
        on_a, on_b = float(mixed[0]), float(mixed[1])  # where the other one is zero
        assert torch.allclose(mixed, on_a * a + on_b * b), "It is not linear in a and b."
        assert abs(on_a * w - on_b * (1 - w)) < 1e-6, (
            f"At w = {w} the coefficients of a and b are not as (1 − w) to w."
        )
        assert abs(on_a**2 + on_b**2 - 1) < 1e-6, f"At w = {w} the variance is not one."
        assert on_a + on_b > 0, "The coefficients must not be negative."


@exercise("7.2", hint="With σ² = 1 − ᾱ_s the direction term of (7.2) is zero.")
def _(answer: Any) -> None:
    """The member of the family that forgets its noise in every step."""
    process = DDPM(schedules.cosine(40))
    g = torch.Generator().manual_seed(0)
    mixing = torch.randn(3, 3, generator=g, dtype=torch.float64)

    def denoiser(x_t: Tensor, t: Any, y: Any = None, /) -> Prediction:
        return Prediction(torch.tanh(x_t @ mixing + t / 40))

    for steps in (1, 4, 13):
        times = uniform_times(40, steps)
        x = torch.randn(5, 3, generator=g, dtype=torch.float64)
        noise = {s: torch.randn(5, 3, generator=g, dtype=torch.float64) for s in times[1:]}
        yours, ours = answer(denoiser, process, x, times, noise), x
        for t, s in pairwise(times):
            ours = process.q_sample(denoiser(ours, t).x0, s, noise[s])
        assert yours.shape == ours.shape, (
            "Return the final x, in the shape of the x you were given."
        )
        assert torch.allclose(yours, ours, rtol=1e-6), f"With {steps} steps yours and ours differ."


@exercise(
    "7.3", hint="A linear map multiplies a deviation by its factor; for the curve, dx̄/x̄ is a log."
)
def _(answer: Any) -> None:
    """What one Euler step loses of the spread, and the exact curve keeps."""
    one_step, exact = answer
    for r_T, c in ((10.0, 1.0), (0.5, 0.3), (3.0, 2.0)):
        beta = 1 - 1 / (1 + r_T**2)  # a chain of one step, T = 1, with that noise at its end
        process = DDPM(torch.tensor([0.0, beta], dtype=torch.float64))
        cov = torch.tensor([[c**2]], dtype=torch.float64)
        gaussian = oracle.Gaussian(process, torch.zeros(1, dtype=torch.float64), cov)
        unit = torch.ones(1, 1, dtype=torch.float64)
        factor = float(gaussian(unit, 1).x0) * float(process.scale[1])  # x̄ = x / √ᾱ
        measured = abs(factor) * math.sqrt(c**2 + r_T**2)
        assert math.isclose(float(one_step(r_T, c)), measured, rel_tol=1e-6), (
            f"For r_T = {r_T}, c = {c} one step leaves the deviation {measured:.4f}."
        )
        assert math.isclose(float(exact(r_T, c)), c, rel_tol=1e-6), (
            f"For r_T = {r_T}, c = {c} the exact curve ends with another deviation."
        )


@exercise("7.4", hint="Euler step in (r, x̄), ask again at (x_s, s), step again with the average.")
def _(answer: Any) -> None:
    """Heun's method: one more call per step, one more order."""
    process = DDPM(schedules.cosine(1024))
    mean, cov = torch.zeros(1, dtype=torch.float64), torch.full((1, 1), 0.25, dtype=torch.float64)
    gaussian = oracle.Gaussian(process, mean, cov)
    asked: list[int] = []

    def eps_net(x_t: Tensor, t: int) -> Tensor:
        asked.append(t)
        return process.eps_from_x0(x_t, gaussian(x_t, t).x0, t)

    start, x = 700, torch.ones(1, 1, dtype=torch.float64)
    var = float(process.alpha_bar[start]) * 0.25 + float(process.std[start]) ** 2
    end_var = float(process.alpha_bar[100]) * 0.25 + float(process.std[100]) ** 2
    truth = math.sqrt(end_var / var)  # the exact curve carries deviation to deviation
    errors = []
    for n in (10, 20, 40):
        times = [round(start - 600 * k / n) for k in range(n + 1)]
        asked.clear()
        found = answer(eps_net, x, process.alpha_bar, times)
        assert found.shape == x.shape, "Return the final x, in the shape of the x you were given."
        assert len(asked) == 2 * n, f"{n} steps that end above 0 need {2 * n} network calls."
        errors.append(abs(float(found) - truth))
    assert errors[2] < 1e-3, f"With 40 steps the result is off by {errors[2]:.1e}."
    order = math.log2(errors[0] / errors[2]) / 2
    assert order > 1.7, f"The error falls with order {order:.1f}; Heun's has order 2."
    asked.clear()
    last = answer(eps_net, x, process.alpha_bar, [100, 0])
    assert asked == [100], "The step to t = 0 has no second call."
    assert torch.allclose(last, gaussian(x, 100).x0), "The step to t = 0 must be an Euler step."


@exercise(
    "7.5",
    hint="Each entry is the mean energy distance of chains that were noised back to that time from "
    "the end of DDIM, and redone with the same 20-step spacing.",
)
def _(answer: Any) -> None:
    """A Restart helps most from the time at which the network's error ends."""
    wanted = range(100, 1000, 100)
    assert isinstance(answer, dict) and sorted(answer) == list(wanted), (
        "Return a dictionary whose keys are 100, 200, ..., 900."
    )
    measured = {back: float(answer[back]) for back in wanted}
    ours = _restarted()
    level, expected = fmean(measured.values()), fmean(ours.values())
    assert 0.5 < level / expected < 2, "Your distances are of another size than ours."
    for back in wanted:
        assert abs(measured[back] / level - ours[back] / expected) < 0.3, (
            f"Against the average of the nine, your distance for {back} differs from ours."
        )
    best = min(measured, key=lambda back: measured[back])
    assert best == _STRONG, f"By your numbers {best} is best; average over more starts."


_STRONG, _WEAK = 600, 100  # where the two errors of exercise 7.5 end


@functools.cache
def _restarted(starts: int = 4, n: int = 800) -> dict[int, float]:
    """Mean energy distance by the time that a chain restarts from."""
    process = DDPM(schedules.cosine(1000))
    weights, stds = torch.tensor([1.0, 2, 3, 1, 2, 3]), torch.full((6,), 0.15)
    exact = oracle.Mixture(process, weights, data.ring_means(6), stds)

    def denoiser(x_t: Tensor, t: Any, y: Any = None, /) -> Prediction:
        push = 0.4 * (t > _STRONG) + 0.05 * (t <= _WEAK)
        return Prediction(exact(x_t, t).x0 + push * torch.tensor([1.0, 0.0]))

    down = uniform_times(1000, 20)
    found: dict[int, list[float]] = {back: [] for back in range(100, 1000, 100)}
    for seed in range(starts):
        g = torch.Generator().manual_seed(1000 + seed)
        truth = exact.draw(n, generator=g)
        end = draw(denoiser, process, torch.randn(n, 2, generator=g), down, eta=0.0)
        for back, values in found.items():
            times = [0, *down[down.index(back) :]]
            x = draw(denoiser, process, end, times, eta=0.0, generator=g)
            values.append(_energy_distance(x, truth))
    return {back: fmean(values) for back, values in found.items()}


def _energy_distance(a: Tensor, b: Tensor) -> float:
    def within(x: Tensor) -> Tensor:
        return torch.cdist(x, x).sum() / (len(x) * (len(x) - 1))

    return float(2 * torch.cdist(a, b).mean() - within(a) - within(b))
