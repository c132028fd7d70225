"""`denoiser.oracle`: the truth itself, checked by quadrature, autograd, scipy and brute force."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from ddpmlib.denoiser import oracle
from ddpmlib.process import DDPM, schedules

F64 = torch.float64
T = 100
PROCESS = DDPM(schedules.cosine(T))
TIMES = [1, 10, 50, 90, 100]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=F64)


def mixture(*shape: int) -> oracle.Mixture:
    """Four components in the given shape of data, of unequal weights and widths."""
    return oracle.Mixture(
        PROCESS, f64(1, 2, 3, 4), normal(4, *shape, seed=7), f64(0.3, 0.05, 0.6, 0.1)
    )


def gaussian(dim: int = 3) -> oracle.Gaussian:
    root = normal(dim, dim, seed=3)
    return oracle.Gaussian(PROCESS, normal(dim, seed=4), root @ root.T / dim)


ORACLES = {
    "mixture in 1-D": mixture(),
    "mixture in 2-D": mixture(2),
    "mixture of images": mixture(1, 2, 3),
    "finite data": oracle.FiniteData(PROCESS, normal(6, 2, seed=5)),
    "finite images": oracle.FiniteData(PROCESS, normal(6, 1, 2, 2, seed=5)),
    "Gaussian": gaussian(),
    "flat Gaussian": oracle.Gaussian(PROCESS, f64(1, 2), torch.ones(2, 2, dtype=F64)),
}
each = pytest.mark.parametrize("exact", ORACLES.values(), ids=ORACLES)


def states(exact, n: int, t: int) -> Tensor:
    """Noised data, and some far from anything."""
    x = exact.draw(n, t, generator=seeded(t))
    return torch.cat([x, 3 * normal(*x.shape, seed=9)])


# ---- densities and scores ----------------------------------------------------------------


@each
@pytest.mark.parametrize("t", TIMES)
def test_the_score_is_the_gradient_of_log_prob(exact, t: int) -> None:
    x = states(exact, 5, t).requires_grad_()
    (slope,) = torch.autograd.grad(exact.log_prob(x, t).sum(), x)
    assert slope.shape == x.shape
    found = exact.score(x.detach(), t)
    torch.testing.assert_close(found, slope, rtol=1e-9, atol=1e-9 * float(slope.abs().max()))


@each
@pytest.mark.parametrize("t", TIMES)
def test_tweedie_turns_the_score_into_the_prediction(exact, t: int) -> None:
    """E[x_0|x_t] = (x_t + (1−ᾱ_t) ∇ log q(x_t)) / √ᾱ_t (Efron 2011), with autograd's gradient."""
    x = states(exact, 5, t).requires_grad_()
    (slope,) = torch.autograd.grad(exact.log_prob(x, t).sum(), x)
    expected = (x.detach() + float(1 - PROCESS.alpha_bar[t]) * slope) / float(PROCESS.scale[t])
    found = exact(x.detach(), t)
    assert found.var_mix == 0
    # Dividing by √ᾱ_t magnifies the rounding of the right-hand side, not that of the oracle.
    room = 1e-11 * float(x.detach().abs().max()) / float(PROCESS.scale[t])
    torch.testing.assert_close(found.x0, expected, rtol=1e-9, atol=room)


@pytest.mark.parametrize("t", [0, *TIMES])
def test_log_prob_of_a_mixture_is_scipys(t: int) -> None:
    weights, means, stds = f64(0.2, 0.8), f64(-1, 0.5), f64(0.5, 0.1)
    exact = oracle.Mixture(PROCESS, weights, means, stds)
    x = torch.linspace(-2.5, 2.5, 41, dtype=F64)
    a = float(PROCESS.alpha_bar[t])
    density = sum(
        w * stats.norm.pdf(x.numpy(), math.sqrt(a) * m, math.sqrt(a * s**2 + 1 - a))
        for w, m, s in zip(weights.tolist(), means.tolist(), stds.tolist(), strict=True)
    )
    torch.testing.assert_close(
        exact.log_prob(x, t).exp(), torch.from_numpy(density), rtol=1e-10, atol=1e-300
    )


