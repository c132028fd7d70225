"""Chapter 2, the reverse process: every numbered equation against algebra or exact values.

Truth comes from three places that share no formula with the library: sympy, quadrature on a grid
(a density is evaluated and summed, nothing is derived), and data whose posterior is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import pytest
import sympy
import torch
from torch import Tensor

from ddpmlib.denoiser import oracle
from ddpmlib.prediction import Prediction
from ddpmlib.process import DDPM, schedules
from ddpmlib.samplers import draw, uniform_times
from ddpmlib.teaching import exercises

PROCESS = DDPM(schedules.cosine(1000))
# In float64 from the start: 0.4 rounded to float32 is wrong in the ninth digit.
WEIGHTS, MEANS, STDS = torch.tensor([[0.4, 0.6], [-1.2, 0.8], [0.2, 0.2]], dtype=torch.float64)
MIXTURE = oracle.Mixture(PROCESS, WEIGHTS, MEANS, STDS)
GRID = torch.linspace(-5, 5, 2001, dtype=torch.float64)
STEP = GRID[1] - GRID[0]
PAIRS = [(600, 599), (600, 500), (600, 300), (300, 299), (900, 450)]
POINTS = torch.tensor([-1.5, -0.4, 0.0, 0.2, 1.3], dtype=torch.float64)


def normal(x: Tensor, mean: Any, var: Any) -> Tensor:
    return torch.exp(-((x - mean) ** 2) / (2 * var)) / (2 * math.pi * var) ** 0.5


def data_density(x: Tensor) -> Tensor:
    return sum(w * normal(x, m, s**2) for w, m, s in zip(WEIGHTS, MEANS, STDS, strict=True))


def mixture_cdf(x: Tensor) -> Tensor:
    return (WEIGHTS * torch.special.ndtr((x[:, None] - MEANS) / STDS)).sum(1)


def stepwise_forward(s: int, t: int) -> tuple[float, float]:
    """Factor and variance of t given s, one forward step after the other."""
    factor, var = 1.0, 0.0
    for u in range(s + 1, t + 1):
        beta = float(PROCESS.beta[u])
        factor, var = factor * (1 - beta) ** 0.5, (1 - beta) * var + beta
    return factor, var


def marginal(x: Tensor, s: int) -> Tensor:
    """q(x_s) as the integral over the data density."""
    if s == 0:
        return data_density(x)
    factor, var = stepwise_forward(0, s)
    return (normal(x[:, None], factor * GRID, var) * data_density(GRID)).sum(1) * STEP


@cache
def marginal_on_grid(s: int) -> Tensor:
    return marginal(GRID, s)


def reverse(x_t: Tensor, t: int, s: int) -> Tensor:
    """q(x_s | x_t) on the grid, rows per x_t, from nothing but densities."""
    factor, var = stepwise_forward(s, t)
    joint = normal(x_t[:, None], factor * GRID, var) * marginal_on_grid(s)
    return joint / (joint.sum(1, keepdim=True) * STEP)


def moments(density: Tensor) -> tuple[Tensor, Tensor]:
    mean = (density * GRID).sum(1) * STEP
    return mean, (density * (GRID - mean[:, None]) ** 2).sum(1) * STEP


def close(a: Any, b: Any, tol: float = 1e-8) -> None:
    """Numbers or tensors, compared in float64."""
    a, b = (torch.as_tensor(v, dtype=torch.float64) for v in (a, b))
    torch.testing.assert_close(a, b, rtol=tol, atol=tol)


# ---- Bayes' rule and small steps -----------------------------------------------------------------


@pytest.mark.equation("2.1")
@pytest.mark.parametrize(("t", "s"), [*PAIRS, (5, 0), (1000, 999)])
def test_forward_from_s_to_t_is_the_composition_of_single_steps(t: int, s: int) -> None:
    factor, var = stepwise_forward(s, t)
    close(factor, float((PROCESS.alpha_bar[t] / PROCESS.alpha_bar[s]).sqrt()), 1e-10)
    close(var, float(1 - PROCESS.alpha_bar[t] / PROCESS.alpha_bar[s]), 1e-10)


@pytest.mark.equation("2.2")
def test_bayes_rule_turns_samples_around() -> None:
    """Among pairs (x_s, x_t) of the forward chain, those near one x_t have the moments of (2.2)."""
    t, s, generator = 600, 300, torch.Generator().manual_seed(0)
    x_s = MIXTURE.draw(400_000, s, generator)
    factor, var = stepwise_forward(s, t)
    x_t = factor * x_s + var**0.5 * torch.randn(len(x_s), generator=generator).double()
    near = x_s[(x_t - 0.2).abs() < 0.03]
    mean, variance = moments(reverse(torch.tensor([0.2], dtype=torch.float64), t, s))
    assert len(near) > 4000
    assert abs(float(near.mean() - mean)) < 4 * float(variance / len(near)) ** 0.5
    assert abs(float(near.var() / variance) - 1) < 0.08


@pytest.mark.parametrize("times", [(300, 600, 900), (0, 599, 600), (10, 20, 1000)])
def test_a_chain_read_backwards_needs_no_later_state(times: tuple[int, int, int]) -> None:
    """q(x_s | x_t, x_u) = q(x_s | x_t) for s < t < u, on the grid, from the forward steps alone."""
    s, t, u = times
    alone = reverse(POINTS, t, s)
    factor, var = stepwise_forward(s, t)
    later, spread = stepwise_forward(t, u)
    for x_u in (-1.0, 0.6):
        joint = marginal_on_grid(s) * normal(POINTS[:, None], factor * GRID, var)
        joint = joint * normal(x_u, later * POINTS, spread)[:, None]
        close(joint / (joint.sum(1, keepdim=True) * STEP), alone)


def test_conditional_on_the_later_state_alone_the_earlier_one_is_less_certain() -> None:
    """That x_t is given matters: x_u says something of x_s, but nothing beyond x_t."""
    near, far = (moments(reverse(POINTS, t, 300))[1] for t in (600, 900))
    assert (far > near).all()


def test_backward_transitions_carry_the_marginals_and_so_draw_the_data() -> None:
    """From q(x_T) on, step by step, ∫ q(x_s | x_t) q(x_t) dx_t is q(x_s), down to the data."""
    times = [900, 600, 300, 100, 0]
    q = marginal(GRID, times[0])
    for t, s in zip(times, times[1:], strict=False):
        q = (q[:, None] * reverse(GRID, t, s)).sum(0) * STEP
        close(q, marginal(GRID, s), 1e-6)


@pytest.mark.parametrize("x", [-0.5, 0.2, 1.0])
def test_an_euler_step_of_the_reverse_sde_has_the_mean_of_the_reverse_step(x: float) -> None:
    """dx = [−½βx − β ∇log q] dt backwards in time: an error of second order in β."""
    x_t, errors = torch.tensor([x], dtype=torch.float64), []
    for stride in (2, 4, 8):
        mean, _ = moments(reverse(x_t, 600, 600 - stride))
        beta = stepwise_forward(600 - stride, 600)[1]
        euler = x_t + beta * (x_t / 2 + MIXTURE.score(x_t, 600))
        errors.append(abs(float(mean - euler)))
    assert all(3.6 < b / a < 4.4 for a, b in zip(errors, errors[1:], strict=False))


@pytest.mark.equation("2.3")
def test_marginal_of_a_finite_data_set_is_the_average_of_its_kernels() -> None:
    points = torch.tensor([[-1.0, 0.5], [0.0, 2.0], [1.5, 1.5]]).double()
    x = torch.tensor([[0.3, 0.7], [-1.0, 1.0]]).double()
    for t in (50, 400, 900):
        scale, var = stepwise_forward(0, t)
        kernels = normal(x[:, None], scale * points, var).prod(-1)
        close(oracle.FiniteData(PROCESS, points).log_prob(x, t), kernels.mean(1).log())


@pytest.mark.equation("2.4")
@pytest.mark.parametrize("x", [-0.5, 0.2, 1.0])
def test_small_steps_have_the_mean_and_variance_of_the_expansion_to_second_order(x: float) -> None:
    x_t, errors = torch.tensor([x], dtype=torch.float64), []
    for stride in (2, 4, 8):
        mean, var = moments(reverse(x_t, 600, 600 - stride))
        beta = float(1 - PROCESS.alpha_bar[600] / PROCESS.alpha_bar[600 - stride])
        c = x_t / (1 - beta) ** 0.5
        expanded = c + beta / (1 - beta) * MIXTURE.score(c, 600 - stride)
        close(mean, (x_t + beta * MIXTURE.score(x_t, 600)) / (1 - beta) ** 0.5)
        errors.append((abs(float(mean - expanded)), abs(float(var) - beta)))
    for (mean_1, var_1), (mean_2, var_2) in zip(errors, errors[1:], strict=False):
        assert 3.6 < mean_2 / mean_1 < 4.4 and 3.6 < var_2 / var_1 < 4.4


@pytest.mark.equation("2.5")
@pytest.mark.parametrize("x", [-0.6, 0.2, 0.5])
def test_distance_from_a_gaussian_falls_with_the_third_power_of_the_step(x: float) -> None:
    x_t = torch.tensor([x], dtype=torch.float64)
    at = x_t.clone().requires_grad_()
    (second,) = torch.autograd.grad(MIXTURE.score(at, 600), at, create_graph=True)
    (third,) = torch.autograd.grad(second, at)
    for stride in (1, 2, 4):
        exact = reverse(x_t, 600, 600 - stride)
        bell = normal(GRID, *(m[:, None] for m in moments(exact)))
        log_ratio = exact.clamp(min=1e-300).log() - bell.clamp(min=1e-300).log()
        kl = float((exact * log_ratio - exact + bell).sum() * STEP)
        beta = stepwise_forward(600 - stride, 600)[1]
        assert abs(kl / (beta**3 / 12 * float(third) ** 2) - 1) < 15 * beta


# ---- the posterior -------------------------------------------------------------------------------

A_T, A_S, X_T, X_S, X_0, EPS = sympy.symbols("a_t a_s x_t x_s x_0 eps", positive=True)
ALPHA = A_T / A_S
BETA = 1 - ALPHA
VAR = (1 - A_S) / (1 - A_T) * BETA
MEAN = sympy.sqrt(ALPHA) * (1 - A_S) / (1 - A_T) * X_T + sympy.sqrt(A_S) * BETA / (1 - A_T) * X_0


def vanishes(expression: sympy.Expr) -> bool:
    return sympy.simplify(expression) == 0


def log_normal(x: sympy.Expr, mean: sympy.Expr, var: sympy.Expr) -> sympy.Expr:
    return -((x - mean) ** 2) / (2 * var) - sympy.log(2 * sympy.pi * var) / 2


def log_bayes() -> sympy.Expr:
    forward = log_normal(X_T, sympy.sqrt(ALPHA) * X_S, BETA)
    before = log_normal(X_S, sympy.sqrt(A_S) * X_0, 1 - A_S)
    return forward + before - log_normal(X_T, sympy.sqrt(A_T) * X_0, 1 - A_T)


@pytest.mark.equation("2.6")
def test_precision_form_by_sympy_and_by_the_library() -> None:
    precision = -sympy.diff(log_bayes(), X_S, 2)
    assert vanishes(precision - (ALPHA / BETA + 1 / (1 - A_S)))
    linear = sympy.diff(log_bayes(), X_S).subs(X_S, 0)
    assert vanishes(linear - (sympy.sqrt(ALPHA) / BETA * X_T + sympy.sqrt(A_S) / (1 - A_S) * X_0))
    t, x_t, x0 = 300, 0.7, -0.4
    alpha, beta, before = PROCESS.alpha[t], PROCESS.beta[t], PROCESS.alpha_bar[t - 1]
    precision_t = alpha / beta + 1 / (1 - before)
    mean, std = PROCESS.posterior(*torch.tensor([[x_t], [x0]], dtype=torch.float64), t, t - 1)
    close(std**2, float(1 / precision_t))
    close(mean[0], (alpha.sqrt() / beta * x_t + before.sqrt() / (1 - before) * x0) / precision_t)


@pytest.mark.equation("2.7")
def test_beta_tilde_by_sympy_and_by_the_table() -> None:
    assert vanishes(1 / (-sympy.diff(log_bayes(), X_S, 2)) - VAR)
    for schedule in (schedules.cosine(50), schedules.linear(200), schedules.linear(1000)):
        process = DDPM(schedule)
        alpha, beta, before = process.alpha[2:], process.beta[2:], process.alpha_bar[1:-1]
        close(process.beta_tilde[2:], 1 / (alpha / beta + 1 / (1 - before)))
        assert process.beta_tilde[1] == 0 and (process.beta_tilde[1:] < process.beta[1:]).all()


@pytest.mark.equation("2.8")
def test_x0_form_of_the_mean() -> None:
    peak = sympy.solve(sympy.diff(log_bayes(), X_S), X_S)
    assert len(peak) == 1 and vanishes(peak[0] - MEAN)
    t, (x_t, x0) = 300, torch.tensor([[0.7, -1.0], [-0.4, 2.0]], dtype=torch.float64)
    alpha, beta = PROCESS.alpha[t], PROCESS.beta[t]
    now, before = PROCESS.alpha_bar[t], PROCESS.alpha_bar[t - 1]
    mean = alpha.sqrt() * (1 - before) / (1 - now) * x_t + before.sqrt() * beta / (1 - now) * x0
    close(PROCESS.posterior(x_t, x0, t, t - 1)[0], mean)


@pytest.mark.equation("2.9")
def test_eps_form_of_the_mean() -> None:
    x_0 = (X_T - sympy.sqrt(1 - A_T) * EPS) / sympy.sqrt(A_T)
    eps_form = (X_T - BETA / sympy.sqrt(1 - A_T) * EPS) / sympy.sqrt(ALPHA)
    assert vanishes(MEAN.subs(X_0, x_0) - eps_form)
    x0, eps = torch.randn(2, 7, generator=torch.Generator().manual_seed(0)).double()
    for t in (1, 2, 300, 999):
        x_t = PROCESS.q_sample(x0, t, eps)
        shift = PROCESS.beta[t] / (1 - PROCESS.alpha_bar[t]).sqrt() * eps
        close(PROCESS.posterior(x_t, x0, t, t - 1)[0], (x_t - shift) / PROCESS.alpha[t].sqrt())


@pytest.mark.equation("2.10")
def test_the_square_is_complete_for_any_two_times() -> None:
    """Not only up to a constant: the normalised densities agree."""
    shown = sympy.expand_log(log_bayes() - log_normal(X_S, MEAN, VAR), force=True)
    assert vanishes(sympy.diff(shown, X_S))
    for numbers in ((0.2, 0.5, 0.3, -1.0, 0.4), (0.01, 0.9, -2.0, 0.3, 1.0)):
        values = dict(zip((A_T, A_S, X_T, X_S, X_0), numbers, strict=True))
        assert abs(float(shown.subs(values))) < 1e-12


@pytest.mark.equation("2.10")
@pytest.mark.parametrize(("t", "s"), [*PAIRS, (1000, 1)])
def test_library_posterior_is_bayes_rule_on_a_grid(t: int, s: int) -> None:
    x_t, x0 = torch.tensor([0.9], dtype=torch.float64), torch.tensor([-0.6], dtype=torch.float64)
    factor, var = stepwise_forward(s, t)
    scale, spread = stepwise_forward(0, s)
    fine = torch.linspace(-5, 5, 100_001, dtype=torch.float64)
    joint = normal(x_t, factor * fine, var) * normal(fine, scale * x0, spread)
    joint = joint / joint.sum()
    mean, std = PROCESS.posterior(x_t, x0, t, s)
    close(mean[0], joint @ fine, 1e-6)
    close(std**2, float(joint @ (fine - joint @ fine) ** 2), 1e-6)


@pytest.mark.equation("2.10")
def test_posterior_at_the_ends() -> None:
    x_t, x0 = torch.tensor([[0.9, -3.0], [-0.6, 0.1]], dtype=torch.float64)
    for t in (1, 2, 500, 1000):
        mean, std = PROCESS.posterior(x_t, x0, t, 0)
        close(mean, x0, 1e-12)
        assert std == 0


@pytest.mark.equation("2.10")
def test_two_strides_with_a_known_x0_are_one() -> None:
    """q(x_r|x_t,x_0) = ∫ q(x_r|x_s,x_0) q(x_s|x_t,x_0) dx_s."""
    x_t, x0 = torch.tensor([0.9], dtype=torch.float64), torch.tensor([-0.6], dtype=torch.float64)
    for t, s, r in ((700, 400, 100), (3, 2, 1), (1000, 500, 0)):
        middle, spread = PROCESS.posterior(x_t, x0, t, s)
        mean, std = PROCESS.posterior(middle, x0, s, r)
        slope = PROCESS.posterior(middle + 1, x0, s, r)[0] - mean
        direct, direct_std = PROCESS.posterior(x_t, x0, t, r)
        close(mean, direct)
        close(float(std**2 + (slope * spread) ** 2), direct_std**2)


# ---- one idea ------------------------------------------------------------------------------------


@pytest.mark.equation("2.11")
@pytest.mark.parametrize(("t", "s"), PAIRS)
def test_mean_of_the_reverse_step_is_the_posterior_mean_at_the_mean_of_x0(t: int, s: int) -> None:
    prediction, _ = moments(reverse(POINTS, t, 0))
    mean, _ = moments(reverse(POINTS, t, s))
    close(PROCESS.posterior(POINTS, prediction, t, s)[0], mean)


@pytest.mark.equation("2.12")
@pytest.mark.parametrize(("t", "s"), PAIRS)
def test_variance_of_the_reverse_step_is_beta_tilde_plus_ignorance(t: int, s: int) -> None:
    _, ignorance = moments(reverse(POINTS, t, 0))
    _, var = moments(reverse(POINTS, t, s))
    zero = torch.zeros(1).double()
    at_1, std = PROCESS.posterior(zero, zero + 1, t, s)
    slope = float(at_1 - PROCESS.posterior(zero, zero, t, s)[0])
    (scale, _), (_, beta), (_, spread) = (stepwise_forward(*p) for p in ((0, s), (s, t), (0, t)))
    close(slope, scale * beta / spread)
    close(var, std**2 + slope**2 * ignorance)


@pytest.mark.equation("2.13")
@pytest.mark.parametrize(("t", "s"), PAIRS)
def test_average_reverse_variance_lies_between_beta_tilde_and_beta(t: int, s: int) -> None:
    x_t = torch.linspace(-5, 5, 401).double()
    _, var = moments(reverse(x_t, t, s))
    share = marginal(x_t, t) / marginal(x_t, t).sum()
    average = float(share @ var)
    assert PROCESS.posterior_std(t, s, 0.0) ** 2 < average < PROCESS.posterior_std(t, s, 1.0) ** 2


@pytest.mark.equation("2.13")
def test_the_bounds_are_reached_by_a_point_and_by_a_standard_gaussian() -> None:
    ignorance = 1 - A_T  # Var(x_0|x_t) of N(0, 1)
    on_x0 = sympy.sqrt(A_S) * BETA / (1 - A_T)
    assert vanishes(VAR + on_x0**2 * ignorance - BETA)
    gaussian = oracle.Gaussian(PROCESS, torch.zeros(1).double(), torch.eye(1).double())
    t, h = 600, 1e-4
    x = torch.tensor([[0.3]], dtype=torch.float64)
    slope = (gaussian(x + h, t).x0 - gaussian(x - h, t).x0) / (2 * h)
    # the slope of E[x_0|x_t] is √ᾱ/(1−ᾱ) times the variance: see exercise 2.5
    a = PROCESS.alpha_bar[t]
    close(float(slope) * float((1 - a) / a.sqrt()), float(1 - a), 1e-6)


@pytest.mark.equation("2.13")
def test_single_points_may_exceed_beta() -> None:
    _, var = moments(reverse(torch.tensor([0.0], dtype=torch.float64), 600, 500))
    assert float(var) > 1.08 * PROCESS.posterior_std(600, 500, 1.0) ** 2


@pytest.mark.equation("2.14")
@pytest.mark.parametrize(("t", "s"), PAIRS)
def test_variance_is_interpolated_in_the_logarithm(t: int, s: int) -> None:
    beta = stepwise_forward(s, t)[1]
    floor = stepwise_forward(0, s)[1] / stepwise_forward(0, t)[1] * beta
    for mix in (0.0, 0.25, 0.5, 1.0):
        want = mix * math.log(beta) + (1 - mix) * math.log(floor)
        close(2 * math.log(PROCESS.posterior_std(t, s, mix)), want)
        as_tensor = PROCESS.posterior_std(t, s, torch.full((2, 3), mix, dtype=torch.float64))
        close(2 * torch.as_tensor(as_tensor).log(), torch.full((2, 3), want, dtype=torch.float64))


# ---- exact denoisers and Tweedie -----------------------------------------------------------------


@pytest.mark.equation("2.15")
def test_denoiser_of_a_finite_data_set_is_a_softmax_over_it() -> None:
    points = torch.tensor([[-1.0, 0.5], [0.0, 2.0], [1.5, 1.5]]).double()
    finite = oracle.FiniteData(PROCESS, points)
    x = torch.tensor([[0.3, 0.7], [-1.0, 1.0]]).double()
    for t in (50, 400, 900):
        scale, var = stepwise_forward(0, t)
        odds = normal(x[:, None], scale * points, var).prod(-1)
        close(finite(x, t).x0, odds / odds.sum(1, keepdim=True) @ points)
    close(finite(PROCESS.q_sample(points, 1, 0 * points), 1).x0, points)


@pytest.mark.equation("2.16")
@pytest.mark.parametrize("t", [30, 300, 600, 1000])
def test_denoiser_of_a_mixture_is_the_mean_by_quadrature(t: int) -> None:
    close(MIXTURE(POINTS, t).x0, moments(reverse(POINTS, t, 0))[0])


@pytest.mark.equation("2.17")
@pytest.mark.parametrize(("t", "s"), [*PAIRS, (600, 0)])
def test_tweedie_gives_the_exact_mean_of_any_stride(t: int, s: int) -> None:
    h = 1e-4  # the score by differences of the integrated density
    score = (marginal(POINTS + h, t).log() - marginal(POINTS - h, t).log()) / (2 * h)
    factor, beta = stepwise_forward(s, t)
    close((POINTS + beta * score) / factor, moments(reverse(POINTS, t, s))[0], 1e-6)


@pytest.mark.equation("2.18")
@pytest.mark.parametrize("t", [1, 100, 600, 1000])
def test_tweedie_links_the_oracles_score_and_denoiser(t: int) -> None:
    a = PROCESS.alpha_bar[t]
    close((POINTS + (1 - a) * MIXTURE.score(POINTS, t)) / a.sqrt(), MIXTURE(POINTS, t).x0)
    cov = torch.tensor([[1.0, 0.6], [0.6, 0.5]]).double()
    gaussian = oracle.Gaussian(PROCESS, torch.tensor([0.3, -1.0]).double(), cov)
    x = torch.stack([POINTS, POINTS.flip(0)], 1)
    close((x + (1 - a) * gaussian.score(x, t)) / a.sqrt(), gaussian(x, t).x0)


# ---- the sampler ---------------------------------------------------------------------------------


def literal_chain(
    denoise: Any, x: Tensor, times: Sequence[int], generator: torch.Generator, var_mix: float
) -> Tensor:
    """Equation (2.19), written out."""
    a = PROCESS.alpha_bar.tolist()
    for t, s in zip(times, times[1:], strict=False):
        alpha, beta = a[t] / a[s], 1 - a[t] / a[s]
        tilde = (1 - a[s]) / (1 - a[t]) * beta
        mean = alpha**0.5 * (1 - a[s]) / (1 - a[t]) * x
        mean = mean + a[s] ** 0.5 * beta / (1 - a[t]) * denoise(x, t).x0
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype) if s > 0 else 0.0
        x = mean + (beta**var_mix * tilde ** (1 - var_mix)) ** 0.5 * noise
    return x


@pytest.mark.equation("2.19")
@pytest.mark.parametrize("var_mix", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", [3, 100])
def test_library_sampler_is_the_literal_loop(steps: int, var_mix: float) -> None:
    def denoise(x: Tensor, t: Any, y: Tensor | None = None) -> Prediction:
        return Prediction(MIXTURE(x, t).x0, var_mix)

    x_T = torch.randn(50, generator=torch.Generator().manual_seed(0)).double()
    times = uniform_times(1000, steps)
    ours = draw(denoise, PROCESS, x_T, times, generator=torch.Generator().manual_seed(1))
    close(ours, literal_chain(denoise, x_T, times, torch.Generator().manual_seed(1), var_mix), 1e-9)


@pytest.mark.equation("2.19")
def test_sampler_with_the_exact_denoiser_draws_the_data() -> None:
    generator = torch.Generator().manual_seed(0)
    x_T = torch.randn(20_000, generator=generator).double()
    x = draw(MIXTURE, PROCESS, x_T, uniform_times(1000, 250), generator=generator).sort().values
    assert float((mixture_cdf(x) - torch.linspace(0, 1, len(x)).double()).abs().max()) < 0.02


def home_made(
    denoise: Any,
    x: Tensor,
    times: Sequence[int],
    generator: torch.Generator,
    last_noise: bool = False,
    misprint: bool = False,
) -> Tensor:
    """The chapter's ε-form sampler with its two bugs to switch on."""
    a = PROCESS.alpha_bar.tolist()
    for t, s in zip(times, times[1:], strict=False):
        eps = PROCESS.eps_from_x0(x, denoise(x, t).x0, t)
        alpha, beta = a[t] / a[s], 1 - a[t] / a[s]
        x = (x - beta / ((1 - alpha) if misprint else (1 - a[t])) ** 0.5 * eps) / alpha**0.5
        if s > 0 or last_noise:
            x = x + beta**0.5 * torch.randn(x.shape, generator=generator, dtype=x.dtype)
    return x


