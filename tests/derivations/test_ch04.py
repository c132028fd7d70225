"""Chapter 04: the claims of its derivation, and its exercises."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import sympy as sp
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from ddpmlib.denoiser import oracle
from ddpmlib.likelihood import continuous, elbo, gaussian_kl
from ddpmlib.process import DDPM, schedules
from ddpmlib.teaching.exercises import check

F64 = torch.float64
MEAN, VAR = 0.3, 0.4


class LinearChain:
    """Gaussian data in one dimension and the exact denoiser: every distribution is a Gaussian.

    The model is x_T ~ N(0, 1), x_{t−1} | x_t ~ N(c_t + k_t x_t, σ_t²) with σ_t² = β_t.
    """

    def __init__(self, T: int) -> None:
        self.T, self.process = T, DDPM(torch.linspace(0, 0.6, T + 1, dtype=F64))
        self.denoiser = oracle.Gaussian(
            self.process, torch.tensor([MEAN], dtype=F64), VAR * torch.eye(1, dtype=F64)
        )
        self.c, self.k = {}, {}
        for t in range(1, T + 1):
            at = torch.tensor([[0.0], [1.0]], dtype=F64)
            mean, _ = self.process.posterior(at, self.denoiser(at, t).x0, t, t - 1)
            self.c[t], self.k[t] = mean[0].item(), (mean[1] - mean[0]).item()

    def sigma2(self, t: int) -> float:
        return float(self.process.beta[t])

    def path(self, x0: float, n: int) -> Tensor:
        """n paths x_0, ..., x_T of the forward process, (n, T+1)."""
        g = torch.Generator().manual_seed(0)
        x = [torch.full((n,), x0, dtype=F64)]
        for t in range(1, self.T + 1):
            x.append(self.process.q_step(x[-1], t, torch.randn(n, generator=g, dtype=F64)))
        return torch.stack(x, 1)

    def log_q(self, x: Tensor) -> Tensor:
        """log q(x_{1:T}|x_0)."""
        steps = [
            Normal(float(self.process.alpha[t]) ** 0.5 * x[:, t - 1], self.sigma2(t) ** 0.5)
            for t in range(1, self.T + 1)
        ]
        return sum((step.log_prob(x[:, t + 1]) for t, step in enumerate(steps)), x.new_zeros(()))

    def log_step(self, x: Tensor, t: int) -> Tensor:
        """log p(x_{t−1}|x_t)."""
        return Normal(self.c[t] + self.k[t] * x[:, t], self.sigma2(t) ** 0.5).log_prob(x[:, t - 1])

    def log_p(self, x: Tensor) -> Tensor:
        """log p(x_{0:T})."""
        prior = Normal(0.0, 1.0).log_prob(x[:, self.T])
        return sum((self.log_step(x, t) for t in range(1, self.T + 1)), prior)

    def model_joint(self) -> MultivariateNormal:
        """p(x_0, ..., x_T), built from the top down."""
        n = self.T + 1
        mean, mix = torch.zeros(n, dtype=F64), torch.zeros(n, n, dtype=F64)
        mix[self.T, self.T] = 1  # x = mean + mix · (independent standard normals)
        for t in range(self.T, 0, -1):
            mean[t - 1] = self.c[t] + self.k[t] * mean[t]
            mix[t - 1] = self.k[t] * mix[t]
            mix[t - 1, t - 1] = self.sigma2(t) ** 0.5
        return MultivariateNormal(mean, mix @ mix.T)

    def forward_given(self, x0: float) -> MultivariateNormal:
        """q(x_1, ..., x_T|x_0)."""
        bar = self.process.alpha_bar[1:]
        i, j = torch.meshgrid(bar, bar, indexing="ij")
        low, high = torch.maximum(i, j), torch.minimum(i, j)  # the earlier time has the larger ᾱ
        return MultivariateNormal(bar.sqrt() * x0, (high / low).sqrt() * (1 - low))

    def model_given(self, x0: float) -> MultivariateNormal:
        """p(x_1, ..., x_T|x_0), by conditioning the joint."""
        joint = self.model_joint()
        cov = joint.covariance_matrix
        gain = cov[1:, 0] / cov[0, 0]
        mean = joint.mean[1:] + gain * (x0 - joint.mean[0])
        return MultivariateNormal(mean, cov[1:, 1:] - torch.outer(gain, cov[0, 1:]))

    def log_p_data(self, x0: float) -> float:
        joint = self.model_joint()
        density = Normal(joint.mean[0], joint.covariance_matrix[0, 0].sqrt())
        return float(density.log_prob(torch.tensor(x0, dtype=F64)))


@pytest.mark.equation("4.1")
def test_cross_entropy_is_entropy_plus_divergence() -> None:
    x, m, v, n, w = sp.symbols("x m v n w", real=True)
    v, w = sp.Symbol("v", positive=True), sp.Symbol("w", positive=True)
    log_p = -((x - n) ** 2) / (2 * w) - sp.log(2 * sp.pi * w) / 2
    # E_q of a polynomial of degree 2 needs two moments: E x = m, E x² = v + m²
    cross = -sp.expand(log_p).subs(x**2, v + m**2).subs(x, m)
    entropy = sp.log(2 * sp.pi * sp.E * v) / 2
    kl = (v / w - 1 - sp.log(v / w) + (m - n) ** 2 / w) / 2
    difference = sp.expand_log(sp.expand(cross - entropy - kl), force=True)
    assert sp.simplify(difference) == 0


@pytest.mark.equation("4.2")
@pytest.mark.parametrize("x0", [-0.5, 0.3, 1.2])
def test_the_average_of_the_ratio_is_the_models_density(x0: float) -> None:
    chain = LinearChain(3)
    x = chain.path(x0, 400_000)
    ratio = (chain.log_p(x) - chain.log_q(x)).exp()
    error = float(ratio.std()) / math.sqrt(len(ratio))
    assert abs(float(ratio.mean()) - math.exp(chain.log_p_data(x0))) < 5 * error
    assert error < 0.02


@pytest.mark.equation("4.3")
def test_the_average_of_the_logarithm_is_less() -> None:
    chain = LinearChain(3)
    for x0 in (-0.5, 0.3, 1.2):
        x = chain.path(x0, 100_000)
        bound = chain.log_q(x) - chain.log_p(x)
        error = float(bound.std()) / math.sqrt(len(bound))
        assert float(bound.mean()) - 5 * error > -chain.log_p_data(x0)


@pytest.mark.equation("4.4")
@pytest.mark.parametrize("T", [1, 2, 5])
def test_what_jensen_loses_is_the_divergence_of_the_paths(T: int) -> None:
    chain = LinearChain(T)
    for x0 in (-0.5, 0.3, 1.2):
        joint, path = chain.model_joint(), chain.forward_given(x0)
        # E_q log p(x_{0:T}) of a Gaussian log-density, in closed form
        mean = torch.cat([torch.tensor([x0], dtype=F64), path.mean])
        cov = torch.zeros(T + 1, T + 1, dtype=F64)
        cov[1:, 1:] = path.covariance_matrix
        log_p = joint.log_prob(mean) - 0.5 * (joint.precision_matrix * cov).sum()
        bound = -float(path.entropy()) - float(log_p)
        lost = float(torch.distributions.kl_divergence(path, chain.model_given(x0)))
        assert lost > 0
        assert bound == pytest.approx(-chain.log_p_data(x0) + lost, rel=1e-8)
        measured = elbo(
            WithBeta(chain.denoiser), chain.process, torch.full((40_000, 1), x0, dtype=F64),
            decoder=continuous, generator=torch.Generator().manual_seed(0),
        ).total  # fmt: skip
        error = float(measured.std()) / math.sqrt(len(measured))
        assert abs(float(measured.mean()) - bound) < 4.5 * error + 1e-9


class WithBeta:
    """A denoiser with σ² = β."""

    def __init__(self, denoiser: Any) -> None:
        self.denoiser = denoiser

    def __call__(self, x_t: Tensor, t: Any, y: Tensor | None = None) -> Any:
        return oracle.Prediction(self.denoiser(x_t, t, y).x0, 1.0)


@pytest.mark.equation("4.5")
def test_bayes_turns_a_forward_step_around() -> None:
    """As densities in x_{t−1}, x_t and x_0, by sympy."""
    a, b, x0, u, x = sp.symbols("a b x_0 u x", positive=True)  # ᾱ_t < ᾱ_{t−1}; u = x_{t−1}
    alpha, beta = a / b, 1 - a / b

    def log_normal(at: Any, mean: Any, var: Any) -> Any:
        return -((at - mean) ** 2) / (2 * var) - sp.log(var) / 2

    mean = (sp.sqrt(b) * beta * x0 + sp.sqrt(alpha) * (1 - b) * x) / (1 - a)
    left = log_normal(x, sp.sqrt(alpha) * u, beta)
    right = log_normal(u, mean, (1 - b) / (1 - a) * beta)
    right += log_normal(x, sp.sqrt(a) * x0, 1 - a) - log_normal(u, sp.sqrt(b) * x0, 1 - b)
    points = ({a: 0.3, b: 0.5, x0: 0.7, u: 0.2, x: 1.1}, {a: 0.1, b: 0.8, x0: 2, u: 1.5, x: 0.4})
    for point in points:
        assert float((left - right).subs(point)) == pytest.approx(0, abs=1e-12)
    quadratic = sp.simplify(sp.diff(left - right, u, u)), sp.simplify(sp.diff(left - right, x, x))
    assert quadratic == (0, 0)


@pytest.mark.equation("4.6")
def test_the_telescoped_sum_is_the_log_ratio_of_every_single_path() -> None:
    chain = LinearChain(5)
    x0, process = 0.8, chain.process
    x = chain.path(x0, 50)
    log_ratio = chain.log_q(x) - chain.log_p(x)
    scale, std = process.scale, process.std
    top = Normal(scale[5] * x0, std[5]).log_prob(x[:, 5]) - Normal(0.0, 1.0).log_prob(x[:, 5])
    total = top - chain.log_step(x, 1)
    for t in range(2, 6):
        mean, deviation = process.posterior(x[:, t], x[:, 0], t, t - 1)
        total = total + Normal(mean, deviation).log_prob(x[:, t - 1]) - chain.log_step(x, t)
    torch.testing.assert_close(total, log_ratio)


@pytest.mark.equation("4.7")
def test_the_divergence_of_two_gaussians_by_sympy() -> None:
    x, m, n = sp.symbols("x m n", real=True)
    v, w = sp.symbols("v w", positive=True)
    log_ratio = sp.log(w / v) / 2 - (x - m) ** 2 / (2 * v) + (x - n) ** 2 / (2 * w)
    mean = sp.expand(log_ratio).subs(x**2, v + m**2).subs(x, m)
    kl = (v / w - 1 - sp.log(v / w) + (m - n) ** 2 / w) / 2
    assert sp.simplify(sp.expand_log(sp.expand(mean - kl), force=True)) == 0
    numbers = {m: 0.3, n: -0.2, v: 0.5, w: 0.8}
    ours = gaussian_kl(
        *(torch.tensor(c, dtype=F64) for c in (0.3, math.log(0.5), -0.2, math.log(0.8)))
    )
    assert float(ours) == pytest.approx(float(kl.subs(numbers)))


@pytest.mark.equation("4.10", "4.11", "4.12")
def test_the_weights_by_sympy() -> None:
    a, b, e, f, x, sigma2 = sp.symbols("a b e f x sigma2", positive=True)
    alpha = a / b
    beta_tilde = (1 - b) / (1 - a) * (1 - alpha)
    mu = lambda n: (x - (1 - alpha) / sp.sqrt(1 - a) * n) / sp.sqrt(alpha)  # noqa: E731
    clean = lambda n: (x - sp.sqrt(1 - a) * n) / sp.sqrt(a)  # noqa: E731
    snr = lambda c: c / (1 - c)  # noqa: E731
    term = (mu(e) - mu(f)) ** 2 / (2 * sigma2)
    weight = (1 - alpha) ** 2 / (2 * sigma2 * alpha * (1 - a))
    assert sp.simplify(term - weight * (e - f) ** 2) == 0
    assert sp.simplify(term - 2 * weight * (e - f) ** 2) != 0  # the ½ belongs there
    on_data = (snr(b) - snr(a)) / 2 * (clean(e) - clean(f)) ** 2
    assert sp.simplify(term.subs(sigma2, beta_tilde) - on_data) == 0
    assert sp.simplify(weight.subs(sigma2, beta_tilde) - (snr(b) / snr(a) - 1) / 2) == 0


@pytest.mark.equation("4.17")
def test_the_reverse_variance_of_a_gaussian_lies_between_its_two_extremes() -> None:
    a, b, v = sp.symbols("a b v", positive=True)
    beta, V = 1 - a / b, lambda c: c * v + 1 - c
    exact = 1 / (1 / V(b) + (a / b) / beta)
    assert sp.simplify(exact - beta * V(b) / V(a)) == 0
    beta_tilde = (1 - b) / (1 - a) * beta
    assert sp.simplify(exact.subs(v, 1) - beta) == 0
    assert sp.simplify(exact.subs(v, 0) - beta_tilde) == 0
    # and by chapter 02: β̃ + (√ᾱ_s β/(1−ᾱ_t))² Var(x_0|x_t)
    from_data = beta_tilde + b * beta**2 / (1 - a) ** 2 * v * (1 - a) / V(a)
    assert sp.simplify(exact - from_data) == 0


@pytest.mark.equation("4.18")
def test_eulers_constant_is_what_beta_tilde_leaves() -> None:
    n = 10**6
    k = torch.arange(1, n, dtype=F64)
    ratio = (k + 1) / k
    steps = float((0.5 * (ratio - 1 - ratio.log())).sum())
    assert steps == pytest.approx(float(sp.EulerGamma) / 2, abs=1e-6)
    assert steps + (1 - math.log(2)) / 2 == pytest.approx(0.442, abs=5e-4)


def test_data_that_are_points_pay_for_beta_instead() -> None:
    """The other extreme, v = 0: the steps lose nothing with β̃, and (1 − γ)/2 with β."""
    limit = (1 - float(sp.EulerGamma)) / 2
    gaps = []
    for T in (100, 1000, 100_000):
        process = DDPM(schedules.cosine(T))
        ratio = (process.beta_tilde / process.beta)[2:]  # true variance over the model's
        gaps.append(float((0.5 * (ratio - 1 - ratio.log())).sum()))
    assert gaps[0] > gaps[1] > gaps[2] > limit
    assert gaps[2] == pytest.approx(limit, abs=0.01)


# ---- exercises ---------------------------------------------------------------------------------


def test_exercise_1() -> None:
    check("4.1", (1900 / (784 * math.log(2)), 784 * math.log(256)))
    for wrong in ((1900 / 784, 784 * math.log(256)), (3.496, 784 * 8), (3.496 * 784, 8)):
        with pytest.raises(AssertionError, match="Hint"):
            check("4.1", wrong)


def test_exercise_2() -> None:
    def weights(alpha_bar: Tensor, half: float = 0.5, first: int = 1) -> Tensor:
        snr = alpha_bar[first:] / (1 - alpha_bar[first:])
        return half * (snr[:-1] / snr[1:] - 1)

    check("4.2", weights)
    for wrong in (
        lambda a: weights(a, half=1.0),
        lambda a: weights(a, first=0),
        lambda a: 0.5 * (a[1:-1] / (1 - a[1:-1]) - a[2:] / (1 - a[2:])),
    ):
        with pytest.raises(AssertionError, match="Hint"):
            check("4.2", wrong)


def test_exercise_3() -> None:
    check("4.3", lambda a, v: (1 - a) * v / (a * v + 1 - a))
    for wrong in (lambda a, v: 1 - a, lambda a, v: v, lambda a, v: (1 - a) / a):
        with pytest.raises(AssertionError, match="Hint"):
            check("4.3", wrong)


def _bound(net, x0, bar, times, noise, half=0.5, prior=1.0):  # type: ignore[no-untyped-def]
    a = bar[times[0]]
    total = prior * 0.5 * (a * x0**2 - a - torch.log(1 - a)).sum(1)
    for t, s in pairwise(times):
        a, b = bar[t], bar[s]
        error = (noise[t] - net(a.sqrt() * x0 + (1 - a).sqrt() * noise[t], t)) ** 2
        if s:
            total = total + half * (b / (1 - b) * (1 - a) / a - 1) * error.sum(1)
            var = (1 - b) / (1 - a) * (1 - a / b)
        else:
            log_norm = x0.shape[1] * torch.log(2 * math.pi * var)
            total = total + 0.5 * ((1 - a) / a * error.sum(1) / var + log_norm)
    return total


def test_exercise_4() -> None:
    check("4.4", _bound)
    for wrong in (
        lambda *args: _bound(*args, half=1.0),
        lambda *args: _bound(*args, prior=0.0),
        lambda *args: _bound(*args).mean(),
        lambda net, x0, bar, times, noise: _bound(net, x0, bar, [*times[:-1], 1, 0], noise),
    ):
        with pytest.raises(AssertionError, match="Hint"):
            check("4.4", wrong)


@pytest.mark.parametrize("key", ["4.1", "4.2", "4.3", "4.4"])
def test_the_skeletons_fail(key: str) -> None:
    with pytest.raises(AssertionError, match="No answer yet"):
        check(key, ...)


# ---- proofs by algebra -------------------------------------------------------------------


def _kl(v_q: sp.Expr, v_p: sp.Expr, gap: sp.Expr) -> sp.Expr:
    return (v_q / v_p - 1 - sp.log(v_q / v_p) + gap**2 / v_p) / 2  # (4.7)


@pytest.mark.equation("4.3")
@pytest.mark.equation("4.4")
def test_the_gap_of_the_bound_is_a_divergence_for_any_two_paths() -> None:
    """L + log p(x_0) with three paths of any probabilities; Jensen is that a KL is not negative."""
    q1, q2, p1, p2, evidence = sp.symbols("q_1 q_2 p_1 p_2 p", positive=True)
    q = (q1, q2, 1 - q1 - q2)
    given = (p1, p2, 1 - p1 - p2)  # p(path | x_0), so that p(path, x_0) = evidence · given
    bound = sum(a * sp.log(a / (evidence * b)) for a, b in zip(q, given, strict=True))
    kl = sum(a * sp.log(a / b) for a, b in zip(q, given, strict=True))
    assert sp.simplify(sp.expand(sp.expand_log(bound + sp.log(evidence) - kl, force=True))) == 0


@pytest.mark.equation("4.6")
def test_the_ratios_of_kernels_telescope() -> None:
    """Σ log q(x_t|x_0)/q(x_{t−1}|x_0) over t = 2..5 leaves the two ends."""
    kernel = sp.symbols("q_1:6", positive=True)
    steps = [sp.log(kernel[i] / kernel[i - 1]) for i in range(1, 5)]
    left = sp.expand_log(sum(steps) - sp.log(kernel[4] / kernel[0]), force=True)
    assert sp.expand(left) == 0


@pytest.mark.equation("4.8")
@pytest.mark.equation("4.9")
def test_prior_and_step_terms_are_divergences_of_gaussians() -> None:
    a, x0, v, sigma2 = sp.symbols("a x_0 v sigma2", positive=True)
    gap = sp.symbols("gap", real=True)
    prior = (a * x0**2 - a - sp.log(1 - a)) / 2
    assert sp.simplify(_kl(1 - a, sp.Integer(1), sp.sqrt(a) * x0) - prior) == 0
    step = gap**2 / (2 * sigma2) + (v / sigma2 - 1 - sp.log(v / sigma2)) / 2
    assert sp.simplify(_kl(v, sigma2, gap) - step) == 0
