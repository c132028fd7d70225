"""`ddpmlib.process`: kernel, posterior and step against Bayes, chains of steps and each other."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ddpmlib.prediction import Prediction
from ddpmlib.process import DDPM, schedules

T = 100
PROCESS = DDPM(schedules.cosine(T))
SHAPES = [(3,), (3, 2), (3, 5, 3), (3, 1, 4, 4), (3, 2, 4, 5, 5)]
PAIRS = [(1, 0), (2, 1), (50, 49), (100, 99), (100, 0), (100, 1), (73, 20)]
quick = settings(deadline=None, max_examples=60, derandomize=True)
pairs = st.tuples(st.integers(0, T), st.integers(0, T)).filter(lambda p: p[0] > p[1])
triples = st.lists(st.integers(0, T), min_size=3, max_size=3, unique=True)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def number(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)


def posterior_line(process: DDPM, t: int, s: int) -> tuple[float, float, float]:
    """(on_x0, on_x_t, variance) of q(x_s|x_t, x_0), read off by feeding ones and zeros."""
    one, zero = number(1.0), number(0.0)
    on_x0, std = process.posterior(zero, one, t, s)
    on_x_t, _ = process.posterior(one, zero, t, s)
    return float(on_x0), float(on_x_t), float(std) ** 2


# ---- tables ------------------------------------------------------------------------------


def test_tables_follow_their_definitions() -> None:
    beta = [0.0, 0.1, 0.3, 0.2, 0.7]
    p = DDPM(torch.tensor(beta, dtype=torch.float64))
    assert p.T == 4
    product = 1.0
    for t in range(5):
        before, product = product, product * (1 - beta[t])
        tilde = (1 - before) / (1 - product) * beta[t] if t else 0.0
        assert float(p.beta[t]) == beta[t]
        assert float(p.alpha[t]) == pytest.approx(1 - beta[t], rel=1e-15)
        assert float(p.alpha_bar[t]) == pytest.approx(product, rel=1e-15)
        assert float(p.beta_tilde[t]) == pytest.approx(tilde, rel=1e-15)
        assert float(p.scale[t]) == pytest.approx(math.sqrt(product), rel=1e-15)
        assert float(p.std[t]) == pytest.approx(math.sqrt(1 - product), rel=1e-15)


def test_tables_are_float64_over_zero_to_T_and_start_clean() -> None:
    for table in ("beta", "alpha", "alpha_bar", "beta_tilde", "scale", "std"):
        value = getattr(PROCESS, table)
        assert value.shape == (T + 1,) and value.dtype == torch.float64, table
    assert PROCESS.alpha_bar[0] == 1 and PROCESS.scale[0] == 1 and PROCESS.std[0] == 0
    assert PROCESS.beta_tilde[0] == 0 and PROCESS.beta_tilde[1] == 0


def test_a_process_of_one_step() -> None:
    p, x0, eps = DDPM(torch.tensor([0.0, 0.4])), normal(4), normal(4, seed=1)
    x_1 = p.q_sample(x0, 1, eps)
    torch.testing.assert_close(x_1, 0.6**0.5 * x0 + 0.4**0.5 * eps, rtol=1e-7, atol=0)
    assert torch.equal(p.step(x_1, Prediction(x0), 1, 0), x0)


def test_repr_says_how_much_is_left() -> None:
    assert repr(DDPM(torch.tensor([0.0, 0.5, 0.5]))) == "DDPM(T=2, alpha_bar_T=0.25)"


# ---- forward -----------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0, 1, 37, 100])
def test_q_sample_is_scale_times_data_plus_std_times_noise(t: int) -> None:
    x0, eps = normal(5, 2), normal(5, 2, seed=1)
    a = math.prod(1 - float(b) for b in PROCESS.beta[: t + 1])
    expected = math.sqrt(a) * x0 + math.sqrt(1 - a) * eps
    torch.testing.assert_close(PROCESS.q_sample(x0, t, eps), expected, rtol=1e-12, atol=1e-13)


def test_q_sample_at_zero_gives_the_data_back() -> None:
    x0 = normal(5, 2)
    assert torch.equal(PROCESS.q_sample(x0, 0, normal(5, 2, seed=1)), x0)


def test_a_chain_of_forward_steps_has_the_kernel_in_closed_form() -> None:
    """q_step is linear, so the chain's distribution is exact: factor and variance, step by step."""
    one, zero = number(1.0), number(0.0)
    factor, variance = 1.0, 0.0
    for t in range(1, T + 1):
        keep = float(PROCESS.q_step(one, t, zero))
        spread = float(PROCESS.q_step(zero, t, one))
        factor, variance = keep * factor, keep**2 * variance + spread**2
        assert factor == pytest.approx(float(PROCESS.scale[t]), rel=1e-12)
        assert variance == pytest.approx(float(PROCESS.std[t]) ** 2, rel=1e-12)


