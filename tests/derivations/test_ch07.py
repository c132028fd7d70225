"""Chapter 07: the claims of its derivation, and its exercises."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import sympy as sp
import torch
from torch import Tensor

from ddpmlib import data, losses
from ddpmlib.denoiser import EPS, Denoiser, oracle
from ddpmlib.prediction import Prediction
from ddpmlib.process import DDPM, schedules
from ddpmlib.samplers import ddim_invert, draw, sample, slerp, uniform_times
from ddpmlib.teaching.exercises import check

F64 = torch.float64
T = 20
PROCESS = DDPM(schedules.cosine(T))
SIGMAS = [0.0, 0.3, 0.7, 1.0]  # in units of the largest deviation √(1 − ᾱ_s)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def symbols() -> tuple[Any, ...]:
    return sp.symbols("abar_t abar_s sigma", positive=True)


def family(process: DDPM, x_t: Tensor, x0: Tensor, t: int, s: int, sigma: float) -> Tensor:
    """The mean of q_σ(x_s | x_t, x_0) as equation (7.2) prints it."""
    a_t, a_s = float(process.alpha_bar[t]), float(process.alpha_bar[s])
    eps = (x_t - a_t**0.5 * x0) / (1 - a_t) ** 0.5
    return a_s**0.5 * x0 + max(1 - a_s - sigma**2, 0) ** 0.5 * eps


def walk(x0: Tensor, times: list[int], share: float, seed: int = 0) -> dict[int, Tensor]:
    """A chain of the family, downwards; σ is ``share`` of the largest deviation."""
    x = PROCESS.q_sample(x0, times[0], normal(*x0.shape, seed=seed))
    found = {times[0]: x}
    for t, s in pairwise(times):
        sigma = share * float(PROCESS.std[s])
        x = family(PROCESS, x, x0, t, s, sigma) + sigma * normal(*x0.shape, seed=seed + 1000 + s)
        found[s] = x
    return found


def affine_denoiser(slope: float = 0.4, shift: float = 0.2) -> Callable[..., Prediction]:
    """A wrong, smooth guess of x_0: the bound has to hold for it, too."""
    return lambda x, t, y=None: Prediction(slope * torch.tanh(x) + shift * t / T)


# ---- what the loss has seen --------------------------------------------------------------


@pytest.mark.equation("7.1")
@pytest.mark.parametrize("share", SIGMAS)
def test_every_chain_of_the_family_gives_the_same_training_loss(share: float) -> None:
    """Noisy data taken from whole paths or in one shot: the loss cannot tell."""
    n, denoiser = 40_000, affine_denoiser()
    x0 = torch.where(normal(n, seed=7) > 0, 1.0, -0.5).double() + 0.2 * normal(n, seed=8)
    chain = walk(x0, list(range(T, 0, -1)), share)
    for t in (1, 6, 13, T):
        shot = PROCESS.q_sample(x0, t, normal(n, seed=9 + t))
        both = []
        for x_t in (chain[t], shot):
            eps = PROCESS.eps_from_x0(x_t, x0, t)
            guess = PROCESS.eps_from_x0(x_t, denoiser(x_t, t).x0, t)
            both.append((eps - guess) ** 2)
        spread = 4.5 * float((both[0].var() + both[1].var()).div(n).sqrt())
        assert abs(float(both[0].mean() - both[1].mean())) < spread


@pytest.mark.equation("7.1")
def test_weighted_is_the_weighted_noise_loss() -> None:
    class Net(torch.nn.Module):
        def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
            return torch.tanh(x) + t.double()[:, None] / T

    denoiser, x0, eps = Denoiser(Net(), PROCESS, EPS), normal(6, 3), normal(6, 3, seed=1)
    t = torch.tensor([2, 3, 7, 11, 19, 20])
    x_t = PROCESS.q_sample(x0, t, eps)
    by_hand = losses.vlb(PROCESS, t) * ((eps - Net()(x_t, t, None)) ** 2).mean(1)
    torch.testing.assert_close(losses.weighted(losses.vlb, denoiser, x0, t, eps), by_hand)


# ---- the family --------------------------------------------------------------------------


@pytest.mark.equation("7.2", "7.3")
def test_the_familys_moments_by_algebra() -> None:
    """One step of the induction: mean and variance at t give those at s, for every σ."""
    a_t, a_s, sigma = symbols()
    b = sp.sqrt((1 - a_s - sigma**2) / (1 - a_t))
    a = sp.sqrt(a_s) - b * sp.sqrt(a_t)
    assert sp.simplify(a + b * sp.sqrt(a_t) - sp.sqrt(a_s)) == 0
    assert sp.simplify(b**2 * (1 - a_t) + sigma**2 - (1 - a_s)) == 0
    free_a, free_b = sp.symbols("a b", real=True)
    solutions = sp.solve(
        [free_a + free_b * sp.sqrt(a_t) - sp.sqrt(a_s), free_b**2 * (1 - a_t) + sigma**2 - 1 + a_s],
        [free_a, free_b],
    )
    assert len(solutions) == 2  # the other root flips the noise
    assert any(sp.simplify(found[1] - b) == 0 for found in solutions)


@pytest.mark.equation("7.3")
@pytest.mark.parametrize("share", SIGMAS)
@pytest.mark.parametrize("times", [list(range(T, 0, -1)), [20, 13, 5, 1]])
def test_every_state_of_every_chain_has_the_kernels_distribution(
    share: float, times: list[int]
) -> None:
    n, x0 = 40_000, 1.3
    for t, x in walk(torch.full((n,), x0, dtype=F64), times, share).items():
        mean, var = float(PROCESS.scale[t]) * x0, float(PROCESS.std[t]) ** 2
        assert abs(float(x.mean()) - mean) < 4.5 * math.sqrt(var / n)
        assert abs(float(x.var()) - var) < 4.5 * var * math.sqrt(2 / n)


@pytest.mark.equation("7.2")
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("t", "s"), [(20, 19), (20, 7), (9, 1), (2, 1)])
def test_the_librarys_step_is_a_member(eta: float, t: int, s: int) -> None:
    x_t, x0, zero = normal(5, 3), normal(5, 3, seed=1), torch.zeros(5, 3, dtype=F64)
    sigma = eta * float(PROCESS.posterior_std(t, s))
    found = PROCESS.step(x_t, Prediction(x0), t, s, eta, zero)
    torch.testing.assert_close(found, family(PROCESS, x_t, x0, t, s, sigma))


@pytest.mark.equation("7.4")
@pytest.mark.parametrize("share", SIGMAS)
def test_the_correlation_of_neighbouring_states(share: float) -> None:
    n, (t, s) = 40_000, (12, 6)
    x0 = torch.zeros(n, dtype=F64)
    chain = walk(x0, [t, s], share)
    measured = float(torch.corrcoef(torch.stack([chain[t], chain[s]]))[0, 1])
    assert measured == pytest.approx(math.sqrt(1 - share**2), abs=0.02)


@pytest.mark.equation("7.5")
@pytest.mark.parametrize("share", SIGMAS[1:])
def test_the_forward_kernel_by_bayes(share: float) -> None:
    """q(x_t|x_s,x_0) q(x_s|x_0) = q(x_s|x_t,x_0) q(x_t|x_0), density against density."""
    t, s, x0 = 12, 6, torch.tensor(0.8, dtype=F64)
    a_t, a_s = (float(PROCESS.alpha_bar[u]) for u in (t, s))
    sigma = 0.99 * share * math.sqrt(1 - a_s)
    rho = math.sqrt(1 - sigma**2 / (1 - a_s))
    x_t, x_s = normal(50), normal(50, seed=1)

    def log_normal(x: Tensor, mean: Any, var: float) -> Tensor:
        return -((x - mean) ** 2) / (2 * var) - math.log(2 * math.pi * var) / 2

    back = log_normal(x_s, family(PROCESS, x_t, x0, t, s, sigma), sigma**2)
    back = back + log_normal(x_t, a_t**0.5 * x0, 1 - a_t)
    mean = a_t**0.5 * x0 + rho * ((1 - a_t) / (1 - a_s)) ** 0.5 * (x_s - a_s**0.5 * x0)
    forth = log_normal(x_t, mean, (1 - rho**2) * (1 - a_t)) + log_normal(
        x_s, a_s**0.5 * x0, 1 - a_s
    )
    torch.testing.assert_close(back, forth)


@pytest.mark.equation("7.6")
def test_only_the_posterior_variance_makes_the_forward_process_markov() -> None:
    a_t, a_s, sigma = symbols()
    rho = sp.sqrt(1 - sigma**2 / (1 - a_s))
    on_x0 = sp.sqrt(a_t) - rho * sp.sqrt((1 - a_t) / (1 - a_s)) * sp.sqrt(a_s)
    beta_tilde = (1 - a_s) / (1 - a_t) * (1 - a_t / a_s)
    found = sp.solve(sp.Eq(a_t * (1 - a_s), rho**2 * a_s * (1 - a_t)), sigma**2)
    assert len(found) == 1 and sp.simplify(found[0] - beta_tilde) == 0
    numbers = {a_t: sp.Rational(3, 10), a_s: sp.Rational(7, 10)}
    markov = on_x0.subs(sigma, sp.sqrt(beta_tilde)).subs(numbers)
    assert abs(float(markov)) < 1e-12
    assert abs(float(on_x0.subs(sigma, sp.sqrt(beta_tilde) / 2).subs(numbers))) > 0.05
    # it is inside the range, not at its end
    assert float(beta_tilde.subs(numbers)) < float((1 - a_s).subs(numbers))
    for t, s in ((20, 19), (12, 3)):
        assert float(PROCESS.posterior_std(t, s)) < float(PROCESS.std[s])


@pytest.mark.equation("7.6")
def test_the_markov_member_has_the_forward_kernel_of_ddpm() -> None:
    """Without x_0, and with the variance β of the stride."""
    a_t, a_s = (float(PROCESS.alpha_bar[u]) for u in (12, 6))
    sigma2 = float(PROCESS.posterior_std(12, 6)) ** 2
    rho2 = 1 - sigma2 / (1 - a_s)
    assert math.isclose((1 - rho2) * (1 - a_t), 1 - a_t / a_s, rel_tol=1e-12)
    slope = math.sqrt(rho2 * (1 - a_t) / (1 - a_s))
    assert math.isclose(slope, math.sqrt(a_t / a_s), rel_tol=1e-12)


# ---- the bound ---------------------------------------------------------------------------

SHORT = DDPM(torch.tensor([0.0, 0.2, 0.4, 0.6, 0.9]))
SIGMA_1 = 0.3


def gamma(process: DDPM, t: int, sigma: float) -> float:
    """Equation (7.8)."""
    a_t, a_s = float(process.alpha_bar[t]), float(process.alpha_bar[t - 1])
    on_x0 = 1.0 if t == 1 else a_s**0.5 - ((1 - a_s - sigma**2) * a_t / (1 - a_t)) ** 0.5
    return (1 - a_t) / a_t * on_x0**2 / (2 * sigma**2)


def deviations(process: DDPM, eta: float) -> dict[int, float]:
    inner = {t: eta * float(process.beta_tilde[t]) ** 0.5 for t in range(2, process.T + 1)}
    return {1: SIGMA_1, **inner}


@pytest.mark.equation("7.7", "7.8")
@pytest.mark.parametrize("eta", [0.3, 1.0, 1.04])
def test_the_bound_is_a_weighted_noise_loss_plus_a_constant(eta: float) -> None:
    """J_σ from its definition, log q − log p along sampled paths, against L_γ + C.

    A wrong guess of x_0 is used, so that nothing cancels by optimality.
    """
    n, T_short, denoiser = 200_000, SHORT.T, affine_denoiser()
    sigma = deviations(SHORT, eta)
    x0 = torch.where(normal(n, seed=7) > 0, 1.0, -0.5).double() + 0.2 * normal(n, seed=8)

    def log_normal(x: Tensor, mean: Any, std: float) -> Tensor:
        return -0.5 * ((x - mean) / std) ** 2 - math.log(std * math.sqrt(2 * math.pi))

    scale_T, std_T = float(SHORT.scale[T_short]), float(SHORT.std[T_short])
    x = scale_T * x0 + std_T * normal(n)
    ratio = log_normal(x, scale_T * x0, std_T) - log_normal(x, 0.0, 1.0)
    loss = torch.zeros(n, dtype=F64)
    for t in range(T_short, 0, -1):
        guess = denoiser(x, t).x0
        gap = SHORT.eps_from_x0(x, x0, t) - SHORT.eps_from_x0(x, guess, t)
        loss = loss + gamma(SHORT, t, sigma[t]) * gap**2
        if t == 1:
            ratio = ratio - log_normal(x0, guess, sigma[1])
            break
        mean = family(SHORT, x, x0, t, t - 1, sigma[t])
        after = mean + sigma[t] * normal(n, seed=100 + t)
        ratio = ratio + log_normal(after, mean, sigma[t])
        ratio = ratio - log_normal(after, family(SHORT, x, guess, t, t - 1, sigma[t]), sigma[t])
        x = after
    prior = 0.5 * (scale_T**2 * x0**2 + std_T**2 - 1 - math.log(std_T**2))
    constant = prior + 0.5 * math.log(2 * math.pi * SIGMA_1**2)
    gap = ratio - (loss + constant)
    assert float(loss.mean()) > 0.1  # the guess is wrong indeed
    assert abs(float(gap.mean())) < 4.5 * float(gap.std()) / math.sqrt(n)


@pytest.mark.equation("7.8")
def test_at_eta_1_the_weight_is_that_of_ddpms_bound() -> None:
    times = torch.arange(2, T + 1)
    ddpm = losses.vlb(PROCESS, times)
    ours = [gamma(PROCESS, t, float(PROCESS.beta_tilde[t]) ** 0.5) for t in times.tolist()]
    torch.testing.assert_close(torch.tensor(ours, dtype=F64), ddpm)


@pytest.mark.equation("7.8")
def test_for_small_steps_eta_scales_all_weights_alike() -> None:
    """(1 + η²)² / 4η², by series and by number."""
    eta, beta, a_s = sp.symbols("eta beta abar", positive=True)
    a_t = a_s * (1 - beta)
    sigma2 = eta**2 * (1 - a_s) / (1 - a_t) * beta
    on_x0 = sp.sqrt(a_s) - sp.sqrt((1 - a_s - sigma2) * a_t / (1 - a_t))
    first = sp.limit(on_x0 / beta, beta, 0)
    assert sp.simplify(first - sp.sqrt(a_s) * (1 + eta**2) / (2 * (1 - a_s))) == 0
    process = DDPM(schedules.cosine(1000))
    for value in (0.2, 0.5):
        for t in (100, 500, 800):
            std = float(process.beta_tilde[t]) ** 0.5
            ratio = gamma(process, t, value * std) / gamma(process, t, std)
            assert ratio == pytest.approx((1 + value**2) ** 2 / (4 * value**2), rel=0.02)


# ---- generate ----------------------------------------------------------------------------


@pytest.mark.equation("7.9")
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize(("t", "s"), [(20, 19), (20, 7), (9, 1), (5, 0)])
def test_the_noise_of_a_step(eta: float, t: int, s: int) -> None:
    a_t, a_s = (float(PROCESS.alpha_bar[u]) for u in (t, s))
    printed = eta * math.sqrt((1 - a_s) / (1 - a_t)) * math.sqrt(1 - a_t / a_s)
    zero, one = torch.zeros(1, 1, dtype=F64), torch.ones(1, 1, dtype=F64)
    found = PROCESS.step(zero, Prediction(zero), t, s, eta, one)
    assert float(found) == pytest.approx(printed, rel=1e-12)


@pytest.mark.equation("7.9")
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("var_mix", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("t", [1, 7, T])
def test_no_noise_in_the_last_step_for_any_eta(eta: float, var_mix: float, t: int) -> None:
    x0 = normal(4, 3)
    found = PROCESS.step(
        normal(4, 3, seed=1), Prediction(x0, var_mix), t, 0, eta, normal(4, 3, seed=2)
    )
    assert torch.equal(found, x0)


def test_lost_bars_break_the_marginals() -> None:
    """Perfect guesses in: signal √ᾱ_s and noise √(1−ᾱ_s) must come out. α for ᾱ does not do it."""
    t, s = 15, 9
    bars, alphas = PROCESS.alpha_bar, PROCESS.alpha

    def formula(x_t: Tensor, eps: Tensor, table: Tensor, along: Tensor) -> Tensor:
        x0 = (x_t - (1 - table[t]).sqrt() * eps) / table[t].sqrt()
        return table[s].sqrt() * x0 + (1 - along[s]).sqrt() * eps

    def signal_and_noise(step: Callable[[Tensor, Tensor], Tensor]) -> tuple[float, float]:
        one, zero = torch.ones(1, dtype=F64), torch.zeros(1, dtype=F64)
        signal = step(bars[t].sqrt() * one, zero)
        noise = step((1 - bars[t]).sqrt() * one, one)
        return float(signal), float(noise)

    wanted = float(PROCESS.scale[s]), float(PROCESS.std[s])
    assert signal_and_noise(lambda x, e: formula(x, e, bars, bars)) == pytest.approx(wanted)
    all_lost = signal_and_noise(lambda x, e: formula(x, e, alphas, alphas))
    one_lost = signal_and_noise(lambda x, e: formula(x, e, bars, alphas))
    assert all_lost[0] < 0.8 * wanted[0]
    assert one_lost[0] == pytest.approx(wanted[0]) and one_lost[1] < 0.6 * wanted[1]

    def engine(x: Tensor, eps: Tensor) -> Tensor:
        x0 = (x - PROCESS.std[t] * eps) / PROCESS.scale[t]
        return PROCESS.step(x, Prediction(x0), t, s, 0.0)

    assert signal_and_noise(engine) == pytest.approx(wanted)


def test_a_clipped_prediction_brings_its_own_noise() -> None:
    """Whatever x̂_0 is handed over, x̂_0 and the ε̂ of the step add up to x_t."""
    x_t, t, s = 3 * normal(6, 2), 12, 5
    clipped = normal(6, 2, seed=1).clamp(-0.2, 0.2)
    found = PROCESS.step(x_t, Prediction(clipped), t, s, 0.0)
    eps = (found - PROCESS.scale[s] * clipped) / PROCESS.std[s]
    torch.testing.assert_close(PROCESS.scale[t] * clipped + PROCESS.std[t] * eps, x_t)


# ---- the ODE -----------------------------------------------------------------------------


@pytest.mark.equation("7.10")
def test_a_ddim_step_is_an_euler_step() -> None:
    denoiser, r = affine_denoiser(), PROCESS.std / PROCESS.scale
    states = list(sample(denoiser, PROCESS, normal(5, 3), [20, 14, 9, 3, 0], eta=0.0))
    for now, then in pairwise(states):
        eps = PROCESS.eps_from_x0(now.x, denoiser(now.x, now.t).x0, now.t)
        euler = now.x / PROCESS.scale[now.t] + (r[then.t] - r[now.t]) * eps
        room = 1e-12 * float(euler.abs().max())
        torch.testing.assert_close(then.x / PROCESS.scale[then.t], euler, rtol=1e-9, atol=room)


@pytest.mark.equation("7.11")
def test_many_steps_follow_the_exact_curve_of_the_ode() -> None:
    """Gaussian data: dx̄/dr = r x̄ / (c² + r²), so x̄ ∝ √(c² + r²); first order in the steps."""
    c, process = 0.6, DDPM(schedules.cosine(1024))
    cov = torch.tensor([[c**2]], dtype=F64)
    exact = oracle.Gaussian(process, torch.zeros(1, dtype=F64), cov)
    r = process.std / process.scale
    x, start = torch.ones(1, 1, dtype=F64), 900
    truth = float(c / torch.sqrt(c**2 + r[start] ** 2) / process.scale[start])
    errors = []
    for n in (25, 50, 100):
        times = [round(start * k / n) for k in range(n, -1, -1)]
        errors.append(abs(float(draw(exact, process, x, times, eta=0.0)) - truth))
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert errors[-1] < 0.01 and all(0.85 < order < 1.15 for order in orders), orders


@pytest.mark.equation("7.12")
def test_one_step_gives_the_mean() -> None:
    """Deterministic, and still the posterior mean: at t = T the mean of the data."""
    process = DDPM(schedules.cosine(1000))
    weights, centres = torch.tensor([1.0, 3.0], dtype=F64), data.ring_means(2).double()
    exact = oracle.Mixture(process, weights, centres, torch.full((2,), 0.1, dtype=F64))
    x_T = normal(500, 2)
    one = draw(exact, process, x_T, [1000, 0], eta=0.0)
    torch.testing.assert_close(one, exact(x_T, 1000).x0)
    mean = (weights / 4) @ centres
    assert float((one - mean).norm(dim=1).max()) < 0.01
    assert float(torch.cdist(one, centres).min()) > 0.5  # where no data are
    many = draw(exact, process, x_T, uniform_times(1000, 100), eta=0.0)
    assert float((torch.cdist(many, centres).min(1).values < 0.4).double().mean()) > 0.97


@pytest.mark.equation("7.13")
def test_the_plain_encoder_is_an_euler_step_upwards() -> None:
    """With the noise found at the lower state: right where ε̂ does not change along the curve."""
    denoiser, r, x = affine_denoiser(), PROCESS.std / PROCESS.scale, normal(5, 3)
    *_, found = ddim_invert(denoiser, PROCESS, x, [14, 6])
    eps = PROCESS.eps_from_x0(x, denoiser(x, 14).x0, 14)
    euler = x / PROCESS.scale[6] + (r[14] - r[6]) * eps
    torch.testing.assert_close(found.x / PROCESS.scale[14], euler)


@pytest.mark.equation("7.13")
def test_the_round_trip_closes_at_first_order() -> None:
    process = DDPM(schedules.linear(1000))
    cov = torch.tensor([[0.3, 0.1], [0.1, 0.2]], dtype=F64)
    exact = oracle.Gaussian(process, torch.zeros(2, dtype=F64), cov)
    x0, gaps = 0.5 * normal(20, 2), []
    for n in (50, 100, 200):
        times = uniform_times(1000, n)
        *_, top = ddim_invert(exact, process, x0, times)
        back = draw(exact, process, top.x, times, eta=0.0)
        gaps.append(float((back - x0).norm() / x0.norm()))
    assert all(1.5 < a / b < 2.5 for a, b in pairwise(gaps)), gaps


# ---- between latents ---------------------------------------------------------------------


@pytest.mark.equation("7.14", "7.15")
@pytest.mark.parametrize("w", [0.1, 0.5, 0.8])
def test_lerp_shrinks_and_slerp_does_not(w: float) -> None:
    d, n = 784, 400
    a, b = normal(n, d), normal(n, d, seed=1)
    chord = ((1 - w) * a + w * b).square().sum(1)
    expected = ((1 - w) ** 2 + w**2) * d
    assert float(chord.mean()) == pytest.approx(expected, rel=4.5 * math.sqrt(2 / (d * n)))
    arc = slerp(a, b, w).square().sum(1)
    assert float(arc.mean()) == pytest.approx(d, rel=0.01)
    assert float(arc.std()) < 1.2 * math.sqrt(2 * d)  # as narrow a shell as that of the noise


@pytest.mark.equation("7.15")
def test_the_norm_on_the_great_circle_by_algebra() -> None:
    theta, w = sp.symbols("theta w", positive=True)
    on_a, on_b = sp.sin((1 - w) * theta), sp.sin(w * theta)
    square = on_a**2 + on_b**2 + 2 * on_a * on_b * sp.cos(theta) - sp.sin(theta) ** 2
    assert sp.simplify(sp.expand(sp.expand_trig(square.rewrite(sp.exp)))) == 0


# ---- fresh noise and errors --------------------------------------------------------------

LONG, BACK, WIDTH = DDPM(schedules.cosine(400)), 200, 0.6
GAUSSIAN = oracle.Gaussian(LONG, torch.zeros(1, dtype=F64), torch.tensor([[WIDTH**2]], dtype=F64))


def damping(t: int) -> float:
    """λ_t of equation (7.16)."""
    a = float(LONG.alpha_bar[t])
    return math.sqrt(a) * WIDTH / math.sqrt(a * WIDTH**2 + 1 - a)


def moved(push: Callable[[int], float]) -> Callable[..., Prediction]:
    """The exact denoiser with a known error: its prediction is moved by ``push(t)``."""
    return lambda x, t, y=None: Prediction(GAUSSIAN(x, t).x0 + push(int(t)))


def mean_after(denoiser: Any, mean: float, start: int, eta: float = 0.0) -> float:
    """Mean at t = 0 of samples that have this mean at ``start``: steps are affine, noise is odd."""
    ends = []
    for sign in (1, -1):

        def noise(x: Tensor, sign: int = sign) -> Tensor:
            return sign * normal(*x.shape, seed=3)

        x = torch.full((1, 1), mean, dtype=F64)
        times = list(range(start, -1, -1))
        for t, s in pairwise(times):
            x = LONG.step(x, denoiser(x, t), t, s, eta, noise(x))
        ends.append(float(x))
    return sum(ends) / 2


def restarted(denoiser: Any, mean: float) -> float:
    """Mean of samples that were noised back to BACK and redone with DDIM."""
    return mean_after(denoiser, float(LONG.scale[BACK]) * mean, BACK)


@pytest.mark.equation("7.16")
def test_redoing_multiplies_the_errors_of_the_moments() -> None:
    exact, lam = moved(lambda t: 0.0), damping(BACK)
    assert 0.3 < lam < 0.9
    assert restarted(exact, 0.5) == pytest.approx(lam * 0.5, rel=0.01)
    on_x = mean_after(exact, 1.0, BACK)  # the curve is linear
    a, delta = float(LONG.alpha_bar[BACK]), 0.4
    variance = on_x**2 * (a * WIDTH**2 * (1 + delta) + 1 - a)
    assert variance / WIDTH**2 == pytest.approx(1 + lam**2 * delta, rel=0.01)


@pytest.mark.equation("7.16")
def test_the_factor_is_a_correlation() -> None:
    x0 = WIDTH * normal(400_000)
    pair = torch.stack([x0, LONG.q_sample(x0, BACK, normal(400_000, seed=1))])
    assert float(torch.corrcoef(pair)[0, 1]) == pytest.approx(damping(BACK), abs=0.003)


@pytest.mark.equation("7.16")
def test_a_restart_and_ancestral_steps_damp_earlier_errors_alike() -> None:
    """The denoiser is wrong above BACK alone: three ways down from there."""
    wrong = moved(lambda t: 0.2 * (t > BACK))
    ddim = mean_after(wrong, 0.0, 400)
    x = torch.zeros(1, 1, dtype=F64)
    for t, s in pairwise(range(400, BACK - 1, -1)):
        x = LONG.step(x, wrong(x, t), t, s, 0.0)
    late = mean_after(wrong, float(x), BACK, eta=1.0)
    lam = damping(BACK)
    assert ddim > 0.02
    assert restarted(wrong, ddim) / ddim == pytest.approx(lam, rel=0.01)
    assert late / ddim == pytest.approx(lam, rel=0.03)
    twice = restarted(wrong, restarted(wrong, ddim))
    assert twice / ddim == pytest.approx(lam**2, rel=0.02)


@pytest.mark.equation("7.16")
def test_errors_of_the_redone_part_add_up_to_a_fixed_point() -> None:
    wrong = moved(lambda t: 0.2 * (t <= BACK))
    once = mean_after(wrong, 0.0, 400)
    added = restarted(wrong, 0.0)
    factor = restarted(wrong, 1.0) - added  # affine
    fixed = added / (1 - factor)
    assert restarted(wrong, fixed) == pytest.approx(fixed, rel=1e-9)
    assert factor == pytest.approx(damping(BACK), rel=0.01)
    assert added == pytest.approx(once, rel=1e-6)  # all of it stems from the redone part
    assert fixed > 1.3 * once


@pytest.mark.equation("7.16")
@pytest.mark.parametrize(("m", "delta"), [(0.4, 0.0), (0.0, 0.5), (-0.3, -0.4)])
def test_no_divergence_grows_when_an_exact_chain_is_redone(m: float, delta: float) -> None:
    """KL of Gaussians, from the data and to them, before and after."""

    def divergences(mean: float, excess: float) -> tuple[float, float]:
        var = 1 + excess  # in units of c²
        there = 0.5 * (var + (mean / WIDTH) ** 2 - 1 - math.log(var))
        back = 0.5 * ((1 + (mean / WIDTH) ** 2) / var - 1 + math.log(var))
        return there, back

    lam = damping(BACK)
    before, after = divergences(m, delta), divergences(lam * m, lam**2 * delta)
    assert all(0 <= a < b for a, b in zip(after, before, strict=True))


def test_a_list_of_times_that_rises_is_a_restart() -> None:
    """The library's loop noises by the forward process, at the cost of no call."""
    asked: list[int] = []

    def denoiser(x: Tensor, t: Any, y: Any = None) -> Prediction:
        asked.append(int(t))
        return Prediction(0.3 * x)

    down = uniform_times(T, 5)
    again = down[down.index(12) :]
    g = torch.Generator().manual_seed(0)
    x = draw(denoiser, PROCESS, normal(3, 2), [*down, *again], eta=0.0, generator=g)
    assert asked == [20, 16, 12, 8, 4, 12, 8, 4]
    end = draw(denoiser, PROCESS, normal(3, 2), down, eta=0.0)
    fresh = torch.randn(end.shape, generator=torch.Generator().manual_seed(0), dtype=F64)
    by_hand = draw(denoiser, PROCESS, PROCESS.q_sample(end, 12, fresh), again, eta=0.0)
    torch.testing.assert_close(x, by_hand)