def error_on_a_point(sampler: Callable[..., Tensor], steps: int) -> float:
    """How far a sampler with var_mix = 1 misses the only point that its denoiser predicts."""
    point = torch.tensor([0.3, -0.7]).double()
    x_T = torch.randn(4, 2, generator=torch.Generator().manual_seed(7)).double()
    out = sampler(
        lambda x, t, y=None: Prediction(point.expand_as(x), 1.0),
        x_T,
        uniform_times(1000, steps),
        generator=torch.Generator().manual_seed(8),
    )
    return float((out - point).abs().max())


def test_a_point_mass_comes_back_exactly() -> None:
    def engine(denoise: Any, x: Tensor, times: Sequence[int], generator: torch.Generator) -> Tensor:
        return draw(denoise, PROCESS, x, times, generator=generator)

    for steps in (1, 2, 20, 1000):
        assert error_on_a_point(engine, steps) == 0
        assert error_on_a_point(home_made, steps) < 1e-9


@pytest.mark.parametrize("steps", [2, 20, 1000])
def test_the_point_mass_catches_noise_after_the_last_step(steps: int) -> None:
    error = error_on_a_point(partial(home_made, last_noise=True), steps)
    last = stepwise_forward(0, uniform_times(1000, steps)[-2])[1] ** 0.5
    assert 0.5 * last < error < 4 * last


