"""Checks of chapter 1, the forward process."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ddpmlib.denoiser import oracle
from ddpmlib.process import schedules
from ddpmlib.process.ddpm import DDPM
from ddpmlib.teaching.exercises import exercise


@exercise("1.1", hint="Solve (1-β)^t ≤ residual for t with logarithms, then take the next integer.")
def _(steps_to_forget: Callable[[float, float], int]) -> None:
    """You know how many steps of constant β it takes to forget."""
    for beta, residual in [(0.5, 0.3), (0.5, 0.25), (0.02, 1e-4), (0.3, 0.7), (1e-3, 0.5)]:
        t = steps_to_forget(beta, residual)
        assert math.isfinite(t) and t == int(t), "A number of steps is a whole number."
        assert (1 - beta) ** t <= residual + 1e-12, (
            f"Too early for β = {beta}, residual {residual}."
        )
        assert (1 - beta) ** (t - 1) > residual + 1e-12, f"An earlier step does for β = {beta}."


@exercise(
    "1.2", hint="Write x_t in terms of x_s and the noise that came later; what do they share?"
)
def _(covariance: Callable[[float, float], float]) -> None:
    """You know how much two times of one chain have in common."""
    process = DDPM(schedules.linear(60))
    for s, t in [(1, 2), (5, 40), (30, 30), (59, 60)]:
        want = float(_chain_covariance(process.beta)[s, t])
        got = float(covariance(float(process.alpha_bar[s]), float(process.alpha_bar[t])))
        assert math.isclose(got, want, rel_tol=1e-8), (
            f"At s = {s}, t = {t} the chain has another one."
        )


def _chain_covariance(beta: Tensor) -> Tensor:
    """Covariances of x_0..x_T given x_0, from the steps alone: each x_t is linear in the noises."""
    weights = torch.zeros(len(beta), len(beta), dtype=torch.float64)
    for t in range(1, len(beta)):
        weights[t] = (1 - beta[t]).sqrt() * weights[t - 1]
        weights[t, t] = beta[t].sqrt()
    return weights @ weights.T


@exercise("1.3", hint="ᾱ is the logistic function of the log-SNR; β_t compares ᾱ_t with ᾱ_{t-1}.")
def _(straight: Callable[[int, float, float], Tensor]) -> None:
    """You can turn any log-SNR curve into a table of β."""
    # The last case has a β_T above 0.999, which a clipped schedule would not reach.
    for T, first, last in [(10, 6.0, -6.0), (100, 9.0, -10.0), (7, 2.0, -3.0), (3, 8.0, -8.0)]:
        beta = torch.as_tensor(straight(T, first, last), dtype=torch.float64)
        assert beta.shape == (T + 1,), f"The table has T + 1 = {T + 1} entries, one for t = 0."
        assert float(beta[0]) == 0, "β_0 is 0: at t = 0 the data are clean."
        assert bool(((beta[1:] > 0) & (beta[1:] < 1)).all()), "Every later β lies in (0, 1)."
        curve = schedules.log_snr(DDPM(beta).alpha_bar)[1:]
        line = torch.linspace(first, last, T, dtype=torch.float64)
        assert bool((curve - line).abs().max() < 1e-6), "Its log-SNR is not that straight line."


@exercise(
    "1.4", hint="Shift the log-SNR: which factor on ᾱ/(1-ᾱ) gives the average pixel its old SNR?"
)
def _(shifted: Callable[[Tensor, int], Tensor]) -> None:
    """You know why large images need more noise."""
    for factor in (1, 2, 8):
        alpha_bar = DDPM(schedules.cosine(50)).alpha_bar
        new = torch.as_tensor(shifted(alpha_bar, factor), dtype=torch.float64)
        assert new.shape == alpha_bar.shape, "One ᾱ for each t."
        assert math.isclose(float(new[0]), 1.0), "At t = 0 the data are still clean."
        left, noise = new[1:].sqrt(), (1 - new[1:]).sqrt()
        averaged = (left / (noise / factor)) ** 2  # the mean of factor² independent noises
        want = (alpha_bar / (1 - alpha_bar))[1:]
        assert bool((averaged / want - 1).abs().max() < 1e-6), (
            f"Averaged over {factor}×{factor} it differs."
        )


@exercise(
    "1.5", hint="Sum q(x) (log q(x) - log N(x; 0, 1)) over a fine grid; log_prob gives log q."
)
def _(divergence: Callable[[oracle.Mixture, int], float]) -> None:
    """You measured how far a distribution without a formula is from noise."""
    process = DDPM(schedules.linear(100))
    weights, means = torch.tensor([0.3, 0.7]).double(), torch.tensor([-1.5, 0.8]).double()
    mixture = oracle.Mixture(process, weights, means, torch.tensor([0.2, 0.3]).double())
    x = torch.linspace(-12, 12, 24_001, dtype=torch.float64)
    log_n = -0.5 * x**2 - 0.5 * math.log(2 * math.pi)
    for t in (1, 10, 50, 100):
        log_q = mixture.log_prob(x, t)
        want = float(torch.trapezoid(log_q.exp() * (log_q - log_n), x))
        got = float(divergence(mixture, t))
        assert math.isclose(got, want, rel_tol=1e-2, abs_tol=1e-9), (
            f"At t = {t} it is another number."
        )
