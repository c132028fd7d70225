"""`process.continuous`: there and back, against exact Gaussians and mixtures, and diffusers."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import jvp

from ddpmlib.denoiser import EPS, SCORE, VELOCITY, X0, Parameterization, V, oracle, parameterization
from ddpmlib.guidance import ClassifierFree
from ddpmlib.prediction import Prediction
from ddpmlib.process import (
    DDPM,
    EDM,
    VDM,
    VE,
    VP,
    FlowMatching,
    Interpolated,
    Process,
    RectifiedFlow,
    SubVP,
    ZeroBased,
    beta_from_alpha_bar,
    kernel,
    schedules,
)
from ddpmlib.samplers import draw, uniform_times

F64 = torch.float64
T = 1000
PROCESS = DDPM(schedules.linear(T))
CONTINUOUS = {
    "vdm": VDM(),
    "edm": EDM(),
    "vp": VP(),
    "ve": VE(),
    "rectified": RectifiedFlow(),
    "flow": FlowMatching(),
    "flow, sigma_min": FlowMatching(0.01),
    "sub-vp": SubVP(),
    "interpolated": Interpolated(PROCESS),
}
LAMBDAS = torch.linspace(-7, 9, 33, dtype=F64)
ANSWERS = {
    "eps": EPS,
    "x0": X0,
    "score": SCORE,
    "velocity": VELOCITY,
    "flow": parameterization.flow_matching_velocity(),
}
each_convention = pytest.mark.parametrize("c", CONTINUOUS.values(), ids=CONTINUOUS)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def gap(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape and a.dtype == b.dtype
    return float((a - b).abs().max())


# ---- there and back ----------------------------------------------------------------------


@pytest.mark.equation("B.2")
@each_convention
def test_labels_and_data_make_the_round_trip(c: Process) -> None:
    x_t = normal(len(LAMBDAS), 2, 3)
    u, z = c.from_book(LAMBDAS, x_t)
    log_snr, back = c.to_book(u, z)
    assert gap(log_snr, LAMBDAS) < 1e-12 and gap(back, x_t) < 1e-12
    again, z_again = c.from_book(*c.to_book(u, z))
    assert gap(again, u) < 1e-12 * max(1, float(u.abs().max()))
    assert gap(z_again, z) < 1e-12 * max(1, float(z.abs().max()))


@pytest.mark.equation("B.2")
@pytest.mark.parametrize("make", [lambda process: process, ZeroBased])
@pytest.mark.parametrize("schedule", [schedules.linear, schedules.cosine])
def test_steps_make_the_round_trip(
    make: Callable[[DDPM], Process], schedule: Callable[[int], Tensor]
) -> None:
    c, process = make(DDPM(schedule(T))), DDPM(schedule(T))
    u = torch.arange(1, T + 1) - (1 if make is ZeroBased else 0)
    z = normal(T, 3)
    log_snr, x_t = c.to_book(u, z)
    assert gap(x_t, z) < 1e-12  # theirs is variance preserving, too
    assert gap(log_snr, schedules.log_snr(process.alpha_bar[1:])) < 1e-9
    again, back = c.from_book(log_snr, x_t)
    assert torch.equal(again, u) and gap(back, z) < 1e-12


@pytest.mark.equation("B.2")
@each_convention
def test_the_book_says_the_same_of_the_same_data(c: Process) -> None:
    """Made in another convention and carried over, data are what q_sample would have made."""
    x0, eps, t = normal(5, 4), normal(5, 4, seed=1), torch.tensor([1, 50, 300, 600, T])
    u = c.time_of(schedules.log_snr(PROCESS.alpha_bar[t]))
    a, b = c.coefficients(u)
    log_snr, x_t = c.to_book(u, a[:, None] * x0 + b[:, None] * eps)
    assert gap(x_t, PROCESS.q_sample(x0, t, eps)) < 1e-12
    assert torch.equal(PROCESS.time_of(log_snr), t)


@pytest.mark.equation("B.3")
def test_kernel_is_that_of_the_process() -> None:
    log_snr = schedules.log_snr(PROCESS.alpha_bar)
    scale, std = kernel(log_snr)
    assert gap(scale, PROCESS.scale) < 1e-12 and gap(std, PROCESS.std) < 1e-12
    assert gap(scale**2 + std**2, torch.ones_like(scale)) < 1e-14


@pytest.mark.equation("B.1")
@each_convention
def test_the_moments_of_noisy_data(c: Process) -> None:
    """Data N(m, s²) become N(a m, a² s² + b²), whatever the letters."""
    u = c.time_of(torch.tensor([0.7], dtype=F64))
    (a, b), n, m, s = c.coefficients(u), 200_000, 1.5, 0.4
    z = a * (m + s * normal(n)) + b * normal(n, seed=1)
    spread = math.sqrt(float(a**2 * s**2 + b**2))
    assert abs(float(z.mean() - a * m)) < 4 * spread / n**0.5
    assert abs(float(z.std()) / spread - 1) < 4 / (2 * n) ** 0.5


def test_float32_data_stay_float32() -> None:
    z = normal(3, 2).float()
    u = torch.tensor([0.1, 1.0, 5.0], dtype=F64)
    assert EDM().to_book(u, z)[1].dtype == EDM().from_book(-2 * u.log(), z)[1].dtype == z.dtype


# ---- the nearest time --------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [schedules.linear, schedules.cosine])
def test_nearest_time_is_the_nearest(schedule: Callable[[int], Tensor]) -> None:
    process = DDPM(schedule(50))
    table = schedules.log_snr(process.alpha_bar)
    asked = torch.linspace(-25, 25, 997, dtype=F64)
    found = process.time_of(asked)
    assert torch.equal(found, 1 + (table[1:] - asked[:, None]).abs().argmin(1))
    assert torch.equal(process.time_of(table), torch.arange(51))


def test_nearest_time_of_a_chain_that_ends_in_pure_noise() -> None:
    process = DDPM(torch.tensor([0.0, 0.2, 0.5, 1.0], dtype=F64))
    infinity = torch.tensor([torch.inf, -torch.inf], dtype=F64)
    assert process.time_of(infinity).tolist() == [0, 3]


@each_convention
def test_pure_noise_and_clean_data_have_labels_or_limits(c: Process) -> None:
    ends = torch.tensor([-torch.inf, torch.inf], dtype=F64)
    if isinstance(c, Interpolated):  # its chain ends a little short of pure noise
        ends[0] = c.log_snr(torch.tensor(c.end, dtype=F64))
    assert torch.equal(c.log_snr(c.time_of(ends)), ends)


# ---- tables ------------------------------------------------------------------------------


@pytest.mark.equation("B.6")
@pytest.mark.parametrize("schedule", [schedules.linear, schedules.cosine, schedules.sigmoid])
def test_running_products_give_the_betas_back(schedule: Callable[[int], Tensor]) -> None:
    beta = schedule(T)
    assert gap(beta_from_alpha_bar(DDPM(beta).alpha_bar[1:]), beta) < 1e-12


def test_betas_in_place_of_products_are_refused() -> None:
    with pytest.raises(ValueError, match="are these β"):
        beta_from_alpha_bar(schedules.linear(T)[1:])
    with pytest.raises(ValueError, match="running products"):
        beta_from_alpha_bar(DDPM(schedules.linear(T)).alpha_bar)  # begins with 1


@pytest.mark.equation("B.9")
def test_the_chain_is_the_sde_up_to_half_the_sum_of_squares() -> None:
    sde, gaps = VP(), []
    for steps in (500, 1000, 2000):
        process = DDPM(schedules.linear(steps))
        ours = -float(process.alpha_bar[-1].log())
        theirs = -2 * float(sde.coefficients(torch.ones(1, dtype=F64))[0].log())
        assert math.isclose(theirs, float(process.beta.sum()), rel_tol=1e-12)
        gaps.append(ours - theirs)
        half = float((process.beta**2).sum()) / 2
        assert abs(gaps[-1] / half - 1) < 15 / steps
    for coarse, fine in pairwise(gaps):
        assert abs(coarse / fine - 2) < 0.05


@pytest.mark.equation("B.9")
def test_the_chain_lags_behind_the_sde_before_it_overtakes() -> None:
    process, t = DDPM(schedules.linear(T)), torch.arange(1, T + 1)
    theirs = -2 * VP().coefficients(t.double() / T)[0].log()
    later = -process.alpha_bar[1:].log() > theirs
    first = int(later.nonzero()[0])
    assert 0.25 * T < first < 0.35 * T and not later[:first].any() and later[first:].all()


@pytest.mark.equation("B.8")
def test_a_table_cut_from_the_sde_is_on_it_exactly() -> None:
    sde = VP()

    def alpha_bar(u: float) -> float:
        return float(sde.coefficients(torch.tensor(u, dtype=F64))[0]) ** 2

    process = DDPM(schedules.from_alpha_bar(100, alpha_bar, max_beta=1.0))
    a, b = sde.coefficients(torch.linspace(0, 1, 101, dtype=F64))
    assert gap(process.scale, a) < 1e-12 and gap(process.std, b) < 1e-12


# ---- what a network says -----------------------------------------------------------------


@pytest.mark.equation("B.4", "B.5")
@pytest.mark.parametrize("p", ANSWERS.values(), ids=ANSWERS)
@each_convention
def test_answers_make_the_round_trip(c: Process, p: Parameterization) -> None:
    x0, eps = normal(len(LAMBDAS), 5), normal(len(LAMBDAS), 5, seed=1)
    a, b = (k[:, None] for k in c.coefficients(c.time_of(LAMBDAS)))
    z, said = a * x0 + b * eps, p.target(x0, eps, a, b)
    back = p.split(said, z, a, b)
    assert gap(back[0], x0) < 1e-12 and gap(back[1], eps) < 1e-12
    assert torch.allclose(p.target(*back, a, b), said, rtol=1e-12, atol=1e-12)


@pytest.mark.equation("B.5")
def test_v_is_one_of_the_linear_answers() -> None:
    ours = parameterization.linear("v", lambda a, b: (-b, a))
    x0, eps = normal(7), normal(7, seed=1)
    for t in (1, 300, T):
        a, b = float(PROCESS.scale[t]), float(PROCESS.std[t])
        z, v = a * x0 + b * eps, V.target(x0, eps, a, b)
        assert gap(ours.target(x0, eps, a, b), v) == 0
        for mine, theirs in zip(ours.split(v, z, a, b), V.split(v, z, a, b), strict=True):
            assert gap(mine, theirs) < 1e-12


@pytest.mark.equation("B.11")
@pytest.mark.parametrize("sigma_data", [0.5, 1.0, 2.0])
def test_edm_output_is_what_the_preconditioning_asks_for(sigma_data: float) -> None:
    x0, eps = normal(6), normal(6, seed=1)
    for sigma in (0.01, 0.3, 1.0, 80.0):
        c_in, c_skip, c_out = parameterization.edm_preconditioning(sigma, sigma_data)
        z = x0 + sigma * eps
        p = parameterization.edm_output(sigma_data)
        said = p.target(x0, eps, 1.0, sigma)
        assert gap(c_skip * z + c_out * said, x0) < 1e-12 * max(1, sigma)
        assert gap(p.split(said, z, 1.0, sigma)[0], x0) < 1e-12 * max(1, sigma)
        # Their reasons: input and target have variance one when the data have sigma_data².
        assert math.isclose(c_in**2 * (sigma_data**2 + sigma**2), 1, rel_tol=1e-12)
        on_x0, on_eps = p.target(torch.eye(2, dtype=F64)[0], torch.eye(2, dtype=F64)[1], 1.0, sigma)
        assert math.isclose(float(on_x0**2 * sigma_data**2 + on_eps**2), 1, rel_tol=1e-12)


@pytest.mark.equation("B.11")
def test_edm_output_with_unit_data_is_minus_v() -> None:
    x0, eps = normal(6), normal(6, seed=1)
    for log_snr in LAMBDAS:
        sigma, (scale, std) = float(EDM().time_of(log_snr)), kernel(log_snr)
        said = parameterization.edm_output(1.0).target(x0, eps, 1.0, sigma)
        assert gap(said, -V.target(x0, eps, scale, std)) < 1e-12


@pytest.mark.equation("B.14")
def test_weights_are_those_of_the_literature() -> None:
    x0, guess = normal(200), normal(200, seed=1)
    for sigma in (0.05, 0.5, 3.0):
        scale, std = (float(k) for k in kernel(torch.tensor(-2 * math.log(sigma))))
        snr = sigma**-2
        known = [
            (EPS, scale, std, snr),
            (X0, scale, std, 1.0),
            (V, scale, std, snr + 1),  # Salimans & Ho 2022
            (SCORE, 1.0, sigma, sigma**-4),
            # Karras et al. 2022, table 1, λ(σ)
            (parameterization.edm_output(0.5), 1.0, sigma, (sigma**2 + 0.25) / (sigma * 0.5) ** 2),
            (VELOCITY, 1 - sigma, sigma, sigma**-2),
        ]
        for p, a, b, expected in known:
            found = float(parameterization.weight(p, a, b))
            assert math.isclose(found, expected, rel_tol=2e-6), p.name
            z = a * x0 + b * normal(200, seed=2)
            error = p.target(guess, (z - a * guess) / b, a, b)
            error = error - p.target(x0, (z - a * x0) / b, a, b)
            assert torch.allclose(error**2, found * (guess - x0) ** 2, rtol=1e-6)


# ---- exact Gaussians and mixtures: score, denoiser, velocity ------------------------------

MEAN, DEVIATION = torch.tensor([0.7, -0.2], dtype=F64), torch.tensor([0.5, 1.3], dtype=F64)


def gaussian_truth(c: Process, u: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Score of z and dz/du along the curve that carries N(a m, a² s² + b²) into itself."""

    def moments(u: Tensor) -> tuple[Tensor, Tensor]:
        a, b = c.coefficients(u)
        return a[:, None] * MEAN, (a[:, None] ** 2 * DEVIATION**2 + b[:, None] ** 2).sqrt()

    (m, s), (dm, ds) = jvp(moments, u, torch.ones_like(u))
    return -(z - m) / s**2, dm + ds * (z - m) / s  # quantiles stay quantiles