def ks_on_the_mixture(**bugs: bool) -> float:
    generator = torch.Generator().manual_seed(0)
    x_T = torch.randn(4000, generator=generator).double()
    x = home_made(MIXTURE, x_T, uniform_times(1000, 250), generator, **bugs).sort().values
    return float((mixture_cdf(x) - torch.linspace(0, 1, len(x)).double()).abs().max())


def test_the_distribution_catches_the_lost_bar_to_which_the_point_mass_is_blind() -> None:
    assert error_on_a_point(partial(home_made, misprint=True), 20) < 1e-9
    assert ks_on_the_mixture() < 0.04
    assert ks_on_the_mixture(misprint=True) > 0.2


# ---- the exercises -------------------------------------------------------------------------------


def sampler(
    denoise: Any,
    process: DDPM,
    x: Tensor,
    times: Sequence[int],
    generator: torch.Generator,
    *,
    power: float = 1.0,
    last_noise: bool = False,
    late: int = 0,
) -> Tensor:
    """A solution of exercise 2.4, and ways to get it wrong."""
    for t, s in zip(times, times[1:], strict=False):
        x, _ = process.posterior(x, denoise(x, t - late).x0, t, s)
        std = process.posterior_std(t, s, power)
        if s > 0 or last_noise:
            x = x + std * torch.randn(x.shape, generator=generator, dtype=x.dtype)
    return x


