"""Checks of chapter 06: learning the variance."""

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ddpmlib.denoiser import oracle
from ddpmlib.likelihood import decoder_floor
from ddpmlib.prediction import Prediction
from ddpmlib.process import schedules
from ddpmlib.process.ddpm import DDPM
from ddpmlib.samplers import quadratic_times
from ddpmlib.teaching.exercises import exercise

F64 = torch.float64


def price(best: Any, used: Any) -> Any:
    """Equation (6.2)."""
    r = torch.as_tensor(best / used, dtype=F64)
    return 0.5 * (r - 1 - r.log())


@exercise(
    "6.1",
    hint="Both prices contain −½ log σ*², which drops out; what is left is linear in σ*². The "
    "width follows from (6.3), solved for c².",
)
def _(answer: Any) -> None:
    """The data for which β̃ and β cost the same."""
    even, width = answer
    process = DDPM(schedules.cosine(100))
    for t, s in ((100, 99), (60, 20), (9, 8), (2, 1)):
        low, high = (float(v) for v in process.variances(t, s))
        best = float(even(low, high))
        assert low < best < high, "That variance does not lie between the two ends."
        first, second = float(price(best, low)), float(price(best, high))
        assert math.isclose(first, second, rel_tol=1e-6), (
            f"For β̃ = {low:.4g} and β = {high:.4g} the prices are {first:.4g} and {second:.4g}."
        )
        c = float(width(float(process.alpha_bar[t]), float(process.alpha_bar[s])))
        assert math.isfinite(c) and c > 0, f"A width is a positive number, not {c}."
        cov = torch.tensor([[c**2]], dtype=F64)
        data = oracle.Gaussian(process, torch.zeros(1, dtype=F64), cov)
        found = _best_variance(data, process, c, t, s)
        assert math.isclose(found, best, rel_tol=1e-6), (
            f"For t = {t}, s = {s} data of that width have another best variance."
        )


def _best_variance(data: Any, process: DDPM, c: float, t: int, s: int) -> float:
    """Of Gaussian data, by what the oracle leaves unknown: Var(x_0 | x_t) = c² − c²·slope."""
    one = torch.ones(1, 1, dtype=F64)
    slope = float(data(one, t).x0) * float(process.scale[t])  # of E[x_0 | x_t]
    low, beta = (float(v) for v in process.variances(t, s))
    on_x0 = float(process.scale[s]) * beta / float(process.std[t]) ** 2
    return low + on_x0**2 * c**2 * (1 - slope)


@exercise(
    "6.2",
    hint="Both ends belong to the stride t → s; it is their logarithms that v mixes linearly.",
)
def _(answer: Any) -> None:
    """The variance of a stride, from the table of ᾱ alone."""
    process = DDPM(schedules.cosine(200))
    for t, s in ((200, 150), (80, 79), (40, 3)):
        for v in (0.0, 0.35, 1.0):
            expected = process.posterior_std(t, s, v) ** 2
            found = float(answer(process.alpha_bar, t, s, v))
            assert math.isclose(found, expected, rel_tol=1e-9), (
                f"For t = {t}, s = {s}, v = {v} it is another number."
            )


@exercise(
    "6.3",
    hint="β̃ of the stride plus the square of A times the mean of (x_0 − x̂_0)²; A belongs to the "
    "stride, too.",
)
def _(answer: Any) -> None:
    """The best variance of every stride from measured errors, without training."""
    process = DDPM(schedules.cosine(200))
    g = torch.Generator().manual_seed(0)
    for times, slope in (([200, 120, 30, 0], 0.7), ([150, 149, 2, 1], -0.2)):
        x0 = torch.randn(40, 3, generator=g, dtype=F64)
        noise = {t: torch.randn(40, 3, generator=g, dtype=F64) for t in times[:-1]}

        def denoiser(x_t: Tensor, t: Any, y: Any = None, /, slope: float = slope) -> Prediction:
            return Prediction(slope * torch.tanh(x_t) + t / 400)

        yours = answer(denoiser, process, x0, times, noise)
        assert len(yours) == len(times) - 1, "Give one number for each stride."
        for found, (t, s) in zip(yours, pairwise(times), strict=True):
            error = x0 - denoiser(process.q_sample(x0, t, noise[t]), t).x0
            zero = torch.zeros_like(error)
            low, _ = process.variances(t, s)
            expected = float(low) + float((process.posterior(zero, error, t, s)[0] ** 2).mean())
            assert math.isclose(float(found), expected, rel_tol=1e-6), (
                f"For the stride {t} → {s} yours and ours differ."
            )