@pytest.mark.equation("B.12", "B.5")
@each_convention
def test_score_and_velocity_of_a_gaussian_are_the_book_s_prediction(c: Process) -> None:
    t = torch.tensor([1, 20, 300, 700, T])
    exact = oracle.Gaussian(PROCESS, MEAN, DEVIATION.square().diag())
    x_t = exact.draw(5, 300, generator=torch.Generator().manual_seed(0))
    u, z = c.from_book(schedules.log_snr(PROCESS.alpha_bar[t]), x_t)
    prediction = exact(x_t, t).x0
    eps = PROCESS.eps_from_x0(x_t, prediction, t)
    a, b = (k[:, None] for k in c.coefficients(u))
    score, velocity = gaussian_truth(c, u, z)
    from_score = SCORE.split(score, z, a, b)
    assert torch.allclose(from_score[0], prediction, rtol=1e-8, atol=1e-9)
    assert torch.allclose(c.velocity(u, prediction, eps), velocity, rtol=1e-8, atol=1e-9)


@pytest.mark.equation("B.12")
def test_velocities_that_networks_learn_are_dz_du() -> None:
    x0, eps, u = normal(4, 3), normal(4, 3, seed=1), torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=F64)
    known = [
        (RectifiedFlow(), VELOCITY),
        (FlowMatching(), parameterization.flow_matching_velocity()),
        (FlowMatching(0.1), parameterization.flow_matching_velocity(0.1)),
        (EDM(), EPS),  # dz/dσ = ε, Karras et al. 2022, eqs. 1 and 3
    ]
    for c, p in known:
        assert gap(c.velocity(u, x0, eps), p.target(x0, eps, *c.coefficients(u))) < 1e-14
    with pytest.raises(ValueError, match="times count steps"):
        PROCESS.velocity(torch.tensor([3]), x0[:1], eps[:1])