@pytest.mark.parametrize("t", [0, *TIMES])
def test_log_prob_in_many_dimensions_is_scipys(t: int) -> None:
    exact, a = mixture(2, 2), float(PROCESS.alpha_bar[t])
    x = exact.draw(9, t, generator=seeded())
    means, variances = normal(4, 4, seed=7), [0.09, 0.0025, 0.36, 0.01]
    density = sum(
        w
        * stats.multivariate_normal.pdf(
            x.flatten(1).numpy(), math.sqrt(a) * m.numpy(), a * v + 1 - a
        )
        for w, m, v in zip([0.1, 0.2, 0.3, 0.4], means, variances, strict=True)
    )
    torch.testing.assert_close(exact.log_prob(x, t), torch.from_numpy(density).log())


@pytest.mark.parametrize("t", [0, *TIMES])
def test_log_prob_of_a_gaussian_is_scipys(t: int) -> None:
    mean, cov = f64(0.5, -1, 2), f64(2, 0.3, 0.1, 0.3, 1, -0.2, 0.1, -0.2, 0.5).reshape(3, 3)
    exact, a = oracle.Gaussian(PROCESS, mean, cov), float(PROCESS.alpha_bar[t])
    x = exact.draw(9, t, generator=seeded())
    density = stats.multivariate_normal(
        math.sqrt(a) * mean.numpy(), (a * cov + (1 - a) * torch.eye(3)).numpy()
    )
    torch.testing.assert_close(exact.log_prob(x, t), torch.from_numpy(density.logpdf(x.numpy())))


# ---- the posterior mean ------------------------------------------------------------------


@pytest.mark.parametrize("t", TIMES)
def test_the_prediction_is_the_posterior_mean_by_quadrature(t: int) -> None:
    weights, means, stds = f64(0.25, 0.75), f64(-1, 0.7), f64(0.4, 0.15)
    exact = oracle.Mixture(PROCESS, weights, means, stds)
    x0 = torch.linspace(-4, 4, 16_001, dtype=F64)
    parts = zip(weights.tolist(), means.tolist(), stds.tolist(), strict=True)
    prior = sum(w * stats.norm.pdf(x0.numpy(), m, s) for w, m, s in parts)
    scale, std = float(PROCESS.scale[t]), float(PROCESS.std[t])
    for x_t in (-2.0, -0.3, 0.0, 0.4, 1.5):
        log_likelihood = -((x_t - scale * x0) ** 2) / (2 * std**2)
        p = torch.from_numpy(prior) * (log_likelihood - log_likelihood.max()).exp()
        expected = float((p * x0).sum() / p.sum())
        assert float(exact(f64(x_t), t).x0) == pytest.approx(expected, abs=1e-7)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(t=st.integers(1, T), seed=st.integers(0, 10_000))
def test_finite_data_by_brute_force(t: int, seed: int) -> None:
    """A softmax over the points, one by one, in float64."""
    points, x = normal(5, 3, seed=seed), 2 * normal(4, 3, seed=seed + 1)
    found = oracle.FiniteData(PROCESS, points)(x, t).x0
    scale, var = float(PROCESS.scale[t]), float(PROCESS.std[t]) ** 2
    for i in range(4):
        logits = [-float(((x[i] - scale * point) ** 2).sum()) / (2 * var) for point in points]
        shares = [math.exp(v - max(logits)) for v in logits]
        by_hand = sum(share / sum(shares) * p for share, p in zip(shares, points, strict=True))
        torch.testing.assert_close(found[i], by_hand, rtol=1e-10, atol=1e-10)


