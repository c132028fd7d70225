"""Chapter 5: the claims of its derivation, the bugs it warns of, and its exercises."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import sympy as sp
import torch
from torch import Tensor

from ddpmlib import data, losses
from ddpmlib.denoiser import EPS, V, oracle
from ddpmlib.denoiser.parameterization import edm_preconditioning
from ddpmlib.prediction import Prediction
from ddpmlib.process import DDPM, schedules
from ddpmlib.samplers import draw
from ddpmlib.teaching.exercises import check

F64 = torch.float64
WEIGHTS = torch.tensor([0.3, 0.5, 0.2], dtype=F64)
CENTRES = torch.tensor([-1.2, 0.2, 1.4], dtype=F64)
WIDTHS = torch.tensor([0.15, 0.25, 0.1], dtype=F64)
HIGH, LOW = 9.0, -9.0


def from_log_snr(lam: Tensor) -> DDPM:
    """The process that visits these log-SNRs, from high to low."""
    alpha_bar = torch.cat([torch.ones(1, dtype=F64), torch.sigmoid(lam)])
    beta = torch.zeros_like(alpha_bar)
    beta[1:] = 1 - alpha_bar[1:] / alpha_bar[:-1]
    return DDPM(beta)


def straight(T: int) -> DDPM:
    return from_log_snr(torch.linspace(HIGH, LOW, T, dtype=F64))


def cosine_cut(T: int) -> DDPM:
    first, last = (2 / math.pi * math.atan(math.exp(-v / 2)) for v in (HIGH, LOW))
    u = torch.linspace(first, last, T, dtype=F64)
    return from_log_snr(-2 * torch.log(torch.tan(math.pi * u / 2)))


def linear_cut(T: int) -> DDPM:
    def when(lam: float) -> float:
        B = math.log1p(math.exp(-lam))
        return (-0.1 + math.sqrt(0.01 + 4 * 9.95 * B)) / (2 * 9.95)

    u = torch.linspace(when(HIGH), when(LOW), T, dtype=F64)
    return from_log_snr(-torch.log(torch.expm1(0.1 * u + 9.95 * u**2)))


PATHS: dict[str, Callable[[int], DDPM]] = {
    "linear": linear_cut,
    "cosine": cosine_cut,
    "straight": straight,
}


def gaussian_steps(process: DDPM, c: float) -> float:
    """Σ L_{t→t−1}, t = 2..T, for N(0, c²) and its exact denoiser: all in closed form."""
    t = torch.arange(2, process.T + 1)
    snr = torch.exp(schedules.log_snr(process.alpha_bar)[t])
    return float((losses.on_x0(losses.vlb, process, t) * c**2 / (1 + c**2 * snr)).sum())


def mixture_errors(process: DDPM, times: list[int]) -> Tensor:
    """E|x_0 − E[x_0|x_t]|² of the three Gaussians by quadrature, one number per time."""
    mixture, x = (
        oracle.Mixture(process, WEIGHTS, CENTRES, WIDTHS),
        torch.linspace(-7, 7, 2801, dtype=F64),
    )
    power, found = (WEIGHTS * (WIDTHS**2 + CENTRES**2)).sum(), []
    for t in times:
        q = mixture.log_prob(x, t).exp()
        found.append(power - (q * mixture(x, t).x0 ** 2).sum() * (x[1] - x[0]))
    return torch.stack(found)


# ---- the schedules -------------------------------------------------------------------------------


@pytest.mark.equation("5.1")
@pytest.mark.parametrize("T", [30, 1000])
def test_sigmoid_as_printed(T: int) -> None:
    beta, first, last = schedules.sigmoid(T), 0.1 / T, 20 / T
    for t in (1, T // 3, T - 1, T):
        u = 6 * (2 * (t - 1) / (T - 1) - 1)
        assert float(beta[t]) == pytest.approx(first + (last - first) / (1 + math.exp(-u)))


@pytest.mark.equation("5.2")
def test_a_noisy_sample_knows_its_log_snr_and_nothing_else() -> None:
    a = sp.symbols("a", positive=True)
    lam = sp.log(a / (1 - a))
    assert sp.simplify(1 / (1 + sp.exp(-lam)) - a) == 0
    assert sp.simplify((1 - a) / a - sp.exp(-lam)) == 0
    # one log-SNR, three schedules: the same sample up to the factor
    x0, eps = torch.randn(2, 50, generator=torch.Generator().manual_seed(0), dtype=F64)
    for make in PATHS.values():
        process = make(64)
        lam_t = float(schedules.log_snr(process.alpha_bar)[40])
        found = process.q_sample(x0, 40, eps) / process.scale[40]
        torch.testing.assert_close(found, x0 + math.exp(-lam_t / 2) * eps)


@pytest.mark.equation("5.3")
def test_rescaled_linear_is_one_path_for_every_length() -> None:
    gaps = []
    for T in (500, 1000, 2000):
        u = torch.arange(T + 1, dtype=F64) / T
        found = torch.log(DDPM(schedules.linear(T)).alpha_bar)
        gaps.append(float((found + 0.1 * u + 9.95 * u**2).abs().max()))
    assert gaps[2] < 0.05
    for wide, narrow in zip(gaps[:-1], gaps[1:], strict=True):
        assert wide / narrow == pytest.approx(2, rel=0.1)  # the rest vanishes like 1/T


def test_cosine_is_one_path_too() -> None:
    short, long = (DDPM(schedules.cosine(T)).alpha_bar for T in (200, 1000))
    torch.testing.assert_close(short[:-1], long[::5][:-1], rtol=1e-9, atol=0)


@pytest.mark.equation("5.4")
@pytest.mark.parametrize("make", [schedules.linear, schedules.sigmoid, schedules.cosine])
def test_the_density_of_log_snr_is_one_over_the_speed(make: Callable[[int], Tensor]) -> None:
    T = 4000
    lam = schedules.log_snr(DDPM(make(T)).alpha_bar)[1:]
    for low, high in ((-6.0, -3.0), (-1.0, 1.0), (2.0, 5.0)):
        inside = (lam >= low) & (lam < high)
        density = 1 / (T * (lam[:-1] - lam[1:]))  # du/dλ at each step
        area = (density * (lam[:-1] - lam[1:]))[inside[1:]].sum()
        assert float(area) == pytest.approx(float(inside.double().mean()), abs=2 / T)
        # and the speed of the middle predicts how many times fall around it
        k = int((lam - (low + high) / 2).abs().argmin())
        near = (lam - lam[k]).abs() < 0.05
        assert float(near.double().mean()) == pytest.approx(0.1 * float(density[k]), rel=0.12)


@pytest.mark.equation("5.5")
def test_cosine_in_log_snr() -> None:
    u = sp.symbols("u", positive=True)
    lam = sp.log(sp.cos(sp.pi * u / 2) ** 2 / (1 - sp.cos(sp.pi * u / 2) ** 2))
    for value in (0.1, 0.5, 0.9):
        path = float((-2 * sp.log(sp.tan(sp.pi * u / 2))).subs(u, value))
        assert float(lam.subs(u, value)) == pytest.approx(path, abs=1e-12)
        density = -1 / float(sp.diff(lam, u).subs(u, value))
        assert density == pytest.approx(1 / (2 * math.pi * math.cosh(path / 2)), rel=1e-12)
    table = schedules.log_snr(DDPM(schedules.cosine(1000, offset=0.0)).alpha_bar)
    assert float(table[250]) == pytest.approx(-2 * math.log(math.tan(math.pi / 8)), rel=1e-9)


# ---- the bound -----------------------------------------------------------------------------------


@pytest.mark.equation("5.6")
@pytest.mark.parametrize("pair", [(2, 1), (40, 17), (99, 98)])
def test_the_weight_of_a_step_is_half_a_difference_of_snrs(pair: tuple[int, int]) -> None:
    a_t, a_s = sp.symbols("a_t a_s", positive=True)
    beta = 1 - a_t / a_s
    on_x0 = sp.sqrt(a_s) * beta / (1 - a_t)
    weight = on_x0**2 / (2 * (1 - a_s) / (1 - a_t) * beta)
    assert sp.simplify(weight - (a_s / (1 - a_s) - a_t / (1 - a_t)) / 2) == 0

    t, s = pair
    process = DDPM(schedules.cosine(100))
    x0, x_t, guess = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(t), dtype=F64)
    mean, std = process.posterior(x_t, x0, t, s)
    other, _ = process.posterior(x_t, guess, t, s)
    kl = ((mean - other) ** 2).sum(1) / (2 * torch.as_tensor(std) ** 2)
    snr = torch.exp(schedules.log_snr(process.alpha_bar))
    torch.testing.assert_close(kl, 0.5 * (snr[s] - snr[t]) * ((x0 - guess) ** 2).sum(1))


@pytest.mark.equation("5.7")
@pytest.mark.slow
def test_the_bound_of_a_mixture_tends_to_one_number_on_every_path() -> None:
    nodes, weights = np.polynomial.legendre.leggauss(80)
    lam = torch.tensor(-9 * nodes)
    mse = mixture_errors(from_log_snr(lam), list(range(1, 81)))
    limit = float((torch.tensor(9 * weights) * 0.5 * lam.exp() * mse).sum())
    for make in PATHS.values():
        bound = []
        for T in (64, 128, 256):
            process, t = make(T), torch.arange(2, T + 1)
            step = losses.on_x0(losses.vlb, process, t) * mixture_errors(process, t.tolist())
            bound.append(float(step.sum()))
        assert bound[0] > bound[1] > bound[2] > limit  # a finite chain lies above
        # extrapolate the excess away, its parts in 1/T and in 1/T²
        beyond = (8 * bound[2] - 6 * bound[1] + bound[0]) / 3
        assert beyond == pytest.approx(limit, rel=0.1)


@pytest.mark.equation("5.8")
def test_the_same_area_over_snr_over_log_snr_and_over_time() -> None:
    c = 0.7

    def mse(snr: np.ndarray) -> np.ndarray:
        return c**2 / (1 + c**2 * snr)

    nodes, weights = np.polynomial.legendre.leggauss(200)
    lam = LOW + (HIGH - LOW) * (nodes + 1) / 2
    over_lam = (weights * 0.5 * np.exp(lam) * mse(np.exp(lam))).sum() * (HIGH - LOW) / 2
    first, last = (2 / math.pi * math.atan(math.exp(-v / 2)) for v in (HIGH, LOW))
    u = first + (last - first) * (nodes + 1) / 2
    path = -2 * np.log(np.tan(math.pi * u / 2))
    speed = 2 * math.pi * np.cosh(path / 2)
    over_u = (weights * 0.5 * speed * np.exp(path) * mse(np.exp(path))).sum() * (last - first) / 2
    exact = 0.5 * math.log((1 + c**2 * math.exp(HIGH)) / (1 + c**2 * math.exp(LOW)))
    assert over_lam == pytest.approx(exact, rel=1e-9)
    assert over_u == pytest.approx(exact, rel=1e-9)


@pytest.mark.equation("5.9")
@pytest.mark.parametrize("c", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("name", PATHS)
def test_the_gaussian_bound_is_the_information_between_the_ends(name: str, c: float) -> None:
    exact = 0.5 * math.log((1 + c**2 * math.exp(HIGH)) / (1 + c**2 * math.exp(LOW)))
    coarse, fine = (gaussian_steps(PATHS[name](T), c) for T in (20_000, 40_000))
    assert coarse > fine > exact
    assert 2 * fine - coarse == pytest.approx(exact, rel=2e-3)


def _one_draw(process: DDPM, n: int) -> Tensor:
    g = torch.Generator().manual_seed(0)
    k = torch.multinomial(WEIGHTS, n, replacement=True, generator=g)
    x0 = CENTRES[k] + WIDTHS[k] * torch.randn(n, generator=g, dtype=F64)
    eps, t = (
        torch.randn(n, generator=g, dtype=F64),
        torch.randint(2, process.T + 1, (n,), generator=g),
    )
    mixture = oracle.Mixture(process, WEIGHTS, CENTRES, WIDTHS)
    error = x0 - mixture(process.q_sample(x0, t, eps), t).x0
    return (process.T - 1) * losses.on_x0(losses.vlb, process, t) * error**2


@pytest.mark.equation("5.10")
@pytest.mark.parametrize("name", ["cosine", "straight"])
def test_the_variance_of_one_draw_for_gaussian_data(name: str) -> None:
    """For N(0, c²) the ε-error is Gaussian with fourth moment 3 (SNR c²/(1 + c² SNR))²."""
    c, n, T = 0.7, 60_000, 2000
    process, g = PATHS[name](T), torch.Generator().manual_seed(1)
    x0 = c * torch.randn(n, generator=g, dtype=F64)
    eps, t = torch.randn(n, generator=g, dtype=F64), torch.randint(2, T + 1, (n,), generator=g)
    snr = torch.exp(schedules.log_snr(process.alpha_bar))
    x_t, a = process.q_sample(x0, t, eps), process.alpha_bar[t]
    guess = c**2 * a.sqrt() / (a * c**2 + 1 - a) * x_t
    drawn = (T - 1) * losses.on_x0(losses.vlb, process, t) * (x0 - guess) ** 2

    lam = schedules.log_snr(process.alpha_bar)[1:]
    width, mid = lam[:-1] - lam[1:], torch.exp((lam[:-1] + lam[1:]) / 2)
    least = mid * c**2 / (1 + c**2 * mid)
    density = 1 / ((T - 1) * width)
    mean = 0.5 * math.log((1 + c**2 * float(snr[1])) / (1 + c**2 * float(snr[-1])))
    variance = float((0.25 * 3 * least**2 / density * width).sum()) - mean**2
    assert float(drawn.mean()) == pytest.approx(mean, abs=4 * (variance / n) ** 0.5 + 0.02 * mean)
    assert float(drawn.var()) == pytest.approx(variance, rel=0.1)


@pytest.mark.equation("5.11")
def test_no_density_beats_the_root_of_m() -> None:
    lam = torch.linspace(-8, 8, 2001, dtype=F64)
    step, g = float(lam[1] - lam[0]), torch.Generator().manual_seed(0)
    snr = lam.exp()
    m = 3 * (0.5 * snr / (1 + 0.5 * snr)) ** 2
    best = m.sqrt() / (m.sqrt().sum() * step)
    least = float((m / best).sum() * step)
    assert least == pytest.approx(float(m.sqrt().sum() * step) ** 2)
    for _ in range(20):
        bumps = torch.randn(3, generator=g, dtype=F64)
        other = best * torch.exp(
            0.4 * sum(b * torch.sin((i + 1) * lam / 5) for i, b in enumerate(bumps))
        )
        other = other / (other.sum() * step)
        assert float((m / other).sum() * step) > least
    # and in samples: the paths of the chapter are ordered as printed there
    spread = {name: float(_one_draw(make(1000), 20_000).std()) for name, make in PATHS.items()}
    assert spread["linear"] > 1.3 * spread["cosine"] > 1.5 * spread["straight"]


# ---- weightings ----------------------------------------------------------------------------------


@pytest.mark.equation("5.12")
def test_a_change_of_schedule_is_a_change_of_weight() -> None:
    """Times of A weighted with p_B/p_A have the mean of times of B: exact for N(0, c²)."""
    c, T = 0.6, 4000
    means: dict[object, float] = {}
    for name in ("cosine", "straight"):
        lam = schedules.log_snr(PATHS[name](T).alpha_bar)[1:]
        error = lam.exp() * c**2 / (1 + c**2 * lam.exp())
        p_cosine = 1 / (2 * math.pi * torch.cosh(lam / 2))
        p_cosine = p_cosine / (2 / math.pi * (math.atan(math.exp(4.5)) - math.atan(math.exp(-4.5))))
        own = p_cosine if name == "cosine" else torch.full_like(lam, 1 / (HIGH - LOW))
        means[name] = float((p_cosine / own * error).mean())
        means[name, "unweighted"] = float(error.mean())
    assert means["straight"] == pytest.approx(means["cosine"], rel=2e-3)
    assert means["straight", "unweighted"] > 1.1 * means["cosine", "unweighted"]


@pytest.mark.equation("5.13")
def test_one_error_in_three_languages() -> None:
    a, x0, eps, guess = sp.symbols("a x0 epsilon xhat", positive=True)
    x_t = sp.sqrt(a) * x0 + sp.sqrt(1 - a) * eps
    noise = (x_t - sp.sqrt(a) * guess) / sp.sqrt(1 - a)
    v, v_hat = (sp.sqrt(a) * e - sp.sqrt(1 - a) * x for e, x in ((eps, x0), (noise, guess)))
    assert sp.simplify((eps - noise) ** 2 - a / (1 - a) * (x0 - guess) ** 2) == 0
    assert sp.simplify((eps - noise) ** 2 - a * (v - v_hat) ** 2) == 0


# ---- size and end --------------------------------------------------------------------------------


@pytest.mark.equation("5.14")
@pytest.mark.parametrize("n", [2, 4])
def test_average_pooling_undoes_the_shift(n: int) -> None:
    a = sp.symbols("a", positive=True)
    shifted = a / (a + n**2 * (1 - a))
    assert sp.simplify(shifted / (1 - shifted) - a / (1 - a) / n**2) == 0
    g, lam = torch.Generator().manual_seed(0), -0.5
    small = torch.randn(1, 1, 64, 64, generator=g)
    large = small.repeat_interleave(n, 2).repeat_interleave(n, 3)
    for shift, expected in ((0.0, lam + 2 * math.log(n)), (-2 * math.log(n), lam)):
        noise = torch.randn(large.shape, generator=g)
        pooled = torch.nn.functional.avg_pool2d(large + math.exp(-(lam + shift) / 2) * noise, n)
        assert -math.log(float((pooled - small).var())) == pytest.approx(expected, abs=0.1)


def _latent() -> Tensor:
    beta = torch.zeros(1001, dtype=F64)
    beta[1:] = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=F64) ** 2
    return beta


@pytest.mark.equation("5.15")
@pytest.mark.parametrize("side", [8, 64, 512])
@pytest.mark.parametrize("beta", [schedules.linear(1000), _latent()], ids=["linear", "latent"])
def test_signal_left_at_the_end_greys_the_brightness(beta: Tensor, side: int) -> None:
    m, tau, process = -0.39, 0.15, DDPM(beta)
    axis = oracle.Gaussian(
        process, torch.tensor([side * m], dtype=F64), torch.tensor([[(side * tau) ** 2]], dtype=F64)
    )
    z = torch.linspace(-2, 2, 9, dtype=F64)[:, None]
    out = draw(axis, process, z, eta=0.0)[:, 0] / side
    signal = float(process.alpha_bar[-1]) * side**2
    V = signal * tau**2 + 1 - float(process.alpha_bar[-1])
    expected = m * (1 - tau * math.sqrt(signal / V)) + tau / math.sqrt(V) * z[:, 0]
    torch.testing.assert_close(out, expected, atol=0.01, rtol=0)


@pytest.mark.equation("5.16")
def test_zero_terminal_snr_keeps_the_first_amplitude_and_ends_at_zero() -> None:
    a = DDPM(_latent()).scale[1:]
    moved = (a - a[-1]) * a[0] / (a[0] - a[-1])
    assert float(moved[-1]) == 0 and float(moved[0]) == pytest.approx(float(a[0]), rel=1e-14)
    ratio = (moved[:-1] - moved[1:]) / (a[:-1] - a[1:])  # affine: one slope everywhere
    torch.testing.assert_close(ratio, torch.full_like(ratio, float(ratio[0])), rtol=1e-6, atol=0)
    before = torch.cat([torch.ones(1, dtype=F64), moved[:-1]])
    process = DDPM(torch.cat([torch.zeros(1, dtype=F64), 1 - (moved / before) ** 2]))
    assert float(process.alpha_bar[-1]) == 0
    assert process.T == 1000
    # the last step is legal for v and x_0, whose answer at T is the mean of the data
    truth = oracle.Gaussian(
        process, torch.tensor([-25.0]).double(), torch.tensor([[92.0]]).double()
    )
    z = torch.randn(4000, 1, generator=torch.Generator().manual_seed(0), dtype=F64)
    out = draw(truth, process, z, eta=0.0)
    assert float(out.mean()) == pytest.approx(-25, abs=0.5)
    assert float(out.std()) == pytest.approx(92**0.5, rel=0.05)


@pytest.mark.equation("5.17")
def test_karras_loss_divides_by_the_error_of_the_best_linear_denoiser() -> None:
    skip, s, sigma = sp.symbols("c_skip s sigma", positive=True)
    out2 = (1 - skip) ** 2 * s**2 + skip**2 * sigma**2  # Var(x_0 − c_skip z)
    best = sp.solve(sp.diff(out2, skip), skip)
    assert best == [s**2 / (s**2 + sigma**2)]
    least = sp.simplify(out2.subs(skip, best[0]))
    assert sp.simplify(least - 1 / (s**-2 + sigma**-2)) == 0  # mse of (5.9) at SNR 1/σ²
    assert sp.simplify(sigma**2 / least - (1 + sigma**2 / s**2)) == 0


@pytest.mark.equation("5.17")
@pytest.mark.parametrize("s", [0.5, 1.0])
def test_karras_network_has_unit_inputs_and_targets_and_its_loss_is_the_weighted_one(
    s: float,
) -> None:
    g = torch.Generator().manual_seed(0)
    x0 = s * torch.randn(200_000, generator=g, dtype=F64)
    guess = x0 + 0.1 * torch.randn(200_000, generator=g, dtype=F64)
    eps = torch.randn(200_000, generator=g, dtype=F64)
    for sigma in (0.02, 0.4, 7.0):
        c_in, c_skip, c_out = edm_preconditioning(sigma, s)
        z = x0 + sigma * eps
        target, answer = (x0 - c_skip * z) / c_out, (guess - c_skip * z) / c_out
        assert float((c_in * z).var()) == pytest.approx(1, rel=0.02)
        assert float(target.var()) == pytest.approx(1, rel=0.02)
        noise_error = (guess - x0) / sigma  # ε − ε̂, whose sign does not matter
        weighted = (1 + sigma**2 / s**2) * noise_error**2
        torch.testing.assert_close((answer - target) ** 2, weighted)
        if s == 1:  # then it is the plain v-loss, and the target is −v
            a = 1 / (1 + sigma**2)
            torch.testing.assert_close(target, (1 - a) ** 0.5 * x0 - a**0.5 * eps)


def test_karras_noise_levels_are_a_bell_in_log_snr() -> None:
    log_sigma = torch.distributions.Normal(-1.2, 1.2)
    lam = torch.distributions.TransformedDistribution(
        log_sigma, torch.distributions.transforms.AffineTransform(0.0, -2.0)
    )
    x = torch.linspace(-6, 10, 33)
    torch.testing.assert_close(lam.log_prob(x), torch.distributions.Normal(2.4, 2.4).log_prob(x))


# ---- what goes wrong -----------------------------------------------------------------------------


def _digits_left(process: DDPM) -> float:
    x = data.to_float(data.load("digits").x_train).flatten(1).double()
    return oracle.Gaussian(process, x.mean(0), torch.cov(x.T)).kl_to_prior(process.T)


@pytest.mark.parametrize("make", [schedules.linear, schedules.sigmoid, schedules.cosine])
@pytest.mark.parametrize("T", [50, 100, 250, 500, 1000, 4000])
def test_default_schedules_end_in_noise_at_every_length(
    make: Callable[[int], Tensor], T: int
) -> None:
    assert _digits_left(DDPM(make(T))) < 1e-2


def test_unscaled_betas_do_not_end_in_noise() -> None:
    process = DDPM(schedules.linear(100, 1e-4, 0.02))
    assert float(process.alpha_bar[-1]) == pytest.approx(0.36, abs=0.01)
    assert _digits_left(process) > 1


def test_tables_lose_the_first_steps_in_low_precision() -> None:
    beta = schedules.cosine(1000)
    exact = 1 - DDPM(beta).alpha_bar
    errors = {}
    for dtype in (torch.float32, torch.bfloat16):
        rough = 1 - (1 - beta.to(dtype)).cumprod(0)
        errors[dtype] = float((rough.double() / exact - 1)[1:11].abs().max())
    assert 1e-5 < errors[torch.float32] < 0.05
    assert errors[torch.bfloat16] > 0.5
    # whatever dtype a caller hands over, the library multiplies in float64
    assert DDPM(beta.float()).alpha_bar.dtype == F64


def test_a_strided_first_step_blows_up_eps_errors_under_cosine() -> None:
    """An error δ in the network's answer at T, after one step to s: measured on the engine."""

    def after(process: DDPM, kind, s: int) -> float:  # type: ignore[no-untyped-def]
        T, x = process.T, torch.zeros(1, 1, dtype=F64)
        scale, std = process.kernel(T, x)
        moved = []
        for delta in (0.0, 1.0):
            x0, _ = kind.split(torch.full_like(x, delta), x, scale, std)
            moved.append(process.step(x, Prediction(x0), T, s, 1.0, torch.zeros_like(x)))
        return float((moved[1] - moved[0]).abs())

    cosine, linear = DDPM(schedules.cosine(1000)), DDPM(schedules.linear(1000))
    a_T, a_s = float(cosine.alpha_bar[-1]), float(cosine.alpha_bar[980])
    by_hand = (a_s / a_T) ** 0.5 * (1 - a_T / a_s) / (1 - a_T) ** 0.5
    assert after(cosine, EPS, 980) == pytest.approx(by_hand, rel=1e-9)
    assert after(cosine, EPS, 980) > 100
    assert after(cosine, EPS, 999) < 50
    assert after(linear, EPS, 980) < 2
    assert after(cosine, V, 980) < 0.1


