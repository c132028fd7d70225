"""Chapter 10: the claims of its derivation, and its exercises."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import sympy as sp
import torch
from scipy import integrate
from torch import Tensor

from ddpmlib.denoiser import FixedVariance, oracle, score
from ddpmlib.guidance import (
    ClassifierGuidance,
    MeanShift,
    Temperature,
    Unconditional,
    class_gradient,
)
from ddpmlib.prediction import Prediction
from ddpmlib.process import DDPM, schedules
from ddpmlib.samplers import langevin, step_size, uniform_times
from ddpmlib.teaching.exercises import check

F64 = torch.float64
T = 40
PROCESS = DDPM(schedules.cosine(T))
TIMES = [1, 8, 20, 33]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=F64)


# One dimension, three components in two classes: integrals over x_0 are sums over a grid.
LINE = oracle.Mixture(
    PROCESS, f64(2, 2, 1), f64(-1, 0.3, 1.2), f64(0.3, 0.2, 0.4), torch.tensor([0, 1, 0])
)
GRID = torch.linspace(-6, 6, 6001, dtype=F64)


def posterior(x_t: Tensor, t: int) -> Tensor:
    """q(x_0 | x_t) on the grid, rows add up to 1, (B, N)."""
    scale, std = float(PROCESS.scale[t]), float(PROCESS.std[t])
    kernel = -((x_t[:, None] - scale * GRID) ** 2) / (2 * std**2)
    return torch.softmax(kernel + LINE.log_prob(GRID, 0), 1)


# ---- the score ---------------------------------------------------------------------------


@pytest.mark.equation("10.1")
@pytest.mark.parametrize("t", TIMES)
def test_the_score_is_the_mean_of_the_kernels_scores_and_the_prediction(t: int) -> None:
    x, (scale, std) = normal(7), (float(PROCESS.scale[t]), float(PROCESS.std[t]))
    kernel_scores = (scale * GRID - x[:, None]) / std**2
    expected = (posterior(x, t) * kernel_scores).sum(1)
    at = x.clone().requires_grad_()
    (by_autograd,) = torch.autograd.grad(LINE.log_prob(at, t).sum(), at)
    torch.testing.assert_close(expected, by_autograd, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(score(LINE, x, t), by_autograd, rtol=1e-9, atol=1e-9)
    eps = PROCESS.eps_from_x0(x, LINE(x, t).x0, t)
    torch.testing.assert_close(-eps / std, by_autograd, rtol=1e-9, atol=1e-9)


# ---- Langevin ----------------------------------------------------------------------------


@pytest.mark.equation("10.2")
def test_a_langevin_step_is_drift_and_noise() -> None:
    x, t, h = normal(5), 12, 0.03
    found = list(langevin(LINE, PROCESS, x, t, h, 1, generator=torch.Generator().manual_seed(3)))
    z = torch.randn(5, generator=torch.Generator().manual_seed(3), dtype=F64)
    expected = x + h * LINE.score(x, t) + math.sqrt(2 * h) * z
    torch.testing.assert_close(found[-1].x, expected, rtol=1e-12, atol=1e-12)


FUNCTIONS: list[Callable[[Tensor], Tensor]] = [
    lambda x: x**2,
    torch.sin,
    lambda x: torch.exp(-((x - 0.5) ** 2)),
    lambda x: x**3 - x,
]


@pytest.mark.equation("10.3")
@pytest.mark.parametrize("f", FUNCTIONS)
@pytest.mark.parametrize("noise", [1.0, 0.5])
def test_the_density_does_not_move_under_langevin(f: Callable, noise: float) -> None:
    """∫ (g f' + f'') p = 0 for every f; with half of the noise it is so for p² instead."""
    t, x = 10, GRID.clone().requires_grad_()
    (slope,) = torch.autograd.grad(f(x).sum(), x, create_graph=True)
    (curve,) = torch.autograd.grad(slope.sum(), x)
    change = LINE.score(GRID, t) * slope.detach() + noise * curve
    for power in (1, 2):
        density = torch.softmax(power * LINE.log_prob(GRID, t), 0)
        drift = abs(float((density * change).sum()))
        assert (drift < 1e-8) == (power * noise == 1), (power, drift)


@pytest.mark.equation("10.3")
def test_one_step_changes_means_as_the_equation_says() -> None:
    """(E f(x') − E f(x)) / h → ∫ f · (right side), from a density that is not stationary."""
    t, f = 10, FUNCTIONS[2]
    density = torch.exp(-((GRID - 0.4) ** 2) / 0.5)
    density = density / density.sum()
    width = float(GRID[1] - GRID[0])
    flux = density * (LINE.score(GRID, t) - torch.gradient(density.log(), spacing=width)[0])
    expected = float((-torch.gradient(flux, spacing=width)[0] * f(GRID)).sum())
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(20))
    gaps = []
    for h in (4e-3, 2e-3, 1e-3):
        moved = (GRID + h * LINE.score(GRID, t))[:, None] + math.sqrt(2 * h) * nodes
        after = (f(moved) * weights).sum(1) / weights.sum()
        gaps.append(abs(float((density * (after - f(GRID))).sum()) / h - expected))
    assert abs(expected) > 0.05 and gaps[2] < 0.02 * abs(expected)
    assert all(1.7 < a / b < 2.3 for a, b in pairwise(gaps))


