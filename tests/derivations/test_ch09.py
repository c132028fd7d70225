"""Chapter 09: the claims of its derivation, and its exercises."""

from __future__ import annotations

import math

import pytest
import sympy as sp
import torch

from ddpmlib.experiments.uncertainty import over_seeds, share_error, times_floor
from ddpmlib.teaching.exercises import check


@pytest.mark.equation("9.1")
def test_the_error_of_a_share_is_that_of_a_binomial() -> None:
    g = torch.Generator().manual_seed(0)
    p, n = 0.9, 400
    shares = (torch.rand(20_000, n, generator=g) < p).double().mean(1)
    assert float(shares.std()) == pytest.approx(share_error(p, n), rel=0.03)


@pytest.mark.equation("9.2")
def test_training_and_drawing_variances_add_up() -> None:
    g = torch.Generator().manual_seed(1)
    network = 2 + 0.7 * torch.randn(200_000, generator=g, dtype=torch.float64)
    # the drawing noise may depend on the network: the law of total variance does not mind
    spread = 0.3 + 0.2 * network.abs()
    measured = network + spread * torch.randn(200_000, generator=g, dtype=torch.float64)
    assert float(measured.var()) == pytest.approx(
        float(network.var() + (spread**2).mean()), rel=0.02
    )


@pytest.mark.equation("9.3")
def test_real_images_stand_at_one() -> None:
    assert times_floor({"frechet": 0.3, "frechet_floor": 0.3}) == 1
    assert times_floor({"frechet": 0.6, "frechet_floor": 0.2}) == pytest.approx(3)


@pytest.mark.equation("9.4")
def test_the_error_over_seeds_is_the_spread_of_such_means() -> None:
    g = torch.Generator().manual_seed(2)
    tables = 5 + 2 * torch.randn(20_000, 3, generator=g, dtype=torch.float64)
    errors = torch.tensor([over_seeds(row.tolist())[1] for row in tables[:5000]])
    assert float((errors**2).mean()) ** 0.5 == pytest.approx(float(tables.mean(1).std()), rel=0.03)
    # and with three seeds it is uncertain by about half of itself
    assert 0.4 < float(errors.std() / errors.mean()) < 0.6


@pytest.mark.equation("9.5")
@pytest.mark.parametrize(("k", "flattery"), [(2, 1 / math.pi**0.5), (3, 1.5 / math.pi**0.5)])
def test_the_best_of_three_flatters_by_what_the_formula_says(k: int, flattery: float) -> None:
    g = torch.Generator().manual_seed(3)
    best = torch.randn(400_000, k, generator=g, dtype=torch.float64).min(1).values
    assert float(best.mean()) == pytest.approx(-flattery, abs=0.005)


def test_exercises() -> None:
    p, q, n = 0.972, 0.978, 5000
    spread = (p * (1 - p) + q * (1 - q)) ** 0.5
    check("9.1", ((q - p) / (spread / n**0.5), (3 * spread / (q - p)) ** 2))

    def components(F: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        drawing = F.var(dim=1).mean()
        return F.mean(dim=1).var() - drawing / F.shape[1], drawing

    def verdict(a: list[float], b: list[float]) -> tuple[float, float, bool]:
        (mean_a, error_a), (mean_b, error_b) = map(over_seeds, (a, b))
        error = math.hypot(error_a, error_b)
        return mean_a - mean_b, error, abs(mean_a - mean_b) > 2 * error

    check("9.2", components)
    check("9.3", verdict)


def test_wrong_answers_are_refused() -> None:
    def naive(F: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return F.mean(dim=1).var(), F.var(dim=1).mean()  # forgets the drawing noise of the mean

    def hasty(a: list[float], b: list[float]) -> tuple[float, float, bool]:
        (mean_a, error_a), (mean_b, error_b) = map(over_seeds, (a, b))
        return mean_a - mean_b, error_a + error_b, True

    for key, answer in (("9.1", (1.36, 5000)), ("9.2", naive), ("9.3", hasty)):
        with pytest.raises(AssertionError, match="Hint"):
            check(key, answer)


# ---- proofs by algebra -------------------------------------------------------------------


@pytest.mark.equation("9.1")
def test_the_variance_of_a_share_by_summing_the_binomial() -> None:
    p = sp.symbols("p", positive=True)
    for n in (1, 2, 5):
        chances = [sp.binomial(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
        mean = sum(sp.Rational(k, n) * q for k, q in enumerate(chances))
        variance = sum((sp.Rational(k, n) - p) ** 2 * q for k, q in enumerate(chances))
        assert sp.expand(mean - p) == 0
        assert sp.expand(variance - p * (1 - p) / n) == 0


@pytest.mark.equation("9.2")
def test_total_variance_for_any_two_networks() -> None:
    """Network r with chance p or 1 − p; drawing shifts its number by ±d_r."""
    p, d1, d2 = sp.symbols("p d_1 d_2", positive=True)
    m1, m2 = sp.symbols("m_1 m_2", real=True)
    weights, means, spreads = (p, 1 - p), (m1, m2), (d1, d2)
    both = list(zip(weights, means, spreads, strict=True))
    mean = sum(w * m for w, m, _ in both)
    total = sum(w / 2 * ((m + d - mean) ** 2 + (m - d - mean) ** 2) for w, m, d in both)
    training = sum(w * (m - mean) ** 2 for w, m, _ in both)
    drawing = sum(w * d**2 for w, _, d in both)
    assert sp.expand(total - training - drawing) == 0


@pytest.mark.equation("9.4")
def test_the_squared_error_over_seeds_has_the_right_mean() -> None:
    """E s²/k = Var(F)/k for independent F_r: squares average to v + m², products to m²."""
    m, v = sp.symbols("m v", positive=True)
    for k in (2, 3, 5):
        F = sp.symbols(f"F_1:{k + 1}")
        mean = sum(F) / k
        s2 = sp.expand(sum((f - mean) ** 2 for f in F) / (k - 1))
        expected = sum(
            coefficient * sp.prod([{0: 1, 1: m, 2: v + m**2}[n] for n in powers])
            for powers, coefficient in sp.Poly(s2, *F).terms()
        )
        assert sp.expand(expected - v) == 0


@pytest.mark.equation("9.5")
def test_the_smallest_of_two_and_of_three_exactly() -> None:
    """By parts, z φ(z) = −φ'(z): E min = −k(k−1) ∫ φ² (1 − Φ)^{k−2}, two Gaussian integrals."""
    z = sp.symbols("z", real=True)
    density = sp.exp(-(z**2) / 2) / sp.sqrt(2 * sp.pi)
    above = sp.erfc(z / sp.sqrt(2)) / 2
    assert sp.simplify(sp.diff(density, z) + z * density) == 0
    assert sp.simplify(sp.diff(above, z) + density) == 0
    square = sp.integrate(density**2, (z, -sp.oo, sp.oo))
    # above is ½ plus an odd function, and φ² is even
    assert sp.simplify((above - sp.Rational(1, 2)) + (above - sp.Rational(1, 2)).subs(z, -z)) == 0
    assert sp.simplify(-2 * square + 1 / sp.sqrt(sp.pi)) == 0
    assert sp.simplify(-6 * square / 2 + 3 / (2 * sp.sqrt(sp.pi))) == 0
