"""Weightings of `ddpmlib.losses`: by hand on ε and on x_0, and one loss for three networks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from ddpmlib import losses
from ddpmlib.denoiser import EPS, X0, Denoiser, Parameterization, V
from ddpmlib.losses import Weighting
from ddpmlib.process import DDPM, schedules

T = 60
SCHEDULES = {
    "linear": schedules.linear(T),
    "cosine": schedules.cosine(T),
    "sigmoid": schedules.sigmoid(T),
}
LATER = torch.arange(2, T + 1)
ALL = torch.arange(1, T + 1)


def snr_of(process: DDPM) -> list[float]:
    """SNR(0), SNR(1), …, from the betas alone, with plain Python numbers."""
    table, kept = [math.inf], 1.0
    for beta in process.beta.tolist()[1:]:
        kept *= 1 - beta
        table.append(kept / (1 - kept))
    return table


# (weighting, on ε, on x_0), the formulas as the papers print them; r = SNR(t), before = SNR(t−1)
BY_HAND = {
    "simple": (losses.simple, lambda r, before: 1.0, lambda r, before: r),
    "vlb": (
        losses.vlb,
        lambda r, before: 0.5 * (before / r - 1),
        lambda r, before: 0.5 * (before - r),
    ),
    "uniform on x0": (losses.uniform_on_x0, lambda r, before: 1 / r, lambda r, before: 1.0),
    "truncated SNR": (
        losses.truncated_snr,
        lambda r, before: max(1.0, 1 / r),
        lambda r, before: max(r, 1.0),
    ),
    "min-SNR(5)": (
        losses.min_snr(5),
        lambda r, before: min(1.0, 5 / r),
        lambda r, before: min(r, 5.0),
    ),
    "min-SNR(0.3)": (
        losses.min_snr(0.3),
        lambda r, before: min(1.0, 0.3 / r),
        lambda r, before: min(r, 0.3),
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_each_weighting_by_hand_on_eps_and_on_x0(schedule: str, name: str) -> None:
    process = DDPM(SCHEDULES[schedule])
    weighting, on_eps, on_x0 = BY_HAND[name]
    snr = snr_of(process)
    found_eps, found_x0 = weighting(process, LATER), losses.on_x0(weighting, process, LATER)
    assert found_eps.dtype == found_x0.dtype == torch.float64
    assert found_eps.shape == found_x0.shape == LATER.shape
    for i, t in enumerate(LATER.tolist()):
        assert float(found_eps[i]) == pytest.approx(on_eps(snr[t], snr[t - 1]), rel=1e-8)
        assert float(found_x0[i]) == pytest.approx(on_x0(snr[t], snr[t - 1]), rel=1e-8)


def test_the_exact_weight_as_ho_et_al_print_it() -> None:
    """β² / (2 σ² α (1−ᾱ)) with σ² = β̃, from the betas alone; it adds up to ½ (SNR(1) − SNR(T))."""
    process = DDPM(SCHEDULES["linear"])
    found = losses.vlb(process, LATER)
    kept = [1.0]
    for beta in process.beta.tolist()[1:]:
        kept.append(kept[-1] * (1 - beta))
    for i, t in enumerate(LATER.tolist()):
        beta = float(process.beta[t])
        beta_tilde = (1 - kept[t - 1]) / (1 - kept[t]) * beta
        assert float(found[i]) == pytest.approx(
            beta**2 / (2 * beta_tilde * (1 - beta) * (1 - kept[t])), rel=1e-9
        )
    snr = snr_of(process)
    total = float(losses.on_x0(losses.vlb, process, LATER).sum())
    assert total == pytest.approx(0.5 * (snr[1] - snr[T]), rel=1e-9)


def test_the_exact_weight_is_infinite_where_the_bound_has_a_decoder() -> None:
    assert losses.vlb(DDPM(SCHEDULES["cosine"]), torch.tensor([1])).tolist() == [math.inf]


def test_the_clipped_weightings_meet_the_plain_ones_at_their_knees() -> None:
    process = DDPM(SCHEDULES["cosine"])
    snr = torch.tensor(snr_of(process))[1:]
    clean, noisy = snr > 5, snr < 1
    assert bool(clean.any()) and bool(noisy.any())
    few = losses.min_snr(5)(process, ALL)
    assert bool((few[~clean] == 1).all()) and bool((few[clean] < 1).all())
    most = losses.truncated_snr(process, ALL)
    assert bool((most[~noisy] == 1).all()) and bool((most[noisy] > 1).all())
    # γ → ∞ is the simple loss; γ below every SNR is γ times the x_0-loss
    assert losses.min_snr(math.inf)(process, ALL).tolist() == [1.0] * T
    tiny = 0.5 * float(snr.min())
    torch.testing.assert_close(
        losses.min_snr(tiny)(process, ALL), tiny * losses.uniform_on_x0(process, ALL)
    )


class Predicts(nn.Module):
    """One prediction of x_0, told in the language of ``kind``."""

    def __init__(self, process: DDPM, kind: Parameterization) -> None:
        super().__init__()
        self.process, self.kind = process, kind

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        scale, std = self.process.kernel(t, x)
        x0 = torch.tanh(x) + (0.0 if y is None else y.reshape(-1, *[1] * (x.ndim - 1)) / 10)
        return self.kind.target(x0, (x - scale * x0) / std, scale, std)


@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize("shape", [(6,), (6, 2), (6, 1, 4, 4)], ids=str)
@pytest.mark.parametrize("labelled", [False, True], ids=["plain", "labelled"])
def test_one_prediction_costs_the_same_in_every_language(
    name: str, shape: tuple[int, ...], labelled: bool
) -> None:
    process, g = DDPM(SCHEDULES["cosine"]), torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, *shape, generator=g, dtype=torch.float64)
    t = torch.tensor([2, 7, 20, 41, 55, 60])
    y = torch.arange(6) if labelled else None
    weighting, _, on_x0 = BY_HAND[name]

    x_t, snr = process.q_sample(x0, t, eps), snr_of(process)
    guess = Denoiser(Predicts(process, X0), process, X0)(x_t, t, y).x0
    error = ((x0 - guess) ** 2).flatten(1).mean(1) if x0.ndim > 1 else (x0 - guess) ** 2
    expected = torch.tensor([on_x0(snr[k], snr[k - 1]) for k in t.tolist()]) * error
    for kind in (EPS, X0, V):
        denoiser = Denoiser(Predicts(process, kind), process, kind)
        found = losses.weighted(weighting, denoiser, x0, t, eps, y)
        assert found.shape == (6,) and found.dtype == x0.dtype
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-12)


def test_simple_on_an_eps_network_is_the_simple_loss() -> None:
    process, g = DDPM(SCHEDULES["linear"]), torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 5, 3, generator=g)
    t = torch.tensor([1, 9, 30, 45, 60])
    denoiser = Denoiser(Predicts(process, EPS), process, EPS)
    found = losses.weighted(losses.simple, denoiser, x0, t, eps)
    assert found.dtype == torch.float32
    assert torch.equal(found, losses.l_simple(denoiser, x0, t, eps))


def test_gradients_agree_too() -> None:
    """The loss steers a network's prediction alike, whatever the language."""
    process = DDPM(SCHEDULES["cosine"])
    x0, eps = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t, slopes = torch.tensor([3, 20, 40, 58]), []

    class Scaled(Predicts):
        def __init__(self, kind: Parameterization) -> None:
            super().__init__(process, kind)
            self.size = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

        def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
            scale, std = process.kernel(t, x)
            x0 = self.size * torch.tanh(x)
            return self.kind.target(x0, (x - scale * x0) / std, scale, std)

    for kind in (EPS, X0, V):
        net = Scaled(kind)
        losses.weighted(losses.min_snr(), Denoiser(net, process, kind), x0, t, eps).sum().backward()
        assert net.size.grad is not None
        slopes.append(float(net.size.grad))
    assert slopes[1:] == pytest.approx([slopes[0]] * 2, rel=1e-9)
    assert abs(slopes[0]) > 1e-3