# ---- exercises -----------------------------------------------------------------------------------


def test_exercise_1() -> None:
    late = 2 / math.pi * math.atan(math.e**3)
    check("5.1", (0.5, late, -2 * math.log(4)))
    for wrong in ((0.5, late, 2 * math.log(4)), (0.5, 1 - late, -2.77), (0.6, late, -2.77)):
        with pytest.raises(AssertionError, match="Hint"):
            check("5.1", wrong)


def _undo(bar_a: Tensor, bar_b: Tensor) -> Tensor:
    """p_A/p_B by speeds, (5.4): steps of A interpolated at the levels of B."""
    lam_a, lam_b = torch.logit(bar_a[1:]), torch.logit(bar_b[1:])
    middle = ((lam_a[1:] + lam_a[:-1]) / 2).flip(0).numpy()
    density = (1 / len(lam_a) / (lam_a[:-1] - lam_a[1:])).flip(0).numpy()
    edges = torch.cat([lam_b[:1], (lam_b[1:] + lam_b[:-1]) / 2, lam_b[-1:]])
    inside = (lam_b <= lam_a[0]) & (lam_b >= lam_a[-1])
    found = torch.tensor(np.interp(lam_b.numpy(), middle, density))
    return found * (edges[:-1] - edges[1:]) * len(lam_b) * inside