def largest_step(a_t: float, c: float) -> float:
    """ᾱ_s at which data at ±c gain one unit of c² SNR over ᾱ_t."""
    snr = a_t / (1 - a_t) + 1 / c**2
    return snr / (1 + snr)


def reverse_variance(v: float, a_t: float, a_s: float) -> float:
    return (a_s * v + 1 - a_s) - (a_t / a_s) * (a_s * v + 1 - a_s) ** 2 / (a_t * v + 1 - a_t)


def ignorance(a: float, h: Any) -> Any:
    """Var(x_0|x_t) from the curvature h of log q(x_t)."""
    return (1 - a) / a * (1 + (1 - a) * h)


def best_variance(score: Any, a: float, b: float) -> Any:
    """(2.12) averaged over q(x_t), whose curvature is on average minus the squared score."""
    beta = 1 - a / b
    of_x0 = ignorance(a, -(score**2).mean())
    return (1 - b) / (1 - a) * beta + b * beta**2 / (1 - a) ** 2 * of_x0


RIGHT = {
    "2.1": [0, 1 / 14, 0.169355],
    "2.2": largest_step,
    "2.3": reverse_variance,
    "2.4": sampler,
    "2.5": (ignorance, best_variance),
}
WRONG: list[tuple[str, Any]] = [
    ("2.1", ...),
    ("2.1", [0.1, 0.2, 0.3]),
    ("2.1", [0.0, 0.2 * 0.28 / 0.1, 0.169355]),
    ("2.1", [1 / 14, 0.169355]),
    ("2.2", None),
    ("2.2", lambda *_: ...),
    ("2.2", lambda a, c: math.nan),
    ("2.2", lambda a, c: largest_step(a, 1.0)),  # c forgotten
    ("2.2", lambda a, c: largest_step(a, c**0.5)),  # not squared
    ("2.2", lambda a, c: largest_step(a, 1 / c)),
    ("2.2", lambda a, c: max(a, 1 / (1 + c**2))),  # the signal-to-noise ratio of x_t forgotten
    ("2.2", lambda a, c: 1 - (1 - largest_step(a, c)) / 2),
    ("2.3", lambda *_: ...),
    ("2.3", lambda v, a, b: (1 - a / b) * (v + (1 - v) * (1 - b) / (1 - a))),
    ("2.3", lambda v, a, b: (1 - a / b) ** v * ((1 - b) / (1 - a) * (1 - a / b)) ** (1 - v)),
    ("2.4", lambda *_: ...),
    ("2.4", lambda *a: sampler(*a, last_noise=True)),
    ("2.4", lambda *a: sampler(*a, power=0.0)),
    ("2.4", lambda *a: sampler(*a, late=1)),
    ("2.4", lambda d, p, x, times, g: sampler(d, p, x, times[:-1], g)),
    ("2.5", lambda *_: ...),
    ("2.5", (lambda a, h: (1 - a) / a * (1 + h), best_variance)),
    ("2.5", (lambda a, h: (1 - a) / a, best_variance)),
    ("2.5", (ignorance, lambda score, a, b: 1 - a / b)),
]


