"""The forward process and its exact reversal: everything about noise, nothing about networks."""

from ddpmlib.process.continuous import (
    EDM,
    RECTIFIED,
    VDM,
    Convention,
    flow_matching,
    kernel,
    ve_sde,
    vp_sde,
)
from ddpmlib.process.ddpm import DDPM, check_eta
from ddpmlib.process.indices import beta_from_alpha_bar, discrete, nearest_time, zero_based

__all__ = [
    "DDPM",
    "EDM",
    "RECTIFIED",
    "VDM",
    "Convention",
    "beta_from_alpha_bar",
    "check_eta",
    "discrete",
    "flow_matching",
    "kernel",
    "nearest_time",
    "ve_sde",
    "vp_sde",
    "zero_based",
]