def test_exercise_2() -> None:
    check("5.2", _undo)
    for wrong in (
        lambda a, b: _undo(a, b).clamp(max=2),
        lambda a, b: torch.ones(len(b) - 1),
        lambda a, b: 1 / _undo(a, b).clamp(min=1e-6),
        lambda a, b: torch.cat([torch.zeros(1), _undo(a, b)]),
    ):
        with pytest.raises(AssertionError, match="Hint"):
            check("5.2", wrong)


def test_exercise_3() -> None:
    def levels(alpha_bar: Tensor, n: int, generator: torch.Generator, mean: float = 2.4) -> Tensor:
        lam = mean + 2.4 * torch.randn(n, generator=generator, dtype=F64)
        return (lam[:, None] - torch.logit(alpha_bar[1:])).abs().argmin(1) + 1

    check("5.3", levels)
    for wrong in (
        lambda bar, n, g: levels(bar, n, g, -2.4),
        lambda bar, n, g: levels(bar, n, g) - 1,
        lambda bar, n, g: levels(bar, n, None),
    ):
        with pytest.raises(AssertionError, match="Hint"):
            check("5.3", wrong)


def _best_path(lam: Tensor, m: Tensor, T: int) -> Tensor:
    pieces = 0.5 * (m[1:].sqrt() + m[:-1].sqrt()) * (lam[:-1] - lam[1:])
    area = torch.cat([torch.zeros_like(pieces[:1]), pieces.cumsum(0)])
    return torch.tensor(np.interp(np.linspace(0, 1, T), (area / area[-1]).numpy(), lam.numpy()))


