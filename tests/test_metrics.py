"""`metrics`: closed forms, symmetries, what a distance must never do, and three peers."""

import math
import time
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpmlib.evaluation import (
    Moments,
    bootstrap,
    class_agreement,
    frechet_distance,
    inception_score,
    kid,
    metrics,
    precision_recall,
    share_interval,
)
from ddpmlib.evaluation.intervals import Z95, Interval

F64 = torch.float64


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def whitened(n: int, dim: int, seed: int = 0) -> Tensor:
    """Features of mean 0 and covariance I, exactly."""
    x = normal(n, dim, seed=seed)
    x = x - x.mean(0)
    return x @ torch.linalg.inv(torch.linalg.cholesky(x.T.cov())).T


def test_a_set_has_no_distance_to_itself() -> None:
    x = normal(50, 4)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-12)
    shuffled = x[torch.randperm(50, generator=torch.Generator().manual_seed(0))]
    assert frechet_distance(x, shuffled) == pytest.approx(0, abs=1e-12)


def test_in_one_dimension_means_and_deviations() -> None:
    a, b = 2 + 3 * normal(40, 1), -1 + 0.5 * normal(70, 1, seed=1)
    expected = float(a.mean() - b.mean()) ** 2 + float(a.std() - b.std()) ** 2
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)


def test_moving_and_stretching_white_features() -> None:
    """N(0, I) against N(m, diag s²): |m|² + Σ (1 − s)²."""
    x, y = whitened(60, 3), whitened(80, 3, seed=1)
    shift = torch.tensor([1.0, -2.0, 0.5], dtype=F64)
    stretch = torch.tensor([0.0, 1.0, 3.0], dtype=F64)
    expected = float((shift**2).sum() + ((1 - stretch) ** 2).sum())
    assert frechet_distance(x, y * stretch + shift) == pytest.approx(expected, rel=1e-10)


def test_it_is_symmetric_and_blind_to_rotations() -> None:
    a, b = normal(50, 4) @ normal(4, 4, seed=2), normal(60, 4, seed=1) + 1
    turn, _ = torch.linalg.qr(normal(4, 4, seed=3))
    distance = frechet_distance(a, b)
    assert distance > 1
    assert frechet_distance(b, a) == pytest.approx(distance, rel=1e-10)
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(distance, rel=1e-10)
    assert frechet_distance(5 * a, 5 * b) == pytest.approx(25 * distance, rel=1e-10)


def test_covariances_that_do_not_commute() -> None:
    """diag(1, 4) against the same turned by 45°: the trace of the root is written out.

    For 2 × 2 matrices tr √M = √(tr M + 2 √det M), here with M = A½ B A½: tr M = tr AB.
    """
    x = whitened(60, 2)
    half = math.sqrt(0.5)
    turn = torch.tensor([[half, -half], [half, half]], dtype=F64)
    a = x * torch.tensor([1.0, 2.0], dtype=F64)
    cov_a = torch.diag(torch.tensor([1.0, 4.0], dtype=F64))
    cov_b = turn @ cov_a @ turn.T
    cross = math.sqrt(float((cov_a @ cov_b).trace()) + 2 * 4)
    assert frechet_distance(a, a @ turn.T) == pytest.approx(10 - 2 * cross, rel=1e-10)


def test_more_features_than_samples() -> None:
    """Rank-deficient covariances: three samples in ten dimensions, and flat copies of a set."""
    a, b = normal(3, 10), normal(4, 10, seed=1)
    with pytest.warns(UserWarning, match="3 samples leave the covariance of 10 features singular"):
        distance = frechet_distance(a, b)
    with pytest.warns(UserWarning, match="take at least 11, better 50 or more"):
        assert frechet_distance(a, a) == pytest.approx(0, abs=1e-10)
    assert distance > 0
    wide = torch.cat([whitened(50, 2), torch.zeros(50, 3, dtype=F64)], 1)
    moved = 2 * wide + torch.tensor([0, 0, 0, 0, 1.0], dtype=F64)
    assert frechet_distance(wide, moved) == pytest.approx(1 + 2, rel=1e-10)


