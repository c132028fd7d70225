"""Chapter 11: the claims of its derivation, and its exercises."""

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
from torch import Tensor, nn

from ddpmlib.denoiser import EPS, X0, Denoiser, Parameterization, V, oracle, score
from ddpmlib.experiments import feature_audit
from ddpmlib.guidance import ClassifierFree, DynamicThreshold, StaticThreshold, interval
from ddpmlib.likelihood import continuous, elbo
from ddpmlib.losses import diffusion_loss
from ddpmlib.models import MLP
from ddpmlib.prediction import Prediction
from ddpmlib.process import DDPM, schedules
from ddpmlib.samplers import draw, uniform_times
from ddpmlib.teaching.exercises import check

F64 = torch.float64
T = 40
PROCESS = DDPM(schedules.cosine(T))


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=F64)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


PLANE = oracle.Mixture(
    PROCESS, f64(1, 2, 3, 2), normal(4, 2, seed=7), f64(0.3, 0.2, 0.6, 0.4),
    torch.tensor([0, 1, 2, 0]),
)  # fmt: skip
X, Y = normal(6, 2, seed=1), torch.tensor([0, 1, 2, 0, 1, 2])

# ---- a classifier that nobody trained ----------------------------------------------------


@pytest.mark.equation("11.1")
@pytest.mark.parametrize("t", [1, 12, 30])
def test_the_difference_of_two_scores_is_the_gradient_of_a_classifier(t: int) -> None:
    """Scores from denoisers; log q(y|x_t) from the densities, differentiated by autograd."""
    x = X.clone().requires_grad_()
    log_p = PLANE.class_logits(x, t)[torch.arange(6), Y]
    (slope,) = torch.autograd.grad(log_p.sum(), x)
    difference = score(PLANE, X, t, Y) - score(PLANE, X, t)
    torch.testing.assert_close(difference, slope, rtol=1e-8, atol=1e-8)


@pytest.mark.equation("11.2")
@pytest.mark.parametrize("w", [-1.0, 0.0, 0.5, 6.5])
def test_guided_noise_is_the_score_plus_w_times_that_gradient(w: float) -> None:
    t, x = 20, X.clone().requires_grad_()
    log_p = PLANE.class_logits(x, t)[torch.arange(6), Y]
    (slope,) = torch.autograd.grad(log_p.sum(), x)
    guided = ClassifierFree(PLANE, w)
    found = score(guided, X, t, Y)
    torch.testing.assert_close(found, score(PLANE, X, t, Y) + w * slope, rtol=1e-8, atol=1e-8)
    eps = PROCESS.eps_from_x0(X, guided(X, t, Y).x0, t)
    conditional, null = (PROCESS.eps_from_x0(X, PLANE(X, t, y).x0, t) for y in (Y, None))
    torch.testing.assert_close(eps, (1 + w) * conditional - w * null, rtol=1e-8, atol=1e-8)
    s = 1 + w  # the other convention
    torch.testing.assert_close(eps, null + s * (conditional - null), rtol=1e-8, atol=1e-8)


@pytest.mark.equation("11.3")
@pytest.mark.parametrize("parameterization", [EPS, X0, V], ids=lambda p: p.name)
def test_the_same_weights_in_every_parameterization(parameterization: Parameterization) -> None:
    """Guide the network's raw answers, whatever they mean; then read the prediction."""
    net = MLP(2, 16, 1, num_classes=3).double()
    g = torch.Generator().manual_seed(3)
    for p in net.parameters():
        nn.init.normal_(p, std=0.4, generator=g)
    denoiser = Denoiser(net.requires_grad_(False), PROCESS, parameterization)
    (conditional, mix), (null, _) = denoiser.raw(X, 20, Y), denoiser.raw(X, 20)
    assert float((conditional - null).abs().max()) > 0.01
    by_hand = denoiser.read(3.5 * conditional - 2.5 * null, mix, X, 20).x0
    torch.testing.assert_close(ClassifierFree(denoiser, 2.5)(X, 20, Y).x0, by_hand)


# ---- one network for both predictions --------------------------------------------------------