@pytest.mark.equation("10.3")
def test_gaussians_solve_the_equation_and_their_divergence_falls_as_said() -> None:
    x, tau, v, V0 = sp.symbols("x tau v V0", positive=True)
    V = v + (V0 - v) * sp.exp(-2 * tau / v)
    p, target = (sp.exp(-(x**2) / (2 * s)) / sp.sqrt(2 * sp.pi * s) for s in (V, v))
    right = sp.diff(p * sp.diff(sp.log(p) - sp.log(target), x), x)
    left = sp.diff(p, tau)
    numbers = {v: sp.Rational(3, 10), V0: 2, tau: sp.Rational(1, 7)}
    for place in (0.1, 0.7, 1.9):
        gap = (left - right).subs(numbers).subs(x, place)
        assert abs(float(gap)) < 1e-12 < abs(float(left.subs(numbers).subs(x, place)))
    divergence = (V / v - 1 - sp.log(V / v)) / 2
    fisher = V * (1 / v - 1 / V) ** 2  # E |∇ log(p_τ/p)|²
    assert sp.simplify(sp.diff(divergence, tau) + fisher) == 0


@pytest.mark.equation("10.4")
def test_the_settled_variance_by_algebra_and_by_the_engine() -> None:
    h, v, V = sp.symbols("h v V", positive=True)
    (settled,) = sp.solve(sp.Eq(V, (1 - h / v) ** 2 * V + 2 * h), V)
    assert sp.simplify(settled - 2 * v**2 / (2 * v - h)) == 0
    assert sp.simplify(sp.series(settled, h, 0, 2).removeO() - (v + h / 2)) == 0
    t = 12
    a = float(PROCESS.alpha_bar[t])
    exact = oracle.Mixture(PROCESS, f64(1), f64(0), f64(0.5))
    sigma2 = 0.25 * a + 1 - a
    for share in (0.1, 1.0, 1.9):
        states = langevin(exact, PROCESS, f64(0, 1), t, share * sigma2, 1)
        gain = float((list(states)[-1].x0 - list(langevin(
            exact, PROCESS, f64(0, 0), t, share * sigma2, 1))[-1].x0)[1])  # fmt: skip
        factor = 1 + share * sigma2 * (math.sqrt(a) * gain - 1) / (1 - a)
        assert factor == pytest.approx(1 - share, abs=1e-9)
        var = 5.0
        for _ in range(500):
            var = factor**2 * var + 2 * share * sigma2
        expected = float(settled.subs({h: share * sigma2, v: sigma2}))
        assert var == pytest.approx(expected, rel=1e-9) and expected > sigma2