def test_single_precision_features_are_not_squared_in_single_precision() -> None:
    """A large common offset must not eat the difference."""
    a, b = normal(200, 3), normal(200, 3, seed=1)
    truth = frechet_distance(a, b)
    assert truth > 0.01
    found = frechet_distance((a + 1000).float(), (b + 1000).float())
    assert found == pytest.approx(truth, abs=2e-4)


def test_more_noise_is_further_away() -> None:
    a = normal(500, 4)
    distances = [frechet_distance(a, a + s * normal(500, 4, seed=1)) for s in (0, 0.3, 0.6, 1.2)]
    assert distances == sorted(distances) and distances[1] > 1e-3


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (torch.zeros(5, 3), torch.zeros(5, 4)),
        (torch.zeros(1, 3), torch.zeros(5, 3)),
        (torch.zeros(5, 3), torch.zeros(1, 3)),
        (torch.zeros(5), torch.zeros(5)),
        (torch.zeros(5, 1, 2, 2), torch.zeros(5, 1, 2, 2)),
    ],
)
def test_feature_sets_must_match(a: Tensor, b: Tensor) -> None:
    with pytest.raises(ValueError, match=r"need two feature sets \(N, D\) with N >= 2"):
        frechet_distance(a, b)


def test_features_that_are_not_finite_are_refused() -> None:
    good, bad = normal(5, 2), normal(5, 2)
    bad[3, 1] = math.nan
    for a, b in ((good, bad), (bad, good)):
        with pytest.raises(ValueError, match="features hold NaN or infinity"):
            frechet_distance(a, b)


def test_enough_samples_raise_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frechet_distance(normal(6, 5), normal(6, 5, seed=1))


@pytest.mark.slow
def test_two_thousand_features_take_a_few_decompositions() -> None:
    scale = torch.logspace(0, -2, 2048, dtype=F64)
    a = Moments.known(5000, torch.zeros(2048, dtype=F64), torch.diag(scale))
    turn = normal(2048, 1)
    turn = turn / turn.norm()
    bent = scale[:, None] * turn
    # H diag(scale) H with the mirror H = I − 2 t tᵀ: full, with the same eigenvalues.
    cov = torch.diag(scale) - 2 * (turn @ bent.T + bent @ turn.T)
    cov += 4 * (turn.T @ bent) * turn @ turn.T
    b = Moments.known(5000, torch.ones(2048, dtype=F64), cov)
    started = time.process_time()
    torch.linalg.eigvalsh(cov)
    one = time.process_time() - started
    distance = frechet_distance(a, b)
    assert time.process_time() - started - one < 15 * one  # one with vectors, one without
    assert distance > 2048


def test_few_samples_of_many_features_are_too_far_apart() -> None:
    """The bias that the warning speaks of: two draws from one Gaussian, growing n."""
    draws = [(normal(n, 20, seed=n), normal(n, 20, seed=n + 1)) for n in (30, 120, 2000)]
    distances = [frechet_distance(a, b) for a, b in draws]
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 5 > 1 > distances[2] > 0


# ---- moments -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(100,), (1, 99), (50, 50), (3, 0, 1, 96), (1,) * 100])
def test_moments_in_parts_are_those_at_once(sizes: tuple[int, ...]) -> None:
    x = normal(100, 5) @ normal(5, 5, seed=1) + 1e6
    found = Moments(5)
    for part in x.split(list(sizes)):
        assert found.update(part) is found
    assert found.n == 100
    assert torch.allclose(found.mean, x.mean(0), rtol=1e-14, atol=0)
    assert torch.allclose(found.cov, x.T.cov(), rtol=1e-9, atol=1e-9)


def test_naive_sums_of_squares_would_lose_what_moments_keep() -> None:
    x = normal(1000, 2) + 1e8
    naive = (x.T @ x) / len(x) - torch.outer(x.mean(0), x.mean(0))
    assert (naive - x.T.cov()).abs().max() > 0.5
    found = Moments(2)
    for part in x.split(7):
        found.update(part)
    assert torch.allclose(found.cov, x.T.cov(), rtol=1e-6, atol=1e-6)


