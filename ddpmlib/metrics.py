"""How good samples are: pure functions of features or predictions."""

import torch
from torch import Tensor


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Squared Fréchet distance between the Gaussians fitted to two feature sets.

    |m_a − m_b|² + tr(C_a + C_b − 2 (C_a^½ C_b C_a^½)^½), the formula of FID (Heusel et al. 2017;
    Dowson & Landau 1982), in float64 through symmetric eigen-decompositions, so that rank-deficient
    covariances need no care. Features are ours to choose: say which, and how many samples.

    Args:
        a, b: features (N, D) and (M, D); N, M ≥ 2.

    Returns:
        the distance, ≥ 0, in squared units of the features.

    Raises:
        ValueError: if shapes differ in D, a set has fewer than two rows or is not finite.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(
            f"need two feature sets (N, D) with N >= 2 and the same D, got {tuple(a.shape)} and "
            f"{tuple(b.shape)}"
        )
    if not bool(a.isfinite().all()) or not bool(b.isfinite().all()):
        raise ValueError("features hold NaN or infinity, which has no distance to anything")
    (mean_a, cov_a), (mean_b, cov_b) = _moments(a), _moments(b)
    root = _matrix_root(cov_a)
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    value = ((mean_a - mean_b) ** 2).sum() + cov_a.trace() + cov_b.trace() - 2 * cross
    return max(0.0, float(value))


def class_agreement(logits: Tensor, y: Tensor) -> float:
    """Share of samples that a classifier gives the class they were asked to be, in [0, 1].

    Args:
        logits: (N, K).
        y: the classes asked for, (N,).

    Raises:
        ValueError: if there is not one label per row, no row, or a logit is not finite.
    """
    if not bool(logits.isfinite().all()):
        raise ValueError("logits hold NaN or infinity, which agree with no class")
    if logits.ndim != 2 or y.shape != logits.shape[:1] or not len(y):
        raise ValueError(
            f"need logits (N, K) and labels (N,), got {tuple(logits.shape)} and {tuple(y.shape)}"
        )
    return float((logits.argmax(1) == y).double().mean())


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    features = features.double()
    return features.mean(0), torch.cov(features.T).reshape(features.shape[1], -1)


def _matrix_root(cov: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(cov)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T