@pytest.mark.parametrize("gamma", [0.0, -1.0, -math.inf, math.nan])
def test_a_gamma_that_is_no_ratio_is_refused(gamma: float) -> None:
    with pytest.raises(ValueError, match="gamma is a signal-to-noise ratio and must be positive"):
        losses.min_snr(gamma)


def test_any_function_of_process_and_time_is_a_weighting() -> None:
    """A plain v-loss, 1/ᾱ on ε, costs what l_simple costs a v-network."""
    process, g = DDPM(SCHEDULES["cosine"]), torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 4, 2, generator=g, dtype=torch.float64)
    t = torch.tensor([1, 15, 45, 59])

    def plain_v(process: DDPM, t: Tensor) -> Tensor:
        return 1 / process.alpha_bar[t]

    weighting: Weighting = plain_v
    v_net = Denoiser(Predicts(process, V), process, V)
    expected = losses.l_simple(v_net, x0, t, eps)
    for kind in (EPS, X0, V):
        found = losses.weighted(
            weighting, Denoiser(Predicts(process, kind), process, kind), x0, t, eps
        )
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("weighting", [losses.vlb, losses.uniform_on_x0, losses.min_snr(5.0)])
@pytest.mark.parametrize("t", [0, -1, 101])
def test_there_is_no_weight_outside_the_chain(weighting, t) -> None:
    with pytest.raises(ValueError, match=r"times in 1\.\.100"):
        weighting(DDPM(schedules.cosine(100)), torch.tensor([5, t]))