def test_walking_and_jumping_draw_from_the_same_distribution() -> None:
    p, n, g = DDPM(schedules.linear(30)), 40_000, torch.Generator().manual_seed(3)
    x0 = torch.full((n,), 1.5, dtype=torch.float64)
    walked = x0
    for t in range(1, 16):
        walked = p.q_step(walked, t, torch.randn(n, generator=g, dtype=torch.float64))
    jumped = p.q_sample(x0, 15, torch.randn(n, generator=g, dtype=torch.float64))
    mean, var = 1.5 * float(p.scale[15]), float(p.std[15]) ** 2
    for x in (walked, jumped):  # within 4.5 standard errors
        assert abs(float(x.mean()) - mean) < 4.5 * math.sqrt(var / n)
        assert abs(float(x.var()) - var) < 4.5 * var * math.sqrt(2 / n)
        fourth = float(((x - x.mean()) ** 4).mean()) / float(x.var()) ** 2
        assert fourth == pytest.approx(3, abs=4.5 * math.sqrt(24 / n))


# ---- posterior ---------------------------------------------------------------------------


@quick
@given(pair=pairs)
def test_posterior_is_the_product_of_prior_and_likelihood(pair: tuple[int, int]) -> None:
    """Bayes: q(x_s|x_0) q(x_t|x_s) as a function of x_s; precisions add, means weigh by them."""
    t, s = pair
    a_t, a_s = float(PROCESS.alpha_bar[t]), float(PROCESS.alpha_bar[s])
    x_t, x0 = 0.7, -1.3
    mean, std = PROCESS.posterior(number(x_t), number(x0), t, s)
    if s == 0:
        assert float(mean) == x0 and float(std) == 0
        return
    keep = math.sqrt(a_t / a_s)
    prior, likelihood = 1 / (1 - a_s), a_t / a_s / (1 - a_t / a_s)
    precision = prior + likelihood
    by_hand = (prior * math.sqrt(a_s) * x0 + likelihood * x_t / keep) / precision
    assert float(mean) == pytest.approx(by_hand, rel=1e-9)
    assert float(std) == pytest.approx(precision**-0.5, rel=1e-9)


def test_posterior_by_quadrature_of_the_two_densities() -> None:
    t, s, x_t, x0 = 60, 25, 0.4, 1.1
    a_t, a_s = float(PROCESS.alpha_bar[t]), float(PROCESS.alpha_bar[s])
    x = torch.linspace(-8, 8, 40_001, dtype=torch.float64)
    log = -((x - a_s**0.5 * x0) ** 2) / (2 * (1 - a_s))
    log = log - (x_t - (a_t / a_s) ** 0.5 * x) ** 2 / (2 * (1 - a_t / a_s))
    p = torch.softmax(log, 0)
    mean, std = PROCESS.posterior(number(x_t), number(x0), t, s)
    assert float(mean) == pytest.approx(float((p * x).sum()), abs=1e-8)
    variance = float((p * x**2).sum() - (p * x).sum() ** 2)
    assert float(std) ** 2 == pytest.approx(variance, rel=1e-8)


