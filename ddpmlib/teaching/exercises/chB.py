"""Checks of page B: translations between notations."""

import math
from typing import Any

import torch

from ddpmlib.denoiser.parameterization import V
from ddpmlib.process import VDM
from ddpmlib.teaching.exercises import exercise


@exercise("B.1", hint="γ is minus the log-SNR, and σ² is noise over signal.")
def _(answer: Any) -> None:
    """The σ of one paper in the γ of another."""
    sigma = torch.tensor([0.002, 0.5, 1.0, 80.0], dtype=torch.float64)
    gamma = torch.as_tensor(answer(sigma))
    assert gamma.shape == sigma.shape, "Return one γ for each σ."
    found = VDM().coefficients(gamma)
    assert torch.allclose(found[1] / found[0], sigma), "The two labels name different levels."


@exercise("B.2", hint="Solve (3.6) for both, subtract, and collect the factors of v and of x_t.")
def _(answer: Any) -> None:
    """A flow's velocity from a v-network."""
    g = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 5, 3, generator=g, dtype=torch.float64)
    for angle in (0.0, 0.4, 1.5):
        scale, std = math.cos(angle), math.sin(angle)
        v = V.target(x0, eps, scale, std)
        found = answer(v, scale * x0 + std * eps, scale, std)
        assert found.shape == x0.shape, "Return a tensor of the shape of v."
        assert torch.allclose(found, eps - x0), f"At scale {scale:.2f} it is not ε − x_0."


@exercise("B.3", hint="Check a/b at time_of(λ) against e^(λ/2), and differentiate z by u.")
def _(answer: Any) -> None:
    """A process of one's own, and its velocity."""
    process, factor = answer
    lam = torch.linspace(-6, 6, 25, dtype=torch.float64)
    u = process.time_of(lam)
    assert u.shape == lam.shape, "A time for each log-SNR."
    a, b = process.coefficients(u)
    assert torch.allclose(a, torch.cos(math.pi / 2 * u)), "a is cos(π u / 2)."
    assert torch.allclose(2 * (a / b).log(), lam), "time_of(λ) has another log-SNR than λ."
    one, zero = torch.ones_like(u), torch.zeros_like(u)
    for x0, eps in ((one, zero), (zero, one)):
        flow = process.velocity(u, x0, eps)
        assert torch.allclose(flow, factor * V.target(x0, eps, a, b)), "dz/du is no such multiple."
