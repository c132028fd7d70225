"""Chapter 1, the forward process: every numbered equation, every exercise, the bugs it warns of."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import sympy as sp
import torch
from scipy import integrate, stats
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from ddpmlib import data
from ddpmlib.denoiser import oracle
from ddpmlib.process import DDPM, schedules
from ddpmlib.teaching import exercises

Kernel = Callable[[Tensor, int, Tensor], Tensor]
ONE, ZERO = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
SHORT = [
    DDPM(schedules.linear(40)),
    DDPM(schedules.cosine(30)),
    DDPM(torch.tensor([0, 0.3, 0.05, 0.6, 0.2], dtype=torch.float64)),
]


@pytest.fixture(params=SHORT, ids=["linear", "cosine", "uneven"])
def process(request: pytest.FixtureRequest) -> DDPM:
    return request.param


@pytest.fixture
def mixture() -> oracle.Mixture:
    """Two clusters on a line, in float64, under a process of 100 steps."""
    weights, means, stds = (
        torch.tensor(v, dtype=torch.float64) for v in ([0.4, 0.6], [-1.3, 0.9], [0.1, 0.25])
    )
    return oracle.Mixture(DDPM(schedules.linear(100)), weights, means, stds)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def coefficients(kernel: Kernel, t: int) -> tuple[float, float]:
    """What a kernel that is linear in (x0, eps) multiplies them with."""
    offset = kernel(ZERO, t, ZERO)
    return float(kernel(ONE, t, ZERO) - offset), float(kernel(ZERO, t, ONE) - offset)


def chain(process: DDPM, first: int, last: int) -> tuple[float, float]:
    """Mean factor and variance of q(x_last | x_first), from the single steps alone."""
    factor, variance = 1.0, 0.0
    for t in range(first + 1, last + 1):
        a, b = coefficients(process.q_step, t)
        factor, variance = a * factor, a**2 * variance + b**2
    return factor, variance


# One step


@pytest.mark.equation("1.1")
def test_a_step_draws_from_its_normal(process: DDPM) -> None:
    t, before = process.T // 2, 1.7
    beta = float(process.beta[t])
    drawn = process.q_step(torch.full((20_000,), before, dtype=torch.float64), t, normal(20_000))
    exact = stats.norm(math.sqrt(1 - beta) * before, math.sqrt(beta))
    assert stats.kstest(drawn.numpy(), exact.cdf).pvalue > 0.01
    # the same test tells the variance from its root
    wrong = stats.norm(math.sqrt(1 - beta) * before, beta)
    assert stats.kstest(drawn.numpy(), wrong.cdf).pvalue < 1e-6


@pytest.mark.equation("1.2")
def test_a_step_has_the_printed_coefficients(process: DDPM) -> None:
    for t in range(1, process.T + 1):
        on_x, on_noise = coefficients(process.q_step, t)
        assert on_x == pytest.approx(math.sqrt(process.alpha[t]), abs=1e-15)
        assert on_noise == pytest.approx(math.sqrt(process.beta[t]), abs=1e-15)


@pytest.mark.equation("1.3")
def test_mean_and_covariance_converge_to_those_of_noise(process: DDPM) -> None:
    root = normal(3, 3)
    cov, mean = root @ root.T, torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
    start, first, eye = cov, mean, torch.eye(3, dtype=torch.float64)
    for t in range(1, process.T + 1):
        a, b = coefficients(process.q_step, t)
        cov, mean = a**2 * cov + b**2 * eye, a * mean
        left = process.alpha_bar[t]
        torch.testing.assert_close(cov - eye, left * (start - eye), rtol=0, atol=1e-12)
        torch.testing.assert_close(mean, left.sqrt() * first, rtol=0, atol=1e-12)


# Many steps


@pytest.mark.equation("1.4")
@pytest.mark.slow
def test_independent_gaussians_add_their_variances() -> None:
    x, y = sp.symbols("x y", real=True)
    a, b = sp.Rational(3, 5), sp.Rational(2, 7)

    def density(z: Any, std: Any) -> Any:
        return sp.exp(-(z**2) / (2 * std**2)) / (std * sp.sqrt(2 * sp.pi))

    convolved = sp.integrate(density(y, a) * density(x - y, b), (y, -sp.oo, sp.oo))
    assert sp.simplify(convolved / density(x, sp.sqrt(a**2 + b**2))) == 1
    # one noise used twice is another distribution
    assert sp.simplify(convolved / density(x, a + b)) != 1


@pytest.mark.equation("1.4")
def test_rotated_noises_are_independent_standard_normals() -> None:
    a, b = sp.symbols("a b", positive=True)
    r = sp.sqrt(a**2 + b**2)
    rotation = sp.Matrix([[a, b], [-b, a]]) / r
    assert sp.simplify(rotation * rotation.T) == sp.eye(2)


@pytest.mark.equation("1.5")
def test_two_steps_are_one() -> None:
    now, before = sp.symbols("alpha_t alpha_s", positive=True)
    merged = (sp.sqrt(now) * sp.sqrt(1 - before)) ** 2 + sp.sqrt(1 - now) ** 2
    assert sp.expand(merged - (1 - now * before)) == 0
    for process in SHORT:
        for t in range(2, process.T + 1):
            factor, variance = chain(process, t - 2, t)
            product = float(process.alpha[t] * process.alpha[t - 1])
            assert factor == pytest.approx(math.sqrt(product), rel=1e-12)
            assert variance == pytest.approx(1 - product, rel=1e-12)


@pytest.mark.equation("1.6")
def test_the_kernel_is_the_chain_of_steps(process: DDPM) -> None:
    for t in range(process.T + 1):
        scale, std = coefficients(process.q_sample, t)
        factor, variance = chain(process, 0, t)
        assert scale == pytest.approx(factor, rel=1e-12)
        assert std**2 == pytest.approx(variance, rel=1e-9, abs=1e-15)


@pytest.mark.equation("1.6")
def test_the_induction_step() -> None:
    alpha, alpha_bar = sp.symbols("alpha alpha_bar", positive=True)
    variance = alpha * (1 - alpha_bar) + (1 - alpha)
    assert sp.expand(variance - (1 - alpha * alpha_bar)) == 0


def merged_noise(process: DDPM, noises: Tensor, t: int) -> Tensor:
    """Equation (1.7); noises[i] is ε_i."""
    left = process.alpha_bar
    weights = (process.beta * left[t] / left)[1 : t + 1].sqrt()
    return torch.tensordot(weights, noises[1 : t + 1], dims=1) / (1 - left[t]).sqrt()


@pytest.mark.equation("1.7")
def test_a_jump_with_the_merged_noise_lands_where_the_walk_does(process: DDPM) -> None:
    x0, noises = normal(5, 2, seed=1), normal(process.T + 1, 5, 2, seed=2)
    x = x0
    for t in range(1, process.T + 1):
        x = process.q_step(x, t, noises[t])
        jumped = process.q_sample(x0, t, merged_noise(process, noises, t))
        torch.testing.assert_close(jumped, x, rtol=0, atol=1e-12)
    assert not torch.allclose(process.q_sample(x0, process.T, noises[process.T]), x, atol=1e-3)


@pytest.mark.equation("1.7")
def test_the_squared_weights_of_the_merged_noise_sum_to_one(process: DDPM) -> None:
    for t in range(1, process.T + 1):
        weights = merged_noise(process, torch.eye(process.T + 1, dtype=torch.float64), t)
        assert float((weights**2).sum()) == pytest.approx(1, abs=1e-12)


@pytest.mark.equation("1.8")
def test_the_kernel_between_two_times(process: DDPM) -> None:
    for s in range(0, process.T, 3):
        for t in range(s + 1, process.T + 1):
            ratio = float(process.alpha_bar[t] / process.alpha_bar[s])
            factor, variance = chain(process, s, t)
            assert factor == pytest.approx(math.sqrt(ratio), rel=1e-9)
            assert variance == pytest.approx(1 - ratio, rel=1e-9)


# The marginal


@pytest.mark.equation("1.9")
def test_the_marginal_is_the_integral_over_the_data(mixture: oracle.Mixture) -> None:
    for t, x in [(5, -1.2), (30, 0.1), (80, 1.0)]:
        scale, std = mixture.process.kernel(t, ZERO)

        def joint(x0: float, t: int = t, x: float = x, s: Any = scale, d: Any = std) -> float:
            clean = math.exp(float(mixture.log_prob(torch.tensor([x0], dtype=torch.float64), 0)))
            return clean * float(stats.norm.pdf(x, s * x0, d))

        found, _ = integrate.quad(joint, -3, 3, points=[-1.3, 0.9], limit=200)
        exact = math.exp(float(mixture.log_prob(torch.tensor([x], dtype=torch.float64), t)))
        assert found == pytest.approx(exact, rel=1e-6)


@pytest.mark.equation("1.9")
def test_the_marginal_is_the_shrunk_data_convolved_with_a_gaussian(mixture: oracle.Mixture) -> None:
    x = torch.linspace(-8, 8, 8001, dtype=torch.float64)
    for t in (20, 60):
        scale, std = mixture.process.kernel(t, x)
        shrunk = mixture.log_prob(x / scale, 0).exp() / scale
        kernel = stats.norm.pdf(x.numpy(), 0, std)
        blurred = np.convolve(shrunk.numpy(), kernel, mode="same") * float(x[1] - x[0])
        np.testing.assert_allclose(blurred, mixture.log_prob(x, t).exp().numpy(), atol=1e-6)


@pytest.mark.equation("1.10")
def test_a_mixture_stays_a_mixture(mixture: oracle.Mixture) -> None:
    x = torch.linspace(-3, 3, 50, dtype=torch.float64)
    for t in (0, 1, 40, 100):
        left = float(mixture.process.alpha_bar[t])
        parts = [
            w * stats.norm.pdf(x.numpy(), math.sqrt(left) * m, math.sqrt(left * s**2 + 1 - left))
            for w, m, s in [(0.4, -1.3, 0.1), (0.6, 0.9, 0.25)]
        ]
        np.testing.assert_allclose(mixture.log_prob(x, t).exp().numpy(), sum(parts), rtol=1e-10)


@pytest.mark.equation("1.10")
def test_walked_data_have_the_density_of_the_mixture(mixture: oracle.Mixture) -> None:
    n, process = 5000, mixture.process
    x = mixture.draw(n, generator=torch.Generator().manual_seed(3))
    noises = normal(101, n, seed=4)
    for t in range(1, 41):
        x = process.q_step(x, t, noises[t])
    grid = torch.linspace(-6, 6, 4001, dtype=torch.float64)
    cdf = torch.cumulative_trapezoid(mixture.log_prob(grid, 40).exp(), grid).numpy()
    at = np.interp(np.sort(x.numpy()), grid[1:].numpy(), cdf)
    gap = np.abs(at - (np.arange(n) + 0.5) / n).max()
    assert gap < 1.63 / math.sqrt(n)


# Schedules and signal-to-noise


@pytest.mark.equation("1.11")
def test_the_signal_is_bounded_by_the_sum_of_the_betas(process: DDPM) -> None:
    bound = torch.exp(-process.beta.cumsum(0))
    assert bool((process.alpha_bar <= bound).all())
    small = DDPM(torch.tensor([0.0] + [1e-4] * 5000, dtype=torch.float64))
    torch.testing.assert_close(small.alpha_bar, torch.exp(-small.beta.cumsum(0)), rtol=1e-4, atol=0)


@pytest.mark.equation("1.12")
def test_log_snr_is_the_log_of_the_ratio_of_powers(process: DDPM) -> None:
    log_snr = schedules.log_snr(process.alpha_bar)
    assert log_snr[0] == math.inf
    for t in range(1, process.T + 1):
        scale, std = coefficients(process.q_sample, t)
        assert float(log_snr[t]) == pytest.approx(2 * math.log(scale / std), abs=1e-9)


@pytest.mark.equation("1.13")
def test_linear_is_a_straight_line_between_its_ends() -> None:
    beta = schedules.linear(1000)
    assert beta[0] == 0 and beta[1] == pytest.approx(1e-4) and beta[1000] == pytest.approx(0.02)
    for t in (1, 2, 500, 999, 1000):
        assert float(beta[t]) == pytest.approx(1e-4 + (t - 1) / 999 * (0.02 - 1e-4), rel=1e-12)


@pytest.mark.equation("1.14")
def test_cosine_is_a_squared_cosine_up_to_its_clip() -> None:
    T = 200
    p = DDPM(schedules.cosine(T))

    def f(t: int) -> float:
        return math.cos((t / T + 0.008) / 1.008 * math.pi / 2) ** 2

    for t in range(T):
        assert float(p.alpha_bar[t]) == pytest.approx(f(t) / f(0), rel=1e-9)
    assert f(T) == pytest.approx(0, abs=1e-30) and float(p.beta[T]) == 0.999


# Frequencies


@pytest.mark.equation("1.15")
def test_white_noise_adds_the_same_power_to_every_frequency(process: DDPM) -> None:
    n = 12
    fourier = torch.fft.fft(torch.eye(n, dtype=torch.complex128), norm="ortho")
    root = normal(n, n, seed=5)
    second_moment = root @ root.T  # of data with any mean

    def power(moment: Tensor) -> Tensor:
        return torch.einsum("fi,ij,fj->f", fourier, moment.to(fourier), fourier.conj()).real

    clean = power(second_moment)
    for t in (1, process.T // 2, process.T):
        factor, variance = chain(process, 0, t)
        noisy = power(factor**2 * second_moment + variance * torch.eye(n, dtype=torch.float64))
        left = process.alpha_bar[t]
        torch.testing.assert_close(noisy, left * clean + 1 - left, rtol=1e-9, atol=1e-12)
        snr = left * clean / (noisy - left * clean)
        torch.testing.assert_close(snr, schedules.log_snr(left).exp() * clean, rtol=1e-9, atol=0)


@pytest.mark.equation("1.16")
def test_the_frequency_at_which_a_power_law_meets_the_noise() -> None:
    p, C, gamma = DDPM(schedules.linear(1000)), 470.0, 1.9
    for t in (50, 200, 400):
        scale, std = p.kernel(t, ZERO)
        # where the signal's power √ᾱ² C f^-γ equals the noise's, found without the formula
        low, high = 1e-3, 1e6
        for _ in range(200):
            middle = math.sqrt(low * high)
            over = float(scale) ** 2 * C * middle**-gamma > float(std) ** 2
            low, high = (middle, high) if over else (low, middle)
        snr = math.exp(float(schedules.log_snr(p.alpha_bar[t])))
        assert (C * snr) ** (1 / gamma) == pytest.approx(low, rel=1e-9)


# How far from noise


@pytest.mark.equation("1.17")
def test_divergence_of_gaussian_data_from_noise(process: DDPM) -> None:
    root, mean = normal(4, 4, seed=6), torch.tensor([1.0, -2.0, 0.0, 0.3], dtype=torch.float64)
    cov = root @ root.T + 0.1 * torch.eye(4, dtype=torch.float64)
    gaussian, eye = oracle.Gaussian(process, mean, cov), torch.eye(4, dtype=torch.float64)
    for t in (0, 1, process.T // 2, process.T):
        left = process.alpha_bar[t]
        q = MultivariateNormal(left.sqrt() * mean, left * cov + (1 - left) * eye)
        exact = float(kl_divergence(q, MultivariateNormal(0 * mean, eye)))
        assert gaussian.kl_to_prior(t) == pytest.approx(exact, rel=1e-8, abs=1e-12)


def test_divergence_is_infinite_without_spread_and_times_are_checked() -> None:
    point = oracle.Gaussian(SHORT[0], torch.ones(2).double(), torch.zeros(2, 2).double())
    assert point.kl_to_prior(0) == math.inf
    with pytest.raises(ValueError, match=r"0\.\.40"):
        point.kl_to_prior(41)


def on_a_grid(mixture: oracle.Mixture, t: int) -> tuple[Tensor, Tensor, float]:
    """Points, log q(x_t) and spacing; sums of smooth functions on it are exact to rounding."""
    x = torch.linspace(-12, 12, 24_001, dtype=torch.float64)
    return x, mixture.log_prob(x, t), 24 / 24_000


def divergence(mixture: oracle.Mixture, t: int) -> float:
    """KL(q(x_t) ‖ N(0, 1)) by quadrature."""
    x, log_q, dx = on_a_grid(mixture, t)
    return dx * float((log_q.exp() * (log_q - Normal(ZERO, ONE).log_prob(x))).sum())


def information(mixture: oracle.Mixture, t: int) -> float:
    """I(x_0; x_t) = H(x_t) − H(x_t|x_0), by quadrature and the entropy of the kernel."""
    _, log_q, dx = on_a_grid(mixture, t)
    _, std = mixture.process.kernel(t, ZERO)
    return -dx * float((log_q.exp() * log_q).sum()) - float(Normal(ZERO, ONE * std).entropy())


@pytest.mark.equation("1.18")
def test_kernel_divergence_is_divergence_plus_information(mixture: oracle.Mixture) -> None:
    weights, means = mixture.log_weights.exp(), mixture.means[:, 0]
    square = float((weights * (means**2 + mixture.variances)).sum())
    for t in (10, 50, 100):
        left = float(mixture.process.alpha_bar[t])
        bound = 0.5 * (left * square - left - math.log1p(-left))
        both = divergence(mixture, t) + information(mixture, t)
        assert bound == pytest.approx(both, rel=1e-6, abs=1e-12)
        assert divergence(mixture, t) < bound


@pytest.mark.equation("1.18")
def test_the_mean_divergence_of_the_kernel() -> None:
    points = normal(200, 6, seed=7)
    p, t = SHORT[0], 25
    left, D = float(p.alpha_bar[t]), 6
    scale, std = p.kernel(t, points)
    each = kl_divergence(Normal(scale * points, ONE * std), Normal(ZERO, ONE)).sum(1)
    mean_square = float((points**2).sum(1).mean())
    formula = 0.5 * (left * mean_square - D * left - D * math.log1p(-left))
    assert formula == pytest.approx(float(each.mean()), rel=1e-9)


@pytest.mark.equation("1.17", "1.18")
def test_the_divergence_lies_between_its_bounds(mixture: oracle.Mixture) -> None:
    weights, means = mixture.log_weights.exp(), mixture.means[:, 0]
    mean = (weights * means).sum()
    var = (weights * (mixture.variances + means**2)).sum() - mean**2
    gaussian = oracle.Gaussian(mixture.process, mean[None], var[None, None])
    for t in (1, 20, 60, 100):
        left = float(mixture.process.alpha_bar[t])
        upper = 0.5 * (left * float(var + mean**2 - 1) - math.log1p(-left))
        assert gaussian.kl_to_prior(t) <= divergence(mixture, t) + 1e-12 <= upper


# What goes wrong


def faults(kernel: Kernel, process: DDPM) -> set[str]:
    """Which of the chapter's three checks a version of (1.6) fails."""
    found = set()
    if abs(float(kernel(0.3 * ONE, 0, ONE)) - 0.3) > 1e-9:
        found.add("clean")
    if coefficients(kernel, 1) != pytest.approx(coefficients(process.q_step, 1), abs=1e-9):
        found.add("first step")
    squares = [a**2 + b**2 for a, b in (coefficients(kernel, t) for t in range(process.T + 1))]
    if max(abs(square - 1) for square in squares) > 1e-9:
        found.add("variance")
    return found