@pytest.mark.equation("10.4")
def test_beyond_twice_the_variance_chains_explode() -> None:
    for share, stable in ((1.98, True), (2.02, False)):
        x = f64(1e-3)
        exact = oracle.Mixture(PROCESS, f64(1), f64(0), f64(1))  # variance 1 at every level
        *_, last = langevin(exact, PROCESS, x, 12, share, 1500)
        assert (float(last.x.abs()) < 1e3) == stable


@pytest.mark.equation("10.5")
@pytest.mark.parametrize("r", [0.1, 0.16, 0.9])
def test_the_step_rule_is_a_ratio_of_drift_to_noise_and_stable(r: float) -> None:
    for t in TIMES:
        h, noise = step_size(PROCESS, t, r), float(1 - PROCESS.alpha_bar[t])
        assert h == pytest.approx(2 * r**2 * noise, rel=1e-12) and h < 2 * noise
        z = normal(2000, 30, seed=t)
        point = oracle.FiniteData(PROCESS, torch.zeros(1, 30, dtype=F64))
        x = PROCESS.q_sample(torch.zeros_like(z), t, z)
        drift = h * score(point, x, t).norm(dim=1)
        assert float((drift / (math.sqrt(2 * h) * z.norm(dim=1)) - r).abs().max()) < 1e-9
        assert 2 * noise**2 / (2 * noise - h) / noise == pytest.approx(1 / (1 - r**2))


@pytest.mark.equation("10.5")
@pytest.mark.parametrize("t", TIMES)
def test_no_log_density_is_curved_more_than_the_noise(t: int) -> None:
    """−∇² log q(x_t) ≤ 1/(1 − ᾱ_t), so that (10.4) allows every r < 1 for all data."""
    x = torch.linspace(-4, 4, 401, dtype=F64).requires_grad_()
    (slope,) = torch.autograd.grad(LINE.log_prob(x, t).sum(), x, create_graph=True)
    (curve,) = torch.autograd.grad(slope.sum(), x)
    noise = float(1 - PROCESS.alpha_bar[t])
    assert -1 / noise < float(-curve.max()) and float(-curve.min()) <= 1 / noise
    assert step_size(PROCESS, t, 0.999) < 2 * noise <= 2 / float(-curve.min())


# ---- Bayes on scores ---------------------------------------------------------------------

Y = torch.tensor([0, 1, 0, 1, 0, 1, 0])


def class_slope(x: Tensor, t: int) -> Tensor:
    """∇ log p(y|x_t) as the difference of two densities' scores, no classifier involved."""
    given = torch.stack([LINE.given(c).score(x, t) for c in (0, 1)])
    return given[Y, torch.arange(len(x))] - LINE.score(x, t)


@pytest.mark.equation("10.6")
@pytest.mark.parametrize("t", TIMES)
def test_bayes_rule_on_scores(t: int) -> None:
    x = normal(7)
    found = class_gradient(LINE.class_logits, x, t, Y)
    torch.testing.assert_close(found, class_slope(x, t), rtol=1e-8, atol=1e-8)
    conditional = torch.stack([LINE.given(c).score(x, t) for c in (0, 1)])[Y, torch.arange(7)]
    guided = ClassifierGuidance(Unconditional(LINE), LINE.class_logits)
    torch.testing.assert_close(score(guided, x, t, Y), conditional, rtol=1e-8, atol=1e-8)


@pytest.mark.equation("10.7")
@pytest.mark.parametrize("t", TIMES)
def test_the_verdict_on_noise_is_the_mean_verdict_on_what_is_behind(t: int) -> None:
    x = normal(7)
    clean = LINE.class_logits(GRID, 0).softmax(1)
    expected = posterior(x, t) @ clean
    found = LINE.class_logits(x, t).softmax(1)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
    others = LINE.class_logits(x, 0), LINE.class_logits(LINE(x, t).x0, 0)
    if t > 10:  # neither the noisy point taken for clean, nor one guess of it
        assert all(float((o.softmax(1) - expected).abs().max()) > 0.05 for o in others)