def test_merging_is_seeing_both() -> None:
    a, b = normal(30, 4), 5 + normal(70, 4, seed=1)
    merged = Moments.of(a).merge(Moments.of(b)).merge(Moments(4))
    assert merged.n == 100
    assert torch.allclose(merged.mean, torch.cat([a, b]).mean(0), rtol=1e-13)
    assert torch.allclose(merged.cov, torch.cat([a, b]).T.cov(), rtol=1e-12)


def test_distance_of_moments_is_that_of_features() -> None:
    a, b = normal(50, 4), normal(60, 4, seed=1) + 1
    known = Moments.of(b)
    again = Moments.known(known.n, known.mean, known.cov)
    for x, y in ((a, known), (known, a), (Moments.of(a), again)):
        assert frechet_distance(x, y) == pytest.approx(frechet_distance(a, b), rel=1e-12)


def test_the_kept_root_is_forgotten_when_more_arrives() -> None:
    a, b = normal(50, 4), normal(60, 4, seed=1) + 1
    growing = Moments.of(a)
    frechet_distance(growing, b)
    growing.update(3 * b)
    expected = frechet_distance(torch.cat([a, 3 * b]), b)
    assert frechet_distance(growing, b) == pytest.approx(expected, rel=1e-12)


def test_the_root_has_the_rank_of_the_data() -> None:
    moments = Moments.of(normal(100, 3) @ normal(3, 8, seed=1))
    assert moments.root().shape == (8, 3)
    assert torch.allclose(moments.root() @ moments.root().T, moments.cov, atol=1e-12)


def test_moments_refuse_what_they_cannot_hold() -> None:
    with pytest.raises(ValueError, match="at least one dimension, got 0"):
        Moments(0)
    with pytest.raises(ValueError, match=r"need features of shape \(N, 3\), got \(5, 2\)"):
        Moments(3).update(torch.zeros(5, 2))
    with pytest.raises(ValueError, match=r"need features of shape \(N, D\), got \(5,\)"):
        Moments.of(torch.zeros(5))
    with pytest.raises(ValueError, match="NaN or infinity"):
        Moments(2).update(torch.full((3, 2), math.inf))
    with pytest.raises(ValueError, match="cannot merge moments of 2 and of 3 features"):
        Moments(2).merge(Moments(3))
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        _ = Moments(2).update(torch.zeros(1, 2)).cov
    with pytest.raises(ValueError, match="need n >= 2, a mean"):
        Moments.known(5, torch.zeros(3), torch.zeros(3, 2))


# ---- Inception Score ---------------------------------------------------------------------------


@pytest.mark.parametrize("splits", [1, 4])
def test_a_classifier_that_cannot_tell_gives_one_and_a_perfect_one_gives_k(splits: int) -> None:
    score = inception_score(torch.zeros(40, 7), splits)
    assert score == pytest.approx((1, 0), abs=1e-12)
    sure = 1e3 * torch.eye(5)[torch.arange(40) % 5]
    assert inception_score(sure, splits) == pytest.approx((5, 0), rel=1e-12, abs=1e-12)
    assert inception_score(sure[:1].expand(40, -1), splits) == pytest.approx((1, 0), abs=1e-12)


def test_a_classifier_that_is_sure_by_a_known_amount() -> None:
    """K = 2, p(right) = 0.9, balanced: the marginal is even, so the score is 2 exp(−H(0.9))."""
    p = torch.tensor([[0.9, 0.1], [0.1, 0.9]], dtype=F64).repeat(10, 1)
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert inception_score(p.log() + 3, 1).mean == pytest.approx(2 * math.exp(-entropy), rel=1e-12)


def test_a_missing_class_and_a_sorted_order_lower_the_score() -> None:
    sure = 1e3 * torch.eye(10)[torch.arange(100) % 10]
    assert inception_score(sure[sure.argmax(1) < 5], 1).mean == pytest.approx(5)
    ordered = sure[sure.argmax(1).argsort()]
    assert inception_score(ordered, 1).mean == pytest.approx(10)
    assert inception_score(ordered, 10).mean == pytest.approx(1)  # each split holds one class


