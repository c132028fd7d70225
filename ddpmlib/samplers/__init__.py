"""Reverse loops as generators, their times and their noise, Langevin dynamics, inversion."""

from ddpmlib.samplers.langevin_dynamics import (
    annealed_langevin,
    langevin,
    predictor_corrector,
    step_size,
)
from ddpmlib.samplers.latents import ddim_invert, slerp
from ddpmlib.samplers.loop import State, Step, draw, sample
from ddpmlib.samplers.noise import NoiseSource, SampleNoise, normal
from ddpmlib.samplers.times import (
    checked_times,
    leading_times,
    linspace_times,
    quadratic_times,
    uniform_times,
)

__all__ = [
    "NoiseSource",
    "SampleNoise",
    "State",
    "Step",
    "annealed_langevin",
    "checked_times",
    "ddim_invert",
    "draw",
    "langevin",
    "leading_times",
    "linspace_times",
    "normal",
    "predictor_corrector",
    "quadratic_times",
    "sample",
    "slerp",
    "step_size",
    "uniform_times",
]