def test_one_step_posterior_is_that_of_ho_et_al() -> None:
    """Eqs. 6 and 7 as printed, with β̃_t from the table."""
    for t in range(1, T + 1):
        a_t, a_s, beta = PROCESS.alpha_bar[t], PROCESS.alpha_bar[t - 1], PROCESS.beta[t]
        on_x0, on_x_t, variance = posterior_line(PROCESS, t, t - 1)
        assert on_x0 == pytest.approx(float(a_s.sqrt() * beta / (1 - a_t)), rel=1e-10)
        printed = (1 - beta).sqrt() * (1 - a_s) / (1 - a_t)
        assert on_x_t == pytest.approx(float(printed), rel=1e-10)
        assert variance == pytest.approx(float(PROCESS.beta_tilde[t]), rel=1e-10)
        assert variance == pytest.approx(PROCESS.posterior_std(t, t - 1) ** 2, rel=1e-12)


@quick
@given(times=triples)
def test_two_posterior_steps_make_one(times: list[int]) -> None:
    """Chapman–Kolmogorov: t → s, then s → r, integrated over x_s, is t → r."""
    t, s, r = sorted(times, reverse=True)
    on_x0, on_x_t, var = posterior_line(PROCESS, t, s)
    then_x0, then_x_s, then_var = posterior_line(PROCESS, s, r)
    direct_x0, direct_x_t, direct_var = posterior_line(PROCESS, t, r)
    assert then_x0 + then_x_s * on_x0 == pytest.approx(direct_x0, rel=1e-10)
    assert then_x_s * on_x_t == pytest.approx(direct_x_t, rel=1e-10)
    assert then_var + then_x_s**2 * var == pytest.approx(direct_var, rel=1e-10)


@quick
@given(pair=pairs)
def test_posterior_over_the_kernel_gives_the_kernel(pair: tuple[int, int]) -> None:
    """Integrating q(x_s|x_t, x_0) over q(x_t|x_0) is q(x_s|x_0)."""
    t, s = pair
    on_x0, on_x_t, var = posterior_line(PROCESS, t, s)
    a_t, a_s = float(PROCESS.alpha_bar[t]), float(PROCESS.alpha_bar[s])
    assert on_x0 + on_x_t * a_t**0.5 == pytest.approx(a_s**0.5, rel=1e-12)
    assert on_x_t**2 * (1 - a_t) + var == pytest.approx(1 - a_s, rel=1e-10)


def test_posterior_of_the_start_is_the_data() -> None:
    x_t, x0 = normal(4, 2), normal(4, 2, seed=1)
    for t in (1, 40, 100):
        mean, std = PROCESS.posterior(x_t, x0, t, 0)
        assert torch.equal(mean, x0) and std == 0


# ---- the reverse deviation ---------------------------------------------------------------


@pytest.mark.parametrize(("t", "s"), PAIRS)
def test_var_mix_runs_from_beta_tilde_to_beta(t: int, s: int) -> None:
    a_t, a_s = float(PROCESS.alpha_bar[t]), float(PROCESS.alpha_bar[s])
    beta = 1 - a_t / a_s
    beta_tilde = (1 - a_s) / (1 - a_t) * beta
    assert PROCESS.posterior_std(t, s) ** 2 == pytest.approx(beta_tilde, rel=1e-12)
    assert PROCESS.posterior_std(t, s, 1.0) ** 2 == pytest.approx(beta, rel=1e-12)
    for u in (0.25, 0.5, 0.9):
        expected = math.exp(u * math.log(beta) + (1 - u) * math.log(beta_tilde)) if s else 0
        assert PROCESS.posterior_std(t, s, u) ** 2 == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("t", "s"), PAIRS)
def test_a_tensor_of_var_mix_says_what_numbers_say(t: int, s: int) -> None:
    u = torch.tensor([[0.0, 0.3], [0.5, 1.0]], dtype=torch.float64)
    found = PROCESS.posterior_std(t, s, u)
    expected = [[PROCESS.posterior_std(t, s, float(v)) for v in row] for row in u]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_a_learned_variance_has_a_gradient() -> None:
    u = torch.tensor([0.2, 0.8], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: PROCESS.posterior_std(30, 20, v), (u,))
    std = PROCESS.posterior_std(30, 20, u)
    (slope,) = torch.autograd.grad(std.sum(), u)
    # d log σ² / d var_mix is log β − log β̃.
    ratio = 2 * math.log(PROCESS.posterior_std(30, 20, 1.0) / PROCESS.posterior_std(30, 20, 0.0))
    torch.testing.assert_close(2 * slope / std.detach(), torch.full_like(u, ratio))