@pytest.mark.equation("B.12")
@each_convention
def test_a_velocity_takes_expanded_labels_and_knows_no_mode(c: Process) -> None:
    u = torch.tensor(0.3, dtype=F64).expand(2)
    x0, eps = normal(2, 3), normal(2, 3, seed=1)
    outside = c.velocity(u, x0, eps)
    a, b = torch.autograd.functional.jacobian(lambda u: torch.stack(c.coefficients(u)), u[0])
    assert gap(outside, a * x0 + b * eps) < 1e-12
    with torch.inference_mode():
        assert torch.equal(c.velocity(u, x0, eps), outside)


@pytest.mark.equation("B.13")
def test_the_flow_of_an_sde_is_drift_less_half_a_score() -> None:
    """Song et al. 2021, eq. 13, with the score of a mixture from its density by autograd."""
    weights = torch.tensor([0.3, 0.7], dtype=F64)
    centres, stds = torch.tensor([-1.0, 0.8], dtype=F64), torch.tensor([0.1, 0.3], dtype=F64)
    mixture = oracle.Mixture(PROCESS, weights, centres, stds)
    t = torch.tensor([100, 400, 900])
    x_t = torch.tensor([0.2, -0.6, 0.9], dtype=F64)
    prediction = mixture(x_t, t).x0
    eps = PROCESS.eps_from_x0(x_t, prediction, t)
    for c, drift, diffusion2 in (
        (VP(), lambda u, z: -0.5 * (0.1 + 19.9 * u) * z, lambda u: 0.1 + 19.9 * u),
        (
            VE(),
            lambda u, z: 0 * z,
            lambda u: (0.01 * 5000**u) ** 2 * 2 * math.log(5000),
        ),
    ):
        u, z = c.from_book(schedules.log_snr(PROCESS.alpha_bar[t]), x_t)
        a, b = c.coefficients(u)
        at = z.clone().requires_grad_()
        spread = a[:, None] ** 2 * stds**2 + b[:, None] ** 2
        joint = (
            weights.log()
            - 0.5 * spread.log()
            - (at[:, None] - a[:, None] * centres) ** 2 / (2 * spread)
        )
        (score,) = torch.autograd.grad(joint.logsumexp(1).sum(), at)
        flow = drift(u, z) - 0.5 * diffusion2(u) * score
        assert torch.allclose(c.velocity(u, prediction, eps), flow, rtol=1e-9)