# ---- exercises ---------------------------------------------------------------------------


def test_exercise_1() -> None:
    check("7.1", lambda a, b, w: ((1 - w) * a + w * b) / math.hypot(1 - w, w))
    for wrong in (
        lambda a, b, w: (1 - w) * a + w * b,
        lambda a, b, w: math.sqrt(1 - w) * a + math.sqrt(w) * b,
        lambda a, b, w: -((1 - w) * a + w * b) / math.hypot(1 - w, w),
    ):
        with pytest.raises(AssertionError, match="Hint"):
            check("7.1", wrong)


def _forgetful(denoiser, process, x, times, noise, last=0.0):  # type: ignore[no-untyped-def]
    for t, s in pairwise(times):
        std = float(process.std[s]) if s else last
        x = float(process.scale[s]) * denoiser(x, t).x0 + std * noise[s]
    return x


def test_exercise_2() -> None:
    check("7.2", _forgetful)
    for wrong in (
        lambda *a: _forgetful(*a, last=1e-3),
        lambda d, p, x, times, noise: draw(d, p, x, times, eta=0.0),
        lambda d, p, x, times, noise: x,
    ):
        with pytest.raises(AssertionError, match="Hint"):
            check("7.2", wrong)


def test_exercise_3() -> None:
    def one_step(r: float, c: float) -> float:
        return c**2 / (c**2 + r**2) ** 0.5

    check("7.3", (one_step, lambda r, c: c))
    for wrong in (
        (lambda r, c: c, one_step),
        (one_step, one_step),
        (lambda r, c: c**2 / (c**2 + r**2), lambda r, c: c),
    ):
        with pytest.raises(AssertionError, match="Hint"):
            check("7.3", wrong)