# ---- one step ----------------------------------------------------------------------------


@pytest.mark.equation("3.7")
@pytest.mark.parametrize(("t", "s"), PAIRS)
@pytest.mark.parametrize("u", [0.0, 0.5, 1.0])
def test_the_ancestral_step_draws_from_the_posterior(t: int, s: int, u: float) -> None:
    x_t, x0, noise = normal(5, 2), normal(5, 2, seed=1), normal(5, 2, seed=2)
    mean, _ = PROCESS.posterior(x_t, x0, t, s)
    spread = PROCESS.posterior_std(t, s, u) if s else 0
    found = PROCESS.step(x_t, Prediction(x0, u), t, s, 1.0, noise)
    torch.testing.assert_close(found, mean + spread * noise, rtol=0, atol=1e-12)


@pytest.mark.equation("3.7")
@pytest.mark.parametrize(("t", "s"), PAIRS)
@pytest.mark.parametrize("eta", [0.0, 0.3, 0.8, 1.0])
def test_every_eta_leads_from_kernel_to_kernel(t: int, s: int, eta: float) -> None:
    """With the true x_0 and x_t ~ q(x_t|x_0) the step lands on q(x_s|x_0), whatever η is."""
    one, zero = number(1.0), number(0.0)
    on_x0 = float(PROCESS.step(zero, Prediction(one), t, s, eta, zero))
    on_x_t = float(PROCESS.step(one, Prediction(zero), t, s, eta, zero))
    on_noise = float(PROCESS.step(zero, Prediction(zero), t, s, eta, one))
    scale_t, std_t = float(PROCESS.scale[t]), float(PROCESS.std[t])
    assert on_x0 + on_x_t * scale_t == pytest.approx(float(PROCESS.scale[s]), rel=1e-12)
    variance = (on_x_t * std_t) ** 2 + on_noise**2
    assert variance == pytest.approx(float(PROCESS.std[s]) ** 2, rel=1e-10, abs=1e-15)
    expected = eta * PROCESS.posterior_std(t, s)
    assert on_noise == pytest.approx(expected, rel=1e-12)


@pytest.mark.equation("3.7")
def test_the_step_as_it_is_written() -> None:
    t, s, u = 80, 33, 0.4
    x_t, x0, noise = normal(4, 3), normal(4, 3, seed=1), normal(4, 3, seed=2)
    a_t, a_s = PROCESS.alpha_bar[t], PROCESS.alpha_bar[s]
    beta_tilde = (1 - a_s) / (1 - a_t) * (1 - a_t / a_s)
    eps = (x_t - a_t.sqrt() * x0) / (1 - a_t).sqrt()
    ancestral = ((1 - a_t / a_s) ** u * beta_tilde ** (1 - u)).sqrt()
    for eta, sigma in ((1.0, ancestral), (0.6, 0.6 * beta_tilde.sqrt())):
        left = (1 - a_s - eta**2 * beta_tilde).sqrt()
        expected = a_s.sqrt() * x0 + left * eps + sigma * noise
        found = PROCESS.step(x_t, Prediction(x0, u), t, s, eta, noise)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


@pytest.mark.equation("7.2")
@pytest.mark.parametrize(
    "var_mix", [0.0, 0.5, 1.0, torch.full((20_000,), 0.7, dtype=torch.float64)]
)
def test_below_eta_one_every_variance_keeps_the_marginals(var_mix: float | Tensor) -> None:
    """x_s of the true x_0 is drawn from q(x_s|x_0), whatever variance the network says."""
    n, point, t, s = 20_000, 1.5, 80, 33
    x0, eps, noise = torch.full((n,), point, dtype=torch.float64), normal(n), normal(n, seed=1)
    x_t = PROCESS.q_sample(x0, t, eps)
    x_s = PROCESS.step(x_t, Prediction(x0, var_mix), t, s, 0.7, noise)
    var = float(1 - PROCESS.alpha_bar[s])
    assert abs(float(x_s.var()) - var) < 4.5 * var * (2 / n) ** 0.5
    ancestral = PROCESS.step(x_t, Prediction(x0, 1.0), t, s, 1.0, noise)
    assert float(ancestral.var()) > 1.1 * var  # β is an upper bound