@pytest.mark.equation("B.10")
def test_exploding_variance_rises_from_sigma_min() -> None:
    u = torch.tensor([0.0, 1e-15, 0.5, 1.0], dtype=F64)
    a, b = VE(0.01, 50.0).coefficients(u)
    assert torch.equal(a, torch.ones_like(u)) and float(b[0]) == 0  # clean data: the paper's jump
    assert torch.allclose(b[1:], torch.tensor([0.01, math.sqrt(0.5), 50.0], dtype=F64), rtol=1e-12)


# ---- samplers ----------------------------------------------------------------------------


@pytest.mark.equation("B.7")
def test_the_step_of_vdm_is_the_ancestral_step() -> None:
    """Kingma et al. 2021 sample with γ and expm1 instead of ᾱ and β̃."""
    x_t, x0, noise = normal(4, 3), normal(4, 3, seed=1), normal(4, 3, seed=2)
    gamma = -schedules.log_snr(PROCESS.alpha_bar)
    for t, s in [(2, 1), (500, 499), (1000, 700), (40, 3)]:
        g_t, g_s = gamma[t], gamma[s]
        (a_t, sigma_t), (a_s, sigma_s) = VDM().coefficients(g_t), VDM().coefficients(g_s)
        c = -torch.expm1(g_s - g_t)
        eps = (x_t - a_t * x0) / sigma_t
        theirs = a_s / a_t * (x_t - sigma_t * c * eps) + sigma_s * c.sqrt() * noise
        ours = PROCESS.step(x_t, Prediction(x0), t, s, 1.0, noise)
        assert gap(theirs, ours) < 1e-12


