"""Chapter 03: the claims of its derivation, and its exercises."""

from __future__ import annotations

import pytest
import sympy as sp
import torch

from ddpmlib import data
from ddpmlib.denoiser import EPS, X0, Denoiser, V, oracle
from ddpmlib.losses import diffusion_loss
from ddpmlib.models import UNet, UNetConfig
from ddpmlib.models.unet import AdditiveGN
from ddpmlib.prediction import Prediction
from ddpmlib.process import DDPM, schedules
from ddpmlib.teaching.exercises import check


def test_algorithm_2_is_the_posterior_mean_at_the_implied_x0() -> None:
    alpha_t, abar_s, x, eps = sp.symbols("alpha_t alphabar_s x epsilon", positive=True)
    abar_t = alpha_t * abar_s
    x0 = (x - sp.sqrt(1 - abar_t) * eps) / sp.sqrt(abar_t)
    mean = sp.sqrt(abar_s) * (1 - alpha_t) / (1 - abar_t) * x0
    mean += sp.sqrt(alpha_t) * (1 - abar_s) / (1 - abar_t) * x
    printed = (x - (1 - alpha_t) / sp.sqrt(1 - abar_t) * eps) / sp.sqrt(alpha_t)
    misprinted = (x - (1 - alpha_t) / sp.sqrt(1 - alpha_t) * eps) / sp.sqrt(alpha_t)
    assert sp.simplify(mean - printed) == 0
    assert sp.simplify(mean - misprinted) != 0


def test_the_step_at_eta_1_puts_the_posteriors_factor_on_x_t() -> None:
    a_t, a_s = sp.symbols("a_t a_s", positive=True)
    beta_tilde = (1 - a_s) / (1 - a_t) * (1 - a_t / a_s)
    squared = (1 - a_s - beta_tilde) / (1 - a_t)
    posterior = a_t / a_s * ((1 - a_s) / (1 - a_t)) ** 2
    assert sp.simplify(squared - posterior) == 0


def test_velocity_is_a_rotation() -> None:
    phi, x0, eps = sp.symbols("phi x0 epsilon", real=True)
    pair = sp.Matrix([sp.cos(phi) * x0 + sp.sin(phi) * eps, sp.cos(phi) * eps - sp.sin(phi) * x0])
    back = sp.Matrix([[sp.cos(phi), -sp.sin(phi)], [sp.sin(phi), sp.cos(phi)]]) * pair
    assert sp.simplify(back - sp.Matrix([x0, eps])) == sp.zeros(2, 1)


@pytest.mark.parametrize("t", [5, 50, 95])
def test_the_loss_floor_and_the_variance_of_the_answer_add_up_to_one(t: int) -> None:
    process = DDPM(schedules.cosine(100))
    exact = oracle.Mixture(process, torch.ones(8), data.ring_means(8), torch.full((8,), 0.15))
    g = torch.Generator().manual_seed(t)
    x0, eps = exact.draw(40_000, generator=g), torch.randn(40_000, 2, generator=g)
    x_t = process.q_sample(x0, t, eps)
    best = process.eps_from_x0(x_t, exact(x_t, t).x0, t)
    floor = float(((eps - best) ** 2).mean())
    assert floor + float(best.var()) == pytest.approx(1, abs=0.02)
    assert 0 < floor < 1
    # any other answer loses exactly its distance to the conditional mean
    other = best + 0.3 * torch.sin(x_t)
    gap = float(((other - best) ** 2).mean())
    assert float(((eps - other) ** 2).mean()) == pytest.approx(floor + gap, abs=0.01)


def test_an_untrained_network_loses_exactly_one() -> None:
    """The output layer starts at zero, so the ε-loss is the mean square of the noise: 1."""
    net = UNet(UNetConfig(width=8, mults=(1,), attention=(False,), heads=1))
    denoiser = Denoiser(net, DDPM(schedules.cosine(50)), EPS)
    x, g = torch.zeros(256, 1, 16, 16), torch.Generator().manual_seed(0)
    assert diffusion_loss(denoiser, x, None, g).item() == pytest.approx(1, abs=0.03)


