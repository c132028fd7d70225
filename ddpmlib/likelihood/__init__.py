"""The variational bound on −log p(x_0), and the decoders at its end."""

from ddpmlib.likelihood.bound import (
    Bound,
    Estimate,
    bits_per_dim,
    decoder_floor,
    elbo,
    elbo_monte_carlo,
    gaussian_kl,
    prior_term,
    reverse_step_term,
)
from ddpmlib.likelihood.decoders import Decoder, continuous, discretised

__all__ = [
    "Bound",
    "Decoder",
    "Estimate",
    "bits_per_dim",
    "continuous",
    "decoder_floor",
    "discretised",
    "elbo",
    "elbo_monte_carlo",
    "gaussian_kl",
    "prior_term",
    "reverse_step_term",
]