def algorithm_2(
    denoise: Callable[[Tensor, int, Tensor], Tensor],
    z: Tensor,
    levels: Tensor,
    labels: tuple[Tensor, Tensor],
    w: float,
    v: float,
    generator: torch.Generator,
) -> Tensor:
    """Ho & Salimans 2022, in their letters: α_λ, σ_λ, σ̃² and σ² from λ alone."""
    for k, lam in enumerate(levels):
        alpha, sigma = torch.sigmoid(lam).sqrt(), torch.sigmoid(-lam).sqrt()
        given, null = ((z - alpha * denoise(z, k, y)) / sigma for y in labels)
        x = (z - sigma * ((1 + w) * given - w * null)) / alpha
        if k + 1 == len(levels):
            return x
        after = levels[k + 1]
        alpha_, sigma_ = torch.sigmoid(after).sqrt(), torch.sigmoid(-after).sqrt()
        shrink = torch.exp(lam - after)
        mean = shrink * alpha_ / alpha * z + (1 - shrink) * alpha_ * x
        tilde, other = (1 - shrink) * sigma_**2, (1 - shrink) * sigma**2
        noise = torch.randn(z.shape, generator=generator, dtype=z.dtype)
        z = mean + (tilde ** (1 - v) * other**v).sqrt() * noise
    raise AssertionError