def test_exercise_1() -> None:
    check("3.1", (1.0, 0.7))
    for wrong in ((0.0, 0.0), (1.0, 0.49), (0.7, 1.0)):
        with pytest.raises(AssertionError, match="Hint"):
            check("3.1", wrong)


def test_exercise_2() -> None:
    def eps_from_v(v, x_t, a):  # type: ignore[no-untyped-def]
        return (1 - a) ** 0.5 * x_t + a**0.5 * v

    def v_from_eps(eps, x_t, a):  # type: ignore[no-untyped-def]
        return (eps - (1 - a) ** 0.5 * x_t) / a**0.5

    check("3.2", (eps_from_v, v_from_eps))
    for wrong in ((v_from_eps, eps_from_v), (lambda v, x, a: a**0.5 * x + v, v_from_eps)):
        with pytest.raises(AssertionError, match="Hint"):
            check("3.2", wrong)


def test_exercise_3() -> None:
    check("3.3", lambda a, c: a * c**2 / (a * c**2 + 1 - a))
    for wrong in (lambda a, c: a, lambda a, c: (1 - a) / (a * c**2 + 1 - a), lambda a, c: a * c):
        with pytest.raises(AssertionError, match="Hint"):
            check("3.3", wrong)


@pytest.mark.parametrize("key", ["3.1", "3.2", "3.3", "3.4", "3.5"])
def test_the_skeletons_fail(key: str) -> None:
    with pytest.raises(AssertionError, match="No answer yet"):
        check(key, ...)


# ---- proofs by algebra -------------------------------------------------------------------


@pytest.mark.equation("3.2")
def test_the_conditional_mean_minimises_and_the_variance_remains() -> None:
    """Three possible noises behind one x_t, any probabilities, any answer f."""
    eps, f = sp.symbols("e_1:4", real=True), sp.symbols("f", real=True)
    p1, p2 = sp.symbols("p_1 p_2", positive=True)
    p = (p1, p2, 1 - p1 - p2)

    def mean(values: list[sp.Expr]) -> sp.Expr:
        return sum(a * b for a, b in zip(p, values, strict=True))

    best = mean(list(eps))
    loss = mean([(e - f) ** 2 for e in eps])
    floor = mean([(e - best) ** 2 for e in eps])
    assert sp.expand(loss - floor - (best - f) ** 2) == 0


@pytest.mark.equation("3.4")
@pytest.mark.equation("3.5")
def test_noise_and_data_are_one_guess() -> None:
    a, x, eps = sp.symbols("a x epsilon", positive=True)
    x0 = (x - sp.sqrt(1 - a) * eps) / sp.sqrt(a)
    assert sp.simplify((x - sp.sqrt(a) * x0) / sp.sqrt(1 - a) - eps) == 0


@pytest.mark.equation("3.7")
@pytest.mark.equation("3.8")
def test_at_eta_1_the_ddim_update_is_algorithm_2() -> None:
    alpha, a_s, x, eps = sp.symbols("alpha a_s x epsilon", positive=True)
    a_t = alpha * a_s
    beta_tilde = (1 - a_s) / (1 - a_t) * (1 - alpha)
    on_eps = sp.sqrt(alpha) * (1 - a_s) / sp.sqrt(1 - a_t)  # the root in (3.8), extracted
    assert sp.simplify(on_eps**2 - (1 - a_s - beta_tilde)) == 0
    update = sp.sqrt(a_s) * (x - sp.sqrt(1 - a_t) * eps) / sp.sqrt(a_t) + on_eps * eps
    printed = (x - (1 - alpha) / sp.sqrt(1 - a_t) * eps) / sp.sqrt(alpha)
    assert sp.simplify(update - printed) == 0


@pytest.mark.equation("3.9")
def test_a_step_up_is_the_ddim_step_solved_for_its_start() -> None:
    a_t, a_s, x_t, x_s, eps = sp.symbols("a_t a_s x_t x_s epsilon", positive=True)
    down = sp.sqrt(a_s) * (x_t - sp.sqrt(1 - a_t) * eps) / sp.sqrt(a_t) + sp.sqrt(1 - a_s) * eps
    (up,) = sp.solve(sp.Eq(x_s, down), x_t)
    printed = sp.sqrt(a_t / a_s) * (x_s - sp.sqrt(1 - a_s) * eps) + sp.sqrt(1 - a_t) * eps
    assert sp.simplify(up - printed) == 0