class Told(nn.Module):
    """A denoiser of exact predictions, shaped as :func:`diffusion_loss` needs it; ε̂ may be off."""

    def __init__(self, off: float = 0.0, off_null: float = 0.0) -> None:
        super().__init__()
        self.process, self.off, self.off_null = PROCESS, off, off_null
        self.parameterization = EPS

    def without(self, y: Tensor) -> Tensor:
        return torch.full_like(y, 3)

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Prediction:
        x0 = PLANE(x_t, t, y).x0
        return Prediction(x0 + self._shift(x_t, t, y))

    def _shift(self, x_t: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        assert y is not None
        eps = torch.where(y == 3, self.off_null, self.off)[:, None].to(x_t)
        scale, std = PROCESS.kernel(t, x_t)
        return -eps * std / scale

    def raw(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> tuple[Tensor, float]:
        return PROCESS.eps_from_x0(x_t, self(x_t, t, y).x0, t), 0.0


def sample_of(n: int) -> tuple[Tensor, Tensor]:
    """Data of the mixture with their classes."""
    g = torch.Generator().manual_seed(5)
    k = torch.multinomial(PLANE.log_weights.exp(), n, replacement=True, generator=g)
    assert PLANE.labels is not None
    x = PLANE.means[k] + PLANE.variances[k].sqrt()[:, None] * normal(n, 2, seed=6)
    return x, PLANE.labels[k]


def loss_of(model: Any, p: float, n: int = 20_000) -> float:
    x, y = sample_of(n)
    return float(diffusion_loss(model, x, y, torch.Generator().manual_seed(8), p))


@pytest.mark.equation("11.4")
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_the_loss_is_split_by_the_coin(p: float) -> None:
    """All runs share data, times and noise (same seed), so only the coin is random."""
    model = Told(0.3, 0.9)
    always, never = loss_of(model, 1.0), loss_of(model, 0.0)
    assert abs(always - never) > 0.3
    spread = 5 * math.sqrt(p * (1 - p) / 20_000) * 2
    assert loss_of(model, p) == pytest.approx((1 - p) * never + p * always, abs=spread)


@pytest.mark.equation("11.5")
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_both_conditional_expectations_are_the_optimum(p: float) -> None:
    """Shifting either prediction by a constant d costs its share times d², to either side."""
    best = loss_of(Told(), p)
    for d in (-0.4, 0.4):
        assert loss_of(Told(d, 0.0), p) - best == pytest.approx((1 - p) * d**2, abs=0.02)
        assert loss_of(Told(0.0, d), p) - best == pytest.approx(p * d**2, abs=0.02)


@pytest.mark.equation("11.5")
@pytest.mark.parametrize(("fair", "agrees"), [(True, True), (False, False)])
def test_the_null_label_learns_the_average_if_the_coin_ignores_the_image(
    fair: bool, agrees: bool
) -> None:
    """Regression within bins of x_t on the examples whose label was dropped; a coin that
    drops the labels of one class more often learns something else."""
    line = oracle.Mixture(PROCESS, f64(1, 2), f64(-1, 1), f64(0.3, 0.5), torch.tensor([0, 1]))
    n, t = 400_000, 14
    g = torch.Generator().manual_seed(2)
    y = (torch.rand(n, generator=g) < 2 / 3).long()
    x0 = torch.where(y == 1, 1 + 0.5 * normal(n, seed=3), -1 + 0.3 * normal(n, seed=4))
    eps = normal(n, seed=9)
    x_t = PROCESS.q_sample(x0, t, eps)
    p = torch.full((n,), 0.2) if fair else torch.where(y == 1, 0.4, 0.05)
    dropped = torch.rand(n, generator=g) < p
    exact = PROCESS.eps_from_x0(x_t, line(x_t, t).x0, t)
    middle = dropped & (x_t.abs() < 0.3)
    gap = float((eps - exact)[middle].mean())
    error = float((eps - exact)[middle].std()) / math.sqrt(int(middle.sum()))
    assert (abs(gap) < 4.5 * error) == agrees
    share = line.class_logits(x_t[:5], t).exp()  # the sum of (11.5)
    each = torch.stack([line(x_t[:5], t, torch.full((5,), k)).x0 for k in (0, 1)], 1)
    torch.testing.assert_close((share * each).sum(1), line(x_t[:5], t).x0)


# ---- what a guided chain samples ---------------------------------------------------------


def line_of(process: DDPM) -> oracle.Mixture:
    """Class 1 has a bump beside class 0 and one far from it."""
    return oracle.Mixture(
        process, f64(2, 1, 1), f64(-1, 0.1, 1.2), f64(0.4, 0.3, 0.3), torch.tensor([0, 1, 1])
    )


LINE = line_of(PROCESS)
CLEAN = torch.linspace(-4, 4, 4001, dtype=F64)


def likely() -> Tensor:
    """L(x_0) = p(y = 1 | x_0) on the grid."""
    return LINE.class_logits(CLEAN, 0)[:, 1].exp()


def tilted_score(x_t: Tensor, t: int, s: float, process: DDPM = PROCESS) -> Tensor:
    """Score of the noised p(x_0) L(x_0)^s, by quadrature over x_0."""
    scale, std = float(process.scale[t]), float(process.std[t])
    log_w = LINE.log_prob(CLEAN, 0) + s * likely().log()
    log_w = log_w - (x_t[:, None] - scale * CLEAN) ** 2 / (2 * std**2)
    mean = torch.softmax(log_w, 1) @ CLEAN
    return (scale * mean - x_t) / std**2


def log_jensen(x_t: Tensor, t: int, s: float) -> Tensor:
    """log E[L^s | x_t] − s log E[L | x_t]."""
    scale, std = float(PROCESS.scale[t]), float(PROCESS.std[t])
    log_p = LINE.log_prob(CLEAN, 0) - (x_t[:, None] - scale * CLEAN) ** 2 / (2 * std**2)
    share = torch.softmax(log_p, 1)
    return (share @ likely() ** s).log() - s * (share @ likely()).log()


@pytest.mark.equation("11.6")
@pytest.mark.parametrize("w", [-1.0, 0.0, 1.0, 4.0])
def test_both_forms_of_the_tilted_distribution(w: float) -> None:
    inside, both = LINE.given(1).log_prob(CLEAN, 0), LINE.log_prob(CLEAN, 0)
    one = torch.softmax((1 + w) * inside - w * both, 0)
    other = torch.softmax(both + (1 + w) * likely().log(), 0)
    torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-12)
    # and its score at (almost) no noise is the guided one
    x, process = f64(-0.3, 0.2, 1.1), DDPM(schedules.cosine(1000))
    fine = line_of(process)
    guided = score(ClassifierFree(fine, w), x, 1, torch.ones(3, dtype=torch.int64))
    truth = tilted_score(x, 1, 1 + w, process)
    torch.testing.assert_close(guided, truth, rtol=0.01, atol=0.01)


@pytest.mark.equation("11.7")
@pytest.mark.parametrize("t", [5, 15, 25, 35])
@pytest.mark.parametrize("w", [-1.0, 0.0, 1.0, 4.0])
def test_tilting_and_adding_noise_do_not_commute(t: int, w: float) -> None:
    x = f64(-0.8, -0.2, 0.1, 0.6, 1.5).requires_grad_()
    (gap,) = torch.autograd.grad(log_jensen(x, t, 1 + w).sum(), x)
    x = x.detach()
    guided = score(ClassifierFree(LINE, w), x, t, torch.ones(5, dtype=torch.int64))
    truth = tilted_score(x, t, 1 + w)
    torch.testing.assert_close(truth - guided, gap, rtol=1e-5, atol=1e-6)
    if w in (-1.0, 0.0):
        assert float((truth - guided).abs().max()) < 1e-6
    else:
        assert float((truth - guided).abs().max()) > 0.02
        assert bool((log_jensen(x, t, 1 + w) >= 0).all())  # Jensen


@pytest.mark.equation("11.7")
def test_the_guided_score_pushes_away_from_the_other_class() -> None:
    """Class 0 is on the left; between the classes guidance pushes right harder than it should."""
    x, y = torch.linspace(-1, 0.5, 7, dtype=F64), torch.ones(7, dtype=torch.int64)
    for t in (15, 25, 35):
        guided = score(ClassifierFree(LINE, 4.0), x, t, y)
        assert bool((guided > tilted_score(x, t, 5.0)).all())


@pytest.mark.equation("11.7")
@pytest.mark.parametrize("w", [1.0, 4.0])
def test_where_the_image_determines_its_class_there_is_nothing_to_sharpen(w: float) -> None:
    """L is 0 or 1: the tilt is the class, the fraction of (11.7) is q(y|x_t)^{−w}."""
    points, y = normal(12, 2, seed=3), torch.arange(12) % 3
    data, x, t = oracle.FiniteData(PROCESS, points, y), normal(5, 2, seed=4), 25
    chosen, scale, std = torch.ones(5, dtype=torch.int64), *map(float, PROCESS.kernel(t, x))
    share = torch.softmax(-((x[:, None] - scale * points) ** 2).sum(2) / (2 * std**2), 1)
    given = (share * (y == 1)).sum(1)  # q(y|x_t) = E[L|x_t] = E[L^s|x_t]
    torch.testing.assert_close(given.log(), data.class_logits(x, t)[:, 1])
    tilted = oracle.FiniteData(PROCESS, points[y == 1])  # p_w, its noisy score
    excess = score(ClassifierFree(data, w), x, t, chosen) - score(tilted, x, t)
    moved = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(data.class_logits(moved, t)[:, 1].sum(), moved)
    torch.testing.assert_close(excess, w * slope)
    assert float(excess.abs().max()) > 0.1


@pytest.mark.equation("11.7")
def test_the_fraction_need_not_grow_as_the_class_becomes_less_probable() -> None:
    """L is 0.1 or 1: the fraction is 1 at both ends, and largest between."""
    likely_one = torch.linspace(0, 1, 1001, dtype=F64)
    mean, square = (likely_one + (1 - likely_one) * 0.1**k for k in (1, 2))
    fraction = square / mean**2
    assert fraction[0] == fraction[-1] == 1 and bool((fraction >= 1).all())
    assert 0.05 < float(likely_one[fraction.argmax()]) < 0.15 and float(fraction.max()) > 3


# ---- the conditional chain, and the paper's form of the sampler --------------------------------


def test_the_class_lowers_the_bound_by_what_an_image_says_of_it() -> None:
    """Exact predictions, fine steps: the gain is the mutual information of x_0 and y."""
    process, g = DDPM(schedules.cosine(300)), torch.Generator().manual_seed(4)
    fine, y = line_of(process), (torch.rand(4000, generator=g) < 0.5).long()
    inside = [fine.given(k).draw(4000, generator=g) for k in (0, 1)]
    x0 = torch.where(y == 1, inside[1], inside[0])

    def bound(label: Tensor | None, denoiser: Any = fine) -> Tensor:
        again = torch.Generator().manual_seed(5)
        found = elbo(denoiser, process, x0, y=label, decoder=continuous, generator=again)
        return found.total

    gain = float((bound(None) - bound(y)).mean())
    log_share = fine.class_logits(x0, 0)[torch.arange(4000), y]
    information = float(log_share.mean()) + math.log(2)
    assert gain == pytest.approx(information, abs=0.03) and 0.4 < information < math.log(2)
    assert float((bound(y, ClassifierFree(fine, 2.0)) - bound(y)).mean()) > 0.1


@pytest.mark.parametrize(("t", "s"), [(1000, 950), (500, 480), (40, 39)])
def test_the_papers_variances_are_those_of_the_stride(t: int, s: int) -> None:
    """Ho & Salimans' algorithm 2: (σ̃²)^{1−v} (σ²)^v in log-SNR, and our interpolation."""
    process = DDPM(schedules.cosine(1000))
    alpha_bar = process.alpha_bar
    early, late = (float(torch.logit(alpha_bar[k])) for k in (t, s))
    lost = -math.expm1(early - late)
    paper = lost * float(1 - alpha_bar[s]), lost * float(1 - alpha_bar[t])
    assert [float(v) for v in process.variances(t, s)] == pytest.approx(paper)
    zero, one, v = f64(0.0), f64(1.0), 0.3
    step = process.step(zero, Prediction(zero, var_mix=v), t, s, 1.0, one)
    assert float(step) ** 2 == pytest.approx(paper[0] ** (1 - v) * paper[1] ** v)


class Pair:
    """Exact predictions: label 0 is N(m, c), the null label 1 is N(0, C)."""

    without = staticmethod(torch.ones_like)

    def __init__(self, process: DDPM, m: float, c: float, C: float) -> None:
        self.process = process
        self.inside = oracle.Mixture(process, f64(1), f64(m), f64(math.sqrt(c)))
        self.all = oracle.Mixture(process, f64(1), f64(0), f64(math.sqrt(C)))

    def __call__(self, x_t: Tensor, t: Any, y: Tensor | None = None, /) -> Prediction:
        null = self.all(x_t, t).x0
        inside = self.inside(x_t, t).x0
        return Prediction(null if y is None else torch.where(y == 1, null, inside))


def moments(denoiser: Any, eta: float, start: int) -> tuple[float, float]:
    """Exact mean and variance of what a chain of affine steps makes of N(0, 1 − ᾱ) at its start."""
    process, x, none = denoiser.process, f64(0, 1), f64(0, 0)
    mean, var, y = 0.0, 1 - float(process.alpha_bar[start]), torch.tensor([0, 0])
    for t, s in pairwise(range(start, -1, -1)):
        out = process.step(x, denoiser(x, t, y), t, s, eta, none)
        loud = float(process.step(none, Prediction(none), t, s, eta, f64(1, 1))[0])
        gain = float(out[1] - out[0])
        mean, var = gain * mean + float(out[0]), gain**2 * var + loud**2
    return mean, var


def in_the_limit(w: float, m: float, c: float, C: float, eta: float) -> tuple[float, float]:
    """Chains of 300 and 600 steps, extrapolated: their errors are of first order."""
    found = []
    for steps in (300, 600):
        process = DDPM(schedules.cosine(steps))
        found.append(moments(ClassifierFree(Pair(process, m, c, C), w), eta, steps - 1))
    (mean, var), (mean2, var2) = found
    return 2 * mean2 - mean, 2 * var2 - var


GAUSSIANS = [(0.7, 0.25, 1.0), (-1.0, 0.6, 1.5)]
WEIGHTS = [-0.5, 0.0, 1.0, 2.0, 4.0]


@pytest.mark.equation("11.8")
@pytest.mark.parametrize("w", WEIGHTS)
@pytest.mark.parametrize(("m", "c", "C"), GAUSSIANS)
def test_the_tilted_gaussian(w: float, m: float, c: float, C: float) -> None:
    x = torch.linspace(-12, 12, 24_001, dtype=F64)
    p = torch.softmax(-(1 + w) * (x - m) ** 2 / (2 * c) + w * x**2 / (2 * C), 0)
    mean, rho = float(p @ x), c / C
    assert mean == pytest.approx(m * (1 + w) / (1 + w - w * rho), rel=1e-6)
    assert float(p @ (x - mean) ** 2) == pytest.approx(c / (1 + w - w * rho), rel=1e-6)


@pytest.mark.equation("11.9")
@pytest.mark.parametrize("w", WEIGHTS)
@pytest.mark.parametrize(("m", "c", "C"), GAUSSIANS)
def test_what_ddim_samples(w: float, m: float, c: float, C: float) -> None:
    rho = c / C
    part, _ = integrate.quad(lambda q: (1 + q * q) ** (w / 2), 0, math.sqrt(1 / rho - 1))
    expected = (1 + w) * m * math.sqrt(rho ** (1 + w) / (1 - rho)) * part
    mean, var = in_the_limit(w, m, c, C, 0.0)
    assert var == pytest.approx(c * rho**w, rel=0.01)
    assert mean == pytest.approx(expected, rel=0.01)


@pytest.mark.equation("11.10")
@pytest.mark.parametrize("w", WEIGHTS)
@pytest.mark.parametrize(("m", "c", "C"), GAUSSIANS)
def test_what_ancestral_sampling_samples(w: float, m: float, c: float, C: float) -> None:
    rho = c / C
    if w == -0.5:  # the limit of (1 − ρ^{2w+1}) / (2w + 1)
        expected = c * -math.log(rho) / (1 - rho)
    else:
        expected = c * (1 - rho ** (2 * w + 1)) / ((2 * w + 1) * (1 - rho))
    mean, var = in_the_limit(w, m, c, C, 1.0)
    assert var == pytest.approx(expected, rel=0.015)
    assert mean == pytest.approx(m * (1 - rho ** (w + 1)) / (1 - rho), rel=0.01)
    if w == int(w):
        assert mean == pytest.approx(m * sum(rho**k for k in range(int(w) + 1)), rel=0.01)


@pytest.mark.equation("11.9", "11.10")
@pytest.mark.parametrize("k", [-1, 0, 1, 2, 4])
def test_the_integrals_of_both_distributions_by_algebra(k: int) -> None:
    r, q, c, C, u = sp.symbols("r q c C u", positive=True)
    rho, ratio = c / C, (C + u) / (c + u)
    assert sp.simplify(sp.diff(ratio, u) + (C - c) / (c + u) ** 2) == 0
    phi = (c + u) ** (1 + k) * (C + u) ** (-k)
    assert sp.simplify(phi ** (-2) - ratio ** (2 * k) / (c + u) ** 2) == 0
    var = (c * rho**k) ** 2 * sp.integrate(r ** (2 * k), (r, 1, 1 / rho)) / (C - c)
    book = c * (1 - rho ** (2 * k + 1)) / ((2 * k + 1) * (1 - rho))
    assert sp.simplify(var - book) == 0
    # the DDIM mean: r = 1 + q² takes dr/√(r − 1) to 2 dq
    assert sp.simplify(sp.diff(1 + q**2, q) / sp.sqrt(q**2) - 2) == 0


@pytest.mark.slow
def test_all_three_distributions_meet_at_the_ends() -> None:
    """w = 0 is the class, w = −1 everything, w → ∞ the point where p(y|x) is largest."""
    m, c, C = 0.7, 0.25, 1.0
    for eta in (0.0, 1.0):
        assert in_the_limit(0.0, m, c, C, eta) == pytest.approx((m, c), rel=0.01)
        mean, var = in_the_limit(-1.0, m, c, C, eta)
        assert mean == pytest.approx(0, abs=1e-3) and var == pytest.approx(C, rel=0.01)
        far, narrow = in_the_limit(15.0, m, c, C, eta)
        assert far == pytest.approx(m / (1 - c / C), rel=0.05) and narrow < 0.05 * c


def test_ddim_drops_a_mode_that_the_tilted_distribution_keeps() -> None:
    """The picture at the head of the chapter, with its numbers."""
    process = DDPM(schedules.cosine(400))
    line, n = line_of(process), 801
    z = torch.linspace(-4, 4, n, dtype=F64)
    bell = torch.softmax(-(z**2) / 2, 0)
    truth = torch.softmax(LINE.log_prob(CLEAN, 0) + 5 * likely().log(), 0)
    kept = float(truth[CLEAN > 0.65].sum())

    def share(w: Any) -> float:
        one = torch.ones(n, dtype=torch.int64)
        x = draw(ClassifierFree(line, w), process, z, uniform_times(400, 100), eta=0.0, y=one)
        return float(bell[x > 0.65].sum())

    assert kept < 0.6 and share(0.0) == pytest.approx(0.5, abs=0.01)
    assert share(4.0) > 0.99
    assert share(interval(4.0, 267, 400)) > 0.9 and share(interval(4.0, 1, 133)) < 0.6


# ---- thresholds --------------------------------------------------------------------------


@pytest.mark.equation("11.11")
@pytest.mark.parametrize("w", [0.5, 1.0, 8.0])
def test_guided_predictions_reach_1_plus_2w_and_no_further(w: float) -> None:
    both = 2 * torch.rand(2, 500, generator=torch.Generator().manual_seed(0), dtype=F64) - 1
    both[:, 0] = f64(1, -1)  # where the class is sure and all others are sure of the opposite

    def denoiser(x: Tensor, t: Any, y: Tensor | None = None, /) -> Prediction:
        assert y is not None
        return Prediction(torch.where((y == 0)[:, None], both[0], both[1]))

    denoiser.process, denoiser.without = PROCESS, torch.ones_like  # type: ignore[attr-defined]
    found = ClassifierFree(denoiser, w)(  # type: ignore[arg-type]
        torch.zeros(1, 500, dtype=F64), 9, torch.tensor([0])
    )
    assert float(found.x0.abs().max()) == pytest.approx(1 + 2 * w) == float(found.x0[0, 0])


@pytest.mark.equation("11.12")
def test_static_clips_and_dynamic_rescales() -> None:
    x0 = 3 * normal(4, 1000, seed=2)
    x0[3] = x0[3].clamp(-0.9, 0.9)

    def denoiser(x: Tensor, t: Any, y: Tensor | None = None, /) -> Prediction:
        return Prediction(x0)

    denoiser.process = PROCESS  # type: ignore[attr-defined]
    static = StaticThreshold(denoiser)(x0, 9).x0  # type: ignore[arg-type]
    dynamic = DynamicThreshold(denoiser, 0.995)(x0, 9).x0  # type: ignore[arg-type]
    assert torch.equal(static, x0.clamp(-1, 1)) and torch.equal(static[3], x0[3])
    assert torch.equal(dynamic[3], x0[3])
    for image, found in zip(x0[:3], dynamic[:3], strict=True):
        b = max(1.0, float(np.quantile(image.abs().numpy(), 0.995)))
        torch.testing.assert_close(found, image.clamp(-b, b) / b)
        white = (found.abs() == 1).double().mean()
        assert float(white) < 0.01 < 0.5 < float((image.abs() >= 1).double().mean())
    # what the rescaling costs where the data are at the ends: a sure −1 becomes grey
    sure = torch.full((1, 1000), -1.0, dtype=F64)
    sure[0, :10] = 4.0
    x0 = sure
    assert float(DynamicThreshold(denoiser)(sure, 9).x0[0, -1]) == -0.25  # type: ignore[arg-type]
    assert float(StaticThreshold(denoiser)(sure, 9).x0[0, -1]) == -1  # type: ignore[arg-type]


@pytest.mark.equation("11.13")
@pytest.mark.parametrize("t", [3, 20, 35])
def test_the_noise_must_follow_the_threshold(t: int) -> None:
    """Prediction and noise add up to x_t; old noise and new prediction do not, and it carries the
    recoil: the class's signal in the next state changes its sign."""
    x_t, raw = 0.3 * normal(5, 3), torch.full((5, 3), 6.0, dtype=F64)
    clipped, s = raw.clamp(-1, 1), t - 1
    (scale, std), (scale_s, std_s) = (
        (float(PROCESS.scale[k]), float(PROCESS.std[k])) for k in (t, s)
    )
    found = PROCESS.step(x_t, Prediction(clipped), t, s, 0.0)
    eps = (found - scale_s * clipped) / std_s
    torch.testing.assert_close(scale * clipped + std * eps, x_t)
    stale = (x_t - scale * raw) / std
    assert float((scale * clipped + std * stale - x_t).abs().min()) > 4 * scale
    wrong = scale_s * clipped + std_s * stale  # every pixel of the class is bright, and here dark
    assert float(wrong.mean()) < float(found.mean()) - 2 * scale


# ---- when to guide -----------------------------------------------------------------------


@pytest.mark.equation("11.14")
def test_at_the_start_every_sample_is_pushed_alike() -> None:
    process = DDPM(schedules.cosine(1000))
    means, y = normal(4, 2, seed=7), torch.zeros(300, dtype=torch.int64)
    exact = oracle.Mixture(
        process, f64(1, 2, 3, 2), means, f64(0.3, 0.2, 0.6, 0.4), torch.tensor([0, 1, 2, 0])
    )
    x = normal(300, 2)
    inside, middle = (means[0] + 2 * means[3]) / 3, (f64(1, 2, 3, 2) / 8) @ means
    for w in (0.0, 4.0):
        found = ClassifierFree(exact, w)(x, 1000, y).x0
        push = inside + w * (inside - middle)
        assert float((found - push).abs().max()) < 0.01 * (1 + w)
    # and at the end, with the class decided, hardly anything is left of it
    data = exact.given(0).draw(300, generator=torch.Generator().manual_seed(1))
    x = process.q_sample(data, 20, normal(300, 2, seed=3))
    late = (exact(x, 20, y).x0 - exact(x, 20).x0).norm(dim=1)
    assert float(late.median()) < 0.02 * float((inside - middle).norm())


# ---- measured over w ---------------------------------------------------------------------


def test_the_features_of_garments_see_a_factor_more_than_a_missing_class() -> None:
    """Why the table over w alone cannot tell better shapes from other grey values."""
    audit = feature_audit.times_missing_class("fashion_mnist")
    assert audit["values × 0.97"]["classifier"] > 1.5 > audit["one class missing"]["classifier"]


# ---- exercises ---------------------------------------------------------------------------


def refused(key: str, *wrong: Any) -> None:
    for answer in wrong:
        with pytest.raises(AssertionError, match="Hint"):
            check(key, answer)


def test_exercise_1() -> None:
    def combine(c: Tensor, null: Tensor, s: float) -> Tensor:
        return null + s * (c - null)

    check("11.1", (lambda s: s - 1, combine))
    refused(
        "11.1",
        (lambda s: s, combine),
        (lambda s: s + 1, combine),
        (lambda s: s - 1, lambda c, null, s: (1 + s) * c - s * null),
        (lambda s: s - 1, lambda c, null, s: combine(null, c, s)),
    )


def away(twice: bool = False, swapped: bool = False, s: int = 0) -> Callable[..., Tensor]:
    def answer(d: Any, x: Tensor, t: int, y: Tensor, z: Tensor, w: float) -> Tensor:
        if swapped:
            y, z = z, y
        if twice:
            a, b = d(x, t, y).x0, d(x, t, z).x0
        else:
            a, b = d(torch.cat([x, x]), t, torch.cat([y, z])).x0.chunk(2)
        return a + (w - s) * (a - b)

    return answer


def test_exercise_2() -> None:
    check("11.2", away())
    refused("11.2", away(twice=True), away(swapped=True), away(s=1))


def test_exercise_3() -> None:
    def limit(m: float, c: float, C: float) -> float:
        return m * C / (C - c)

    def halving(c: float, C: float) -> float:
        return math.log(0.5) / math.log(c / C)

    check("11.3", (limit, halving))
    refused(
        "11.3",
        (lambda m, c, C: m, halving),
        (limit, lambda c, C: halving(c, C) + 1),
        (lambda m, c, C: 2 * m, halving),
    )


def test_exercise_4() -> None:
    def variance(c: float, C: float, w: float, low: float, high: float) -> float:
        top = 1.0 if math.isinf(high) else (C + high) / (c + high)
        return c * (top * (c + low) / (C + low)) ** w

    check("11.4", variance)
    c, C, rho = 0.2, 3.0, 0.2 / 3.0  # what its solution says of the range from c to C
    share = math.log(variance(c, C, 1.0, c, C) / c) / math.log(rho)
    assert share == pytest.approx(1 - 2 * math.log(2 / (1 + rho)) / math.log(1 / rho))
    refused(
        "11.4",
        lambda c, C, w, low, high: variance(c, C, 2 * w, low, high),
        lambda c, C, w, low, high: variance(c, C, w, 0.0, high),
        lambda c, C, w, low, high: c * (c / C) ** w,
        lambda c, C, w, low, high: c,
    )


def test_exercise_5() -> None:
    def predict(x: Tensor, a: float, b: float, points: Tensor, p: Tensor, L: Tensor, s: float):
        far = ((x[:, None] - a * points) ** 2).sum(2)
        return torch.softmax(p.log() + s * L.log() - far / (2 * b**2), 1) @ points

    truth = {}
    for w in (1.0, 4.0):
        tilted = torch.softmax(LINE.log_prob(CLEAN, 0) + (1 + w) * likely().log(), 0)
        truth[w] = float(tilted[CLEAN > 0.65].sum())
    check("11.5", (predict, truth))
    refused("11.5", (predict, {1.0: 0.80, 4.0: 1.0}), (predict, {1.0: 0.5, 4.0: 0.5}))


@pytest.mark.parametrize("key", ["11.1", "11.2", "11.3", "11.4", "11.5"])
def test_the_skeletons_fail(key: str) -> None:
    with pytest.raises(AssertionError, match="No answer yet"):
        check(key, ...)


# ---- proofs by algebra -------------------------------------------------------------------


@pytest.mark.equation("11.1")
@pytest.mark.equation("11.2")
def test_the_guided_noise_is_a_step_along_the_classifiers_gradient() -> None:
    std, w, s_c, s_0 = sp.symbols("std w s_c s_0", real=True)
    eps_c, eps_0 = -std * s_c, -std * s_0  # (10.1)
    guided = -((1 + w) * eps_c - w * eps_0) / std
    assert sp.simplify(guided - (s_c + w * (s_c - s_0))) == 0
    s = 1 + w  # the other convention starts from the null answer
    assert sp.expand((1 + w) * eps_c - w * eps_0 - (eps_0 + s * (eps_c - eps_0))) == 0


@pytest.mark.equation("11.3")
def test_the_weights_pass_through_every_affine_map() -> None:
    """x̂_0 and v̂ are affine in ε̂ with the same offset, and 1 + w − w = 1."""
    a, b, w, eps_c, eps_0 = sp.symbols("a b w eps_c eps_0", real=True)

    def other(eps: sp.Expr) -> sp.Expr:
        return a + b * eps

    mixed = other(eps_c) + w * (other(eps_c) - other(eps_0))
    assert sp.expand(other((1 + w) * eps_c - w * eps_0) - mixed) == 0


@pytest.mark.equation("11.6")
@pytest.mark.equation("11.8")
def test_the_tilted_gaussian_for_every_weight() -> None:
    x, m, w = sp.symbols("x m w", real=True)
    c, C = sp.symbols("c C", positive=True)
    exponent = -(1 + w) * (x - m) ** 2 / (2 * c) + w * x**2 / (2 * C)
    rho = c / C
    precision = -sp.diff(exponent, x, 2)
    (mean,) = sp.solve(sp.diff(exponent, x), x)
    assert sp.simplify(1 / precision - c / (1 + w - w * rho)) == 0
    assert sp.simplify(mean - m * (1 + w) / (1 + w - w * rho)) == 0


@pytest.mark.equation("11.7")
def test_the_gap_to_the_tilted_score_for_any_two_points() -> None:
    """Points y_1, y_2 with likelihoods l_1, l_2; E[L^s | x_t] is a ratio of two densities."""
    a, l1, l2, s = sp.symbols("a l_1 l_2 s", positive=True)
    x, y1, y2 = sp.symbols("x y_1 y_2", real=True)
    kernels = [sp.exp(-((x - sp.sqrt(a) * y) ** 2) / (2 * (1 - a))) for y in (y1, y2)]

    def mass(power: Any) -> sp.Expr:  # q of the data tilted by L^power, up to a constant
        return l1**power * kernels[0] + l2**power * kernels[1]

    def slope(f: sp.Expr) -> sp.Expr:
        return sp.diff(sp.log(f), x)

    plain, inside = slope(mass(0)), slope(mass(1))
    gap = slope(mass(s)) - (plain + s * (inside - plain))
    jensen = sp.log(mass(s)) - sp.log(mass(0)) - s * (sp.log(mass(1)) - sp.log(mass(0)))
    assert sp.simplify(gap - sp.diff(jensen, x)) == 0
    assert [sp.simplify(gap.subs(s, k)) for k in (0, 1)] == [0, 0]
    at = {a: sp.Rational(1, 2), l1: 1, l2: 3, y1: -1, y2: 1, x: 0, s: 2}
    assert abs(gap.subs(at).evalf()) > 0.1  # tilting and adding noise do not commute


@pytest.mark.equation("11.13")
def test_the_noise_of_a_changed_prediction_returns_to_the_same_state() -> None:
    a, x, x0 = sp.symbols("a x x_0", positive=True)
    eps = (x - sp.sqrt(a) * x0) / sp.sqrt(1 - a)
    assert sp.simplify(sp.sqrt(a) * x0 + sp.sqrt(1 - a) * eps - x) == 0