@pytest.mark.equation("B.16", "B.17")
@pytest.mark.parametrize(("w", "v"), [(0.0, 0.0), (1.5, 0.3), (4.0, 1.0), (-1.0, 0.7)])
def test_classifier_free_guidance_by_log_snr_is_the_guided_sampler(w: float, v: float) -> None:
    numbers = torch.tensor([[0.4, 0.6], [-1.0, 0.8], [0.3, 0.4]], dtype=F64)
    classes = oracle.Mixture(PROCESS, *numbers, labels=torch.arange(2))
    guided, y = ClassifierFree(classes, w), torch.arange(2).repeat(20)
    times, x_T = uniform_times(PROCESS.T, 25), normal(40)

    def denoise(z: Tensor, k: int, label: Tensor) -> Tensor:
        return classes(z, times[k], label).x0

    def with_v(x: Tensor, t: Any, y: Tensor) -> Prediction:
        return Prediction(guided(x, t, y).x0, v)

    ours = draw(with_v, PROCESS, x_T, times, y=y, generator=torch.Generator().manual_seed(1))
    levels = schedules.log_snr(PROCESS.alpha_bar[torch.tensor(times[:-1])])
    labels = y, classes.without(y)
    theirs = algorithm_2(denoise, x_T, levels, labels, w, v, torch.Generator().manual_seed(1))
    assert gap(theirs, ours) < 1e-9
    turned = algorithm_2(denoise, x_T, levels, labels, w, 1 - v, torch.Generator().manual_seed(1))
    assert gap(turned, ours) > 1e-3  # the exponents belong where they are


@pytest.mark.equation("B.18")
def test_their_training_levels_are_those_of_a_cosine_schedule() -> None:
    """In the middle, where neither the ends of λ nor the clip of β matter."""
    u = torch.arange(100, 901, dtype=F64) / 1000
    b, top = (math.atan(math.exp(-lam / 2)) for lam in (20.0, -20.0))
    theirs = -2 * torch.log(torch.tan((top - b) * u + b))
    ours = schedules.log_snr(DDPM(schedules.cosine(1000, offset=0.0)).alpha_bar)[100:901]
    assert gap(theirs, ours) < 1e-3
    assert float(torch.special.expit(theirs[0])) > 0.97 > 0.03 > float(theirs[-1].sigmoid())


