"""The variational bound: every term against closed forms, and the decoder against float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_ndtr
from scipy.stats import norm
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from ddpmlib.broadcast import Time
from ddpmlib.denoiser import oracle
from ddpmlib.likelihood import (
    bits_per_dim,
    continuous,
    decoder_floor,
    discretised,
    elbo,
    elbo_monte_carlo,
    gaussian_kl,
    prior_term,
    reverse_step_term,
)
from ddpmlib.losses import on_x0, vlb
from ddpmlib.prediction import Prediction
from ddpmlib.process import DDPM, schedules
from ddpmlib.samplers import quadratic_times, uniform_times

F64 = torch.float64
MEAN, VAR = 0.4, 0.3  # the Gaussian data of most tests


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=F64)


def gaussian(process: DDPM, dims: int = 1, mean: float = MEAN, var: float = VAR) -> oracle.Gaussian:
    return oracle.Gaussian(
        process, torch.full((dims,), mean, dtype=F64), var * torch.eye(dims, dtype=F64)
    )


class WithVariance:
    """A denoiser whose reverse variance stands at ``place`` between β̃ and β."""

    def __init__(self, denoiser: Any, place: float) -> None:
        self.denoiser, self.place = denoiser, place

    def __call__(self, x_t: Tensor, t: Time, y: Tensor | None = None) -> Prediction:
        return Prediction(self.denoiser(x_t, t, y).x0, self.place)


class ExactVariance:
    """The true reverse variance of isotropic Gaussian data, for one chain of times."""

    def __init__(self, process: DDPM, times: Sequence[int], floor: float, var: float = VAR) -> None:
        self.process, self.exact = process, gaussian(process, 1, MEAN, var)
        self.place = {}
        for t, s in pairwise(times):
            low, high = process.variances(t, s)
            ends = math.log(low or floor), math.log(float(high))
            truth = math.log(float(high) * spread(process, s, var) / spread(process, t, var))
            self.place[t] = (truth - ends[0]) / (ends[1] - ends[0])

    def __call__(self, x_t: Tensor, t: int, y: Tensor | None = None) -> Prediction:
        return Prediction(self.exact(x_t, t).x0, torch.full_like(x_t, self.place[t]))


def spread(process: DDPM, t: int, var: float = VAR) -> float:
    """Var(x_t)."""
    a = float(process.alpha_bar[t])
    return a * var + 1 - a


def closed_step(
    process: DDPM, t: int, s: int, x0: Tensor, mix: float, floor: float, var: float = VAR
) -> Tensor:
    """E[term | x_0] of the step t → s with the exact denoiser, written without the library.

    With the gain k of x̂_0 = m + k (x_t − √ᾱ m), the error x_0 − x̂_0 is
    (1 − k√ᾱ)(x_0 − m) − k√(1−ᾱ) ε.
    """
    a, b = float(process.alpha_bar[t]), float(process.alpha_bar[s])
    k = math.sqrt(a) * var / (a * var + 1 - a)
    error = (1 - k * math.sqrt(a)) ** 2 * (x0 - MEAN) ** 2 + k**2 * (1 - a)
    beta = 1 - a / b
    low = (1 - b) / (1 - a) * beta if s else floor
    sigma2 = beta**mix * low ** (1 - mix)
    if s == 0:
        return 0.5 * (math.log(2 * math.pi * sigma2) + error / sigma2)
    on_x0_ = math.sqrt(b) * beta / (1 - a)
    ratio = low / sigma2
    return 0.5 * (ratio - 1 - math.log(ratio) + on_x0_**2 * error / sigma2)


def closed_prior(process: DDPM, t: int, x0: Tensor) -> Tensor:
    a = float(process.alpha_bar[t])
    return 0.5 * (a * x0**2 - a - math.log(1 - a))


def closed_bound(process: DDPM, times: Sequence[int], x0: Tensor, mix: float) -> Tensor:
    floor = decoder_floor(process, times)
    steps = (closed_step(process, t, s, x0, mix, floor) for t, s in pairwise(times))
    return closed_prior(process, times[0], x0) + sum(steps)


def minus_log_p(x0: Tensor, var: float = VAR) -> Tensor:
    return 0.5 * ((x0 - MEAN) ** 2 / var + math.log(2 * math.pi * var))


# Exact means without samples: an even polynomial of degree 2 in ε is its mean over ε = ±1.
SIGNS = double(1.0, -1.0)


def expected_step(denoiser: Any, process: DDPM, t: Any, s: Any, x0: float, floor: float) -> float:
    """E[term | x_0] by the library, for a denoiser that is affine in x_t."""
    x = torch.full((2, 1), x0, dtype=F64)
    x_t = process.q_sample(x, t, SIGNS[:, None])
    term = reverse_step_term(process, x, x_t, denoiser(x_t, t), t, s, continuous, floor)
    return float(term.mean())


def exact_bound(
    denoiser: Any, process: DDPM, times: Sequence[int], x0: float, floor: float | None = None
) -> float:
    """The bound with every expectation over ε taken exactly."""
    floor = decoder_floor(process, times) if floor is None else floor
    steps = sum(expected_step(denoiser, process, t, s, x0, floor) for t, s in pairwise(times))
    return steps + float(prior_term(process, torch.full((1, 1), x0, dtype=F64), times[0]))


PROCESSES = {
    "linear": DDPM(schedules.linear(40)),
    "cosine": DDPM(schedules.cosine(25)),
    "two steps": DDPM(torch.tensor([0.0, 0.3, 0.9])),
}
MIXES = [0.0, 0.35, 1.0]


# ---- the terms, one by one ---------------------------------------------------------------------


@pytest.mark.equation("4.8")
@pytest.mark.parametrize("name", PROCESSES)
def test_the_prior_term_is_its_closed_form_at_every_time(name: str) -> None:
    process = PROCESSES[name]
    x0 = double(-1.3, 0.0, 0.2, 2.0)
    for t in range(1, process.T + 1):
        torch.testing.assert_close(prior_term(process, x0, t), closed_prior(process, t, x0))
    torch.testing.assert_close(prior_term(process, x0), closed_prior(process, process.T, x0))
    both = torch.stack([x0, x0.flip(0)], 1)
    torch.testing.assert_close(
        prior_term(process, both), prior_term(process, x0) + prior_term(process, x0.flip(0))
    )


@pytest.mark.equation("4.9")
@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("name", PROCESSES)
def test_every_step_term_is_its_closed_form(name: str, mix: float) -> None:
    process = PROCESSES[name]
    denoiser = WithVariance(gaussian(process), mix)
    floor = decoder_floor(process, range(process.T, -1, -1))
    for t in range(1, process.T + 1):
        for x0 in (-1.0, MEAN, 0.9):
            ours = expected_step(denoiser, process, t, t - 1, x0, floor)
            truth = float(closed_step(process, t, t - 1, double(x0), mix, floor))
            assert ours == pytest.approx(truth, rel=1e-10, abs=1e-12), (t, x0)


@pytest.mark.parametrize("mix", MIXES)
def test_strides_have_their_own_closed_forms(mix: float) -> None:
    process = PROCESSES["linear"]
    denoiser = WithVariance(gaussian(process), mix)
    for times in (uniform_times(40, 7), quadratic_times(40, 5), [40, 3, 0], [40, 0], [31, 30, 0]):
        floor = decoder_floor(process, times)
        for t, s in pairwise(times):
            ours = expected_step(denoiser, process, t, s, 0.7, floor)
            truth = float(closed_step(process, t, s, double(0.7), mix, floor))
            assert ours == pytest.approx(truth, rel=1e-10, abs=1e-12), (times, t, s)


def test_the_decoders_floor() -> None:
    process = PROCESSES["cosine"]
    assert decoder_floor(process, [25, 2, 1, 0]) == pytest.approx(float(process.beta_tilde[2]))
    assert decoder_floor(process, [25, 9, 4, 0]) == pytest.approx(
        float(process.posterior_std(9, 4)) ** 2
    )
    assert decoder_floor(process, [25, 0]) == pytest.approx(1 - float(process.alpha_bar[25]))
    # without a floor a term takes that of the full chain
    x0, x_t = double(0.3, -0.2), double(0.31, -0.25)
    answer = Prediction(x_t)
    default = reverse_step_term(process, x0, x_t, answer, 1, 0, continuous)
    by_hand = reverse_step_term(
        process, x0, x_t, answer, 1, 0, continuous, float(process.beta_tilde[2])
    )
    assert torch.equal(default, by_hand)
    one = DDPM(torch.tensor([0.0, 0.4]))
    term = reverse_step_term(one, x0, x_t, answer, 1, 0, continuous)
    torch.testing.assert_close(term, -Normal(x_t, math.sqrt(0.4)).log_prob(x0))


@pytest.mark.equation("4.6")
@pytest.mark.parametrize("mix", [0.0, 1.0])
def test_elbo_returns_each_term_in_its_place(mix: float) -> None:
    """20,000 equal samples: the mean of each column is the closed form within its error."""
    process = PROCESSES["cosine"]
    x0 = torch.full((20_000, 1), 0.9, dtype=F64)
    bound = elbo(
        WithVariance(gaussian(process), mix),
        process,
        x0,
        decoder=continuous,
        generator=torch.Generator().manual_seed(0),
    )
    assert bound.times == list(range(25, -1, -1)) and bound.dims == 1
    assert bound.prior.shape == (20_000,) and bound.steps.shape == (20_000, 24)
    floor = decoder_floor(process, bound.times)
    columns = [*bound.steps.unbind(1), bound.decoder]
    for (t, s), column in zip(pairwise(bound.times), columns, strict=True):
        truth = float(closed_step(process, t, s, double(0.9), mix, floor))
        error = float(column.std()) / math.sqrt(len(column))
        assert abs(float(column.mean()) - truth) < 4.5 * error + 1e-9, t
    torch.testing.assert_close(bound.prior[:1], closed_prior(process, 25, double(0.9)))
    torch.testing.assert_close(bound.total, bound.prior + bound.steps.sum(1) + bound.decoder)
    torch.testing.assert_close(bound.bits_per_dim, bound.total / math.log(2))


# ---- Ho et al. (2020), by their own formulas -----------------------------------------------------


@pytest.mark.equation("4.9")
def test_the_step_term_is_the_distance_of_the_means_and_the_mismatch_of_the_variances() -> None:
    """Ho et al., eq. 8: |μ̃ − μ_θ|²/(2σ²) + C, with C = 0 for σ² = β̃ and KL of spreads for β."""
    process = PROCESSES["linear"]
    g = torch.Generator().manual_seed(0)
    x0, eps, guess = torch.randn(3, 50, 4, generator=g, dtype=F64)
    for t in (2, 11, 40):
        x_t = process.q_sample(x0, t, eps)
        a, a_prev = float(process.alpha_bar[t]), float(process.alpha_bar[t - 1])
        alpha, beta = float(process.alpha[t]), float(process.beta[t])
        beta_tilde = (1 - a_prev) / (1 - a) * beta
        mu = lambda x: (  # noqa: E731
            (a_prev**0.5 * beta * x + alpha**0.5 * (1 - a_prev) * x_t) / (1 - a)  # noqa: B023
        )
        distance = (mu(x0) - mu(guess)) ** 2
        for mix, var in ((0.0, beta_tilde), (1.0, beta)):
            constant = 0.5 * (beta_tilde / var - 1 - math.log(beta_tilde / var))
            term = reverse_step_term(process, x0, x_t, Prediction(guess, mix), t, t - 1)
            torch.testing.assert_close(term, distance / (2 * var) + constant)


@pytest.mark.equation("4.10", "4.11", "4.12")
@pytest.mark.parametrize("mix", [0.0, 1.0])
def test_the_weights_on_the_errors_of_the_noise_and_of_the_data(mix: float) -> None:
    process = PROCESSES["cosine"]
    g = torch.Generator().manual_seed(1)
    x0, eps, eps_hat = torch.randn(3, 20, 3, generator=g, dtype=F64)
    for t in range(2, 26):
        a, alpha = process.alpha_bar[t], process.alpha[t]
        x_t = process.q_sample(x0, t, eps)
        guess = (x_t - (1 - a).sqrt() * eps_hat) / a.sqrt()
        var = process.beta[t] if mix else process.beta_tilde[t]
        weight = (1 - alpha) ** 2 / (2 * var * alpha * (1 - a))
        same = reverse_step_term(process, x0, x_t, Prediction(x0, mix), t, t - 1)
        term = reverse_step_term(process, x0, x_t, Prediction(guess, mix), t, t - 1) - same
        torch.testing.assert_close(term, weight * (eps - eps_hat) ** 2, rtol=1e-8, atol=1e-9)
        if mix == 0:
            snr = process.alpha_bar / (1 - process.alpha_bar)
            on_data, time = 0.5 * (snr[t - 1] - snr[t]), torch.tensor([t])
            torch.testing.assert_close(term, on_data * (x0 - guess) ** 2, rtol=1e-8, atol=1e-9)
            torch.testing.assert_close(weight, 0.5 * (snr[t - 1] / snr[t] - 1))
            torch.testing.assert_close(vlb(process, time), weight[None])
            torch.testing.assert_close(on_x0(vlb, process, time), on_data[None])


# ---- the whole: above −log p, and how close ---------------------------------------------------


@pytest.mark.equation("4.3")
@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("name", PROCESSES)
def test_the_exact_denoisers_bound_lies_above_its_entropy(name: str, mix: float) -> None:
    """On average over the data; single points may lie below −log q, for p is not q."""
    process = PROCESSES[name]
    entropy = 0.5 * math.log(2 * math.pi * math.e * VAR)
    x0 = MEAN + math.sqrt(VAR) * SIGNS  # exact for quadratics
    for times in (list(range(process.T, -1, -1)), [process.T, 1, 0], [process.T, 0]):
        assert float(closed_bound(process, times, x0, mix).mean()) > entropy


@pytest.mark.equation("4.3")
def test_the_bound_lies_above_the_models_own_log_density_at_every_point() -> None:
    """A chain that is linear and Gaussian has a Gaussian p_θ(x_0), which a recursion gives."""
    process = PROCESSES["linear"]
    for mix in MIXES:
        for times in (list(range(40, -1, -1)), uniform_times(40, 6), [40, 0]):
            denoiser = WithVariance(gaussian(process), mix)
            mean, var = 0.0, 1.0  # of p_θ(x_t), from the prior down
            for t, s in pairwise(times):
                zero, one = (
                    process.posterior(x, denoiser(x, t).x0, t, s)[0].item()
                    for x in (torch.zeros(1, 1, dtype=F64), torch.ones(1, 1, dtype=F64))
                )
                low, high = process.variances(t, s)
                low = low or decoder_floor(process, times)
                mean = zero + (one - zero) * mean
                var = (one - zero) ** 2 * var + float(high) ** mix * float(low) ** (1 - mix)
            for x0 in (-2.0, -0.3, 0.4, 1.0, 3.0):
                log_p = float(Normal(mean, math.sqrt(var)).log_prob(torch.tensor(x0)))
                assert exact_bound(denoiser, process, times, x0) > -log_p - 1e-6, (mix, x0)


def test_a_wrong_denoiser_only_raises_the_bound() -> None:
    process = PROCESSES["cosine"]
    exact = gaussian(process)

    def wrong(x_t: Tensor, t: Time, y: Tensor | None = None) -> Prediction:
        return Prediction(0.8 * exact(x_t, t).x0 + 0.1)

    times = list(range(25, -1, -1))
    points = [MEAN + math.sqrt(VAR) * sign for sign in (1, -1)]
    right, other = (sum(exact_bound(d, process, times, x) for x in points) for d in (exact, wrong))
    assert other > right + 0.1


@pytest.mark.equation("4.16")
@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("steps", [1, 2, 7, 40])
def test_the_gap_is_the_sum_of_the_mismatches_of_the_reverse_steps(mix: float, steps: int) -> None:
    """E L − H = KL(q(x_T) ‖ N(0, 1)) + Σ E KL(q(x_s|x_t) ‖ p(x_s|x_t))."""
    process = PROCESSES["linear"]
    times = uniform_times(40, steps)
    exact = gaussian(process)
    points = [MEAN + math.sqrt(VAR) * sign for sign in (1, -1)]
    denoiser = WithVariance(exact, mix)
    bound = sum(exact_bound(denoiser, process, times, x) for x in points) / 2
    gap = exact.kl_to_prior(40)
    for t, s in pairwise(times):
        low, high = process.variances(t, s)
        sigma2 = float(high) ** mix * float(low or decoder_floor(process, times)) ** (1 - mix)
        ratio = float(high) * spread(process, s) / spread(process, t) / sigma2
        gap += 0.5 * (ratio - 1 - math.log(ratio))
    entropy = 0.5 * math.log(2 * math.pi * math.e * VAR)
    assert bound - entropy == pytest.approx(gap, rel=1e-9)


@pytest.mark.equation("4.17")
@pytest.mark.parametrize("steps", [1, 2, 5, 40])
def test_with_the_true_reverse_variance_the_bound_is_exact_but_for_the_prior(steps: int) -> None:
    """For every number of steps and every x_0: L = −log q(x_0) + E log q(x_T)/N(x_T; 0, 1)."""
    process = PROCESSES["linear"]
    times = uniform_times(40, steps)
    denoiser = ExactVariance(process, times, floor=1e-3)  # any floor but the end β itself
    a, var_T = float(process.alpha_bar[40]), spread(process, 40)
    for x0 in (-1.0, 0.2, 1.7):
        # x_T | x_0 ~ N(√ᾱ x_0, 1−ᾱ); both log-densities are quadratic in it
        mean, square = math.sqrt(a) * x0, a * x0**2 + 1 - a
        from_q = square - 2 * mean * math.sqrt(a) * MEAN + a * MEAN**2
        mismatch = 0.5 * (square - from_q / var_T - math.log(var_T))
        truth = float(minus_log_p(double(x0))) + mismatch
        assert exact_bound(denoiser, process, times, x0, 1e-3) == pytest.approx(truth, abs=1e-9)


def gap_without_prior(beta: Tensor, mix: float, var: float = VAR) -> float:
    """Σ of the mismatches for Gaussian data and the full chain, in one go for any T."""
    process = DDPM(beta)
    v = process.alpha_bar * var + 1 - process.alpha_bar
    truth = process.beta[1:] * v[:-1] / v[1:]
    low = process.beta_tilde[1:].clone()
    low[0] = low[1]  # the decoder's floor
    ratio = truth / (process.beta[1:] ** mix * low ** (1 - mix))
    return float((0.5 * (ratio - 1 - ratio.log())).sum())


@pytest.mark.equation("4.18")
def test_as_T_grows_the_gap_closes_with_beta_and_not_with_beta_tilde() -> None:
    """With β like 1/T; with β̃ a gap of γ/2 + (1 − log 2)/2 nats per dimension stays."""
    rest = np.euler_gamma / 2 + (1 - math.log(2)) / 2
    for schedule in (schedules.linear, schedules.cosine):
        with_beta = [gap_without_prior(schedule(T), 1.0) for T in (10_000, 20_000, 100_000)]
        assert with_beta[0] > 1.9 * with_beta[1] > 9 * with_beta[2] > 0
        with_tilde = [gap_without_prior(schedule(T), 0.0) for T in (1000, 10_000, 1_000_000)]
        far = [abs(gap - rest) for gap in with_tilde]
        assert far[0] > far[1] > far[2] and far[2] < 2e-3
    for var in (0.05, 1.0):  # whatever the spread of the data
        gap = gap_without_prior(schedules.linear(1_000_000), 0.0, var)
        assert gap == pytest.approx(rest, abs=0.01)


def test_the_vectorised_gap_is_the_librarys() -> None:
    process = DDPM(schedules.linear(300))
    times = list(range(300, -1, -1))
    points = [MEAN + math.sqrt(VAR) * sign for sign in (1, -1)]
    for mix in (0.0, 1.0):
        denoiser = WithVariance(gaussian(process), mix)
        bound = sum(exact_bound(denoiser, process, times, x) for x in points) / 2
        gap = bound - 0.5 * math.log(2 * math.pi * math.e * VAR)
        expected = gap_without_prior(process.beta, mix) + gaussian(process).kl_to_prior(300)
        assert gap == pytest.approx(expected, rel=1e-8)


def test_a_mixture_too_is_bounded_and_the_bound_tightens() -> None:
    points = torch.tensor([-0.8, 0.1, 0.9], dtype=F64)
    gaps = []
    for T in (30, 100, 400):
        process = DDPM(schedules.cosine(T))
        exact = oracle.Mixture(process, torch.ones(3), points, torch.full((3,), 0.15, dtype=F64))
        x0 = exact.draw(4000, generator=torch.Generator().manual_seed(0))
        bound = elbo(
            WithVariance(exact, 1.0),
            process,
            x0,
            decoder=continuous,
            generator=torch.Generator().manual_seed(1),
        )
        excess = bound.total + exact.log_prob(x0, 0)
        error = float(excess.std()) / math.sqrt(len(excess))
        assert float(excess.mean()) > -3 * error
        gaps.append(float(excess.mean()))
    assert gaps[0] > 2 * gaps[1] > 4 * gaps[2]


# ---- Monte Carlo over t -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def sampled() -> tuple[DDPM, WithVariance, Tensor]:
    process = DDPM(schedules.cosine(20))
    exact = gaussian(process, dims=3)
    x0 = exact.draw(200_000, generator=torch.Generator().manual_seed(3))
    return process, WithVariance(exact, 0.5), x0


@pytest.mark.equation("4.15")
@pytest.mark.parametrize(("draws", "times"), [(1, None), (4, None), (1, [20, 9, 2, 0])])
def test_random_steps_agree_with_the_full_sum(
    sampled: tuple[DDPM, WithVariance, Tensor], draws: int, times: list[int] | None
) -> None:
    process, denoiser, x0 = sampled
    chain = list(range(20, -1, -1)) if times is None else times
    truth = float(closed_bound(process, chain, x0, 0.5).sum(1).mean())
    estimate = elbo_monte_carlo(
        denoiser, process, x0, times, draws=draws, decoder=continuous,
        generator=torch.Generator().manual_seed(4),
    )  # fmt: skip
    assert estimate.n == len(x0)
    assert abs(estimate.mean - truth) < 4 * estimate.standard_error
    assert estimate.standard_error < 0.03 * abs(truth)
    full = elbo(
        denoiser, process, x0[:20_000], times, decoder=continuous,
        generator=torch.Generator().manual_seed(5),
    ).total  # fmt: skip
    error = float(full.std()) / math.sqrt(len(full))
    part = float(closed_bound(process, chain, x0[:20_000], 0.5).sum(1).mean())
    assert abs(float(full.mean()) - part) < 4 * error


@pytest.mark.equation("4.15")
def test_the_standard_error_is_that_of_repeated_experiments(
    sampled: tuple[DDPM, WithVariance, Tensor],
) -> None:
    process, denoiser, x0 = sampled
    generator = torch.Generator().manual_seed(6)
    estimates = [
        elbo_monte_carlo(denoiser, process, part, decoder=continuous, generator=generator)
        for part in x0.split(500)
    ]
    assert len(estimates) == 400
    means = torch.tensor([e.mean for e in estimates])
    errors = torch.tensor([e.standard_error for e in estimates])
    # 400 experiments know a deviation to 1/√800 = 3.5 %
    assert float(means.std()) == pytest.approx(float((errors**2).mean().sqrt()), rel=0.15)
    truth = float(closed_bound(process, list(range(20, -1, -1)), x0, 0.5).sum(1).mean())
    assert 0.9 < float(((means - truth).abs() < 1.96 * errors).double().mean()) < 0.99


def drawn_times(process: DDPM, n: int, times: list[int] | None, draws: int) -> list[Tensor]:
    """The times that each of ``draws`` calls of the denoiser saw, (n,) each."""
    seen: list[Tensor] = []

    def spy(x_t: Tensor, t: Time, y: Tensor | None = None) -> Prediction:
        assert isinstance(t, Tensor)
        seen.append(t.clone())
        return Prediction(x_t)

    elbo_monte_carlo(
        spy, process, torch.zeros(n, 1, dtype=F64), times, draws=draws, decoder=continuous,
        generator=torch.Generator().manual_seed(7),
    )  # fmt: skip
    assert len(seen) == draws
    return seen


@pytest.mark.equation("4.15")
@pytest.mark.parametrize("times", [None, [20, 9, 2, 0]])
def test_as_many_draws_as_steps_take_each_step_once(times: list[int] | None) -> None:
    chain = list(range(20, -1, -1)) if times is None else times
    seen = drawn_times(DDPM(schedules.cosine(20)), 500, times, len(chain) - 1)
    assert [t.unique().tolist() for t in seen] == [[t] for t in chain[:-1]]


@pytest.mark.equation("4.15")
@pytest.mark.parametrize("draws", [1, 2, 5, 8, 50])
def test_each_draw_stays_in_its_part_of_the_chain_and_takes_all_of_it(draws: int) -> None:
    """Part i of 20 steps begins inside step 20 i / draws and ends inside step 20 (i+1) / draws."""
    seen = drawn_times(DDPM(schedules.cosine(20)), 2000, None, draws)
    for i, t in enumerate(seen):
        steps = range(20 * i // draws, -(-20 * (i + 1) // draws))  # whole numbers: no rounding
        assert (20 - t).unique().tolist() == list(steps)
    counts = torch.bincount(torch.cat(seen), minlength=21)[1:].double() / (2000 * draws)
    assert float((counts * 20 - 1).abs().max()) < 5 * (20 / (2000 * draws)) ** 0.5


def test_a_draw_from_every_step_leaves_no_spread_but_that_of_the_data() -> None:
    """With terms that know no noise, equal samples have equal bounds, and their mean is exact."""
    process, x0 = DDPM(schedules.cosine(20)), torch.full((50, 1), 0.5, dtype=F64)

    def knows(x_t: Tensor, t: Time, y: Tensor | None = None) -> Prediction:
        return Prediction(torch.full_like(x_t, 0.2))  # 0.3 from the data, whatever the noise

    options: dict[str, Any] = {"decoder": lambda x, mean, log_var: continuous(x, x + 0.1, log_var)}
    truth = elbo(knows, process, x0, **options).total
    assert float(truth.max() - truth.min()) < 1e-9 * float(truth.mean().abs())
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        estimate = elbo_monte_carlo(knows, process, x0, draws=20, generator=generator, **options)
        assert estimate.mean == pytest.approx(float(truth.mean()), rel=1e-9)
        assert estimate.standard_error < 1e-9 * abs(estimate.mean)


def test_more_draws_shrink_the_error() -> None:
    process = DDPM(schedules.cosine(20))
    x0 = torch.full((5000, 1), 0.5, dtype=F64)  # all spread is that of the drawn steps
    one, nine = (
        elbo_monte_carlo(
            gaussian(process), process, x0, draws=draws, decoder=continuous,
            generator=torch.Generator().manual_seed(0),
        ).standard_error
        for draws in (1, 9)
    )  # fmt: skip
    assert one / nine == pytest.approx(3, rel=0.1)


# ---- decoders ---------------------------------------------------------------------------------

LEVELS = torch.arange(256, dtype=F64) / 127.5 - 1


def reference(x0: np.ndarray, mean: float, std: float) -> np.ndarray:
    """Log-mass of each bin in float64, on whichever side of the bell does not cancel."""
    upper = np.where(x0 > 1 - 1 / 255, np.inf, (x0 + 1 / 255 - mean) / std)
    lower = np.where(x0 < -1 + 1 / 255, -np.inf, (x0 - 1 / 255 - mean) / std)
    flip = lower > 0
    upper, lower = np.where(flip, -lower, upper), np.where(flip, -upper, lower)
    with np.errstate(divide="ignore", invalid="ignore"):
        tail = log_ndtr(upper) + np.log1p(-np.exp(log_ndtr(lower) - log_ndtr(upper)))
        bulk = np.log(norm.cdf(upper) - norm.cdf(lower))
    return np.where((upper > 0) & (lower < 0), bulk, tail)


@pytest.mark.equation("4.13")
@pytest.mark.parametrize("std", [1e-4, 1e-3, 0.01, 0.1, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("mean", [-3.0, -1.0, -0.37, 0.0, 1 / 255, 0.999, 1.5])
def test_the_256_probabilities_sum_to_one(mean: float, std: float) -> None:
    for dtype, tolerance in ((F64, 1e-9), (torch.float32, 1e-4)):
        x0 = LEVELS.to(dtype)
        log_p = discretised(x0, torch.tensor(mean, dtype=dtype), _log_var(std, dtype))
        assert bool((log_p <= 1e-6).all())
        assert float(log_p.double().exp().sum()) == pytest.approx(1, abs=tolerance)


def _log_var(std: float, dtype: torch.dtype = F64) -> Tensor:
    return torch.tensor(2 * math.log(std), dtype=dtype)


@pytest.mark.equation("4.13")
@pytest.mark.parametrize("mean", [-1.2, -0.5, 0.0, 0.3])
@pytest.mark.parametrize("std", [1e-4, 1e-3, 3e-3, 0.02, 0.3, 3.0])
def test_the_discretised_decoder_is_scipys_even_in_the_far_tails(mean: float, std: float) -> None:
    truth = torch.from_numpy(reference(LEVELS.numpy(), mean, std))
    ours = discretised(LEVELS, double(mean), _log_var(std))
    torch.testing.assert_close(ours, truth, rtol=1e-9, atol=1e-9)
    in_float32 = discretised(LEVELS.float(), torch.tensor([mean]), _log_var(std, torch.float32))
    # a bin's edge is known to 1e-7 in float32, which moves log p by that times its slope
    slope = (LEVELS - mean).abs() / std**2 + 1 / std
    allowed = 4e-7 * slope + 1e-5 + 1e-6 * truth.abs()
    assert bool(((in_float32.double() - truth).abs() < allowed).all())


@pytest.mark.parametrize("std", [1.0, 100.0, 1e5])
def test_a_wide_gaussian_keeps_its_digits_in_float32(std: float) -> None:
    """The difference of two neighbouring Φ would be rounding error: 3 nats wrong at σ = 10⁵."""
    x0 = LEVELS[100:103].float()
    ours = discretised(x0, torch.tensor(0.2), _log_var(std, torch.float32)).double()
    density = continuous(x0.double(), double(0.2), _log_var(std)) + math.log(2 / 255)
    torch.testing.assert_close(ours, density, rtol=0, atol=2e-5 if std == 1 else 2e-6)


def test_both_branches_of_the_decoder_meet() -> None:
    """σ such that h (1 + c) is just below and just above 0.1, where the formula changes."""
    for mean in (0.0, 0.5, 0.9):
        for offset in (-1e-6, 1e-6):
            x0 = LEVELS[128:129]
            low, high = 1e-4, 10.0
            for _ in range(80):  # bisection for σ
                std = math.sqrt(low * high)
                h, c = 1 / 255 / std, abs(float(x0) - mean) / std
                low, high = (std, high) if h * (1 + c) > 0.1 else (low, std)
            std *= 1 + offset
            truth = reference(x0.numpy(), mean, std)
            ours = discretised(x0, double(mean), _log_var(std))
            assert float(ours) == pytest.approx(float(truth[0]), abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("std", [1e-4, 2e-3, 0.02, 0.5, 100.0])
def test_the_decoders_gradients_are_finite_and_right(std: float, dtype: torch.dtype) -> None:
    for mean in (-1.0, -0.99, 0.0, float(LEVELS[130]), 0.8, 2.0):
        m = torch.full((256,), mean, dtype=dtype, requires_grad=True)
        log_var = torch.full((256,), 2 * math.log(std), dtype=dtype, requires_grad=True)
        discretised(LEVELS.to(dtype), m, log_var).sum().backward()
        assert m.grad is not None and log_var.grad is not None
        assert bool(torch.isfinite(m.grad).all()) and bool(torch.isfinite(log_var.grad).all())


def test_the_decoders_gradient_is_that_of_finite_differences() -> None:
    x0 = LEVELS[[0, 3, 100, 131, 254, 255]]
    mean = torch.tensor([-0.98, -0.9, -0.2, 0.03, 0.99, 0.95], dtype=F64, requires_grad=True)
    for std in (0.004, 0.03, 0.8, 20.0):
        log_var = torch.full((6,), 2 * math.log(std), dtype=F64, requires_grad=True)
        assert torch.autograd.gradcheck(discretised, (x0, mean, log_var), eps=1e-6, atol=1e-4)


def test_in_the_wrong_range_the_probabilities_add_up_to_two() -> None:
    """Levels 1/255 apart in bins 2/255 wide: why such data are refused at the door."""
    log_p = discretised((LEVELS + 1) / 2, double(0.5), _log_var(0.1))
    assert float(log_p.exp().sum()) == pytest.approx(2, abs=1e-4)


def test_a_sharp_decoder_is_certain_and_a_flat_one_knows_only_the_outer_bins() -> None:
    assert float(discretised(LEVELS[77], LEVELS[77], _log_var(1e-5))) == pytest.approx(0, abs=1e-12)
    flat = discretised(LEVELS, double(0.0), _log_var(1e6)).exp()
    torch.testing.assert_close(flat[[0, 255]], double(0.5, 0.5), rtol=1e-5, atol=1e-5)


def test_the_continuous_decoder_is_the_normal_log_density() -> None:
    x0, mean = torch.randn(2, 30, dtype=F64, generator=torch.Generator().manual_seed(0))
    for std in (1e-3, 0.5, 20.0):
        truth = Normal(mean, std).log_prob(x0)
        torch.testing.assert_close(continuous(x0, mean, _log_var(std)), truth)


@pytest.mark.equation("4.7")
def test_gaussian_kl_is_torchs() -> None:
    g = torch.Generator().manual_seed(0)
    m, n, u, v = torch.randn(4, 500, generator=g, dtype=F64)
    truth = kl_divergence(Normal(m, (u / 2).exp()), Normal(n, (v / 2).exp()))
    torch.testing.assert_close(gaussian_kl(m, u, n, v), truth)
    assert bool((gaussian_kl(m, u, m, u) == 0).all())
    torch.testing.assert_close(
        gaussian_kl(m[:, None], u[:, None], n, v).diagonal(), truth
    )  # broadcasts
    # neighbouring variances in float32: δ²/4, where exp(δ) − 1 − δ would be rounding error
    delta = torch.tensor([1e-3, -1e-3, 1e-2])
    close = gaussian_kl(torch.zeros(3), delta, torch.zeros(3), torch.zeros(3))
    torch.testing.assert_close(close, delta**2 / 4, rtol=4e-3, atol=0)


# ---- units, shapes, times, doors ---------------------------------------------------------------


@pytest.mark.equation("4.14")
def test_bits_per_dim() -> None:
    assert bits_per_dim(784 * math.log(256), 784) == pytest.approx(8)  # 256 equal levels
    both = bits_per_dim(double(3 * math.log(2), 0.0), 3)
    torch.testing.assert_close(both, double(1.0, 0.0))
    with pytest.raises(ValueError, match="at least one dimension"):
        bits_per_dim(1.0, 0)


def test_a_model_that_knows_nothing_needs_eight_bits() -> None:
    """Uniform pixels and a flat decoder: the best Gaussian is not the uniform, so a little more."""
    process = DDPM(torch.tensor([0.0, 1.0]))  # one step that erases everything
    x0 = LEVELS.reshape(1, 1, 16, 16)

    def ignorant(x_t: Tensor, t: Time, y: Tensor | None = None) -> Prediction:
        return Prediction(torch.zeros_like(x_t))

    bound = elbo(ignorant, process, x0)
    truth = -float(discretised(LEVELS, double(0.0), double(0.0)).sum())
    assert float(bound.prior) == 0 and bound.steps.shape == (1, 0)
    assert float(bound.total) == pytest.approx(truth)
    assert 8 < float(bound.bits_per_dim) < 8.8


@pytest.mark.parametrize("shape", [(24,), (12, 2), (4, 2, 3), (2, 3, 2, 2), (1, 2, 3, 2, 2)])
def test_every_shape_gives_the_same_sum(shape: tuple[int, ...]) -> None:
    process = PROCESSES["cosine"]
    x0 = LEVELS[::11][:24]

    def shrink(x_t: Tensor, t: Time, y: Tensor | None = None) -> Prediction:
        return Prediction(0.5 * x_t, torch.full_like(x_t, 0.25))

    whole, ours = (
        elbo(shrink, process, x, generator=torch.Generator().manual_seed(0))
        for x in (x0, x0.reshape(shape))
    )
    assert ours.dims == math.prod(shape[1:]) and ours.total.shape == shape[:1]
    torch.testing.assert_close(ours.prior.sum(), whole.prior.sum())
    torch.testing.assert_close(ours.steps.sum(0), whole.steps.sum(0))
    torch.testing.assert_close(ours.decoder.sum(), whole.decoder.sum())
    estimate = elbo_monte_carlo(shrink, process, x0.reshape(4, -1), draws=3)
    assert math.isfinite(estimate.mean)


@pytest.mark.parametrize("decoder", [continuous, discretised])
@pytest.mark.parametrize("shape", [(7,), (7, 2), (7, 1, 2, 2)])
def test_one_time_per_sample_agrees_with_one_time_for_all(decoder: Any, shape: Any) -> None:
    process = PROCESSES["linear"]
    g = torch.Generator().manual_seed(0)
    x0 = LEVELS[torch.randint(256, shape, generator=g)]
    eps, guess = torch.randn(2, *shape, generator=g, dtype=F64)
    t = torch.tensor([1, 2, 3, 17, 40, 40, 1])
    s = torch.tensor([0, 1, 1, 9, 39, 0, 0])
    place = torch.rand(shape, generator=g, dtype=F64)
    x_t = process.q_sample(x0, t, eps)
    for mix in (0.0, 1.0, place):
        many = reverse_step_term(process, x0, x_t, Prediction(guess, mix), t, s, decoder)
        for i in range(7):
            one = Prediction(guess[i : i + 1], mix if isinstance(mix, float) else mix[i : i + 1])
            single = reverse_step_term(
                process, x0[i : i + 1], x_t[i : i + 1], one, int(t[i]), int(s[i]), decoder
            )
            torch.testing.assert_close(many[i : i + 1], single)


def test_terms_carry_gradients_to_mean_and_variance_also_where_the_other_branch_is_used() -> None:
    process = PROCESSES["cosine"]
    g = torch.Generator().manual_seed(0)
    x0 = LEVELS[torch.randint(256, (6, 4), generator=g)].float()
    t = torch.tensor([1, 1, 2, 3, 20, 25])
    guess = torch.randn(6, 4, generator=g).requires_grad_()
    place = torch.rand(6, 4, generator=g).requires_grad_()
    x_t = process.q_sample(x0, t, torch.randn(6, 4, generator=g))
    reverse_step_term(process, x0, x_t, Prediction(guess, place), t, t - 1).sum().backward()
    for leaf in (guess, place):
        assert leaf.grad is not None and bool(torch.isfinite(leaf.grad).all())
        assert bool((leaf.grad != 0).all())


def test_the_best_place_of_the_variance_is_the_true_one() -> None:
    """The mean of a step's term over data and noise is least at the true reverse variance."""
    process = PROCESSES["linear"]
    times, exact = list(range(40, -1, -1)), gaussian(process)
    floor = decoder_floor(process, times)
    truth = ExactVariance(process, times, floor).place
    points = [MEAN + math.sqrt(VAR) * sign for sign in (1, -1)]
    for t in (1, 2, 9, 40):
        values = [
            sum(
                expected_step(WithVariance(exact, truth[t] + d), process, t, t - 1, x, floor)
                for x in points
            )
            for d in (-0.05, 0.0, 0.05)
        ]
        assert values[1] < min(values[0], values[2])


