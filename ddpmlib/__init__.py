"""Diffusion models whose formulas are proved to match the code.

The modules are the chapters of the book:

>>> from ddpmlib import schedules
>>> from ddpmlib.process import DDPM
>>> process = DDPM(schedules.cosine(1000))
>>> process.T
1000

Importing the package needs torch and numpy only; everything heavier is imported where it is used.
"""

from ddpmlib.denoiser import EPS, X0, Denoiser, V
from ddpmlib.prediction import Prediction
from ddpmlib.process import DDPM
from ddpmlib.samplers import ddim_invert, draw, sample, uniform_times

__version__ = "0.1.0"
__all__ = [
    "DDPM",
    "EPS",
    "X0",
    "Denoiser",
    "Prediction",
    "V",
    "__version__",
    "ddim_invert",
    "draw",
    "sample",
    "uniform_times",
]