def bar_dropped(p: DDPM, x0: Tensor, t: int, eps: Tensor) -> Tensor:
    return p.scale[t] * x0 + (1 - p.alpha[t]).sqrt() * eps


def root_missing(p: DDPM, x0: Tensor, t: int, eps: Tensor) -> Tensor:
    return p.scale[t] * x0 + (1 - p.alpha_bar[t]) * eps


def off_by_one(p: DDPM, x0: Tensor, t: int, eps: Tensor) -> Tensor:
    left = p.alpha_bar[min(t + 1, p.T)]
    return left.sqrt() * x0 + (1 - left).sqrt() * eps


def data_in_0_1(p: DDPM, x0: Tensor, t: int, eps: Tensor) -> Tensor:
    return p.q_sample((x0 + 1) / 2, t, eps)


@pytest.mark.parametrize(
    ("wrong", "caught_by"),
    [
        (bar_dropped, {"variance"}),
        (root_missing, {"first step", "variance"}),
        (off_by_one, {"clean", "first step"}),
        (data_in_0_1, {"clean", "first step", "variance"}),
    ],
)
def test_wrong_kernels_are_caught(wrong: Any, caught_by: set[str]) -> None:
    process = DDPM(schedules.linear(1000))
    assert faults(lambda x0, t, eps: wrong(process, x0, t, eps), process) == caught_by
    assert faults(process.q_sample, process) == set()