def test_the_last_step_returns_the_prediction_and_no_noise() -> None:
    x_t, x0, noise = normal(4, 2), normal(4, 2, seed=1), normal(4, 2, seed=2)
    for t in (1, 50, 100):
        for eta in (0.0, 0.5, 1.0):
            for u in (0.0, 1.0):
                assert torch.equal(PROCESS.step(x_t, Prediction(x0, u), t, 0, eta, noise), x0)
                assert torch.equal(PROCESS.step(x_t, Prediction(x0, u), t, 0, eta), x0)


def test_ddim_hears_no_noise() -> None:
    x_t, x0 = normal(4, 2), normal(4, 2, seed=1)
    silent = PROCESS.step(x_t, Prediction(x0), 50, 20, 0.0)
    assert torch.equal(PROCESS.step(x_t, Prediction(x0), 50, 20, 0.0, normal(4, 2)), silent)


def test_a_learned_variance_acts_on_each_pixel() -> None:
    u = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x_t, x0, noise = (normal(3, 1, 4, 4, seed=i) for i in range(3))
    found = PROCESS.step(x_t, Prediction(x0, u), 50, 40, 1.0, noise)
    for i in torch.cartesian_prod(*(torch.arange(n) for n in x_t.shape)).tolist():
        i = tuple(i)
        pixel = Prediction(x0[i][None], float(u[i]))
        alone = PROCESS.step(x_t[i][None], pixel, 50, 40, 1.0, noise[i][None])
        assert float(found[i]) == pytest.approx(float(alone), abs=1e-14)


# ---- noise and data imply each other -----------------------------------------------------


@pytest.mark.equation("3.5")
@quick
@given(t=st.integers(1, T))
def test_eps_from_x0_undoes_q_sample(t: int) -> None:
    x0, eps = normal(6, 2), normal(6, 2, seed=1)
    found = PROCESS.eps_from_x0(PROCESS.q_sample(x0, t, eps), x0, t)
    torch.testing.assert_close(found, eps, rtol=1e-11, atol=1e-11 / float(PROCESS.std[t]))


@pytest.mark.equation("3.5")
def test_eps_from_x0_by_hand() -> None:
    p = DDPM(torch.tensor([0.0, 0.36], dtype=torch.float64))  # scale 0.8, std 0.6
    found = p.eps_from_x0(number(2.0), number(1.0), 1)
    assert float(found) == pytest.approx((2 - 0.8) / 0.6, rel=1e-14)


# ---- one time or one per sample, any rank, any precision ---------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_a_vector_of_times_treats_each_sample_alone(shape: tuple[int, ...]) -> None:
    x, y = normal(*shape), normal(*shape, seed=1)
    t, s = torch.tensor([100, 1, 37]), torch.tensor([99, 0, 5])
    noised, eps = PROCESS.q_sample(x, t, y), PROCESS.eps_from_x0(x, y, t)
    mean, std = PROCESS.posterior(x, y, t, s)
    assert noised.shape == eps.shape == mean.shape == shape
    assert std.shape == (3, *[1] * (len(shape) - 1))
    close = {"rtol": 1e-14, "atol": 1e-14}
    for i, (t_i, s_i) in enumerate(zip(t.tolist(), s.tolist(), strict=True)):
        x_i, y_i = x[i : i + 1], y[i : i + 1]
        torch.testing.assert_close(noised[i : i + 1], PROCESS.q_sample(x_i, t_i, y_i), **close)
        torch.testing.assert_close(eps[i : i + 1], PROCESS.eps_from_x0(x_i, y_i, t_i), **close)
        mean_i, std_i = PROCESS.posterior(x_i, y_i, t_i, s_i)
        torch.testing.assert_close(mean[i : i + 1], mean_i, **close)
        assert float(std[i].reshape(())) == pytest.approx(std_i, rel=1e-13)


