"""Reverse loops as generators: one loop, the steps that draw, the times that they visit."""

from ddpmlib.samplers.ancestral import Ancestral
from ddpmlib.samplers.langevin_dynamics import (
    Annealed,
    Corrected,
    Langevin,
    annealed_langevin,
    langevin,
    predictor_corrector,
    step_size,
)
from ddpmlib.samplers.latents import ddim_invert, slerp
from ddpmlib.samplers.loop import draw, sample
from ddpmlib.samplers.noise import NoiseSource, SampleNoise
from ddpmlib.samplers.ode import Euler, Heun
from ddpmlib.samplers.sde import EulerMaruyama
from ddpmlib.samplers.state import Hook, State, Step
from ddpmlib.samplers.times import (
    checked_times,
    even_times,
    karras_times,
    leading_times,
    linspace_times,
    log_snr_times,
    quadratic_times,
    uniform_times,
)

__all__ = [
    "Ancestral",
    "Annealed",
    "Corrected",
    "Euler",
    "EulerMaruyama",
    "Heun",
    "Hook",
    "Langevin",
    "NoiseSource",
    "SampleNoise",
    "State",
    "Step",
    "annealed_langevin",
    "checked_times",
    "ddim_invert",
    "draw",
    "even_times",
    "karras_times",
    "langevin",
    "leading_times",
    "linspace_times",
    "log_snr_times",
    "predictor_corrector",
    "quadratic_times",
    "sample",
    "slerp",
    "step_size",
    "uniform_times",
]