@exercise(
    "6.4",
    hint="Compare the gradient at `output` with and without the second term: it must not change. "
    "Which tensor method cuts a gradient?",
)
def _(answer: Any) -> None:
    """L_hybrid of one reverse step, with the stop where it belongs."""
    g = torch.Generator().manual_seed(0)
    start, target = torch.randn(2, 50, generator=g, dtype=torch.float64)
    place = torch.rand(50, generator=g, dtype=torch.float64)
    low, high, on_x0 = 0.01, 0.04, 0.2
    for share in (0.1, 2.0):
        x, v = start.clone().requires_grad_(), place.clone().requires_grad_()
        loss = answer(x, target, v, low, high, on_x0, share)
        log_var = place * math.log(high) + (1 - place) * math.log(low)
        ratio = (low + (on_x0 * (start - target)) ** 2) / log_var.exp()
        kl = 0.5 * (ratio - 1 - math.log(low) + log_var)
        value = ((start - target) ** 2 + share * kl).mean()
        assert abs(float(loss.detach() - value)) < 1e-9, "The value of the loss is another."
        assert loss.requires_grad, "Nothing can learn from this number."
        on_mean, on_place = torch.autograd.grad(loss, (x, v), allow_unused=True)
        assert on_mean is not None and torch.allclose(on_mean, 2 * (start - target) / 50), (
            "The mean feels the second term."
        )
        slope = share * 0.5 * math.log(high / low) * (1 - ratio) / 50
        assert on_place is not None and torch.allclose(on_place, slope), (
            "The variance learns something else."
        )


@exercise(
    "6.5",
    hint="At every one of the six times, v is a function of x_t: average β̃ + A² (x_0 − x̂_0)² "
    "over samples with about the same x_t, then (6.6); the last stride's low end is the floor.",
)
def _(answer: Any) -> None:
    """A variance that was trained for its strides."""
    process, times = DDPM(schedules.cosine(1000)), quadratic_times(1000, 6)
    floor, g = decoder_floor(process, times), torch.Generator().manual_seed(99)
    data = _three_peaks(process)
    x0 = data.draw(4000, generator=g)
    paid = {"yours": 0.0, "low": 0.0, "high": 0.0}
    for t, s in pairwise(times):
        x_t = process.q_sample(x0, t, torch.randn(x0.shape, generator=g, dtype=F64))
        place = torch.as_tensor(answer(x_t, t), dtype=F64)
        assert place.shape == x_t.shape, "Return one place for each x_t, in its shape."
        low, high = (float(v) for v in process.variances(t, s))
        on_x0 = float(process.posterior(torch.zeros(1), torch.ones(1), t, s)[0])
        best = low + on_x0**2 * _unknown(data, x_t, t)
        low = low or floor
        yours = (place * math.log(high) + (1 - place) * math.log(low)).exp()
        for name, used in (("yours", yours), ("low", low), ("high", high)):
            paid[name] += float(price(best, used).mean())
    constant = min(paid["low"], paid["high"])
    assert paid["yours"] < 0.25 * constant, (
        f"Your bound lies {paid['yours']:.2f} nats above that of the best variance; less than "
        f"{0.25 * constant:.2f} are wanted."
    )


def _three_peaks(process: DDPM) -> oracle.Mixture:
    """The data of exercise 6.5."""
    weights = torch.tensor([0.3, 0.4, 0.3], dtype=F64)
    means = torch.tensor([[-1.3], [0.1], [1.2]], dtype=F64)
    return oracle.Mixture(process, weights, means, torch.full((3,), 0.15, dtype=F64))


def _unknown(data: oracle.Mixture, x_t: Tensor, t: int) -> Tensor:
    """Var(x_0 | x_t) by Bayes' rule on a grid, (B, 1)."""
    grid = torch.linspace(-2.2, 2.2, 1500, dtype=F64)[:, None]
    process = data.process
    assert isinstance(process, DDPM)
    scale, std = float(process.scale[t]), float(process.std[t])
    log_p = data.log_prob(grid, 0) - (x_t - scale * grid[:, 0]) ** 2 / (2 * std**2)
    p = torch.softmax(log_p, dim=1)
    mean = p @ grid
    return p @ grid**2 - mean**2
