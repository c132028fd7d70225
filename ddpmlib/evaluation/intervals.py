"""Intervals of measurements: of shares, and by the bootstrap."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ddpmlib.inputs import as_values

Z95 = 1.959963984540054  # 97.5 % of a standard normal lie below


class Interval(NamedTuple):
    """Where a number lies with 95 % confidence."""

    low: float
    high: float


def share_interval(share: float, n: int) -> Interval:
    """95 % interval for the probability behind a share of n samples (Wilson 1927).

    Unlike p ± 2 √(p(1−p)/n) it stays within [0, 1] and has a width at 0 and 1 too.

    Raises:
        ValueError: if the share leaves [0, 1] or n < 1.
    """
    if not 0 <= share <= 1 or n < 1:
        raise ValueError(f"need a share in [0, 1] of at least one sample, got {share} of {n}")
    z2 = Z95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * (share * (1 - share) / n + z2 / (4 * n**2)) ** 0.5 / (1 + z2 / n)
    # At 0 and at 1 one end is the share itself, but for rounding.
    return Interval(min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half)))


def bootstrap(
    metric: Callable[[Tensor], float],
    features: Tensor,
    *,
    draws: int = 200,
    groups: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Interval:
    """95 % interval for a metric at this number of samples, by drawing the rows with repetition.

    A metric with a bias that grows for few samples (the Fréchet distance) is biased once more on
    redrawn rows, so the plain percentiles lie too high. Here they are moved so that their mean is
    the metric of ``features``: the interval is for what *this many* fresh samples give on average,
    which is what may be compared between models measured with the same n. It says nothing about
    the value at n → ∞, and near zero its lower end may be negative.

    Args:
        metric: features (N, ...) -> a number; what it compares them with stays as it is.
        features: (N, ...), N ≥ 2; rows that belong together (features and labels) side by side.
        draws: number of redrawn sets, at least 20.
        groups: (N,), the classes of the rows if their numbers were fixed, not drawn: rows are then
            redrawn within each class. Without it the interval would hold the spread of the class
            counts too, which such samples do not have.
        generator: draws the rows, by default the global one.

    Raises:
        ValueError: for fewer than 20 draws or 2 rows, or groups of another length.
    """
    features = as_values(features, "features")
    n = len(features) if features.ndim else 1
    if draws < 20 or n < 2:
        raise ValueError(f"need draws >= 20 and at least 2 rows, got {draws} and {n}")
    groups = None if groups is None else as_values(groups, "groups")
    if groups is not None and groups.shape != (n,):
        raise ValueError(f"need one group per row, ({n},), got {tuple(groups.shape)}")
    whole = torch.arange(n)
    parts = [whole] if groups is None else [whole[groups.cpu() == k] for k in groups.cpu().unique()]

    def redrawn() -> Tensor:
        rows = [p[torch.randint(len(p), (len(p),), generator=generator)] for p in parts]
        return features[torch.cat(rows).to(features.device)]

    values = torch.tensor([metric(redrawn()) for _ in range(draws)], dtype=torch.float64)
    low, high = torch.quantile(values, torch.tensor([0.025, 0.975], dtype=torch.float64))
    shift = metric(features) - float(values.mean())
    return Interval(float(low) + shift, float(high) + shift)
