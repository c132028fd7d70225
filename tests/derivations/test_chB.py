"""Page B: its translations by computer algebra, and its exercises."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import sympy as sp
import torch
from torch import Tensor

from ddpmlib.process import Process, RectifiedFlow
from ddpmlib.teaching.exercises import check

A, B, P, Q = sp.symbols("a b p q", positive=True)
X, E, F, Z = sp.symbols("x_0 epsilon F z")
U, SIGMA, S = sp.symbols("u sigma s", positive=True)
ABAR_T, ABAR_S = sp.symbols("abar_t abar_s", positive=True)


def zero(expression: Any) -> bool:
    return sp.simplify(expression) == 0


@pytest.mark.equation("B.2", "B.3")
def test_parallel_data_have_one_log_snr() -> None:
    k = sp.sqrt(A**2 + B**2)
    scale, std = A / k, B / k
    lam = sp.log(A**2 / B**2)
    assert zero(scale**2 + std**2 - 1)
    assert zero(scale**2 - 1 / (1 + sp.exp(-lam))) and zero(std**2 - 1 / (1 + sp.exp(lam)))


@pytest.mark.equation("B.4", "B.5")
def test_two_mixtures_hold_both_ingredients() -> None:
    found = sp.solve([sp.Eq(A * X + B * E, Z), sp.Eq(P * X + Q * E, F)], [X, E])
    assert zero(found[X] - (Q * Z - B * F) / (A * Q - B * P))
    assert zero(found[E] - (A * F - P * Z) / (A * Q - B * P))


@pytest.mark.equation("B.7")
def test_vdm_step_is_the_posterior_step() -> None:
    c = 1 - ABAR_T * (1 - ABAR_S) / (ABAR_S * (1 - ABAR_T))  # 1 − e^{γ_s − γ_t}
    beta_tilde = (1 - ABAR_S) / (1 - ABAR_T) * (1 - ABAR_T / ABAR_S)
    assert zero((1 - ABAR_S) * c - beta_tilde)
    on_eps = sp.sqrt(ABAR_S / ABAR_T) * sp.sqrt(1 - ABAR_T) * (1 - c)
    assert zero(on_eps**2 - (1 - ABAR_S - beta_tilde))


@pytest.mark.equation("B.8")
def test_vp_kernel_solves_its_moment_equations() -> None:
    low, high = sp.symbols("beta_min beta_max", positive=True)
    rate = low + (high - low) * U
    total = sp.integrate(rate.subs(U, sp.Symbol("r")), (sp.Symbol("r"), 0, U))
    assert zero(total - (low * U + (high - low) * U**2 / 2))
    a, b2 = sp.exp(-total / 2), 1 - sp.exp(-total)
    assert zero(sp.diff(a, U) + rate * a / 2) and zero(sp.diff(b2, U) + rate * b2 - rate)
    assert a.subs(U, 0) == 1 and b2.subs(U, 0) == 0


@pytest.mark.equation("B.9")
def test_logarithm_of_a_step() -> None:
    beta = sp.Symbol("beta")
    series = sp.series(-sp.log(1 - beta), beta, 0, 3).removeO()
    assert zero(series - beta - beta**2 / 2)


@pytest.mark.equation("B.10")
def test_ve_noise_feeds_its_variance() -> None:
    low, high = sp.symbols("sigma_min sigma_max", positive=True)
    sigma = low * (high / low) ** U
    g2 = 2 * sigma**2 * sp.log(high / low)
    assert zero(sp.diff(sigma**2, U) - g2)
    total = sp.integrate(g2, (U, 0, 1))
    assert zero(total - (high**2 - low**2))  # the jump at u = 0: not σ_max²


@pytest.mark.equation("B.11")
def test_edm_network_is_minus_v() -> None:
    c_skip, c_out = S**2 / (SIGMA**2 + S**2), SIGMA * S / sp.sqrt(SIGMA**2 + S**2)
    raw = (X - c_skip * (X + SIGMA * E)) / c_out
    assert zero(raw - (SIGMA * X - S**2 * E) / (S * sp.sqrt(SIGMA**2 + S**2)))
    scale, std = 1 / sp.sqrt(1 + SIGMA**2), SIGMA / sp.sqrt(1 + SIGMA**2)
    assert zero(raw.subs(S, 1) + (scale * E - std * X))


@pytest.mark.equation("B.13")
def test_flow_of_an_sde() -> None:
    drift, g = sp.symbols("f g")
    b_rate = sp.solve(sp.Eq(2 * B * F, 2 * drift * B**2 + g**2), F)[0]
    flow = drift * A * X + b_rate * E
    score = -E / B
    assert zero(flow - (drift * (A * X + B * E) - g**2 * score / 2))


@pytest.mark.equation("B.12")
def test_the_mean_velocity_carries_a_gaussian() -> None:
    """It is the velocity under which each point keeps its quantile."""
    m, s, z = sp.symbols("m s z", positive=True)
    a, b = sp.Function("a")(U), sp.Function("b")(U)
    var = a**2 * s**2 + b**2
    x0 = m + a * s**2 * (z - a * m) / var
    eps = b * (z - a * m) / var
    flow = sp.diff(a, U) * x0 + sp.diff(b, U) * eps
    transport = sp.diff(a, U) * m + sp.diff(sp.sqrt(var), U) * (z - a * m) / sp.sqrt(var)
    assert zero(flow - transport)


@pytest.mark.equation("B.14")
def test_errors_are_tied_together() -> None:
    error = sp.Symbol("delta")
    on_eps = sp.solve(sp.Eq(A * error + B * E, 0), E)[0]
    assert zero(P * error + Q * on_eps + (A * Q - B * P) / B * error)
    # Karras' weight, and that of the velocity ε − x_0 on a straight line
    p, q = SIGMA / (S * sp.sqrt(SIGMA**2 + S**2)), -S / sp.sqrt(SIGMA**2 + S**2)
    assert zero(((q - SIGMA * p) / SIGMA) ** 2 - (SIGMA**2 + S**2) / (SIGMA * S) ** 2)
    assert zero((((1 - U) + U) / U) ** 2 - 1 / U**2)


@pytest.mark.equation("B.15")
def test_euler_is_exact_for_a_fixed_pair_on_straight_lines() -> None:
    u_s, c0, c1, d0, d1 = sp.symbols("u_s c_0 c_1 d_0 d_1")
    a, b = c0 + c1 * U, d0 + d1 * U
    euler = a * X + b * E + (u_s - U) * (sp.diff(a, U) * X + sp.diff(b, U) * E)
    assert zero(euler - (a.subs(U, u_s) * X + b.subs(U, u_s) * E))


@pytest.mark.equation("B.16", "B.17")
def test_log_snr_form_is_the_posterior() -> None:
    """e^(λ−λ′) of the two levels, and what it makes of (2.10)."""
    ratio = ABAR_T * (1 - ABAR_S) / (ABAR_S * (1 - ABAR_T))
    beta = 1 - ABAR_T / ABAR_S
    assert zero((1 - ratio) * (1 - ABAR_T) - beta)
    assert zero((1 - ratio) * (1 - ABAR_S) - (1 - ABAR_S) / (1 - ABAR_T) * beta)
    on_z = ratio * sp.sqrt(ABAR_S / ABAR_T)
    assert zero(on_z - sp.sqrt(ABAR_T / ABAR_S) * (1 - ABAR_S) / (1 - ABAR_T))
    assert zero((1 - ratio) * sp.sqrt(ABAR_S) - sp.sqrt(ABAR_S) * beta / (1 - ABAR_T))


@pytest.mark.equation("B.18")
def test_density_of_their_training_levels() -> None:
    """Uniform u: dλ/du of (B.18) is −1 over the density, a hyperbolic secant; the ends fit."""
    a, b, high = sp.symbols("a b lambda_max", positive=True)
    lam = -2 * sp.log(sp.tan(a * U + b))
    level = sp.Symbol("lambda", real=True)
    at_level = sp.diff(lam, U).subs(U, (sp.atan(sp.exp(-level / 2)) - b) / a)
    density = 1 / (4 * a * sp.cosh(level / 2))
    assert zero((at_level * density + 1).rewrite(sp.exp))
    end = lam.subs(U, 0).subs(b, sp.atan(sp.exp(-high / 2)))
    assert zero(end - high)


# ---- exercises ---------------------------------------------------------------------------


class Circle(Process):
    def __init__(self, turn: float) -> None:
        self.turn = turn

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cos(self.turn * t), torch.sin(self.turn * t)

    def time_of(self, log_snr: Tensor) -> Tensor:
        return torch.atan(torch.exp(-log_snr / 2)) / self.turn


def denoised(score: Any, z: Tensor, sigma: float) -> Tensor:
    k = (1 + sigma**2) ** 0.5
    return z + sigma**2 / k * score(z / k)


def walk(turning: bool, turn: float = math.pi / 2) -> Any:
    """A sampler of exercise B.3: along the tangent, or along the circle."""

    def sampler(denoise: Any, z: Tensor, labels: Tensor) -> Tensor:
        for u, then in pairwise(labels):
            a, b = torch.cos(turn * u), torch.sin(turn * u)
            v, angle = (a * z - denoise(z, u)) / b, turn * (then - u)
            z = torch.cos(angle) * z + torch.sin(angle) * v if turning else z + angle * v
        return z

    return sampler


FLOW, TURN = walk(False), walk(True)


def test_right_answers_pass(capsys: pytest.CaptureFixture[str]) -> None:
    check("B.1", denoised)
    check("B.2", lambda v, x, scale, std: (scale + std) * v + (std - scale) * x)
    check("B.3", (Circle(math.pi / 2), math.pi / 2, FLOW, TURN))
    assert capsys.readouterr().out.count("✓") == 3


def test_turning_is_ddim() -> None:
    """Part 3 of exercise B.3, with a denoiser that changes along the way."""
    circle = Circle(math.pi / 2)
    labels = torch.linspace(0.95, 0.05, 12, dtype=torch.float64)
    z = torch.linspace(-2, 2, 5, dtype=torch.float64)
    found = TURN(lambda z, u: torch.tanh(z) * u, z, labels)
    for u, then in pairwise(labels):
        (a, b), (a_s, b_s) = circle.coefficients(u), circle.coefficients(then)
        x0 = torch.tanh(z) * u
        z = a_s * x0 + b_s * (z - a * x0) / b
    assert torch.allclose(found, z, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("B.1", lambda score, z, sigma: z + sigma**2 * score(z)),
        ("B.1", lambda score, z, sigma: z - sigma**2 * score(z / (1 + sigma**2) ** 0.5)),
        ("B.2", lambda v, x, scale, std: v),
        ("B.2", lambda v, x, scale, std: (scale + std) * v + (scale - std) * x),
        ("B.3", (Circle(math.pi / 2), 1.0, FLOW, TURN)),
        ("B.3", (Circle(math.pi), math.pi, FLOW, TURN)),
        ("B.3", (RectifiedFlow(), math.pi / 2, FLOW, TURN)),
        ("B.3", (Circle(math.pi / 2), math.pi / 2, TURN, TURN)),
        ("B.3", (Circle(math.pi / 2), math.pi / 2, FLOW, FLOW)),
    ],
)
def test_wrong_answers_fail(key: str, answer: Any) -> None:
    with pytest.raises(AssertionError, match=f"✗ {key}"):
        check(key, answer)