def _heun(eps_net, x, alpha_bar, times, again=True, average=True):  # type: ignore[no-untyped-def]
    for t, s in pairwise(times):
        scale_t, scale_s = alpha_bar[t].sqrt(), alpha_bar[s].sqrt()
        r_t, r_s = (((1 - alpha_bar[u]) / alpha_bar[u]).sqrt() for u in (t, s))
        eps = eps_net(x, t)
        x_s = scale_s * (x / scale_t + (r_s - r_t) * eps)
        if again and s > 0:
            other = eps_net(x_s, s)
            eps = (eps + other) / 2 if average else other
            x_s = scale_s * (x / scale_t + (r_s - r_t) * eps)
        x = x_s
    return x


def test_exercise_4() -> None:
    check("7.4", _heun)
    for wrong in (
        lambda *a: _heun(*a, again=False),
        lambda *a: _heun(*a, average=False),
        lambda net, x, bar, times: x,
    ):
        with pytest.raises(AssertionError, match="Hint"):
            check("7.4", wrong)


@pytest.mark.parametrize("key", ["7.1", "7.2", "7.3", "7.4"])
def test_the_skeletons_fail(key: str) -> None:
    with pytest.raises(AssertionError, match="No answer yet"):
        check(key, ...)


# ---- proofs by algebra -------------------------------------------------------------------