@pytest.mark.equation("10.7")
def test_cross_entropy_on_noisy_points_is_least_at_that_verdict() -> None:
    t, n = 20, 200_000
    k = torch.multinomial(
        LINE.log_weights.exp(), n, True, generator=torch.Generator().manual_seed(0)
    )
    x0 = LINE.means[k, 0] + LINE.variances[k].sqrt() * normal(n, seed=1)
    y, x_t = torch.tensor([0, 1, 0])[k], PROCESS.q_sample(x0, t, normal(n, seed=2))
    exact = LINE.class_logits(x_t, t)

    def loss(logits: Tensor) -> float:
        return float(torch.nn.functional.cross_entropy(logits, y))

    floor = float(-(exact.softmax(1) * exact.log_softmax(1)).sum(1).mean())
    assert loss(exact) == pytest.approx(floor, abs=0.005)
    bent = [1.5 * exact, 0.6 * exact, exact + f64(0.4, 0), LINE.class_logits(x_t, t - 10)]
    assert all(loss(wrong) > loss(exact) + 0.002 for wrong in bent)
    assert loss(LINE.class_logits(x_t, 0)) > loss(exact) + 0.2  # the classifier of clean points


@pytest.mark.equation("10.8")
@pytest.mark.parametrize("t", TIMES)
def test_the_gradient_is_a_difference_of_predictions(t: int) -> None:
    x, a = normal(7), float(PROCESS.alpha_bar[t])
    expected = math.sqrt(a) / (1 - a) * (LINE(x, t, Y).x0 - LINE(x, t).x0)
    torch.testing.assert_close(class_slope(x, t), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.equation("10.8")
def test_the_exact_gradient_fades_like_the_signal() -> None:
    x = normal(500)
    y = torch.zeros(500, dtype=torch.int64)
    lengths, scales = [], []
    for t in (33, 36, 38, 39):
        lengths.append(float(class_gradient(LINE.class_logits, x, t, y).abs().mean()))
        scales.append(float(PROCESS.scale[t]))
    ratios = [length / scale for length, scale in zip(lengths, scales, strict=True)]
    assert lengths[0] > 4 * lengths[-1] and max(ratios) < 1.3 * min(ratios)


# ---- two forms ---------------------------------------------------------------------------


@pytest.mark.equation("10.9")
@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("strength", [0.5, 1.0, 3.0])
def test_the_shift_of_the_noise_is_that_of_the_prediction(t: int, strength: float) -> None:
    x, slope = normal(7), class_slope(normal(7), t)
    guided = ClassifierGuidance(Unconditional(LINE), LINE.class_logits, strength)(x, t, Y).x0
    a = float(PROCESS.alpha_bar[t])
    by_prediction = LINE(x, t).x0 + strength * (1 - a) / math.sqrt(a) * slope
    torch.testing.assert_close(guided, by_prediction, rtol=1e-8, atol=1e-8)
    eps = PROCESS.eps_from_x0(x, LINE(x, t).x0, t) - strength * math.sqrt(1 - a) * slope
    by_noise = (x - math.sqrt(1 - a) * eps) / math.sqrt(a)
    torch.testing.assert_close(guided, by_noise, rtol=1e-8, atol=1e-8)
    if strength == 1:
        torch.testing.assert_close(guided, LINE(x, t, Y).x0, rtol=1e-8, atol=1e-8)


@pytest.mark.equation("10.10")
def test_the_square_completes() -> None:
    x, mu, sigma2, g = sp.symbols("x mu Sigma g")
    left = -((x - mu) ** 2) / (2 * sigma2) + g * (x - mu)
    right = -((x - mu - sigma2 * g) ** 2) / (2 * sigma2) + sigma2 * g**2 / 2
    assert sp.simplify(left - right) == 0


@pytest.mark.equation("10.10")
def test_the_expansion_is_right_to_first_order() -> None:
    """p(x_s) ∝ N(μ, Σ) p(y|x_s), by quadrature, has the mean μ + Σ g up to O(Σ²)."""
    t, mu, gaps, blunt = 12, 0.25, [], []
    log_p = LINE.class_logits(GRID, t)[:, 0]
    g = float(class_gradient(LINE.class_logits, f64(mu), t, torch.zeros(1, dtype=torch.int64)))
    for sigma2 in (4e-3, 2e-3, 1e-3):
        density = torch.softmax(-((GRID - mu) ** 2) / (2 * sigma2) + log_p, 0)
        mean = float((density * GRID).sum())
        gaps.append(abs(mean - (mu + sigma2 * g)))
        blunt.append(abs(mean - (mu + math.sqrt(sigma2) * g)))  # σ for Σ
    assert all(3.2 < a / b < 4.8 for a, b in pairwise(gaps))
    assert blunt[-1] > 100 * gaps[-1]


@pytest.mark.equation("10.10")
@pytest.mark.parametrize("var_mix", [0.0, 1.0])
@pytest.mark.parametrize(("t", "s"), [(30, 29), (30, 17), (5, 1)])
def test_the_mean_form_moves_the_engines_step(t: int, s: int, var_mix: float) -> None:
    x, noise = normal(7), normal(7, seed=1)
    base = FixedVariance(Unconditional(LINE), var_mix)
    guide = MeanShift(base, LINE.class_logits, 2.0, [t, s])
    plain, guided = (PROCESS.step(x, d(x, t, Y), t, s, 1.0, noise) for d in (base, guide))
    covariance = PROCESS.posterior_std(t, s, var_mix) ** 2
    expected = 2.0 * covariance * class_slope(x, t)
    torch.testing.assert_close(guided - plain, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.equation("10.11")
@pytest.mark.parametrize(("t", "s"), [(30, 29), (30, 17), (5, 1), (39, 20)])
def test_the_ratio_of_the_two_shifts(t: int, s: int) -> None:
    x, (a, b) = normal(7), (float(PROCESS.alpha_bar[u]) for u in (t, s))
    for var_mix, expected in (
        (1.0, math.sqrt(a / b)),
        (0.0, math.sqrt(a / b) * (1 - b) / (1 - a)),
    ):
        base = FixedVariance(Unconditional(LINE), var_mix)
        plain = base(x, t, Y).x0
        mean = MeanShift(base, LINE.class_logits, 1.0, [t, s])(x, t, Y).x0 - plain
        prediction = ClassifierGuidance(base, LINE.class_logits, 1.0)(x, t, Y).x0 - plain
        torch.testing.assert_close(mean, expected * prediction, rtol=1e-8, atol=1e-10)


# ---- the strength ------------------------------------------------------------------------


class Nested:
    """All data N(0, 1), class 0 among them N(0, c)."""

    def __init__(self, process: DDPM, c: float) -> None:
        self.process, self.share = process, math.sqrt(c) / 2
        self.all = oracle.Mixture(process, f64(1), f64(0), f64(1))
        self.inside = oracle.Mixture(process, f64(1), f64(0), f64(math.sqrt(c)))

    def __call__(self, x_t: Tensor, t: Any, y: Tensor | None = None, /) -> Prediction:
        return self.all(x_t, t)

    def class_logits(self, x_t: Tensor, t: Any) -> Tensor:
        log_p = math.log(self.share) + self.inside.log_prob(x_t, t) - self.all.log_prob(x_t, t)
        return torch.stack([log_p, torch.log1p(-log_p.exp())], 1)


def end_variance(denoiser: Any, times: list[int], eta: float, var: float = 1.0) -> float:
    """Exact variance behind a chain of linear steps that starts with ``var``."""
    one, zero, y = f64(1), f64(0), torch.zeros(1, dtype=torch.int64)
    for t, s in pairwise(times):
        gain = float(denoiser.process.step(one, denoiser(one, t, y), t, s, eta, zero))
        loud = eta * float(denoiser.process.posterior_std(t, s)) if s else 0.0
        var = gain**2 * var + loud**2
    return var


def walked(c: float, s: float) -> float:
    inside = integrate.quad(lambda u: (c + u) ** (-2 * s) * (1 + u) ** (2 * s - 2), 0, math.inf)
    return c ** (2 * s) * inside[0]


def guided(T: int, c: float, strength: float) -> ClassifierGuidance:
    pair = Nested(DDPM(schedules.cosine(T)), c)
    return ClassifierGuidance(pair, pair.class_logits, strength)


@pytest.mark.equation("10.12", "10.13")
@pytest.mark.parametrize("strength", [0.7, 1.0, 2.0, 3.0])
@pytest.mark.slow
def test_where_guided_chains_end(strength: float) -> None:
    """Chains of 100 and 200 steps, extrapolated: their error is of first order."""
    c = 0.3
    both = [
        [end_variance(guided(T, c, strength), uniform_times(T, T), eta) for T in (100, 200)]
        for eta in (0.0, 1.0)
    ]
    ddim, ancestral = (2 * fine - coarse for coarse, fine in both)
    assert ddim == pytest.approx(c**strength, rel=0.015)
    assert ancestral == pytest.approx(walked(c, strength), rel=0.025)
    tilted = 1 / (strength / c - strength + 1)
    if strength == 1:
        assert walked(c, 1) == pytest.approx(c) and tilted == pytest.approx(c)
    else:
        sharper = strength > 1
        assert (tilted > walked(c, strength)) == sharper
        assert (walked(c, strength) > c**strength) == sharper


@pytest.mark.equation("10.12", "10.13")
@pytest.mark.parametrize("c", [0.02, 0.25, 0.9])
def test_guidance_above_1_is_sharper_than_the_tilted_distribution_for_every_class(c: float) -> None:
    """Bernoulli's inequality for DDIM; ancestral sampling lies between."""
    for strength in (0.2, 0.7, 1.3, 2.0, 6.0):
        tilted = 1 / (strength / c - strength + 1)
        order = [tilted, walked(c, strength), c**strength]
        assert order == sorted(order, reverse=strength > 1) and order[0] != order[2]


@pytest.mark.equation("10.12", "10.13")
def test_the_two_flows_by_algebra() -> None:
    """Both printed solutions satisfy their equations with a = s/(c+u) − (s−1)/(1+u)."""
    u, c, s, v = sp.symbols("u c s v", positive=True)
    a = s / (c + u) - (s - 1) / (1 + u)
    ddim = (c + u) ** s * (1 + u) ** (1 - s)  # variance: dx/du = a x/2
    assert sp.simplify(sp.diff(ddim, u) / ddim - a) == 0
    assert sp.limit(ddim.subs({s: 2, c: sp.Rational(1, 4)}) / u, u, sp.oo) == 1
    factor = (c + u) ** (-2 * s) * (1 + u) ** (2 * s - 2)
    assert sp.simplify(sp.diff(factor, u) / factor + 2 * a) == 0  # (factor V)' = −factor
    closed = c**2 + c * (1 - c) ** 2 / 3
    integrand = sp.expand((v + 1 - c) ** 2 / v**4)
    assert sp.simplify(c**4 * sp.integrate(integrand, (v, c, sp.oo)) - closed) == 0
    assert float(closed.subs(c, 0.25)) == pytest.approx(walked(0.25, 2), rel=1e-9)


@pytest.mark.equation("10.14")
@pytest.mark.parametrize("tau", [0.5, 0.8, 1.0, 1.2])
def test_temperature_ends_where_it_says(tau: float) -> None:
    c, ends = 0.3, []
    for T in (200, 400):
        exact = oracle.Mixture(DDPM(schedules.cosine(T)), f64(1), f64(0), f64(math.sqrt(c)))
        ends.append(end_variance(Temperature(exact, tau), uniform_times(T, T), 1.0))
    assert 2 * ends[1] - ends[0] == pytest.approx(tau / (2 - tau) * c, rel=0.02)
    if tau != 1:
        assert abs(ends[1] / (tau * c) - 1) > 0.1


@pytest.mark.equation("10.14")
def test_the_temperature_solution_by_algebra() -> None:
    u, c, tau = sp.symbols("u c tau", positive=True)
    V = tau / (2 - tau) * (c + u)
    assert sp.simplify(sp.diff(V, u) - (2 * V / (tau * (c + u)) - 1)) == 0


def test_the_gradient_at_the_mean_errs_least_when_steps_are_few() -> None:
    """(10.10) as derived, g at μ and the level of arrival, against Algorithm 1 as printed."""
    process, c, zero = DDPM(schedules.cosine(1000)), 0.25, torch.zeros(1, dtype=torch.int64)
    pair, one = Nested(process, c), f64(1)
    for n in (20, 100):
        times, var = uniform_times(1000, n), 1.0
        for t, s in pairwise(times):
            mean, std = process.posterior(one, pair(one, t).x0, t, s)
            if s:
                mean = mean + std**2 * class_gradient(pair.class_logits, mean, s, zero)
            var = float(mean) ** 2 * var + float(std) ** 2
        printed = end_variance(MeanShift(pair, pair.class_logits, 1.0, times), times, 1.0)
        assert abs(var / c - 1) < abs(printed / c - 1)


# ---- exercises ---------------------------------------------------------------------------


def test_exercise_1() -> None:
    def settled(sigma: float, epsilon: float) -> float:
        return 4 * sigma**4 / (4 * sigma**2 - epsilon)

    check("10.1", (settled, lambda sigma: 4 * sigma**2))
    for wrong in (
        (settled, lambda sigma: 2 * sigma**2),
        (lambda s, e: 2 * s**4 / (2 * s**2 - e), lambda sigma: 4 * sigma**2),
        (lambda s, e: s**2 + e / 4, lambda sigma: 4 * sigma**2),
    ):
        with pytest.raises(AssertionError, match="Hint"):
            check("10.1", wrong)


def _two_sided(x: Tensor, abar: float, w: float, m: float, c: float, **bug: bool) -> Tensor:
    var, centre = abar * c + 1 - abar, abar**0.5 * m
    odds = 0.0 if bug.get("even") else math.log(w / (1 - w))
    share = torch.sigmoid(odds + 2 * centre * x / var)
    if bug.get("plain"):
        right, left = (torch.exp(-((x - k * centre) ** 2) / (2 * var)) for k in (1, -1))
        share = w * right / (w * right + (1 - w) * left)
    return ((2 * share - 1) * centre - x) / (1 if bug.get("unscaled") else var)


def test_exercise_2() -> None:
    check("10.2", _two_sided)
    for bug in ("even", "plain", "unscaled"):
        with pytest.raises(AssertionError, match="Hint"):
            check("10.2", lambda *a, bug=bug: _two_sided(*a, **{bug: True}))


def _guide(  # type: ignore[no-untyped-def]
    eps_net, classifier, x_t, t, y, abar, s, factor=lambda a: (1 - a) ** 0.5, grad=True
):
    with torch.set_grad_enabled(grad):
        x = x_t.detach().requires_grad_()
        chosen = classifier(x, t).log_softmax(1)[torch.arange(len(y)), y].sum()
        (slope,) = torch.autograd.grad(chosen, x)
    return eps_net(x_t, t) - s * factor(abar) * slope


def test_exercise_3() -> None:
    check("10.3", _guide)
    for wrong in (
        lambda *a: _guide(*a, factor=lambda a: -((1 - a) ** 0.5)),
        lambda *a: _guide(*a, factor=lambda a: 1 - a),
        lambda *a: _guide(*a, factor=lambda a: (1 - a) / a**0.5),
        lambda *a: _guide(*a, grad=False),
    ):
        with pytest.raises(AssertionError, match="Hint"):
            check("10.3", wrong)


def test_exercise_4() -> None:
    check("10.4", lambda s, c: -math.log(s / c - s + 1) / math.log(c))
    for wrong in (lambda s, c: s, lambda s, c: math.log(s / c - s + 1) / math.log(c)):
        with pytest.raises(AssertionError, match="Hint"):
            check("10.4", wrong)


@pytest.mark.parametrize("key", ["10.1", "10.2", "10.3", "10.4", "10.5"])
def test_the_skeletons_fail(key: str) -> None:
    with pytest.raises(AssertionError, match="No answer yet"):
        check(key, ...)


# ---- proofs by algebra -------------------------------------------------------------------


@pytest.mark.equation("10.1")
def test_the_score_of_any_three_points_is_their_prediction() -> None:
    a, x = sp.symbols("a x", positive=True)
    points = sp.symbols("y_1:4", real=True)
    weights = [sp.exp(-((x - sp.sqrt(a) * y) ** 2) / (2 * (1 - a))) for y in points]
    x0 = sum(w * y for w, y in zip(weights, points, strict=True)) / sum(weights)
    slope = sp.diff(sp.log(sum(weights)), x)
    assert sp.simplify(slope - (sp.sqrt(a) * x0 - x) / (1 - a)) == 0
    eps = (x - sp.sqrt(a) * x0) / sp.sqrt(1 - a)
    assert sp.simplify(slope + eps / sp.sqrt(1 - a)) == 0


@pytest.mark.equation("10.3")
def test_every_density_stands_still_and_both_forms_agree() -> None:
    """For any two positive functions of one variable, not for an example."""
    x = sp.symbols("x", real=True)
    moving, target = sp.Function("m")(x), sp.Function("p")(x)
    printed = -sp.diff(moving * sp.diff(sp.log(target), x), x) + sp.diff(moving, x, 2)
    as_flux = sp.diff(moving * sp.diff(sp.log(moving / target), x), x)
    assert sp.simplify(printed - as_flux) == 0
    assert sp.simplify(printed.subs(moving, target).doit()) == 0
    half = -sp.diff(target**2 * sp.diff(sp.log(target), x), x) + sp.diff(target**2, x, 2) / 2
    assert sp.simplify(half) == 0  # half of the noise: p² stands still


@pytest.mark.equation("10.6")
def test_bayes_rule_on_scores_for_any_functions() -> None:
    x = sp.symbols("x", real=True)
    q, given = sp.Function("q")(x), sp.Function("p")(x)
    evidence = sp.symbols("p_y", positive=True)
    posterior = q * given / evidence
    left = sp.diff(sp.log(posterior), x)
    assert sp.simplify(left - sp.diff(sp.log(q), x) - sp.diff(sp.log(given), x)) == 0


@pytest.mark.equation("10.7")
@pytest.mark.equation("10.8")
def test_the_verdict_on_noise_and_its_gradient_for_any_two_points() -> None:
    """Points y_1, y_2 of which a clean classifier says c_1, c_2."""
    a, c1, c2 = sp.symbols("a c_1 c_2", positive=True)
    x, y1, y2 = sp.symbols("x y_1 y_2", real=True)
    kernels = [sp.exp(-((x - sp.sqrt(a) * y) ** 2) / (2 * (1 - a))) for y in (y1, y2)]
    told = [c * k for c, k in zip((c1, c2), kernels, strict=True)]
    verdict = sum(told) / sum(kernels)  # q(x, y) / q(x), which is E[c | x]
    both = (
        sum(k * y for k, y in zip(ks, (y1, y2), strict=True)) / sum(ks) for ks in (told, kernels)
    )
    inside, outside = both
    gradient = sp.diff(sp.log(verdict), x)
    assert sp.simplify(gradient - sp.sqrt(a) / (1 - a) * (inside - outside)) == 0


@pytest.mark.equation("10.9")
@pytest.mark.equation("10.11")
def test_the_two_shifts_by_algebra() -> None:
    a_t, a_s, g, s = sp.symbols("a_t a_s g s", positive=True)
    x, eps = sp.symbols("x epsilon", real=True)

    def x0(noise: sp.Expr) -> sp.Expr:
        return (x - sp.sqrt(1 - a_t) * noise) / sp.sqrt(a_t)

    shift = x0(eps - s * sp.sqrt(1 - a_t) * g) - x0(eps)
    assert sp.simplify(shift - s * (1 - a_t) / sp.sqrt(a_t) * g) == 0
    beta = 1 - a_t / a_s
    on_mean = sp.sqrt(a_s) * beta / (1 - a_t) * shift  # form 1, seen at the mean of the step
    for sigma2, printed in (
        (beta, sp.sqrt(a_t / a_s)),
        (beta * (1 - a_s) / (1 - a_t), sp.sqrt(a_t / a_s) * (1 - a_s) / (1 - a_t)),
    ):
        assert sp.simplify(s * sigma2 * g / on_mean - printed) == 0