def test_one_point_is_always_the_answer() -> None:
    point = normal(1, 1, 3, 3)
    exact = oracle.FiniteData(PROCESS, point)
    for t in TIMES:
        found = exact(5 * normal(4, 1, 3, 3, seed=t), t).x0
        torch.testing.assert_close(found, point.expand(4, 1, 3, 3), rtol=0, atol=1e-14)


@pytest.mark.parametrize("t", [0, *TIMES])
def test_a_mixture_of_one_is_a_gaussian(t: int) -> None:
    mean, std = f64(1, -2), 0.4
    one = oracle.Mixture(PROCESS, f64(3), mean[None], f64(std))
    other = oracle.Gaussian(PROCESS, mean, std**2 * torch.eye(2, dtype=F64))
    x = normal(7, 2)
    for a, b in [
        (one(x, t).x0, other(x, t).x0),
        (one.score(x, t), other.score(x, t)),
        (one.log_prob(x, t), other.log_prob(x, t)),
    ]:
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("t", TIMES)
def test_the_gaussian_prediction_is_linear_regression(t: int) -> None:
    """E[x_0|x_t] = m + Cov(x_0, x_t) Cov(x_t)⁻¹ (x_t − √ᾱ m), with a solver and no eigenvectors."""
    exact, a = gaussian(), PROCESS.alpha_bar[t]
    root, mean, x = normal(3, 3, seed=3), normal(3, seed=4), normal(5, 3)
    cov = root @ root.T / 3
    inside = a * cov + (1 - a) * torch.eye(3, dtype=F64)
    gain = torch.linalg.solve(inside, a.sqrt() * cov).T
    torch.testing.assert_close(exact(x, t).x0, mean + (x - a.sqrt() * mean) @ gain.T)


@each
def test_no_estimate_has_less_error_than_the_prediction(exact) -> None:
    """E[x_0|x_t] is the least-squares answer: bending it in any way costs."""
    x0 = exact.draw(20_000, generator=seeded())
    x_t = PROCESS.q_sample(x0, 50, torch.randn(x0.shape, generator=seeded(1), dtype=F64))
    prediction = exact(x_t, 50).x0

    def error(guess: Tensor) -> float:
        return float(((guess - x0) ** 2).mean())

    for other in (
        0.9 * prediction,
        1.1 * prediction,
        prediction + 0.1,
        prediction + 0.05 * x_t,
        prediction - 0.05 * x_t,
    ):
        assert error(prediction) < error(other)


@pytest.mark.parametrize("exact", [mixture(), mixture(2), gaussian()])
def test_at_time_zero_prediction_is_knowledge(exact) -> None:
    x = exact.draw(5, generator=seeded())
    torch.testing.assert_close(exact(x, 0).x0, x)


# ---- times, shapes, precision ------------------------------------------------------------


