"""Chapter 08: the claims of its derivations, the trap that its test catches, its exercises."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import scipy.linalg
import sympy as sp
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ddpmlib import data, zoo
from ddpmlib.evaluation import Moments, features, frechet_distance, metrics
from ddpmlib.teaching.exercises import check

F64 = torch.float64


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def covariance(dim: int, seed: int) -> Tensor:
    mix = normal(dim, dim + 2, seed=seed)
    return mix @ mix.T / dim


def root(c: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(c)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def known(mean: Tensor, cov: Tensor) -> Moments:
    return Moments.known(10**9, mean, cov)


def transport(a: Tensor, b: Tensor) -> Tensor:
    half = root(a)
    inverse = torch.linalg.inv(half)
    return inverse @ root(half @ b @ half) @ inverse


# ---- the distance ------------------------------------------------------------------------------


@pytest.mark.equation("8.1", "8.5")
@pytest.mark.slow
def test_the_best_of_all_pairings_costs_the_closed_form() -> None:
    """A combinatorial search over pairings of finite samples, which knows no formula."""
    a, b, shift = covariance(2, 1), covariance(2, 2), torch.tensor([1.0, -0.5], dtype=F64)
    x, y = normal(1200, 2, seed=3) @ root(a), shift + normal(1200, 2, seed=4) @ root(b)
    cost = torch.cdist(x, y) ** 2
    rows, columns = linear_sum_assignment(cost.numpy())
    best = float(cost[rows, columns].mean())
    closed = frechet_distance(x, y)  # for the moments of these very samples, a lower bound
    assert closed * (1 - 1e-3) <= best <= 1.1 * closed
    assert float(cost.mean()) > 1.5 * closed
    exact = frechet_distance(known(0 * shift, a), known(shift, b))
    assert best == pytest.approx(exact, rel=0.2)


@pytest.mark.equation("8.2")
@pytest.mark.parametrize("strength", [-1.0, 0.0, 0.5])
def test_a_pairing_enters_by_the_trace_of_the_cross_covariance(strength: float) -> None:
    n = 400
    x = normal(n, 3) @ covariance(3, 1)
    y = 0.5 + strength * x + normal(n, 3, seed=2) ** 2
    dx, dy = x - x.mean(0), y - y.mean(0)
    cross = (dx * dy).sum() / n
    right = ((x.mean(0) - y.mean(0)) ** 2).sum() + (dx**2).sum() / n + (dy**2).sum() / n
    assert float(((x - y) ** 2).sum(1).mean()) == pytest.approx(float(right - 2 * cross))


@pytest.mark.equation("8.3")
def test_in_one_dimension_sorting_is_the_best_pairing() -> None:
    mean_a, dev_a, mean_b, dev_b = 0.3, 0.8, -0.5, 1.7
    quantiles = torch.special.ndtri((torch.arange(20_000, dtype=F64) + 0.5) / 20_000)
    x, y = mean_a + dev_a * quantiles, mean_b + dev_b * quantiles
    exact = (mean_a - mean_b) ** 2 + (dev_a - dev_b) ** 2
    assert float(((x - y) ** 2).mean()) == pytest.approx(exact, rel=1e-3)
    assert float(((x - y.flip(0)) ** 2).mean()) > 2 * exact
    m, s = (torch.tensor([[v], [w]], dtype=F64) for v, w in ((mean_a, mean_b), (dev_a, dev_b)))
    found = frechet_distance(known(m[0], s[:1] ** 2), known(m[1], s[1:] ** 2))
    assert found == pytest.approx(exact)


@pytest.mark.equation("8.4")
def test_no_correlation_of_gaussians_has_a_larger_trace() -> None:
    a, b = covariance(4, 1), covariance(4, 2)
    most = float(root(root(a) @ b @ root(a)).trace())
    left, singular, right = torch.linalg.svd(root(b) @ root(a))
    assert float(singular.sum()) == pytest.approx(most)
    cross = root(a) @ (right.T @ left.T) @ root(b)
    assert float(cross.trace()) == pytest.approx(most)
    joint = torch.cat([torch.cat([a, cross], 1), torch.cat([cross.T, b], 1)])
    assert float(torch.linalg.eigvalsh(joint).min()) > -1e-10  # a genuine covariance
    for seed in range(200):  # any contraction R is a correlation, and none does better
        u, s, v = torch.linalg.svd(normal(4, 4, seed=seed))
        contraction = (u * s.clamp(max=1)) @ v
        assert float((root(a) @ contraction @ root(b)).trace()) <= most


def test_covariances_that_commute_need_only_their_eigenvalues() -> None:
    turn, _ = torch.linalg.qr(normal(5, 5))
    first, second = normal(5, seed=1) ** 2, normal(5, seed=2) ** 2
    zero = torch.zeros(5, dtype=F64)
    found = frechet_distance(
        known(zero, turn * first @ turn.T), known(zero, turn * second @ turn.T)
    )
    assert found == pytest.approx(float(((first.sqrt() - second.sqrt()) ** 2).sum()))


@pytest.mark.equation("8.6")
def test_the_map_reaches_the_other_gaussian_at_the_cost_of_the_distance() -> None:
    a, b = covariance(5, 1), covariance(5, 2)
    found, zero = transport(a, b), torch.zeros(5, dtype=F64)
    assert torch.allclose(found, found.T) and bool((torch.linalg.eigvalsh(found) > 0).all())
    assert torch.allclose(found @ a @ found.T, b)
    gap = torch.eye(5, dtype=F64) - found
    cost = float((gap @ a @ gap.T).trace())
    assert cost == pytest.approx(frechet_distance(known(zero, a), known(zero, b)))
    shortcut = torch.linalg.cholesky(b) @ torch.linalg.inv(torch.linalg.cholesky(a))
    gap = torch.eye(5, dtype=F64) - shortcut  # arrives too, by a longer way
    assert torch.allclose(shortcut @ a @ shortcut.T, b)
    assert float((gap @ a @ gap.T).trace()) > 1.01 * cost


@pytest.mark.equation("8.7")
@pytest.mark.parametrize("rank", [6, 3])
def test_the_two_traces_agree(rank: int) -> None:
    thin = normal(6, rank, seed=1)
    a, b = thin @ thin.T, covariance(6, 2)
    symmetric = float(root(root(a) @ b @ root(a)).trace())
    values = np.linalg.eigvals((a @ b).numpy())
    assert float(values.real.min()) > -1e-9
    assert abs(values.imag).max() < 1e-6
    assert symmetric == pytest.approx(np.sqrt(values.real.clip(min=0)).sum(), rel=1e-6)
    if rank == 6:
        printed = scipy.linalg.sqrtm((a @ b).numpy())
        assert symmetric == pytest.approx(float(printed.trace().real))
        assert np.abs(printed - printed.T).max() > 0.01  # and it is not symmetric


@pytest.mark.equation("8.5")
def test_for_other_distributions_the_distance_is_a_lower_bound() -> None:
    """Two spikes against a Gaussian of the same moments: (8.5) is 0, the transport is not."""
    quantiles = torch.special.ndtri((torch.arange(10_000, dtype=F64) + 0.5) / 10_000)
    spikes = quantiles.sign()
    spikes = spikes * quantiles.std() / spikes.std()
    assert frechet_distance(spikes[:, None], quantiles[:, None]) == pytest.approx(0, abs=1e-9)
    true = float(((spikes.sort().values - quantiles.sort().values) ** 2).mean())
    assert true == pytest.approx(2 - 2 * math.sqrt(2 / math.pi), rel=0.01)


# ---- Inception Score, KID, precision and recall ------------------------------------------------


@pytest.mark.equation("8.8", "8.9")
def test_the_score_is_the_exponential_of_a_mutual_information() -> None:
    p = (2 * normal(300, 7)).softmax(1)
    marginal = p.mean(0)
    kl = (p * (p / marginal).log()).sum(1).mean()
    information = -(marginal * marginal.log()).sum() + (p * p.log()).sum(1).mean()
    assert float(kl) == pytest.approx(float(information))
    score = metrics.inception_score(p.log() + 3.0, splits=1)
    assert score.mean == pytest.approx(math.exp(float(information)))


@pytest.mark.equation("8.10")
def test_the_score_lies_between_one_and_the_number_of_classes() -> None:
    k = 7
    sure, same = 200 * torch.eye(k, dtype=F64), normal(1, k).expand(50, k)
    assert metrics.inception_score(sure.repeat(4, 1), splits=1).mean == pytest.approx(k)
    assert metrics.inception_score(same, splits=1).mean == pytest.approx(1)
    for seed in range(20):
        score = metrics.inception_score(seed * normal(60, k, seed=seed), splits=1).mean
        assert 1 - 1e-9 <= score <= k


@pytest.mark.equation("8.11")
def test_the_discrepancy_is_a_distance_of_mean_feature_lists() -> None:
    """(x·y/d + 1)³ written out as an inner product of all monomials up to degree three."""
    d = 2
    x, y = normal(30, d), 0.5 + 2 * normal(40, d, seed=1)

    def phi(z: Tensor) -> Tensor:
        u = torch.cat([z / d**0.5, torch.ones(len(z), 1, dtype=F64)], 1)
        return torch.einsum("ni,nj,nk->nijk", u, u, u).flatten(1)

    def kernel(p: Tensor, q: Tensor) -> Tensor:
        return (p @ q.T / d + 1) ** 3

    assert torch.allclose(kernel(x, y), phi(x) @ phi(y).T)
    squared = ((phi(x).mean(0) - phi(y).mean(0)) ** 2).sum()
    spelled = kernel(x, x).mean() + kernel(y, y).mean() - 2 * kernel(x, y).mean()
    assert float(squared) == pytest.approx(float(spelled))


@pytest.mark.equation("8.12")
@pytest.mark.slow
def test_kid_averages_to_zero_and_its_biased_form_does_not() -> None:
    """Sets of 6 drawn with repetition from 8 points: the expectations are finite sums."""
    population = normal(8, 2) ** 2

    def kernel(p: Tensor, q: Tensor) -> Tensor:
        return (p @ q.T / 2 + 1) ** 3

    everything = kernel(population, population)
    same = everything.mean()  # E k(x, x') for draws with repetition
    g = torch.Generator().manual_seed(0)
    unbiased, biased = [], []
    for _ in range(2000):
        x, y = (population[torch.randint(8, (6,), generator=g)] for _ in range(2))
        unbiased.append(metrics.kid(x, y, subsets=1, size=6, generator=g).mean)
        biased.append(float(kernel(x, x).mean() + kernel(y, y).mean() - 2 * kernel(x, y).mean()))
    error = 4 * np.std(unbiased) / 2000**0.5
    assert abs(np.mean(unbiased)) < error
    bias = 2 * float(everything.trace() / 8 - same) / 6  # (E k(x,x) − E k(x,x'))/n for each set
    assert np.mean(biased) == pytest.approx(bias, abs=4 * np.std(biased) / 2000**0.5)
    assert bias > 3 * error


@pytest.mark.equation("8.13")
def test_precision_and_recall_tell_bad_from_missing() -> None:
    real = torch.cat([normal(200, 3), 40 + normal(200, 3, seed=1)])
    one_mode = normal(400, 3, seed=2)
    precision, recall = metrics.precision_recall(real, one_mode)
    assert precision > 0.8 and 0.3 < recall <= 0.5
    bad = torch.cat([real[::2] + 0.01, normal(200, 3, seed=3) - 40])
    precision, recall = metrics.precision_recall(real, bad)
    assert precision == pytest.approx(0.5, abs=0.05) and recall > 0.8
    # by counting, in as many words
    few, fakes = normal(12, 2), normal(9, 2, seed=4)
    hits = 0
    for fake in fakes:
        radii = [sorted(float((r - o).norm()) for o in few)[3] for r in few]
        hits += any(float((fake - r).norm()) <= w for r, w in zip(few, radii, strict=True))
    assert metrics.precision_recall(few, fakes)[0] == pytest.approx(hits / 9)


# ---- the bias ----------------------------------------------------------------------------------


@pytest.mark.equation("8.15")
def test_second_order_of_the_trace_of_a_root() -> None:
    r1, r2 = sp.symbols("r1 r2", positive=True)
    a, b, c, s = sp.symbols("a b c s", real=True)
    matrix = sp.Matrix([[r1**2 + s * a, s * b], [s * b, r2**2 + s * c]])
    inside = matrix.trace() + 2 * sp.sqrt(matrix.det())  # (tr √M)²
    first, second = (sp.diff(inside, s, k).subs(s, 0) for k in (1, 2))
    value = r1 + r2
    slope, bend = first / (2 * value), second / (2 * value) - first**2 / (4 * value**3)
    assert sp.simplify(slope - a / (2 * r1) - c / (2 * r2)) == 0
    claimed = -(a**2 / (2 * r1**3) + c**2 / (2 * r2**3) + 2 * b**2 / (r1 * r2 * value)) / 4
    assert sp.simplify(bend / 2 - claimed) == 0


@pytest.mark.equation("8.15")
def test_the_expansion_leaves_an_error_of_third_order() -> None:
    r, e = torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=F64), normal(4, 4)
    e = (e + e.T) / 2
    pairs = r[:, None] * r * (r[:, None] + r)
    errors = []
    for s in (1e-2, 1e-3):
        exact = torch.linalg.eigvalsh(torch.diag(r**2) + s * e).sqrt().sum()
        order = r.sum() + s * (e.diagonal() / (2 * r)).sum() - s**2 * (e**2 / pairs).sum() / 4
        errors.append(abs(float(exact - order)))
    assert errors[1] < 2e-3 * errors[0]


def gaussian_constant(a: Tensor, b: Tensor) -> float:
    r = torch.linalg.eigvalsh(root(b) @ a @ root(b)).sqrt()
    return float(a.trace() + (r[:, None] * r / (r[:, None] + r)).sum() / 2 + r.sum() / 4)


def constant(x: Tensor, b: Tensor) -> float:
    """c of (8.16), for the rows of x as the population."""
    x = x - x.mean(0)
    squares, vectors = torch.linalg.eigh(root(b) @ (x.T @ x / len(x)) @ root(b))
    r, z = squares.sqrt(), x @ root(b) @ vectors
    var = (z**2).T @ z**2 / len(z) - (z.T @ z / len(z)) ** 2
    pairs = r[:, None] * r * (r[:, None] + r)
    return float((x**2).sum() / len(x) + (var / pairs).sum() / 2)


def measured_bias(
    sample: Callable[[int, torch.Generator], Tensor], reference: Moments, truth: float, n: int
) -> tuple[float, float]:
    """n times the mean excess over the truth, and its standard error."""
    g = torch.Generator().manual_seed(n)
    values = [frechet_distance(sample(n, g), reference) - truth for _ in range(600)]
    return n * float(np.mean(values)), n * float(np.std(values)) / 600**0.5


@pytest.mark.equation("8.14", "8.17")
def test_the_bias_of_gaussians_is_predicted() -> None:
    a, b = covariance(6, 1), covariance(6, 2)
    shift = torch.full((6,), 0.05, dtype=F64)
    reference = known(shift, b)
    truth, c = frechet_distance(known(0 * shift, a), reference), gaussian_constant(a, b)

    def sample(n: int, g: torch.Generator) -> Tensor:
        return torch.randn(n, 6, generator=g, dtype=F64) @ root(a)

    found, error = measured_bias(sample, reference, truth, 200)
    assert abs(found - c) < 4 * error + 0.05 * c
    assert found > 4 * error  # there is something to predict


@pytest.mark.equation("8.17")
@pytest.mark.parametrize("d", [1, 8, 64])
def test_equal_isotropic_sets_have_a_quadratic_bias(d: int) -> None:
    cov = 3.0 * torch.eye(d, dtype=F64)
    assert gaussian_constant(cov, cov) == pytest.approx(3 * d * (d + 5) / 4)


@pytest.mark.equation("8.16")
def test_the_bias_of_other_distributions_is_predicted() -> None:
    """A finite population, heavy-tailed and skewed, drawn with repetition."""
    population = normal(500, 3).exp() @ covariance(3, 1)
    b = covariance(3, 2)
    reference = known(population.mean(0) + 0.2, b)
    spread = torch.cov(population.T, correction=0)
    truth = frechet_distance(known(population.mean(0), spread), reference)
    c = constant(population, b)
    assert abs(c / gaussian_constant(spread, b) - 1) > 0.2  # not what a Gaussian would have

    def sample(n: int, g: torch.Generator) -> Tensor:
        return population[torch.randint(500, (n,), generator=g)]

    found, error = measured_bias(sample, reference, truth, 2000)
    assert abs(found - c) < 4 * error + 0.05 * c


@pytest.mark.equation("8.16", "8.17")
def test_the_general_constant_contains_the_gaussian_one() -> None:
    a, b = covariance(4, 1), covariance(4, 2)
    x = normal(400_000, 4) @ root(a)
    assert constant(x, b) == pytest.approx(gaussian_constant(a, b), rel=0.02)


@pytest.mark.equation("8.14")
def test_a_line_in_one_over_n_ends_near_the_truth() -> None:
    a, zero = covariance(8, 1), torch.zeros(8, dtype=F64)
    reference = known(zero, a)  # the same distribution: the truth is 0
    g = torch.Generator().manual_seed(0)
    sizes, plain, ends = (200, 400, 600, 800), [], []
    for _ in range(40):
        pool = torch.randn(800, 8, generator=g, dtype=F64) @ root(a)
        curve = [
            float(
                np.mean(
                    [
                        frechet_distance(pool[torch.randperm(800, generator=g)[:n]], reference)
                        for _ in range(4)
                    ]
                )
            )
            for n in sizes
        ]
        plain.append(curve[-1])
        ends.append(float(np.polyfit(1 / np.array(sizes), curve, 1)[1]))
    assert np.mean(plain) > 5 * np.std(plain) / 40**0.5
    error = np.std(ends) / 40**0.5
    assert abs(np.mean(ends)) < 4 * error and 4 * error < np.mean(plain)


@pytest.mark.equation("8.18")
@pytest.mark.parametrize("n", [2, 5, 9])
def test_few_samples_cannot_come_close(n: int) -> None:
    b = covariance(9, 3)
    spectrum = torch.linalg.eigvalsh(b).flip(0)
    bound, zero = float(spectrum[n - 1 :].sum()), torch.zeros(9, dtype=F64)
    reference = known(zero, b)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in range(100):
            x = normal(n, 9, seed=seed) @ root(b)
            assert frechet_distance(x, reference) >= bound
    # the bound is attained by the covariance that keeps the leading axes
    vectors = torch.linalg.eigh(b).eigenvectors.flip(1)
    kept = vectors[:, : n - 1] * spectrum[: n - 1]
    best = frechet_distance(known(zero, kept @ vectors[:, : n - 1].T), reference)
    assert best == pytest.approx(bound, rel=1e-6)


# ---- the trap ----------------------------------------------------------------------------------


def test_real_images_through_the_path_of_samples_reach_the_floor() -> None:
    """The check of every evaluation: real images, as floats, rounded to bytes and read again.

    The same path with its range broken ends hundreds of floors away, with a low score.
    """
    images = data.load("digits")
    classifier, _ = zoo.load("digits-classifier", device="cpu")
    train, _ = features.extract(classifier, images.x_train)
    test, logits = features.extract(classifier, images.x_test)
    floor = frechet_distance(test, train)
    real_score = metrics.inception_score(logits, splits=1).mean

    def path(x: Tensor) -> tuple[float, float]:  # what samples of a model go through
        h, logits = features.extract(classifier, data.to_uint8(x))
        score = metrics.inception_score(logits, splits=1).mean
        return frechet_distance(h, train) / floor, score / real_score

    x = data.to_float(images.x_test)
    assert path(x) == pytest.approx((1, 1), abs=0.02)
    ratio, score = path((x + 1) / 2)
    assert ratio > 50 and score < 0.4


def test_one_image_per_class_beats_real_images_in_the_score_only() -> None:
    images = data.load("digits")
    classifier, _ = zoo.load("digits-classifier", device="cpu")
    train, _ = features.extract(classifier, images.x_train)
    test, real = features.extract(classifier, images.x_test)
    first = torch.stack([images.x_test[images.y_test == k][0] for k in range(10)])
    h, logits = features.extract(classifier, first.repeat(36, 1, 1, 1))
    score = metrics.inception_score(logits, splits=1).mean
    assert score > metrics.inception_score(real, splits=1).mean
    assert frechet_distance(h, train) > 10 * frechet_distance(test, train)


# ---- exercises ---------------------------------------------------------------------------------


def fails(key: str, *answers: object) -> None:
    for wrong in answers:
        with pytest.raises(AssertionError, match="Hint"):
            check(key, wrong)


def test_exercise_1() -> None:
    check("8.1", (10.0, 2 ** (2 / 3)))
    fails("8.1", (18.0, 2 ** (2 / 3)), (10.0, 2 / 3 * math.log(2)), (10.0, 2.0), (9.0, 1.587))


def test_exercise_2() -> None:
    check("8.2", ("B", "A", 3000))
    fails("8.2", ("A", "A", 3000), ("B", "B", 3000), ("B", "A", 1000))


def test_exercise_3() -> None:
    check("8.3", transport)

    def by_cholesky(a: Tensor, b: Tensor) -> Tensor:
        return torch.linalg.cholesky(b) @ torch.linalg.inv(torch.linalg.cholesky(a))

    fails(
        "8.3",
        by_cholesky,
        lambda a, b: root(b) @ torch.linalg.inv(root(a)),
        lambda a, b: -transport(a, b),
        lambda a, b: transport(b, a),
    )


def test_exercise_4() -> None:
    def forge(real: Tensor, divisor: int = 1) -> Tensor:
        values, vectors = torch.linalg.eigh(torch.cov(real.T))
        axes = (vectors * ((2 * len(values) - divisor) / 2 * values).sqrt()).T
        return real.mean(0) + torch.cat([axes, -axes])

    check("8.4", forge)
    fails(
        "8.4",
        lambda real: forge(real, divisor=0),
        lambda real: forge(real) - real.mean(0),
        lambda real: real[: 2 * real.shape[1]],
        lambda real: real,
    )


@pytest.mark.parametrize("key", ["8.1", "8.2", "8.3", "8.4"])
def test_the_skeletons_fail(key: str) -> None:
    with pytest.raises(AssertionError, match="No answer yet"):
        check(key, ...)


# ---- proofs by algebra -------------------------------------------------------------------


@pytest.mark.equation("8.3")
def test_in_one_dimension_the_cost_falls_with_the_correlation() -> None:
    a, b = sp.symbols("sigma_a sigma_b", positive=True)
    gap, rho = sp.symbols("gap rho", real=True)
    cost = gap**2 + a**2 + b**2 - 2 * rho * a * b  # (8.2) with the covariance ρ σ_a σ_b
    assert sp.diff(cost, rho) == -2 * a * b  # so ρ = 1 is cheapest
    assert sp.expand(cost.subs(rho, 1) - gap**2 - (a - b) ** 2) == 0


@pytest.mark.equation("8.6")
def test_the_map_carries_one_covariance_to_the_other_in_any_dimension() -> None:
    """With symbols that do not commute: R = C_a^½, Q² = R C_b R, T = R⁻¹ Q R⁻¹."""
    R, Q, C_b = sp.symbols("R Q C_b", commutative=False)
    T = R**-1 * Q * R**-1
    carried = sp.expand(T * R * R * T)  # T C_a Tᵀ, and T is symmetric
    assert carried == R**-1 * Q**2 * R**-1
    assert R**-1 * (R * C_b * R) * R**-1 == C_b
    # the pairing has E (x − m_a)(y − m_b)ᵀ = C_a T, of the trace of R Q R⁻¹, which is that of Q
    assert sp.expand(R * R * T) == R * Q * R**-1


@pytest.mark.equation("8.7")
def test_both_products_have_the_same_eigenvalues() -> None:
    """For 2×2: trace and determinant of C_a C_b and of R C_b R with R² = C_a agree."""
    r = sp.symbols("r_1:4", real=True)
    b = sp.symbols("b_1:4", real=True)
    R = sp.Matrix([[r[0], r[1]], [r[1], r[2]]])
    C_b = sp.Matrix([[b[0], b[1]], [b[1], b[2]]])
    one, other = R * R * C_b, R * C_b * R
    assert sp.expand(one.trace() - other.trace()) == 0
    assert sp.expand(one.det() - other.det()) == 0


@pytest.mark.equation("8.8")
@pytest.mark.equation("8.9")
def test_the_mean_divergence_is_a_difference_of_entropies() -> None:
    """Any two images, any verdicts over three classes."""
    first, second = sp.symbols("p_1:3", positive=True), sp.symbols("q_1:3", positive=True)
    rows = [(*row, 1 - sum(row)) for row in (first, second)]
    mean = [(a + b) / 2 for a, b in zip(*rows, strict=True)]
    kl = sum(p * (sp.log(p) - sp.log(m)) for row in rows for p, m in zip(row, mean, strict=True))
    entropies = [-sum(p * sp.log(p) for p in row) for row in (*rows, mean)]
    assert sp.simplify(kl / 2 - entropies[2] + (entropies[0] + entropies[1]) / 2) == 0


@pytest.mark.equation("8.11")
@pytest.mark.equation("8.12")
def test_the_kernel_form_of_the_discrepancy_and_its_unbiased_estimate() -> None:
    """Features φ of two possible samples on each side, the kernel is their inner product."""
    x, y = sp.symbols("x_1:3", real=True), sp.symbols("y_1:3", real=True)
    p, q = sp.symbols("p q", positive=True)
    px, qy = (p, 1 - p), (q, 1 - q)

    def pairs(a: tuple, b: tuple, u: tuple, v: tuple) -> sp.Expr:  # E k over independent draws
        return sum(a[i] * b[j] * u[i] * v[j] for i in range(2) for j in range(2))

    squared = (sum(a * b for a, b in zip(px, x, strict=True)) - q * y[0] - (1 - q) * y[1]) ** 2
    kernels = pairs(px, px, x, x) + pairs(qy, qy, y, y) - 2 * pairs(px, qy, x, y)
    assert sp.expand(squared - kernels) == 0
    # the estimate from three draws, averaged over all that may be drawn
    unbiased = biased = sp.Integer(0)
    for drawn in product(range(2), repeat=3):
        chance = sp.prod(px[i] for i in drawn)
        kernel = [[x[i] * x[j] for j in drawn] for i in drawn]
        whole = sum(map(sum, kernel))
        unbiased += chance * (whole - sum(kernel[i][i] for i in range(3))) / 6
        biased += chance * whole / 9
    assert sp.expand(unbiased - pairs(px, px, x, x)) == 0
    assert sp.expand(biased - pairs(px, px, x, x)) != 0


@pytest.mark.equation("8.16")
@pytest.mark.equation("8.17")
def test_gaussian_fourth_moments_turn_the_general_bias_into_the_gaussian_one() -> None:
    r = sp.symbols("r_1:4", positive=True)  # roots of the eigenvalues of S, so Var z_i = r_i²

    def variance(i: int, j: int) -> sp.Expr:  # of z_i z_j, by Isserlis
        return r[i] ** 2 * r[j] ** 2 * (2 if i == j else 1)

    indices = [(i, j) for i in range(3) for j in range(3)]
    general = sum(variance(i, j) / (r[i] * r[j] * (r[i] + r[j])) for i, j in indices) / 2
    gaussian = sum(r[i] * r[j] / (r[i] + r[j]) for i, j in indices) / 2 + sum(r) / 4
    assert sp.simplify(general - gaussian) == 0