def test_images_are_scaled_exactly_once() -> None:
    images = data.load("digits").x_train
    scaled = data.to_float(images)
    assert (float(scaled.min()), float(scaled.max())) == (-1.0, 1.0)
    with pytest.raises(ValueError, match="uint8"):
        data.to_float(scaled)


def test_short_formats_lose_the_first_noise_and_the_tables_do_not() -> None:
    beta = schedules.cosine(1000)
    exact = float(beta[1]) ** 0.5  # 1 − ᾱ_1 = β_1
    assert float(DDPM(beta).std[1]) == pytest.approx(exact, rel=1e-10)
    for dtype, loss in [(torch.float32, 1e-5), (torch.bfloat16, 0.5)]:
        short = (1 - torch.cumprod(1 - beta.to(dtype), 0)[1]).double().sqrt()
        assert abs(float(short) / exact - 1) > loss


# Exercises


def straight(T: int, first: float, last: float) -> Tensor:
    left = torch.sigmoid(torch.linspace(first, last, T, dtype=torch.float64))
    before = torch.cat([torch.ones(1, dtype=torch.float64), left[:-1]])
    return torch.cat([torch.zeros(1, dtype=torch.float64), 1 - left / before])


def unfinished(*_: Any) -> None:
    """The skeleton that the chapter hands out."""