def test_draws_come_from_the_generator_and_labels_reach_the_denoiser() -> None:
    process = PROCESSES["cosine"]
    x0, y, seen = LEVELS[:6].reshape(3, 2), torch.tensor([4, 5, 6]), []

    def denoiser(x_t: Tensor, t: Time, labels: Tensor | None = None) -> Prediction:
        seen.append(labels)
        return Prediction(x_t)

    before = torch.random.get_rng_state()
    first, again, other = (
        elbo(denoiser, process, x0, y=y, generator=torch.Generator().manual_seed(seed)).total
        for seed in (0, 0, 1)
    )
    a, b = (
        elbo_monte_carlo(denoiser, process, x0, y=y, generator=torch.Generator().manual_seed(0))
        for _ in range(2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other) and a == b
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(labels is y for labels in seen) and len(seen) == 3 * 25 + 2


@pytest.mark.parametrize(
    ("x0", "message"),
    [
        (torch.full((2, 4), 255.0), "8-bit images"),
        (torch.linspace(0, 1, 256)[None], "8-bit images"),  # the range [0, 1]
        (torch.randn(2, 4, generator=torch.Generator().manual_seed(0)), "continuous"),
        (torch.full((2, 4), math.nan), "finite"),
        (torch.zeros(0, 4), "at least one sample"),
        (torch.zeros(2, 4, dtype=torch.uint8), "floating point"),
    ],
)
def test_data_that_the_decoder_cannot_mean_are_refused(x0: Tensor, message: str) -> None:
    process = PROCESSES["cosine"]
    with pytest.raises(ValueError, match=message):
        elbo(lambda x, t, y=None: Prediction(x), process, x0)
    if len(x0) > 1:
        with pytest.raises(ValueError, match=message):
            elbo_monte_carlo(lambda x, t, y=None: Prediction(x), process, x0)


def test_bad_times_draws_and_floors_are_refused() -> None:
    process, x0 = PROCESSES["cosine"], LEVELS[:4].reshape(2, 2)

    def denoiser(x_t: Tensor, t: Time, y: Tensor | None = None) -> Prediction:
        return Prediction(x_t)

    for times in ([25, 3], [25, 3, 1]):
        with pytest.raises(ValueError, match="must end at 0"):
            elbo(denoiser, process, x0, times)
    for times in ([26, 0], [3, 7, 0], [0]):
        with pytest.raises(ValueError, match="times"):
            elbo(denoiser, process, x0, times)
    with pytest.raises(ValueError, match="draws must be a whole number"):
        elbo_monte_carlo(denoiser, process, x0, draws=0)
    with pytest.raises(ValueError, match="at least 2 samples"):
        elbo_monte_carlo(denoiser, process, x0[:1])
    with pytest.raises(ValueError, match="set floor > 0"):
        reverse_step_term(process, x0, x0, Prediction(x0), 1, 0, floor=0.0)
    with pytest.raises(ValueError, match="goes down in time"):
        reverse_step_term(process, x0, x0, Prediction(x0), 1, 1)
    with pytest.raises(ValueError, match=r"time in 1\.\.T"):
        prior_term(process, x0, 0)
    with pytest.raises(ValueError, match="shape"):
        reverse_step_term(process, x0, x0, Prediction(x0[:, :1]), 5, 4)