@pytest.mark.parametrize("key", RIGHT)
def test_the_solution_is_praised(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    exercises.check(key, RIGHT[key])
    assert capsys.readouterr().out.startswith(f"✓ {key} ")


@pytest.mark.parametrize(("key", "answer"), WRONG)
def test_a_wrong_answer_and_the_skeleton_are_not(key: str, answer: Any) -> None:
    with pytest.raises(AssertionError, match=f"✗ {key}.*Hint:"):
        exercises.check(key, answer)


@pytest.mark.parametrize("c", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("a_t", [0.01, 0.35])
def test_the_step_of_exercise_2_2_splits_at_its_border(a_t: float, c: float) -> None:
    """Peaks of the exact density, counted, on both sides of the border."""
    border = largest_step(a_t, c)
    x = torch.linspace(-4, 4, 8001, dtype=torch.float64)
    for factor, peaks in ((0.98, 1), (1.02, 2)):
        a_s = a_t + factor * (border - a_t)
        density = normal(0.0, (a_t / a_s) ** 0.5 * x, 1 - a_t / a_s)
        density = density * sum(normal(x, m * a_s**0.5, 1 - a_s) for m in (-c, c))
        rises = density.diff() > 0
        assert int((rises[:-1] & ~rises[1:]).sum()) == peaks


@pytest.mark.parametrize("c", [1.0, 0.5, 0.1, 0.04, 0.01, 0.001])
@pytest.mark.parametrize("steps", [8, 32, 128])
def test_with_an_exact_denoiser_the_larger_variance_ends_nearer_to_gaussian_data(
    c: float, steps: int
) -> None:
    """The variance of the samples, step by step: β̃ ends below that of the data, β nearer to it."""
    found = {}
    for mix in (0.0, 1.0):
        var, times = 1.0, uniform_times(1000, steps)
        for t, s in zip(times, times[1:], strict=False):
            (scale, spread), (_, before) = stepwise_forward(0, t), stepwise_forward(0, s)
            factor, beta = stepwise_forward(s, t)
            tilde = before / spread * beta
            on_x0 = stepwise_forward(0, s)[0] * beta / spread
            m = factor * before / spread + on_x0 * scale * c / (scale**2 * c + spread)
            var = m**2 * var + (s > 0) * beta**mix * tilde ** (1 - mix)
        found[mix] = var / c - 1
    assert found[0.0] < 0 and abs(found[1.0]) < abs(found[0.0])


# ---- proofs by algebra -------------------------------------------------------------------


@pytest.mark.equation("2.5")
def test_a_skewed_gaussian_is_a_twelfth_of_its_squared_skewness_away() -> None:
    """To second order in γ the KL of φ(1 + γ/6 He_3) from φ is ½ E[(γ/6 He_3)²] = γ²/12."""
    z, gamma = sympy.symbols("z gamma", real=True)
    density = sympy.exp(-(z**2) / 2) / sympy.sqrt(2 * sympy.pi)
    tilt = gamma / 6 * (z**3 - 3 * z)

    def mean(f: sympy.Expr) -> sympy.Expr:
        return sympy.integrate(sympy.expand(f * density), (z, -sympy.oo, sympy.oo))

    assert [vanishes(mean(tilt * z**k)) for k in range(3)] == [True] * 3  # mass, mean, variance
    assert vanishes(mean(tilt * z**3) - gamma)  # and γ is the skewness
    u = sympy.symbols("u")
    second_order = sympy.series((1 + u) * sympy.log(1 + u), u, 0, 3).removeO()
    assert vanishes(mean(second_order.subs(u, tilt)) - gamma**2 / 12)


@pytest.mark.equation("2.12")
@pytest.mark.equation("2.13")
def test_ignorance_of_a_linear_guess_lifts_the_variance_from_beta_tilde_to_beta() -> None:
    """The best linear guess of unit-variance data errs by 1 − ᾱ_t; no best guess errs more."""
    on_x0 = sympy.sqrt(A_S) * BETA / (1 - A_T)
    assert vanishes(VAR + on_x0**2 * (1 - A_T) - BETA)


@pytest.mark.equation("2.15")
@pytest.mark.equation("2.18")
def test_tweedie_for_any_three_points() -> None:
    """(2.18) with the score of (2.3) is the softmax average (2.15), for symbols alone."""
    points = sympy.symbols("y_1:4", real=True)
    x = sympy.symbols("x", real=True)
    weights = [sympy.exp(-((x - sympy.sqrt(A_T) * y) ** 2) / (2 * (1 - A_T))) for y in points]
    score = sympy.diff(sympy.log(sum(weights)), x)
    average = sum(w * y for w, y in zip(weights, points, strict=True)) / sum(weights)
    assert vanishes((x + (1 - A_T) * score) / sympy.sqrt(A_T) - average)


@pytest.mark.equation("2.16")
def test_prediction_about_one_component() -> None:
    """Where log N(x_0; m, v) + log N(x_t; √ᾱ x_0, 1−ᾱ) peaks; a Gaussian's peak is its mean."""
    m, v = sympy.symbols("m v", positive=True)
    log_joint = log_normal(X_0, m, v) + log_normal(X_T, sympy.sqrt(A_T) * X_0, 1 - A_T)
    (peak,) = sympy.solve(sympy.diff(log_joint, X_0), X_0)
    V = A_T * v + 1 - A_T
    shown = m + sympy.sqrt(A_T) * v / V * (X_T - sympy.sqrt(A_T) * m)
    assert vanishes(peak - shown)


@pytest.mark.equation("2.11")
@pytest.mark.equation("2.17")
def test_tweedie_for_any_stride_follows_from_tweedie_for_x0() -> None:
    score = sympy.symbols("score", real=True)
    x_0 = (X_T + (1 - A_T) * score) / sympy.sqrt(A_T)  # (2.18)
    assert vanishes(MEAN.subs(X_0, x_0) - (X_T + BETA * score) / sympy.sqrt(ALPHA))