RIGHT = [
    ("1.1", lambda beta, left: next(t for t in range(10**5) if (1 - beta) ** t <= left + 1e-12)),
    ("1.2", lambda s, t: math.sqrt(t / s) - math.sqrt(t * s)),
    ("1.3", straight),
    ("1.4", lambda left, k: torch.sigmoid(schedules.log_snr(left) - 2 * math.log(k))),
    ("1.5", divergence),
]
WRONG = [
    ("1.1", lambda beta, left: math.floor(math.log(left) / math.log1p(-beta))),
    ("1.1", lambda beta, left: math.ceil(math.log(1 / left) / beta)),
    ("1.1", lambda beta, left: math.log(left) / math.log1p(-beta)),
    ("1.1", lambda beta, left: math.ceil(math.log(left) / math.log1p(-beta)) + 1),
    ("1.1", lambda beta, left: math.nan),
    ("1.1", lambda beta, left: math.inf),
    ("1.1", lambda beta, left: 2),  # right for the first two cases only
    ("1.1", lambda beta, left: min(math.ceil(math.log(left) / math.log1p(-beta)), 100)),
    ("1.1", lambda beta, left: -math.ceil(math.log(left) / math.log1p(-beta))),
    ("1.2", lambda s, t: math.sqrt(t / s)),
    ("1.2", lambda s, t: 1 - t),
    ("1.2", lambda s, t: math.sqrt((1 - s) * (1 - t))),
    ("1.2", lambda s, t: t / s * (1 - s)),
    ("1.2", lambda s, t: math.sqrt(s / t) * (1 - t)),  # the two times exchanged
    ("1.2", lambda s, t: -math.sqrt(t / s) * (1 - s)),
    ("1.2", lambda s, t: 1 - s),  # right at s = t only
    ("1.2", lambda s, t: 0.0),
    ("1.2", lambda s, t: math.nan),
    ("1.3", lambda T, first, last: straight(T, first, last)[1:]),
    ("1.3", lambda T, first, last: straight(T, first / 2, last / 2)),
    ("1.3", lambda T, first, last: schedules.cosine(T)),
    ("1.3", lambda T, first, last: straight(T, first, last).clamp(max=0.999)),
    ("1.3", lambda T, first, last: straight(T, -last, -first)),
    ("1.3", lambda T, first, last: straight(T, first, last).flip(0)),
    ("1.3", lambda T, first, last: straight(T, first, last) * math.nan),
    ("1.3", lambda T, first, last: torch.full((T + 1,), 0.1)),
    ("1.3", lambda T, first, last: torch.cat([torch.zeros(2), straight(T, first, last)[1:-1]])),
    ("1.4", lambda left, k: left),
    ("1.4", lambda left, k: left / (left + k * (1 - left))),
    ("1.4", lambda left, k: torch.sigmoid(schedules.log_snr(left) + 2 * math.log(k))),
    ("1.4", lambda left, k: left / k**2),
    ("1.4", lambda left, k: left / (left + 4 * (1 - left))),  # right for a factor of 2 only
    ("1.4", lambda left, k: torch.sigmoid(schedules.log_snr(left) - 2 * math.log(k)).flip(0)),
    ("1.4", lambda left, k: (left / (left + k**2 * (1 - left))).clamp(min=1e-3)),
    ("1.4", lambda left, k: (left / (1 - left) / k**2) / (1 + left / (1 - left) / k**2)),  # nan
    ("1.4", lambda left, k: torch.ones_like(left)),
    ("1.5", lambda mixture, t: 0.0),
    ("1.5", lambda mixture, t: math.nan),
    ("1.5", lambda mixture, t: max(divergence(mixture, t), 1e-3)),
    ("1.5", lambda mixture, t: min(divergence(mixture, t), 0.5)),
    ("1.5", lambda mixture, t: divergence(mixture, t) / math.log(2)),  # bits
    ("1.5", lambda mixture, t: 1.05 * divergence(mixture, t)),
    ("1.5", lambda mixture, t: -divergence(mixture, t)),
    ("1.5", lambda mixture, t: divergence(mixture, t - 1)),
]


