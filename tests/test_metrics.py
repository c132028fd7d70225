"""`ddpmlib.metrics`: closed forms, symmetries and what a distance must never do."""

import math

import pytest
import torch
from torch import Tensor

from ddpmlib.metrics import class_agreement, frechet_distance

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
    assert math.isfinite(frechet_distance(a, b)) and frechet_distance(a, b) > 0
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
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