@pytest.mark.parametrize(
    ("logits", "splits"), [(torch.zeros(5), 1), (torch.zeros(5, 2), 6), (torch.zeros(5, 2), 0)]
)
def test_inception_score_needs_rows_for_its_splits(logits: Tensor, splits: int) -> None:
    with pytest.raises(ValueError, match=r"need logits \(N, K\) and 1 <= splits <= N"):
        inception_score(logits, splits)


# ---- KID ---------------------------------------------------------------------------------------


def test_kid_is_zero_on_average_even_for_few_samples() -> None:
    """Eight against eight of one Gaussian: 0 within the error, unlike the biased estimate."""
    pairs = [(normal(8, 3, seed=2 * i), normal(8, 3, seed=2 * i + 1)) for i in range(400)]
    x = torch.tensor([kid(a, b, subsets=1, size=8).mean for a, b in pairs], dtype=F64)
    assert abs(x.mean()) < 4 * x.std() / 20
    assert (x < 0).any() and (x > 0).any()

    def kernel(p: Tensor, q: Tensor) -> Tensor:
        return ((p @ q.T / 3 + 1) ** 3).mean()

    biased = [float(kernel(a, a) + kernel(b, b) - 2 * kernel(a, b)) for a, b in pairs]
    assert sum(biased) / 400 > 4 * x.std() / 20


def test_kid_of_shifted_points_by_hand() -> None:
    """One-dimensional points 0, 0 and 1, 1: k(0,0) = 1, k(1,1) = 8, k(0,1) = 1."""
    assert kid(torch.zeros(2, 1), torch.ones(2, 1), subsets=3, size=2) == pytest.approx((7, 0))


def test_kid_grows_with_distortion_and_is_symmetric() -> None:
    a = normal(300, 4)
    values = [kid(a, normal(300, 4, seed=1) + shift, subsets=5, size=200,
                  generator=torch.Generator().manual_seed(0)).mean
              for shift in (0, 0.5, 1, 2)]  # fmt: skip
    assert values == sorted(values) and values[1] > 0.05
    b = normal(300, 4, seed=1) + 1
    one, other = kid(a, b, subsets=1, size=300), kid(b, a, subsets=1, size=300)
    assert one.mean == pytest.approx(other.mean, rel=1e-10)


def test_kid_is_decided_by_its_generator() -> None:
    a, b = normal(50, 2), normal(50, 2, seed=1)

    def drawn(seed: int) -> metrics.Score:
        generator = torch.Generator().manual_seed(seed)
        return kid(a, b, subsets=4, size=10, generator=generator)

    assert drawn(0) == drawn(0) != drawn(1)


@pytest.mark.parametrize(("subsets", "size"), [(0, 5), (3, 1), (3, 21)])
def test_kid_needs_sets_for_its_subsets(subsets: int, size: int) -> None:
    with pytest.raises(ValueError, match="subsets >= 1 and 2 <= size <= 20, the size of the small"):
        kid(normal(20, 2), normal(30, 2), subsets=subsets, size=size)


# ---- precision and recall ----------------------------------------------------------------------


def test_equal_sets_are_perfect_and_distant_ones_share_nothing() -> None:
    a = normal(50, 4)
    assert precision_recall(a, a) == (1, 1)
    assert precision_recall(a, a + 100) == (0, 0)


def test_one_good_mode_of_two_is_precise_and_forgets_half() -> None:
    left, right = normal(60, 2), normal(60, 2, seed=1) + 50
    both = torch.cat([left, right])
    precision, recall = precision_recall(both, left)
    assert (precision, recall) == (1, 0.5)
    precision, recall = precision_recall(left, both)
    assert (precision, recall) == (0.5, 1)