@each
def test_a_vector_of_times_treats_each_sample_alone(exact) -> None:
    t = torch.tensor([1, 7, 50, 99, 100])
    x = exact.draw(5, 50, generator=seeded())
    prediction, score, log_prob = exact(x, t).x0, exact.score(x, t), exact.log_prob(x, t)
    assert prediction.shape == score.shape == x.shape and log_prob.shape == (5,)
    for i, t_i in enumerate(t.tolist()):
        x_i = x[i : i + 1]
        torch.testing.assert_close(prediction[i : i + 1], exact(x_i, t_i).x0, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(score[i : i + 1], exact.score(x_i, t_i), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(
            log_prob[i : i + 1], exact.log_prob(x_i, t_i), rtol=1e-9, atol=1e-9
        )


@each
def test_labels_are_ignored(exact) -> None:
    x = exact.draw(4, 50, generator=seeded())
    assert torch.equal(exact(x, 50, torch.arange(4)).x0, exact(x, 50).x0)


@pytest.mark.parametrize("shape", [(), (2,), (5, 3), (1, 4, 4), (2, 4, 5, 5)])
def test_any_rank_of_data(shape: tuple[int, ...]) -> None:
    exact = mixture(*shape)
    flat = oracle.Mixture(PROCESS, f64(1, 2, 3, 4), exact.means, f64(0.3, 0.05, 0.6, 0.1))
    x = exact.draw(3, 40, generator=seeded())
    assert x.shape == (3, *shape)
    same = x.reshape(3, -1)
    torch.testing.assert_close(exact(x, 40).x0.reshape(3, -1), flat(same, 40).x0)
    torch.testing.assert_close(exact.score(x, 40).reshape(3, -1), flat.score(same, 40))
    torch.testing.assert_close(exact.log_prob(x, 40), flat.log_prob(same, 40))


@pytest.mark.parametrize("width", [0.0, 1e-3, 1e-2, 0.1])
@pytest.mark.parametrize("t", [1, 10, 100, 1000])
def test_small_variances_survive_float32(width: float, t: int) -> None:
    """Distances come before squares; else a variance of 1e-5 would drown in rounding."""
    process = DDPM(schedules.cosine(1000))
    weights, stds = torch.ones(5), torch.full((5,), width)
    means = normal(5, 2, seed=2).float()
    rough = oracle.Mixture(process, weights, means, stds)
    exact = oracle.Mixture(process, weights.double(), means.double(), stds.double())
    x = exact.draw(100, t, generator=seeded(1)).float()
    found, expected = rough(x, t).x0, exact(x.double(), t).x0
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-6)
    score, true_score = rough.score(x, t).double(), exact.score(x.double(), t)
    assert float((score - true_score).abs().max()) < 5e-5 * float(true_score.abs().max())
    log_prob = exact.log_prob(x.double(), t)
    torch.testing.assert_close(rough.log_prob(x, t).double(), log_prob, rtol=0, atol=2e-4)


@each
@pytest.mark.parametrize("t", [1, 50, torch.tensor([1, 50, 100])])
def test_the_oracle_answers_in_the_precision_of_the_question(exact, t: int | Tensor) -> None:
    x = exact.draw(3, 50, generator=seeded())
    for dtype in (torch.float32, F64):
        asked = x.to(dtype)
        for answer in (exact(asked, t).x0, exact.score(asked, t), exact.log_prob(asked, t)):
            assert answer.dtype == dtype


def test_a_float32_gaussian_answers_a_float64_question() -> None:
    exact = oracle.Gaussian(PROCESS, torch.zeros(2), torch.eye(2))
    assert exact(normal(3, 2), 50).x0.dtype == F64


# ---- drawing -----------------------------------------------------------------------------


@each
@pytest.mark.parametrize("t", [0, 30, 100])
def test_draws_have_the_moments_of_noised_data(exact, t: int) -> None:
    """draw(n, t) against data that went through q_sample, within five standard errors."""
    n = 20_000
    straight = exact.draw(n, t, generator=seeded(1)).reshape(n, -1)
    data = exact.draw(n, generator=seeded(2))
    noised = PROCESS.q_sample(data, t, torch.randn(data.shape, generator=seeded(3), dtype=F64))
    noised = noised.reshape(n, -1)
    spread = (straight.var(0) + noised.var(0)).sqrt()
    assert bool(((straight.mean(0) - noised.mean(0)).abs() < 5 * spread / n**0.5).all())
    second, other = straight**2, noised**2
    spread = (second.var(0) + other.var(0)).sqrt()
    assert bool(((second.mean(0) - other.mean(0)).abs() < 5 * spread / n**0.5).all())


def test_draws_of_a_gaussian_have_its_covariance() -> None:
    mean, cov, n = f64(1, -2), f64(2, 0.9, 0.9, 0.5).reshape(2, 2), 40_000
    x = oracle.Gaussian(PROCESS, mean, cov).draw(n, generator=seeded())
    assert float((x.mean(0) - mean).abs().max()) < 5 * math.sqrt(2 / n)
    assert float((x.T.cov() - cov).abs().max()) < 5 * 2 * math.sqrt(2 / n)


def test_draws_of_a_mixture_have_its_weights() -> None:
    exact = oracle.Mixture(PROCESS, f64(1, 3), f64(-5, 5), f64(0.1, 0.1))
    x = exact.draw(10_000, generator=seeded())
    assert float((x > 0).double().mean()) == pytest.approx(0.75, abs=4.5 * 0.0044)


def test_finite_data_draws_its_points() -> None:
    points = normal(4, 1, 2, 2)
    x = oracle.FiniteData(PROCESS, points).draw(100, generator=seeded())
    distance = (x[:, None] - points).flatten(2).norm(dim=2)  # cdist rounds on its way by products
    assert float(distance.min(1).values.max()) < 1e-12
    assert len(distance.argmin(1).unique()) == 4


@each
def test_one_seed_one_draw(exact) -> None:
    a, b, c = (exact.draw(8, 20, generator=seeded(s)) for s in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)


# ---- bad input ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "means", "stds"),
    [
        (f64(1), f64(0, 1), f64(1, 1)),
        (f64(1, 1), f64(0, 1), f64(1)),
        (f64(1, 1), f64(0, 1), f64(1, 1)[:, None]),
        (f64(), f64(), f64()),
    ],
)
def test_one_weight_and_one_std_per_mean(weights: Tensor, means: Tensor, stds: Tensor) -> None:
    with pytest.raises(ValueError, match="one weight and one std for each"):
        oracle.Mixture(PROCESS, weights, means, stds)


