"""Checks of chapter 10: scores, Langevin, and guidance by a classifier."""

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ddpmlib.denoiser import oracle
from ddpmlib.guidance.classifier import ClassifierGuidance
from ddpmlib.guidance.wrapper import Unconditional
from ddpmlib.prediction import Prediction
from ddpmlib.process import schedules
from ddpmlib.process.ddpm import DDPM
from ddpmlib.samplers.times import uniform_times
from ddpmlib.teaching.exercises import exercise

F64 = torch.float64


@exercise("10.1", hint="With h = ε/2 it is the step of (10.2); put that into (10.4).")
def _(answer: Any) -> None:
    """Where Langevin's chains settle in the papers' convention."""
    settled, bound = answer
    for sigma, epsilon in ((1.0, 0.2), (0.5, 0.7), (2.0, 3.0)):
        gain, var = 1 - epsilon / (2 * sigma**2), 3.0
        for _ in range(3000):
            var = gain**2 * var + epsilon
        assert math.isclose(float(settled(sigma, epsilon)), var, rel_tol=1e-6), (
            f"For σ = {sigma}, ε = {epsilon} the chains settle elsewhere."
        )
    for sigma in (0.5, 2.0):
        largest = float(bound(sigma))
        gains = [abs(1 - share * largest / (2 * sigma**2)) for share in (0.999, 1.001)]
        assert gains[0] < 1 < gains[1], f"For σ = {sigma} the bound lies elsewhere."


@exercise(
    "10.2",
    hint="How probable is each side at x? Its log-odds is linear in x, each side pulls alone.",
)
def _(answer: Any) -> None:
    """The score of two modes."""
    process = DDPM(schedules.cosine(40))
    for w, m, c in ((0.5, 1.0, 0.1), (0.2, 2.0, 0.5), (0.9, 0.7, 1.0)):
        exact = oracle.Mixture(
            process,
            torch.tensor([w, 1 - w], dtype=F64),
            torch.tensor([m, -m], dtype=F64),
            torch.full((2,), c**0.5, dtype=F64),
        )
        for t in (1, 12, 30):
            x = torch.linspace(-4, 4, 41, dtype=F64)
            found = answer(x, float(process.alpha_bar[t]), w, m, c)
            assert found.shape == x.shape, "Return a tensor of the shape of x."
            assert torch.allclose(found, exact.score(x, t), rtol=1e-6, atol=1e-8), (
                f"For w = {w}, m = {m}, c = {c} at abar = {float(process.alpha_bar[t]):.3f} "
                "yours is not the score."
            )
    far = answer(torch.tensor([-50.0, 50.0], dtype=F64), 1.0, 0.3, 1.0, 1e-3)
    assert bool(far.isfinite().all()), "Far out, with a small variance, it is not finite."
    straight = torch.tensor([49_000.0, -49_000.0], dtype=F64)  # (∓1 − x) / c: one mode alone
    assert torch.allclose(far, straight), "Far out the nearer mode alone gives the score."


@exercise(
    "10.3",
    hint="Of what is the gradient taken, and with respect to what? Then a score becomes noise.",
)
def _(answer: Any) -> None:
    """Classifier guidance, said of the noise."""
    process = DDPM(schedules.cosine(40))
    g = torch.Generator().manual_seed(0)
    means = torch.randn(4, 2, generator=g, dtype=F64)
    plane = oracle.Mixture(
        process,
        torch.tensor([1.0, 2, 1, 1], dtype=F64),
        means,
        torch.full((4,), 0.4, dtype=F64),
        torch.tensor([0, 1, 2, 1]),
    )

    def eps_net(x_t: Tensor, t: int) -> Tensor:
        return process.eps_from_x0(x_t, plane(x_t, t).x0, t)

    x, y = torch.randn(6, 2, generator=g, dtype=F64), torch.tensor([0, 1, 2, 0, 1, 2])

    def raw_logits(x_t: Tensor, t: Any) -> Tensor:
        """As networks answer: the same probabilities, not normalised."""
        return plane.class_logits(x_t, t) + 7 * x_t.square().sum(1, keepdim=True)

    for t, s in ((3, 1.0), (20, 2.5), (35, 0.5), (20, 0.0)):
        guided = ClassifierGuidance(Unconditional(plane), plane.class_logits, s)
        expected = process.eps_from_x0(x, guided(x, t, y).x0, t)
        with torch.no_grad():
            found = answer(eps_net, raw_logits, x, t, y, float(process.alpha_bar[t]), s)
        assert found.shape == x.shape, "Return the noise, in the shape of x_t."
        assert torch.allclose(found, expected, rtol=1e-6, atol=1e-8), (
            f"At t = {t}, s = {s} yours is not the guided noise."
        )
    assert not x.requires_grad, "Leave the x_t that you were given as it is."


@exercise(
    "10.4",
    hint="Two variances must agree: DDIM's at your strength, the tilted distribution's at s.",
)
def _(answer: Any) -> None:
    """The strength with which DDIM has the variance of the tilted distribution."""
    for s, c in ((2.0, 0.25), (4.0, 0.1), (0.5, 0.6), (1.0, 0.3)):
        found = float(answer(s, c))
        assert math.isclose(c**found, 1 / (s / c - (s - 1)), rel_tol=1e-6), (
            f"For s = {s}, c = {c} your strength ends at the variance {c**found:.4f}."
        )


@exercise(
    "10.5",
    hint="Part 1: three powers of v = c + u. Part 2: what gain has a step on x_t, what noise?",
)
def _(answer: Any) -> None:
    """The strength that leaves the variance which was asked for, for any sampler."""
    doubled, calibrate = answer
    w = (torch.arange(200_000, dtype=F64) + 0.5) / 200_000
    u = w / (1 - w)  # midpoints: all of 0 < u < ∞, with du = (1 + u)² dw
    for c in (0.05, 0.25, 0.8, 1.0):
        integral = float(((1 + u) ** 4 / (c + u) ** 4).mean())
        assert math.isclose(float(doubled(c)), c**4 * integral, rel_tol=1e-6), (
            f"For c = {c} the integral has another value."
        )
    process = DDPM(schedules.cosine(60))
    for s, c, steps, eta in (
        (2, 0.25, 60, 1.0),
        (4, 0.25, 8, 1.0),
        (3, 0.4, 8, 0.0),
        (1, 0.1, 20, 0.5),
    ):
        times = uniform_times(60, steps)
        strength = float(calibrate(s, c, process.alpha_bar, times, eta))
        left, asked = _variance(process, c, strength, times, eta), 1 / (s / c - (s - 1))
        assert math.isclose(left, asked, rel_tol=1e-3), (
            f"With {steps} steps at η = {eta} your strength leaves {left:.4f}, not {asked:.4f}."
        )


def _variance(process: DDPM, c: float, strength: float, times: list[int], eta: float) -> float:
    """What a chain of the library makes of variance 1: class N(0, c), in data N(0, 1)."""
    one, zero = torch.ones(1, dtype=F64), torch.zeros(1, dtype=F64)
    every, own = (oracle.Gaussian(process, zero, v * torch.eye(1, dtype=F64)) for v in (1.0, c))
    var = 1.0
    for t, then in pairwise(times):
        x = one[None]
        plain = every(x, t).x0
        guided = Prediction(plain + strength * (own(x, t).x0 - plain))
        gain = float(process.step(x, guided, t, then, eta, torch.zeros_like(x)))
        var = gain**2 * var + (eta * float(process.posterior_std(t, then))) ** 2
    return var
