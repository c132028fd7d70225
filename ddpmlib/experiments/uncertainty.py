"""What a measured number is worth: its standard error, and the floor that it stands on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from ddpmlib.equations import equation
from ddpmlib.experiments.results import Row


@equation("9.1")
def share_error(share: float, n: int) -> float:
    """Standard error of a share of n independent samples, √(p (1−p) / n).

    Raises:
        ValueError: if the share leaves [0, 1] or n < 1.
    """
    if not 0 <= share <= 1 or n < 1:
        raise ValueError(f"need a share in [0, 1] of at least one sample, got {share} of {n}")
    return math.sqrt(share * (1 - share) / n)


@equation("9.3")
def times_floor(row: Row) -> float:
    """Fréchet distance of a row over that of as many real test images: 1 is as good as data."""
    return row["frechet"] / row["frechet_floor"]


@equation("9.4")
def over_seeds(values: Sequence[float]) -> tuple[float, float]:
    """Mean over training seeds and its standard error, s/√k; NaN where there is one seed only.

    Raises:
        ValueError: without any value.
    """
    if not values:
        raise ValueError("a mean over seeds needs at least one value")
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return fmean(values), error