@pytest.mark.parametrize(
    ("weights", "stds"), [(f64(0, 1), f64(1, 1)), (f64(-1, 2), f64(1, 1)), (f64(1, 1), f64(1, -1))]
)
def test_signs_are_checked(weights: Tensor, stds: Tensor) -> None:
    with pytest.raises(ValueError, match="weights must be positive and stds not negative"):
        oracle.Mixture(PROCESS, weights, f64(0, 1), stds)


def test_no_data_are_no_distribution() -> None:
    with pytest.raises(ValueError, match="need means"):
        oracle.FiniteData(PROCESS, torch.zeros(0, 2))


@each
def test_data_of_another_shape_are_refused(exact) -> None:
    for call in (exact, exact.log_prob, exact.score):
        with pytest.raises(ValueError, match=r"expected data of shape \(B, "):
            call(torch.zeros(3, 5, 5, 5, dtype=F64), 10)


@pytest.mark.parametrize(
    "exact",
    [
        oracle.FiniteData(PROCESS, f64(0, 1)[:, None]),
        oracle.Gaussian(PROCESS, f64(0), torch.zeros(1, 1, dtype=F64)),
    ],
    ids=["points", "Gaussian"],
)
def test_a_point_has_no_density(exact) -> None:
    for call in (exact, exact.log_prob, exact.score):
        with pytest.raises(ValueError, match="has no density at t = 0; use a time t >= 1"):
            call(torch.zeros(3, 1, dtype=F64), 0)