@pytest.mark.equation("B.15")
@pytest.mark.parametrize("c", [EDM(), RectifiedFlow(), FlowMatching()])
def test_euler_along_straight_lines_is_ddim(c: Process) -> None:
    centres = torch.tensor([[-1.0, 0.5], [0.8, 0.2]], dtype=F64)
    ones = torch.ones(2, dtype=F64)
    mixture = oracle.Mixture(PROCESS, ones, centres, 0.2 * ones)
    for t, s in [(1000, 800), (800, 300), (300, 1)]:
        x_t = mixture.draw(6, t, generator=torch.Generator().manual_seed(t))
        prediction = mixture(x_t, t)
        ours = PROCESS.step(x_t, prediction, t, s, eta=0.0)
        levels = schedules.log_snr(PROCESS.alpha_bar[torch.tensor([t, s])])
        u, z = c.from_book(levels[:1].expand(6), x_t)
        eps = PROCESS.eps_from_x0(x_t, prediction.x0, t)
        u_s = c.time_of(levels[1:]).expand(6)
        z_s = z + (u_s - u)[:, None] * c.velocity(u, prediction.x0, eps)
        assert gap(c.to_book(u_s, z_s)[1], ours) < 1e-11


def test_euler_in_the_time_of_an_sde_is_not_ddim() -> None:
    c, x0, eps = VP(), normal(1, 3), normal(1, 3, seed=1)
    u, u_s = torch.tensor([0.5], dtype=F64), torch.tensor([0.4], dtype=F64)
    (a, b), (a_s, b_s) = c.coefficients(u), c.coefficients(u_s)
    z_s = a * x0 + b * eps + (u_s - u) * c.velocity(u, x0, eps)
    assert gap(z_s, a_s * x0 + b_s * eps) > 1e-2


# ---- errors ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VP(2.0, 1.0), "must rise from 0"),
        (lambda: VE(0.0, 1.0), "must rise from above 0"),
        (lambda: FlowMatching(1.0), r"\[0, 1\)"),
        (lambda: parameterization.edm_output(0.0), "positive"),
        (lambda: VP(0.1, math.inf), "must rise from 0"),
        (lambda: VE(0.1, math.inf), "must rise from above 0"),
        (lambda: parameterization.flow_matching_velocity(1.5), r"\[0, 1\)"),
        (lambda: parameterization.edm_output(math.inf), "positive"),
        (lambda: beta_from_alpha_bar(torch.tensor([0.9, 0.5, -0.1])), "are these β"),
    ],
)
def test_bad_numbers_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_labels_that_name_no_level_are_refused() -> None:
    process = DDPM(schedules.linear(T))
    with pytest.raises(ValueError, match="not a number"):
        process.time_of(EDM().log_snr(torch.tensor([-1.0])))
    for c, label in ((process, -1), (ZeroBased(process), -2)):
        with pytest.raises(ValueError, match="times must lie in"):
            c.coefficients(torch.tensor([label]))


# ---- diffusers ---------------------------------------------------------------------------

diffusers = pytest.importorskip("diffusers")


@pytest.mark.equation("B.6")
@pytest.mark.parametrize(
    ("name", "schedule"),
    [
        ("linear", schedules.linear),
        ("squaredcos_cap_v2", schedules.cosine),
        ("sigmoid", schedules.sigmoid),
    ],
)
def test_their_table_becomes_ours(name: str, schedule: Callable[[int], Tensor]) -> None:
    theirs = diffusers.DDPMScheduler(num_train_timesteps=T, beta_schedule=name)
    beta = beta_from_alpha_bar(theirs.alphas_cumprod)
    assert gap(beta, schedule(T)) < 2e-4  # theirs is float32, and a difference of near numbers
    process, c = DDPM(schedule(T)), ZeroBased(DDPM(schedule(T)))
    i = torch.arange(T)
    assert gap(c.coefficients(i)[0], theirs.alphas_cumprod.double().sqrt()) < 1e-5
    assert torch.equal(c.time_of(schedules.log_snr(process.alpha_bar[1:])), i)