def test_exercise_4() -> None:
    check("5.4", _best_path)
    for wrong in (
        lambda lam, m, T: _best_path(lam, m**2, T),  # the root is missing
        lambda lam, m, T: _best_path(lam, torch.ones_like(m), T),
        lambda lam, m, T: _best_path(lam, m, T).flip(0),
        lambda lam, m, T: _best_path(lam, m, T + 1),
        # cells of the grid counted without their widths
        lambda lam, m, T: _best_path(torch.linspace(1, 0, len(lam), dtype=F64), m, T),
    ):
        with pytest.raises(AssertionError, match="Hint"):
            check("5.4", wrong)


@pytest.mark.parametrize("key", ["5.1", "5.2", "5.3", "5.4"])
def test_the_skeletons_fail(key: str) -> None:
    with pytest.raises(AssertionError, match="No answer yet"):
        check(key, ...)


# ---- proofs by algebra -------------------------------------------------------------------


@pytest.mark.equation("5.3")
def test_the_integral_of_the_rescaled_linear_rate() -> None:
    u, r = sp.symbols("u r", positive=True)
    first, last = sp.Rational(1, 10), sp.Integer(20)  # T β_1 and T β_T at T = 1000
    area = sp.integrate(first + (last - first) * r, (r, 0, u))
    assert sp.expand(area - u / 10 - sp.Rational(995, 100) * u**2) == 0