def test_points_on_a_line_by_hand() -> None:
    """Reals 0, 1, 2, 3 with k = 1 reach 1 far: they cover [−1, 4], its ends included."""
    real = torch.arange(4.0)[:, None]
    fake = torch.tensor([[-1.5], [-1.0], [1.5], [4.0], [4.25], [9.0]])
    precision, recall = precision_recall(real, fake, k=1)
    assert precision == pytest.approx(3 / 6)
    assert recall == 1  # the fake at 1.5 reaches 2.5 far, to its neighbours −1 and 4
    assert precision_recall(real, fake[[0, 1, 3, 4]], k=1)[1] == 0


def test_a_collapsed_generator_recalls_nothing() -> None:
    real = normal(40, 3)
    precision, recall = precision_recall(real, real[:1].expand(40, -1))
    assert precision == 1 and recall == pytest.approx(1 / 40)  # its one point is a real one
    moved = (real[:1] + 1e-3).expand(40, -1)
    assert precision_recall(real + 1000, moved + 1000) == (1, 0)


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = normal(70, 3), normal(50, 3, seed=1) * 1.5
    whole = precision_recall(real, fake)
    distances = torch.cdist(real, real)
    radii = distances.sort(1).values[:, 3]
    assert torch.allclose(metrics._radii(real, 3, chunk=9), radii**2)
    assert whole[0] == metrics._covered(fake, real, metrics._radii(real, 3, 9), chunk=9)
    assert 0 < whole[0] < 1


@pytest.mark.parametrize("k", [0, 20, 25])
def test_precision_needs_neighbours(k: int) -> None:
    with pytest.raises(ValueError, match=r"k must lie in 1\.\.19 for sets of 30 and 20"):
        precision_recall(normal(30, 2), normal(20, 2), k)


@pytest.mark.parametrize("metric", [kid, precision_recall])
def test_pairs_of_sets_must_match(metric) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="need two feature sets"):
        metric(normal(30, 2), normal(30, 3))
    with pytest.raises(ValueError, match="NaN or infinity"):
        metric(normal(30, 2), torch.full((30, 2), math.nan))


# ---- bootstrap ---------------------------------------------------------------------------------


def test_the_interval_of_a_mean_is_the_textbooks() -> None:
    x = normal(400, 1)
    generator = torch.Generator().manual_seed(1)
    low, high = bootstrap(lambda v: float(v.mean()), x, draws=2000, generator=generator)
    half = 1.96 * float(x.std()) / 20
    assert (low, high) == pytest.approx((float(x.mean()) - half, float(x.mean()) + half), abs=0.02)


def test_the_interval_is_decided_by_its_generator() -> None:
    x = normal(30, 1)

    def drawn(seed: int) -> Interval:
        generator = torch.Generator().manual_seed(seed)
        return bootstrap(lambda v: float(v.mean()), x, draws=50, generator=generator)

    assert drawn(0) == drawn(0) != drawn(1)


@pytest.mark.slow
def test_intervals_of_a_biased_distance_cover_what_as_many_samples_give() -> None:
    """Samples of N(0.25, I) held against N(0, I) in 12 dimensions, n = 60: |m|² = 0.75.

    The average of fresh sets of 60 is much more than that; the interval must hold that average in
    about 95 % of cases, and the plain percentiles, biased twice, do not.
    """
    real = Moments.known(10_000, torch.zeros(12, dtype=F64), torch.eye(12, dtype=F64))

    def distance(x: Tensor) -> float:
        return frechet_distance(x, real)

    sets = [0.25 + normal(60, 12, seed=i) for i in range(200)]
    target = sum(map(distance, sets)) / len(sets)
    assert target > 2 * 0.75
    covered, plain = 0, 0
    for i, x in enumerate(sets[:60]):
        seen: list[float] = []

        def recorded(rows: Tensor, seen: list[float] = seen) -> float:
            seen.append(distance(rows))
            return seen[-1]

        low, high = bootstrap(recorded, x, draws=60, generator=torch.Generator().manual_seed(i))
        covered += low <= target <= high
        values = torch.tensor(seen[:60])
        plain += bool(values.quantile(0.025) <= target <= values.quantile(0.975))
    assert covered >= 0.85 * 60 and plain < 0.5 * 60, (covered, plain)


