"""`process.schedules`: β tables against their formulas, and what every schedule must have."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ddpmlib.process import DDPM, schedules

INSIDE = st.floats(1e-6, 0.99)
quick = settings(deadline=None, max_examples=40, derandomize=True)


def check_table(beta: Tensor, T: int) -> None:
    assert beta.shape == (T + 1,) and beta.dtype == torch.float64
    assert beta[0] == 0
    assert bool(((beta[1:] > 0) & (beta[1:] < 1)).all())
    alpha_bar = torch.cumprod(1 - beta, 0)
    assert alpha_bar[0] == 1
    assert bool((alpha_bar[1:] < alpha_bar[:-1]).all()), "noise must grow at every step"


@quick
@given(T=st.integers(1, 1500))
def test_cosine_is_a_schedule_for_every_T(T: int) -> None:
    check_table(schedules.cosine(T), T)


@quick
@given(T=st.integers(21, 1500))
@pytest.mark.parametrize("make", [schedules.linear, schedules.sigmoid])
def test_default_end_points_make_a_schedule_for_every_T(
    make: Callable[[int], Tensor], T: int
) -> None:
    check_table(make(T), T)


@quick
@given(T=st.integers(1, 60), first=INSIDE, last=INSIDE)
@pytest.mark.parametrize("make", [schedules.linear, schedules.sigmoid])
def test_own_end_points_make_a_schedule_for_every_T(
    make: Callable[..., Tensor], T: int, first: float, last: float
) -> None:
    beta = make(T, first, last)
    check_table(beta, T)
    assert min(first, last) - 1e-15 <= float(beta[1:].min())
    assert float(beta[1:].max()) <= max(first, last) + 1e-15


@quick
@given(T=st.integers(1, 300))
def test_every_table_is_one_that_the_process_takes(T: int) -> None:
    assert DDPM(schedules.cosine(T)).T == T


# ---- linear ------------------------------------------------------------------------------


def test_linear_of_ho_et_al() -> None:
    beta = schedules.linear(1000)
    for t in (1, 2, 250, 1000):
        assert float(beta[t]) == pytest.approx(1e-4 + (t - 1) * (0.02 - 1e-4) / 999, rel=1e-13)
    # Ho et al. (2020, section 4): the prior term is about 1e-5 bits per dimension at ᾱ_T.
    assert float(torch.prod(1 - beta)) == pytest.approx(4.04e-5, rel=2e-3)


@pytest.mark.parametrize("T", [50, 300, 1000, 4000])
def test_linear_keeps_the_total_noise_at_every_T(T: int) -> None:
    assert float(schedules.linear(T).sum()) == pytest.approx(1000 * (1e-4 + 0.02) / 2, rel=1e-12)


def test_linear_with_own_end_points() -> None:
    beta = schedules.linear(5, 0.1, 0.5)
    assert beta.tolist() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5], abs=1e-15)


# ---- sigmoid -----------------------------------------------------------------------------


@pytest.mark.parametrize("steepness", [1.0, 6.0])
def test_sigmoid_is_the_logistic_curve_between_the_end_points(steepness: float) -> None:
    first, last, T = 0.01, 0.3, 41
    beta = schedules.sigmoid(T, first, last, steepness)
    for t in (1, 7, 21, 41):
        u = steepness * (2 * (t - 1) / (T - 1) - 1)
        assert float(beta[t]) == pytest.approx(first + (last - first) / (1 + math.exp(-u)))
    assert float(beta[21]) == pytest.approx((first + last) / 2)  # the middle is halfway


# ---- cosine ------------------------------------------------------------------------------


def test_cosine_alpha_bar_is_the_squared_cosine() -> None:
    T, s = 200, 0.008
    alpha_bar = torch.cumprod(1 - schedules.cosine(T), 0)

    def f(t: int) -> float:
        return math.cos((t / T + s) / (1 + s) * math.pi / 2) ** 2

    for t in range(T):  # the last step is clipped
        assert float(alpha_bar[t]) == pytest.approx(f(t) / f(0), rel=1e-12)


def test_cosine_clips_the_last_step() -> None:
    assert float(schedules.cosine(1000)[-1]) == 0.999
    assert float(schedules.cosine(1000, max_beta=0.5).max()) == 0.5
    assert int((schedules.cosine(1000) == 0.999).sum()) == 1


def test_cosine_offset_keeps_the_first_step_from_vanishing() -> None:
    with_offset, without = schedules.cosine(1000)[1], schedules.cosine(1000, offset=0.0)[1]
    assert float(without) == pytest.approx((math.pi / 2000) ** 2, rel=1e-3)
    assert float(with_offset) > 10 * float(without)


# ---- from_alpha_bar ----------------------------------------------------------------------


def test_from_alpha_bar_gives_the_curve_back() -> None:
    beta = schedules.from_alpha_bar(64, lambda u: math.exp(-3 * u**2))
    expected = torch.exp(-3 * torch.linspace(0, 1, 65, dtype=torch.float64) ** 2)
    torch.testing.assert_close(torch.cumprod(1 - beta, 0), expected, rtol=1e-13, atol=0)


def test_from_alpha_bar_may_end_in_pure_noise() -> None:
    beta = schedules.from_alpha_bar(8, lambda u: 1 - u, max_beta=1.0)
    assert float(beta[-1]) == 1
    assert float(DDPM(beta).alpha_bar[-1]) == 0


# ---- log-SNR -----------------------------------------------------------------------------


def test_log_snr_is_the_logit_of_alpha_bar() -> None:
    alpha_bar = torch.cumprod(1 - schedules.linear(100), 0)
    found = schedules.log_snr(alpha_bar)
    assert found[0] == math.inf
    for t in (1, 50, 100):
        a = float(alpha_bar[t])
        assert float(found[t]) == pytest.approx(math.log(a / (1 - a)), rel=1e-12)
    torch.testing.assert_close(torch.sigmoid(found), alpha_bar, rtol=1e-13, atol=0)


def test_log_snr_falls_and_reaches_minus_infinity_at_pure_noise() -> None:
    found = schedules.log_snr(torch.tensor([1.0, 0.9, 0.5, 0.1, 0.0], dtype=torch.float64))
    assert bool((found[1:] < found[:-1]).all())
    assert float(found[2]) == 0 and float(found[4]) == -math.inf


# ---- bad input ---------------------------------------------------------------------------


@pytest.mark.parametrize("make", [schedules.linear, schedules.sigmoid, schedules.cosine])
@pytest.mark.parametrize("T", [0, -3])
def test_no_steps_are_refused(make: Callable[[int], Tensor], T: int) -> None:
    with pytest.raises(ValueError, match=f"at least one step, got T = {T}"):
        make(T)


@pytest.mark.parametrize("make", [schedules.linear, schedules.sigmoid])
def test_end_points_outside_the_unit_interval_are_refused(make: Callable[..., Tensor]) -> None:
    with pytest.raises(ValueError, match="first = 0 is not a beta"):
        make(10, 0.0, 0.5)
    with pytest.raises(ValueError, match="last = 1 is not a beta"):
        make(10, 0.1, 1.0)
    with pytest.raises(ValueError, match="for T = 20 steps give the end points yourself"):
        make(20)


@pytest.mark.parametrize("steepness", [0.0, -1.0, math.nan])
def test_a_flat_or_falling_sigmoid_is_refused(steepness: float) -> None:
    with pytest.raises(ValueError, match="steepness must be positive"):
        schedules.sigmoid(100, steepness=steepness)


@pytest.mark.parametrize("max_beta", [0.0, -0.1, 1.1])
def test_a_clip_outside_the_unit_interval_is_refused(max_beta: float) -> None:
    with pytest.raises(ValueError, match=r"max_beta must lie in \(0, 1\]"):
        schedules.cosine(10, max_beta=max_beta)


@pytest.mark.parametrize(
    "curve",
    [lambda u: 0.5, lambda u: 0.5 + u / 4, lambda u: 1 - 2 * u, lambda u: 1 - 1.05 * u],
    ids=["flat", "rising", "negative", "negative at the end"],
)
def test_a_curve_that_does_not_fall_is_refused(curve: Callable[[float], float]) -> None:
    with pytest.raises(ValueError, match="positive and decrease strictly"):
        schedules.from_alpha_bar(10, curve)