def test_all_exercises_of_the_chapter_are_tried() -> None:
    mine = {key for key in exercises.keys() if key.startswith("1.")}  # noqa: SIM118
    assert mine == {key for key, _ in RIGHT} == {key for key, _ in WRONG}


@pytest.mark.parametrize(("key", "answer"), RIGHT, ids=[key for key, _ in RIGHT])
def test_right_answers_pass(key: str, answer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    exercises.check(key, answer)
    assert capsys.readouterr().out.startswith(f"✓ {key} ")


@pytest.mark.parametrize(("key", "answer"), WRONG)
def test_wrong_answers_fail(key: str, answer: Any) -> None:
    with pytest.raises(AssertionError, match=f"^✗ {key} .*Hint: "):
        exercises.check(key, answer)


@pytest.mark.parametrize("key", [key for key, _ in RIGHT])
@pytest.mark.parametrize("answer", [None, ..., unfinished, 0.5])
def test_unfinished_answers_fail(key: str, answer: Any) -> None:
    with pytest.raises(AssertionError, match=f"^✗ {key} "):
        exercises.check(key, answer)


def test_a_repeated_noise_gives_twice_the_variance() -> None:
    """The "mind the slide" box, for two small steps of the same size."""
    beta = 1e-3
    a, b = math.sqrt((1 - beta) * beta), math.sqrt(beta)
    assert (a + b) ** 2 / (a**2 + b**2) == pytest.approx(2, rel=1e-3)


def test_tables_start_clean_and_shrink(process: DDPM) -> None:
    assert process.alpha_bar[0] == 1 and process.beta[0] == 0
    assert all(after < before for before, after in pairwise(process.alpha_bar.tolist()))


# ---- proofs by algebra -------------------------------------------------------------------


@pytest.mark.equation("1.3")
def test_the_distance_from_noise_shrinks_by_alpha_in_each_step() -> None:
    alpha, alpha_bar, start, mean = sp.symbols("alpha alpha_bar Sigma_0 mu_0", positive=True)
    before = 1 + alpha_bar * (start - 1)  # what (1.3) says one step earlier
    after = alpha * before + (1 - alpha)  # variances of independent terms add
    assert sp.expand(after - 1 - alpha * alpha_bar * (start - 1)) == 0
    shrunk = sp.sqrt(alpha) * sp.sqrt(alpha_bar) * mean
    assert sp.simplify(shrunk - sp.sqrt(alpha * alpha_bar) * mean) == 0


@pytest.mark.equation("1.7")
def test_the_squared_weights_telescope() -> None:
    alphas = sp.symbols("alpha_1:6", positive=True)
    left = [sp.prod(alphas[:i]) for i in range(6)]  # ᾱ_0 = 1 … ᾱ_5
    squares = [(1 - alphas[i - 1]) * left[5] / left[i] for i in range(1, 6)]
    for i, square in enumerate(squares, 1):
        assert sp.simplify(square - left[5] * (1 / left[i] - 1 / left[i - 1])) == 0
    assert sp.simplify(sum(squares) - (1 - left[5])) == 0


@pytest.mark.equation("1.8")
def test_two_kernels_in_a_row_are_one_kernel() -> None:
    """From 0 to s by (1.6), then from s to t by (1.8): the variance and factor of (1.6) at t."""
    a_t, a_s = sp.symbols("a_t a_s", positive=True)
    factor, variance = sp.sqrt(a_t / a_s), 1 - a_t / a_s
    assert sp.simplify(factor * sp.sqrt(a_s) - sp.sqrt(a_t)) == 0
    assert sp.simplify(factor**2 * (1 - a_s) + variance - (1 - a_t)) == 0


@pytest.mark.equation("1.11")
def test_the_logarithm_lies_below_its_tangent() -> None:
    beta = sp.symbols("beta", positive=True)
    gap = sp.log(1 - beta) + beta  # zero at β = 0, and falling from there on
    assert gap.subs(beta, 0) == 0
    assert sp.simplify(sp.diff(gap, beta) + beta / (1 - beta)) == 0


@pytest.mark.equation("1.16")
def test_the_frequency_solves_the_balance_of_powers() -> None:
    f, C, snr, gamma = sp.symbols("f C SNR gamma", positive=True)
    (found,) = sp.solve(sp.Eq(snr * C * f**-gamma, 1), f)
    assert sp.simplify(sp.expand_log(sp.log(found / (C * snr) ** (1 / gamma)), force=True)) == 0


@pytest.mark.equation("1.17")
def test_divergence_of_one_coordinate_by_its_moments() -> None:
    """E log q − log p with x = m + √v z: only the moments 1, 0, 1 of z are needed."""
    z, mean = sp.symbols("z m", real=True)
    v = sp.symbols("v", positive=True)
    x = mean + sp.sqrt(v) * z
    log_ratio = -((x - mean) ** 2) / (2 * v) - sp.log(v) / 2 + x**2 / 2
    constant, first, second = (sp.expand(log_ratio).coeff(z, k) for k in range(3))
    assert sp.expand(log_ratio - constant - first * z - second * z**2) == 0
    assert sp.simplify(constant + second - (v - 1 - sp.log(v) + mean**2) / 2) == 0
