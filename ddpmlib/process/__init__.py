"""The forward process and its exact reversal: everything about noise, nothing about networks."""

from ddpmlib.process.continuous import (
    EDM,
    VDM,
    VE,
    VP,
    FlowMatching,
    Interpolated,
    RectifiedFlow,
    SubVP,
    kernel,
)
from ddpmlib.process.ddpm import DDPM
from ddpmlib.process.indices import ZeroBased, beta_from_alpha_bar
from ddpmlib.process.process import Process, Stride, check_eta

__all__ = [
    "DDPM",
    "EDM",
    "VDM",
    "VE",
    "VP",
    "FlowMatching",
    "Interpolated",
    "Process",
    "RectifiedFlow",
    "Stride",
    "SubVP",
    "ZeroBased",
    "beta_from_alpha_bar",
    "check_eta",
    "kernel",
]