def test_an_int_and_a_vector_of_times_mix() -> None:
    x, y, s = normal(3, 2), normal(3, 2, seed=1), torch.tensor([0, 4, 49])
    mean, std = PROCESS.posterior(x, y, 50, s)
    both, both_std = PROCESS.posterior(x, y, torch.tensor([50, 50, 50]), s)
    torch.testing.assert_close(mean, both)
    torch.testing.assert_close(std, both_std)


@pytest.mark.parametrize("shape", SHAPES)
def test_step_takes_any_rank(shape: tuple[int, ...]) -> None:
    x, x0, noise = (normal(*shape, seed=i) for i in range(3))
    found = PROCESS.step(x, Prediction(x0), 60, 30, 0.7, noise)
    flat = PROCESS.step(x.reshape(-1), Prediction(x0.reshape(-1)), 60, 30, 0.7, noise.reshape(-1))
    assert torch.equal(found.reshape(-1), flat)
    assert PROCESS.q_step(x, 5, noise).shape == shape


@pytest.mark.parametrize("t", [1, 50, 100, torch.tensor([1, 50, 100])])
def test_the_precision_of_the_data_stays_and_is_used_up(t: int | Tensor) -> None:
    """float32 in, float32 out, within a few units of its last place of the float64 result."""
    x, y = normal(3, 4), normal(3, 4, seed=1)
    s = t - 1
    for found, exact in [
        (PROCESS.q_sample(x.float(), t, y.float()), PROCESS.q_sample(x, t, y)),
        (PROCESS.posterior(x.float(), y.float(), t, s)[0], PROCESS.posterior(x, y, t, s)[0]),
    ]:
        assert found.dtype == torch.float32 and exact.dtype == torch.float64
        torch.testing.assert_close(found.double(), exact, rtol=0, atol=5e-7)


def test_step_keeps_float32() -> None:
    x, x0, noise = (normal(3, 4, seed=i, dtype=torch.float32) for i in range(3))
    for u in (0.5, torch.full((3, 4), 0.5)):
        assert PROCESS.step(x, Prediction(x0, u), 9, 5, 0.5, noise).dtype == torch.float32