@pytest.mark.equation("5.5")
def test_the_density_of_cosine_for_every_time() -> None:
    u = sp.symbols("u", positive=True)
    half = sp.pi * u / 2
    lam = -2 * sp.log(sp.tan(half))
    snr = sp.cos(half) ** 2 / sp.sin(half) ** 2
    assert sp.simplify(sp.exp(lam) - snr) == 0
    speed = -sp.diff(lam, u)
    cosh = (sp.exp(lam / 2) + sp.exp(-lam / 2)) / 2  # cosh(λ/2), with e^{λ/2} = 1/tan
    assert sp.simplify(sp.trigsimp(speed - 2 * sp.pi * cosh)) == 0


@pytest.mark.equation("5.8")
@pytest.mark.equation("5.9")
def test_one_area_in_two_variables_and_its_value_for_gaussian_data() -> None:
    lam, r, c, low, high = sp.symbols("lambda r c low high", positive=True)
    mse = c**2 / (1 + c**2 * r)
    over_lam = (r * mse).subs(r, sp.exp(lam))  # E|ε − ε̂|² = SNR · mse
    assert sp.simplify(mse.subs(r, sp.exp(lam)) * sp.diff(sp.exp(lam), lam) - over_lam) == 0
    primitive = sp.log(1 + c**2 * r) / 2
    assert sp.simplify(sp.diff(primitive, r) - mse / 2) == 0
    ends = primitive.subs(r, high) - primitive.subs(r, low)
    closed = sp.log((1 + c**2 * high) / (1 + c**2 * low)) / 2
    assert sp.simplify(sp.expand_log(ends - closed, force=True)) == 0


@pytest.mark.equation("5.11")
def test_the_excess_over_the_least_variance_is_a_sum_of_squares() -> None:
    """Cauchy and Schwarz as Lagrange's identity, for any three levels and any density."""
    m = sp.symbols("m_1:4", positive=True)
    p1, p2 = sp.symbols("p_1 p_2", positive=True)
    p = (p1, p2, 1 - p1 - p2)
    excess = sum(a / b for a, b in zip(m, p, strict=True)) - sum(map(sp.sqrt, m)) ** 2
    squares = sum(
        (sp.sqrt(m[i]) * p[j] - sp.sqrt(m[j]) * p[i]) ** 2 / (p[i] * p[j])
        for i in range(3)
        for j in range(i)
    )
    assert sp.simplify(excess - squares) == 0


@pytest.mark.equation("5.16")
def test_the_rescaled_amplitudes_have_the_ends_that_were_asked_for() -> None:
    root, first, last = sp.symbols("root first last", positive=True)
    rescaled = (root - last) * first / (first - last)
    assert sp.simplify(rescaled.subs(root, first) - first) == 0
    assert rescaled.subs(root, last) == 0