@pytest.mark.equation("7.4")
@pytest.mark.equation("7.5")
def test_the_forward_kernel_by_completing_the_square() -> None:
    """Both factorizations of q(x_s, x_t | x_0) have the same quadratic, up to a constant."""
    a_t, a_s, sigma = sp.symbols("a_t a_s sigma", positive=True)
    x_s, x_t = sp.symbols("x_s x_t", real=True)  # measured from √ᾱ x_0
    b2 = (1 - a_s - sigma**2) / (1 - a_t)
    down = -((x_s - sp.sqrt(b2) * x_t) ** 2) / (2 * sigma**2) - x_t**2 / (2 * (1 - a_t))
    rho2 = 1 - sigma**2 / (1 - a_s)
    # ρ √((1−ᾱ_t)/(1−ᾱ_s)), written with the root that `down` has
    slope = sp.sqrt(b2) * (1 - a_t) / (1 - a_s)
    assert sp.simplify(slope**2 - rho2 * (1 - a_t) / (1 - a_s)) == 0
    up = -((x_t - slope * x_s) ** 2) / (2 * (1 - rho2) * (1 - a_t)) - x_s**2 / (2 * (1 - a_s))
    assert sp.simplify(sp.expand(down - up)) == 0


@pytest.mark.equation("7.7")
@pytest.mark.equation("7.8")
def test_the_weight_of_a_step_by_algebra() -> None:
    a_t, a_s, sigma, x_t = sp.symbols("a_t a_s sigma x_t", positive=True)
    true, guess = sp.symbols("epsilon guess", real=True)

    def x0(noise: sp.Expr) -> sp.Expr:  # (3.4)
        return (x_t - sp.sqrt(1 - a_t) * noise) / sp.sqrt(a_t)

    def mean(start: sp.Expr) -> sp.Expr:  # (7.2)
        direction = (x_t - sp.sqrt(a_t) * start) / sp.sqrt(1 - a_t)
        return sp.sqrt(a_s) * start + sp.sqrt(1 - a_s - sigma**2) * direction

    kl = (mean(x0(true)) - mean(x0(guess))) ** 2 / (2 * sigma**2)
    factor = sp.sqrt(a_s) - sp.sqrt(1 - a_s - sigma**2) * sp.sqrt(a_t) / sp.sqrt(1 - a_t)
    weight = (1 - a_t) / a_t * factor**2 / (2 * sigma**2)
    assert sp.simplify(sp.expand(kl - weight * (true - guess) ** 2)) == 0