def test_pure_noise_at_the_end_is_allowed() -> None:
    p = DDPM(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    x0, eps = normal(4), normal(4, seed=1)
    assert torch.equal(p.q_sample(x0, 2, eps), eps)
    mean, std = p.posterior(eps, x0, 2, 1)
    torch.testing.assert_close(mean, 0.5**0.5 * x0)  # x_2 says nothing
    assert std == pytest.approx(0.5**0.5)
    ddim = p.step(eps, Prediction(x0), 2, 1, 0.0)
    torch.testing.assert_close(ddim, p.q_sample(x0, 1, eps))


# ---- bad input ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("beta", "sentence"),
    [
        (torch.tensor([0.1, 0.2]), r"shape \(T\+1,\) with beta\[0\] == 0"),
        (torch.tensor([0.0]), r"shape \(T\+1,\)"),
        (torch.zeros(2, 2), r"shape \(T\+1,\)"),
        (torch.tensor([0.0, 0.1, 0.0, 0.1]), r"beta\[2\] = 0"),
        (torch.tensor([0.0, 1.0, 0.5]), r"beta\[1\] = 1"),
        (torch.tensor([0.0, 0.1, 1.5]), r"beta\[2\] = 1.5"),
        (torch.tensor([0.0, math.nan]), r"beta\[1\] = nan"),
    ],
)
def test_a_table_that_is_no_schedule_is_refused(beta: Tensor, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        DDPM(beta)


@pytest.mark.parametrize(
    ("t", "sentence"),
    [
        (-1, "0..100, got -1"),
        (101, "0..100, got 101"),
        (5.0, "an int or an int64 tensor, got float"),
        (True, "an int or an int64 tensor, got bool"),
        (torch.tensor([1.0, 2.0]), "an int or an int64 tensor, got torch.float32"),
        (torch.tensor([0, 101]), "0..100, got 0..101"),
        (torch.tensor([1, -1]), "0..100, got -1..1"),
        (torch.tensor([1, 2, 3]), "one number per sample"),
    ],
)
def test_a_time_that_is_none_is_refused(t: int | Tensor, sentence: str) -> None:
    x = torch.zeros(2, 3)
    for call in (
        lambda: PROCESS.q_sample(x, t, x),
        lambda: PROCESS.kernel(t, x),
        lambda: PROCESS.eps_from_x0(x, x, t),
        lambda: PROCESS.posterior(x, x, t, 0),
    ):
        with pytest.raises(ValueError, match=re.escape(sentence) + "|s < t"):
            call()


@pytest.mark.parametrize(("t", "s"), [(5, 5), (5, 6), (0, 0)])
def test_a_reverse_step_goes_down(t: int, s: int) -> None:
    x = torch.zeros(2, 3)
    for call in (
        lambda: PROCESS.posterior(x, x, t, s),
        lambda: PROCESS.posterior(x, x, torch.tensor([9, t]), torch.tensor([1, s])),
        lambda: PROCESS.posterior_std(t, s),
        lambda: PROCESS.step(x, Prediction(x), t, s, 0.0),
    ):
        with pytest.raises(ValueError, match="goes down in time, s < t"):
            call()


@pytest.mark.parametrize("t", [0, -1, 101, torch.tensor([1, 2])])
def test_a_forward_step_arrives_at_one_time(t: int | Tensor) -> None:
    with pytest.raises(ValueError, match=r"arrives at one time, an int in 1\.\.100"):
        PROCESS.q_step(torch.zeros(2), t, torch.zeros(2))


def test_shapes_must_agree() -> None:
    x, other = torch.zeros(2, 3), torch.zeros(1, 3)  # which would broadcast silently
    for name, call in {
        "eps": lambda: PROCESS.q_sample(x, 5, other),
        "noise": lambda: PROCESS.q_step(x, 5, other),
        "x0": lambda: PROCESS.posterior(x, other, 5, 4),
        "x0 ": lambda: PROCESS.eps_from_x0(x, other, 5),
        "prediction.x0": lambda: PROCESS.step(x, Prediction(other), 5, 4, 0.0),
        "noise ": lambda: PROCESS.step(x, Prediction(x), 5, 4, 1.0, other),
    }.items():
        sentence = rf"{name.strip()} must have the shape of the data, \(2, 3\), got \(1, 3\)"
        with pytest.raises(ValueError, match=sentence):
            call()


@pytest.mark.parametrize("eta", [-0.1, 1.1, math.nan])
def test_eta_is_a_share(eta: float) -> None:
    x = torch.zeros(2)
    with pytest.raises(ValueError, match=r"eta must lie in \[0, 1\]"):
        PROCESS.step(x, Prediction(x), 5, 4, eta, x)


def test_a_drawing_step_asks_for_its_noise() -> None:
    x = torch.zeros(2)
    with pytest.raises(ValueError, match="the step 5 → 4 with eta = 0.5 draws: give it noise"):
        PROCESS.step(x, Prediction(x), 5, 4, 0.5)


@pytest.mark.parametrize("u", [-0.1, 1.5])
def test_a_number_var_mix_is_a_place_between_the_two(u: float) -> None:
    with pytest.raises(ValueError, match=r"var_mix must lie in \[0, 1\]"):
        PROCESS.posterior_std(5, 0, u)


def test_clean_data_hold_no_noise() -> None:
    with pytest.raises(ValueError, match="clean data"):
        PROCESS.eps_from_x0(torch.zeros(2), torch.zeros(2), 0)


@pytest.mark.parametrize("t", [torch.tensor([3, 3]), torch.tensor([3]), torch.tensor(3)])
def test_a_step_refuses_times_that_are_tensors(t):
    process, x = DDPM(schedules.linear(50)), torch.zeros(2, 3)
    with pytest.raises(ValueError, match="both numbers"):
        process.step(x, Prediction(x), t, 1, eta=0.0)
    with pytest.raises(ValueError, match="both numbers"):
        process.step(x, Prediction(x), 5, t, eta=0.0)
