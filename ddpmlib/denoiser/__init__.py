"""What a network's output means, and exact denoisers that stand where a network would stand."""

from ddpmlib.denoiser.denoiser import Denoiser, FixedVariance, learned_var_mix, score
from ddpmlib.denoiser.parameterization import (
    EPS,
    PARAMETERIZATIONS,
    SCORE,
    VELOCITY,
    X0,
    Parameterization,
    V,
    edm_output,
    edm_preconditioning,
    flow_matching_velocity,
)
from ddpmlib.denoiser.translated import Translated, between_steps

__all__ = [
    "EPS",
    "PARAMETERIZATIONS",
    "SCORE",
    "VELOCITY",
    "X0",
    "Denoiser",
    "FixedVariance",
    "Parameterization",
    "Translated",
    "V",
    "between_steps",
    "edm_output",
    "edm_preconditioning",
    "flow_matching_velocity",
    "learned_var_mix",
    "score",
]