@pytest.mark.parametrize(("kind", "p"), [("epsilon", EPS), ("v_prediction", V)])
def test_their_euler_scheduler_speaks_edm(kind: str, p: Parameterization) -> None:
    """σ = √((1−ᾱ)/ᾱ), data x_0 + σ ε, and ε or v in the σ language."""
    scheduler = diffusers.EulerDiscreteScheduler(
        num_train_timesteps=T, prediction_type=kind, timestep_spacing="trailing"
    )
    scheduler.set_timesteps(T)
    i = 400
    lam = schedules.log_snr(PROCESS.alpha_bar[i + 1])
    sigma = float(EDM().time_of(lam))
    assert math.isclose(sigma, float(scheduler.sigmas[T - 1 - i]), rel_tol=1e-4)
    scheduler.sigmas = scheduler.sigmas.double()
    scheduler.sigmas[T - 1 - i] = sigma
    x0, eps = normal(1, 4), normal(1, 4, seed=1)
    scale, std = float(PROCESS.scale[i + 1]), float(PROCESS.std[i + 1])
    _, z = EDM().from_book(lam[None], scale * x0 + std * eps)
    time = scheduler.timesteps[T - 1 - i]
    assert gap(scheduler.scale_model_input(z, time), scale * x0 + std * eps) < 1e-12
    out = scheduler.step(p.target(x0, eps, scale, std), time, z)
    assert gap(out.pred_original_sample.double(), x0) < 1e-6  # they compute in float32


@pytest.mark.equation("B.11")
@pytest.mark.parametrize(("kind", "sign"), [("epsilon", 1.0), ("v_prediction", -1.0)])
def test_their_edm_scheduler_preconditions_alike(kind: str, sign: float) -> None:
    scheduler = diffusers.EDMEulerScheduler(sigma_data=0.5, prediction_type=kind)
    x0, eps, sigma = normal(2, 4), normal(2, 4, seed=1), 1.7
    z, p = x0 + sigma * eps, parameterization.edm_output(0.5)
    said = sign * p.target(x0, eps, 1.0, sigma)
    assert gap(scheduler.precondition_outputs(z, said, sigma), x0) < 1e-12
    c_in, _, _ = parameterization.edm_preconditioning(sigma)
    assert gap(scheduler.precondition_inputs(z, sigma), c_in * z) < 1e-12


@pytest.mark.equation("B.1", "B.15")
def test_their_flow_scheduler_is_rectified() -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=T)
    scheduler.set_timesteps(10)
    x0, eps = normal(1, 4), normal(1, 4, seed=1)
    time, u, u_s = scheduler.timesteps[3], scheduler.sigmas[3].double(), scheduler.sigmas[4]
    a, b = RectifiedFlow().coefficients(u)
    z = a * x0 + b * eps
    assert gap(scheduler.scale_noise(x0, time[None], eps), z) < 1e-6
    out = scheduler.step(VELOCITY.target(x0, eps, a, b), time, z).prev_sample.double()
    a_s, b_s = RectifiedFlow().coefficients(u_s.double())
    assert gap(out, a_s * x0 + b_s * eps) < 1e-6


@pytest.mark.equation("B.8", "B.13")
def test_their_vp_scheduler_has_our_kernel() -> None:
    """Its network says ε (called ``score`` there); it steps by Euler–Maruyama."""
    deprecated = pytest.importorskip("diffusers.schedulers.deprecated.scheduling_sde_vp")
    scheduler = deprecated.ScoreSdeVpScheduler()
    scheduler.set_timesteps(100)
    x0, eps, u = normal(3, 4), normal(3, 4, seed=1), torch.full((3,), 0.6, dtype=F64)
    c = VP()
    a, b = (k[:, None] for k in c.coefficients(u))
    z, beta = a * x0 + b * eps, 0.1 + 19.9 * 0.6
    _, mean = scheduler.step_pred(eps, z, u)
    # Reverse drift f − g² s, twice the flow less f; their step is −1/100 of a unit of time.
    drift = 2 * c.velocity(u, x0, eps) + 0.5 * beta * z
    assert gap(mean, z - drift / 100) < 1e-12


@pytest.mark.equation("B.10")
def test_their_ve_scheduler_has_our_sigmas() -> None:
    scheduler = diffusers.ScoreSdeVeScheduler(sigma_min=0.01, sigma_max=50.0)
    scheduler.set_sigmas(101, 0.01, 50.0)
    u = torch.linspace(0, 1, 101, dtype=F64).clamp(min=1e-9)  # at 0 ours are clean
    b = VE(0.01, 50.0).coefficients(u)[1]
    assert torch.allclose(scheduler.discrete_sigmas.double(), b, rtol=1e-5)