def test_the_interval_is_that_of_the_central_95_percent_moved_onto_the_metric() -> None:
    x, seen = normal(40, 1).exp(), []  # skewed, so that median and mean differ; without ties

    def recorded(rows: Tensor) -> float:
        seen.append(float(rows.square().mean()))
        return seen[-1]

    low, high = bootstrap(recorded, x, draws=50, generator=torch.Generator().manual_seed(0))
    values = np.array(seen[:50])
    ends = np.quantile(values, [0.025, 0.975]) + float(x.square().mean()) - values.mean()
    assert (low, high) == pytest.approx(tuple(ends), rel=1e-12)


def test_rows_of_fixed_groups_are_redrawn_within_them() -> None:
    """Half the rows are 0 and half are 1 by design: the mean of such samples never varies."""
    x = torch.cat([torch.zeros(30), torch.ones(30)])[:, None]
    groups = x[:, 0].long()

    def mean(rows: Tensor) -> float:
        return float(rows.mean())

    g = torch.Generator().manual_seed(0)
    assert bootstrap(mean, x, groups=groups, generator=g) == (0.5, 0.5)
    low, high = bootstrap(mean, x, generator=g)
    assert high - low > 0.2
    spread = x + 0.1 * normal(60, 1).float()
    low, high = bootstrap(mean, spread, draws=2000, groups=groups, generator=g)
    assert (high - low) / 2 == pytest.approx(1.96 * 0.1 / 60**0.5, rel=0.25)
    with pytest.raises(ValueError, match=r"one group per row, \(60,\), got \(3,\)"):
        bootstrap(mean, x, groups=torch.zeros(3))


@pytest.mark.parametrize(("share", "n"), [(0.5, 10), (0.98, 5000), (1.0, 300), (0.0, 7)])
def test_the_ends_of_a_share_interval_are_just_1_96_standard_errors_away(share, n) -> None:
    low, high = share_interval(share, n)
    assert 0 <= low <= share <= high <= 1 and high - low > 0
    for end in (low, high):
        if 0 < end < 1:
            assert (share - end) ** 2 == pytest.approx(Z95**2 * end * (1 - end) / n, rel=1e-9)
    for wrong in ((1.1, 5), (-0.1, 5), (0.5, 0)):
        with pytest.raises(ValueError, match="a share in"):
            share_interval(*wrong)


def test_numbers_that_cannot_be_squared_are_refused() -> None:
    huge, x = 1e200 * normal(20, 3), normal(20, 3)
    calls = (
        lambda: frechet_distance(huge, x),
        lambda: kid(huge, x, size=5),
        lambda: precision_recall(huge, x),
        lambda: Moments.of(huge),
    )
    for call in calls:
        with pytest.raises(ValueError, match="beyond 1e\\+70 have no square"):
            call()
    with pytest.raises(ValueError, match="complex"):
        frechet_distance(x.to(torch.complex128), x)


def test_known_moments_are_those_of_some_data() -> None:
    mean, eye = torch.zeros(2), torch.eye(2)
    for cov in (-eye, torch.tensor([[1.0, 0.5], [0.0, 1.0]])):
        with pytest.raises(ValueError, match="symmetric and has no negative variance"):
            Moments.known(5, mean, cov)
    with pytest.raises(ValueError, match="NaN"):
        Moments.known(5, mean * float("nan"), eye)


def test_agreement_wants_labels_of_the_logits_classes() -> None:
    logits = normal(4, 3)
    for y in (torch.tensor([0, 1, 2, 3]), torch.tensor([-1, 0, 0, 0]), torch.zeros(4)):
        with pytest.raises(ValueError, match=r"labels are whole numbers in 0\.\.2"):
            class_agreement(logits, y)


def test_kid_draws_its_subsets_from_both_sets() -> None:
    a, b = torch.zeros(30, 2, dtype=F64), normal(30, 2)
    assert kid(a, b, subsets=20, size=10).std > 1e-3
    assert kid(b, a, subsets=20, size=10).std > 1e-3