@pytest.mark.equation("3.7")
@pytest.mark.parametrize(("t", "s"), [(80, 40), (500, 460), (20, 19)])
def test_the_other_variance_leaves_the_family(t: int, s: int) -> None:
    """With the true x_0 the noise in x_s has the kernel's variance for every η, but not with β."""
    process = DDPM(schedules.cosine(1000))
    kept, (small, large) = 1 - float(process.alpha_bar[s]), process.variances(t, s)
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)

    def variance(eta: float, var_mix: float) -> float:
        said = Prediction(zero, var_mix)  # the truth: x_0 = 0
        x_t = process.q_sample(zero, t, one)
        on_eps = process.step(x_t, said, t, s, eta, zero)
        on_z = process.step(zero, said, t, s, eta, one)
        return float(on_eps**2 + on_z**2)

    for eta in (0.0, 0.3, 1.0):
        assert variance(eta, 0.0) == pytest.approx(kept, rel=1e-9)
    assert variance(1.0, 1.0) == pytest.approx(kept + float(large) - float(small), rel=1e-9)
    assert variance(1.0, 1.0) > 1.0001 * kept


@pytest.mark.equation("3.11")
def test_adding_the_embedding_is_no_special_case_of_scale_and_shift() -> None:
    """What a group's features share is lost; and no shift after normalising can imitate it."""
    torch.manual_seed(0)
    added = AdditiveGN(2, 8, 4).requires_grad_(False)
    h, e = torch.randn(3, 8, 5, 5), torch.randn(3, 4)
    torch.nn.init.zeros_(added.shift.bias)
    moved = added(h, e) - added.norm(h)
    assert float(moved.std(dim=(2, 3)).max()) > 0.01  # the pixels of a feature move unequally
    added.shift.weight[:4], added.shift.weight[4:] = torch.ones(4, 4), -torch.ones(4, 4)
    assert torch.allclose(added(h, e), added.norm(h), atol=1e-5)


@pytest.mark.equation("3.6")
def test_the_errors_of_the_three_targets_differ_by_known_factors() -> None:
    """‖ε−ε̂‖² : ‖v−v̂‖² : ‖x_0−x̂_0‖² = ᾱ/(1−ᾱ) : 1/(1−ᾱ) : 1, for one prediction."""
    process = DDPM(schedules.cosine(1000))
    g = torch.Generator().manual_seed(0)
    x0, eps, wrong = torch.randn(3, 4, 5, generator=g, dtype=torch.float64)
    for t in (1, 300, 900):
        scale, std = process.kernel(t, x0)
        x_t, a = process.q_sample(x0, t, eps), float(process.alpha_bar[t])
        eps_hat = (x_t - scale * wrong) / std
        errors = [
            ((p.target(x0, eps, scale, std) - p.target(wrong, eps_hat, scale, std)) ** 2).sum()
            for p in (EPS, V, X0)
        ]
        assert float(errors[0] / errors[2]) == pytest.approx(a / (1 - a), rel=1e-9)
        assert float(errors[1] / errors[2]) == pytest.approx(1 / (1 - a), rel=1e-9)


@pytest.mark.equation("3.4")
def test_the_loss_of_the_finite_data_oracle_is_zero_on_its_points_and_large_elsewhere() -> None:
    process = DDPM(schedules.cosine(1000))
    digits = data.load("digits")
    seen, new = data.to_float(digits.x_train), data.to_float(digits.x_test)
    by_heart = oracle.FiniteData(process, seen)

    def loss(x0: torch.Tensor, t: int) -> float:
        eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(t))
        error = ((by_heart(process.q_sample(x0, t, eps), t).x0 - x0) ** 2).mean()
        return float(error) / (1 - float(process.alpha_bar[t]))

    assert loss(seen[:300], 50) < 1e-3 and loss(new, 50) > 5
    assert loss(new, 950) == pytest.approx(loss(seen, 950), rel=0.05)