@pytest.mark.parametrize(
    ("mean", "cov", "sentence"),
    [
        (torch.zeros(2), torch.eye(3), r"got \(2,\) and \(3, 3\)"),
        (torch.zeros(2, 1), torch.eye(2), r"a mean \(D,\)"),
        (torch.zeros(2), torch.tensor([[1.0, 0.5], [0.0, 1.0]]), "symmetric"),
        (torch.zeros(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]]), "no negative eigenvalue, got -1"),
    ],
)
def test_a_matrix_that_is_no_covariance_is_refused(
    mean: Tensor, cov: Tensor, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        oracle.Gaussian(PROCESS, mean, cov)


# ---- classes -----------------------------------------------------------------------------

LABELS = torch.tensor([1, 0, 1, 2])


def labelled(*shape: int) -> oracle.Mixture:
    """The components of `mixture`, in three classes."""
    return oracle.Mixture(
        PROCESS, f64(1, 2, 3, 4), normal(4, *shape, seed=7), f64(0.3, 0.05, 0.6, 0.1), LABELS
    )


def part(c: int, *shape: int) -> oracle.Mixture:
    keep = c == LABELS
    return oracle.Mixture(
        PROCESS,
        f64(1, 2, 3, 4)[keep],
        normal(4, *shape, seed=7)[keep],
        f64(0.3, 0.05, 0.6, 0.1)[keep],
    )


@pytest.mark.parametrize("shape", [(), (2,), (1, 2, 3)])
@pytest.mark.parametrize("t", TIMES)
def test_each_label_gets_the_prediction_of_its_class(t: int, shape: tuple[int, ...]) -> None:
    exact, x, y = labelled(*shape), normal(8, *shape), torch.arange(8) % 4
    assert exact.null_label == 3
    found = exact(x, t, y).x0
    for c, alone in enumerate([*(part(c, *shape) for c in range(3)), mixture(*shape)]):
        expected = alone(x[y == c], t).x0
        torch.testing.assert_close(found[y == c], expected, rtol=1e-12, atol=1e-12)
        if c < 3:
            again = exact.given(c)(x[y == c], t).x0
            torch.testing.assert_close(again, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(exact(x, t).x0, mixture(*shape)(x, t).x0)


@pytest.mark.parametrize("t", TIMES)
def test_class_logits_are_bayes_rule(t: int) -> None:
    x = normal(9, 2)
    found = labelled(2).class_logits(x, t)
    joint = [math.log(w) + part(c, 2).log_prob(x, t) for c, w in enumerate((0.2, 0.4, 0.4))]
    expected = torch.stack(joint, 1) - mixture(2).log_prob(x, t)[:, None]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.exp().sum(1), torch.ones(9, dtype=F64))
    times = torch.full((9,), t)
    torch.testing.assert_close(labelled(2).class_logits(x, times), found)


def test_a_class_is_a_mixture_of_its_own() -> None:
    alone, expected = labelled(1, 2, 3).given(1), part(1, 1, 2, 3)
    x = normal(5, 1, 2, 3)
    torch.testing.assert_close(alone.log_prob(x, 20), expected.log_prob(x, 20))
    assert alone.labels is None and alone.null_label is None
    points = oracle.FiniteData(PROCESS, normal(4, 2), LABELS)
    assert torch.equal(points.given(0).draw(3, generator=seeded()), normal(4, 2)[1].expand(3, 2))


def test_without_classes_labels_are_ignored() -> None:
    x = normal(3, 2)
    assert torch.equal(mixture(2)(x, 20, torch.tensor([7, 8, 9])).x0, mixture(2)(x, 20).x0)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: labelled(2)(normal(3, 2), 20, torch.tensor([0, 1, 4])), "0..2 .3 is the null"),
        (lambda: labelled(2)(normal(3, 2), 20, torch.tensor([0, 1, -1])), "0..2"),
        (lambda: labelled(2)(normal(3, 2), 20, torch.tensor([0, 1])), "one condition per sample"),
        (lambda: labelled(2)(normal(3, 2), 20, f64(0, 1, 2)), "one int64 label per sample"),
        (lambda: labelled(2).given(3), "no class 3"),
        (lambda: mixture(2).given(0), "no class 0"),
        (lambda: mixture(2).class_logits(normal(3, 2), 20), "without labels has no classes"),
        (lambda: oracle.FiniteData(PROCESS, normal(3, 2), torch.tensor([0, 2, 2])), "cover 0..C-1"),
        (lambda: oracle.FiniteData(PROCESS, normal(3, 2), torch.tensor([0, 1])), "each of the 3"),
        (lambda: oracle.FiniteData(PROCESS, normal(3, 2), f64(0, 1, 2)), "int64"),
    ],
)
def test_labels_that_fit_nothing_are_refused(call, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call()