def test_neighbours_far_from_the_origin_stay_neighbours() -> None:
    real, fake = normal(60, 4, seed=1), 0.7 * normal(60, 4, seed=2)
    near = precision_recall(real, fake)
    assert 0 < near[0] <= 1 and precision_recall(real + 1e6, fake + 1e6) == near


def test_equal_sets_are_never_at_a_negative_distance() -> None:
    for seed in range(50):
        x = normal(30, 6, seed=seed)
        assert 0 <= frechet_distance(x, x.clone()) < 1e-10


@pytest.mark.parametrize(("draws", "n"), [(19, 10), (20, 1)])
def test_bootstrap_needs_draws_and_rows(draws: int, n: int) -> None:
    with pytest.raises(ValueError, match="need draws >= 20 and at least 2 rows"):
        bootstrap(lambda v: 0.0, torch.zeros(n, 2), draws=draws)


# ---- peers -------------------------------------------------------------------------------------


def features_of_two_kinds(dim: int = 24) -> tuple[Tensor, Tensor]:
    mix = normal(dim, dim, seed=7)
    return normal(300, dim) @ mix, (normal(200, dim, seed=1) @ mix.T).exp().clamp(max=5)


def test_the_distance_is_that_of_scipys_matrix_root() -> None:
    linalg = pytest.importorskip("scipy.linalg")
    a, b = features_of_two_kinds()
    cov_a, cov_b = a.T.cov().numpy(), b.T.cov().numpy()
    cross = linalg.sqrtm(cov_a @ cov_b).real.trace()
    expected = float(((a.mean(0) - b.mean(0)) ** 2).sum()) + (cov_a + cov_b).trace() - 2 * cross
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_the_distance_is_torchmetrics() -> None:
    fid = pytest.importorskip("torchmetrics.image.fid")
    a, b = features_of_two_kinds()
    expected = fid._compute_fid(a.mean(0), a.T.cov(), b.mean(0), b.T.cov())
    assert frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-6)


def test_the_distance_is_torch_fidelitys() -> None:
    peer = pytest.importorskip("torch_fidelity.metric_fid")
    a, b = features_of_two_kinds()
    statistics = [peer.fid_features_to_statistics(x) for x in (a, b)]
    found = peer.fid_statistics_to_metric(*statistics, verbose=False)
    assert frechet_distance(a, b) == pytest.approx(found[peer.KEY_METRIC_FID], rel=1e-6)


def test_inception_score_is_torch_fidelitys_and_torchmetrics() -> None:
    peer = pytest.importorskip("torch_fidelity.metric_isc")
    logits = 2 * normal(500, 10)
    found = peer.isc_features_to_metric(logits, splits=10, shuffle=False)
    expected = found[peer.KEY_METRIC_ISC_MEAN], found[peer.KEY_METRIC_ISC_STD]
    assert inception_score(logits, 10) == pytest.approx(expected, rel=1e-6)
    inception = pytest.importorskip("torchmetrics.image.inception")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its buffer, and the deviation of one split
        other = inception.InceptionScore(feature=torch.nn.Identity(), splits=1)
        other.features.append(logits)
        mean, _ = other.compute()
    assert inception_score(logits, 1).mean == pytest.approx(float(mean), rel=1e-6)


def test_kid_is_torch_fidelitys_and_torchmetrics() -> None:
    a, b = features_of_two_kinds()
    a = a[: len(b)]
    found = kid(a, b, subsets=1, size=len(b))
    peer = pytest.importorskip("torch_fidelity.metric_kid")
    options = {"kid_subsets": 1, "kid_subset_size": len(b), "verbose": False}
    expected = peer.kid_features_to_metric(a, b, **options)[peer.KEY_METRIC_KID_MEAN]
    assert found.mean == pytest.approx(expected, rel=1e-6)
    other = pytest.importorskip("torchmetrics.image.kid")
    assert found.mean == pytest.approx(float(other.poly_mmd(a, b)), rel=1e-6)


