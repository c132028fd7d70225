"""Training objectives, how times are weighted, and how they are drawn."""

from ddpmlib.losses.objectives import Objective, diffusion_loss, l_hybrid, l_simple, l_vlb
from ddpmlib.losses.times import (
    ImportanceTimes,
    Times,
    UniformContinuousTimes,
    UniformTimes,
    uniform_over,
)
from ddpmlib.losses.weightings import (
    Weighting,
    min_snr,
    on_x0,
    simple,
    truncated_snr,
    uniform_on_x0,
    vlb,
    weighted,
)

__all__ = [
    "ImportanceTimes",
    "Objective",
    "Times",
    "UniformContinuousTimes",
    "UniformTimes",
    "Weighting",
    "diffusion_loss",
    "l_hybrid",
    "l_simple",
    "l_vlb",
    "min_snr",
    "on_x0",
    "simple",
    "truncated_snr",
    "uniform_on_x0",
    "uniform_over",
    "vlb",
    "weighted",
]