@pytest.mark.equation("7.10")
@pytest.mark.equation("7.13")
def test_in_rescaled_states_a_ddim_step_is_a_straight_line() -> None:
    a_t, a_s, x, eps = sp.symbols("a_t a_s x epsilon", positive=True)
    r_t, r_s = sp.sqrt((1 - a_t) / a_t), sp.sqrt((1 - a_s) / a_s)
    x_s = sp.sqrt(a_s) * (x - sp.sqrt(1 - a_t) * eps) / sp.sqrt(a_t) + sp.sqrt(1 - a_s) * eps
    line = x / sp.sqrt(a_t) + (r_s - r_t) * eps
    assert sp.simplify(x_s / sp.sqrt(a_s) - line) == 0


@pytest.mark.equation("7.11")
def test_the_curve_of_gaussian_data_solves_the_equation() -> None:
    """Data N(0, c²): x̄ ∝ √(c² + r²), and ε̂ = r x̄ / (c² + r²) by (10.1)."""
    r, c, a = sp.symbols("r c a", positive=True)
    curve = sp.sqrt(c**2 + r**2)
    assert sp.simplify(sp.diff(curve, r) - r * curve / (c**2 + r**2)) == 0
    assert sp.simplify(sp.sqrt(a) - 1 / sp.sqrt(1 + (1 - a) / a)) == 0