def test_precision_and_recall_are_torch_fidelitys() -> None:
    peer = pytest.importorskip("torch_fidelity.metric_prc")
    real, fake = normal(300, 6), 0.7 * normal(200, 6, seed=1) + 0.3
    precision, recall = precision_recall(real, fake)
    expected = peer.calculate_precision_recall_full(fake, real, 3, 100)
    assert (precision, recall) == pytest.approx(expected, rel=1e-6)
    assert 0 < recall < precision < 1


# ---- class agreement ---------------------------------------------------------------------------


def test_class_agreement_counts_hits() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [0.0, 1.0, 5.0], [9.0, 1.0, 5.0]])
    assert class_agreement(logits, torch.tensor([0, 1, 2, 1])) == 0.75
    assert class_agreement(logits, torch.tensor([1, 0, 0, 1])) == 0
    assert class_agreement(logits, logits.argmax(1)) == 1


@pytest.mark.parametrize(
    ("logits", "y"),
    [
        (torch.zeros(4, 3), torch.zeros(3)),
        (torch.zeros(4), torch.zeros(4)),
        (torch.zeros(4, 3), torch.zeros(4, 1)),
    ],
)
def test_one_label_per_row(logits: Tensor, y: Tensor) -> None:
    with pytest.raises(ValueError, match=r"need logits \(N, K\) and labels \(N,\)"):
        class_agreement(logits, y)


# ---- density, coverage, contrast -----------------------------------------------------------------


def test_density_and_coverage_by_hand():
    """Balls up to the nearest neighbour: of 0, 1, 3 on a line they reach 1, 1 and 2."""
    real = torch.tensor([[0.0], [1.0], [3.0]])
    fake = torch.tensor([[0.5], [0.9], [9.0], [9.5]])
    # k = 1: radii 1, 1, 2. 0.5 and 0.9 lie in the balls of 0 and of 1; 9 and 9.5 in none.
    assert metrics.density_coverage(real, fake, 1) == (4 / (1 * 4), 2 / 3)
    with pytest.raises(ValueError, match="k must lie in 1..2"):
        metrics.density_coverage(real, fake, 3)
    with pytest.raises(ValueError, match="at least one fake"):
        metrics.density_coverage(real, fake[:0], 1)


def test_density_and_coverage_of_the_same_distribution():
    """On average 1, and (Naeem et al. 2020) 1 − (N−1)…(N−k) / ((N+M−1)…(N+M−k))."""
    g = torch.Generator().manual_seed(0)
    found = [
        metrics.density_coverage(*torch.randn(2, 400, 3, generator=g).double(), 5)
        for _ in range(10)
    ]
    density, coverage = torch.tensor(found).mean(0)
    assert abs(density - 1) < 0.03
    expected = 1 - math.prod((400 - i) / (800 - i) for i in range(1, 6))
    assert abs(coverage - expected) < 0.01
    half = metrics.density_coverage(*(torch.randn(2, 400, 3, generator=g) * 0 + 1), 5)
    assert half == (80.0, 1.0)  # all in one point: every fake is in every ball


def test_matched_contrast_makes_mean_and_deviation_those_of_the_real():
    g = torch.Generator().manual_seed(0)
    x = (0.3 * torch.randn(50, 1, 8, 8, generator=g)).clamp(-1, 1)
    pale = 0.8 * x + 0.1
    back = metrics.matched_contrast(pale, float(x.mean()), float(x.std(correction=0)))
    assert torch.allclose(back, x, atol=1e-5)
    assert torch.equal(
        metrics.matched_contrast(torch.ones(2, 3), 0.5, 0.2), torch.full((2, 3), 0.5)
    )
    strong = metrics.matched_contrast(x, 0.0, 1.0)
    assert strong.abs().max() == 1
    for bad in ((x, 2.0, 0.1), (x, 0.0, -0.1), (x[:0], 0.0, 0.1), (x * torch.nan, 0.0, 0.1)):
        with pytest.raises(ValueError, match="need images|NaN|finite"):
            metrics.matched_contrast(*bad)
