"""Checks of page B: translations between notations."""

import math
from typing import Any

import torch
from torch import Tensor

from ddpmlib.denoiser.parameterization import V
from ddpmlib.teaching.exercises import exercise


@exercise(
    "B.1", hint="Scale z before the score sees it, and its gradient afterwards; then Tweedie."
)
def _(answer: Any) -> None:
    """EDM's denoiser from a score in the book's coordinates."""
    centres = torch.tensor([[-1.0, 0.5], [0.8, 0.0]], dtype=torch.float64)
    z = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for sigma in (0.05, 0.7, 3.0, 60.0):
        noise, k2 = 0.1 + sigma**2, 1 + sigma**2  # variances of each mode, in z; x_t = z / √k2

        def shares(y: Tensor, centres: Tensor, variance: float) -> Tensor:
            return (-(torch.cdist(y, centres) ** 2) / (2 * variance)).softmax(1)

        def score(x_t: Tensor, k2: float = k2, noise: float = noise) -> Tensor:
            means, variance = centres / k2**0.5, noise / k2
            return (shares(x_t, means, variance) @ means - x_t) / variance

        at = z * (1 + sigma)
        gain = 0.1 / noise
        want = (1 - gain) * shares(at, centres, noise) @ centres + gain * at
        found = answer(score, at, sigma)
        assert isinstance(found, Tensor) and found.shape == z.shape, "Return a tensor like z."
        assert torch.allclose(found, want, atol=1e-9), f"At σ = {sigma:g} it is not E[x_0 | z]."


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


@exercise("B.3", hint="Check a/b at time_of(λ) against e^(λ/2); then the place after an angle.")
def _(answer: Any) -> None:
    """A convention of one's own: process, velocity, Euler's method and the exact turn."""
    assert len(answer) == 4, "Give the process, the factor and the two samplers."
    process, factor, flow, turn = answer
    _is_the_circle(process, factor)
    labels = torch.linspace(0.93, 0.06, 9, dtype=torch.float64)
    start = torch.linspace(-1.8, 2.1, 5, dtype=torch.float64)

    def fixed(z: Tensor, u: Tensor) -> Tensor:
        """The pair at which the chain started: it never changes."""
        assert z.shape == start.shape, "The state has the shape of z."
        return 0.4 * torch.ones_like(z)

    a, b = torch.cos(math.pi / 2 * labels), torch.sin(math.pi / 2 * labels)
    eps = (start - a[0] * 0.4) / b[0]
    end, z = a[-1] * 0.4 + b[-1] * eps, turn(fixed, start, labels)
    assert torch.allclose(z, end), "Of a pair that does not change turn should miss nothing."
    z = flow(fixed, start, labels)
    gap = float((z - end).abs().max())
    assert gap > 1e-3, "flow follows tangents and should miss the circle by a little."
    assert gap < 0.3, "flow is far from where the velocity leads."
    for sampler, order in ((flow, 1), (turn, 1)):
        name = "flow" if sampler is flow else "turn"
        errors = [_error_on_narrow_data(sampler, steps) for steps in (100, 200)]
        assert errors[1] < 0.05, f"{name} misses the flow of narrow data."
        assert 1.6 < errors[0] / errors[1] < 2.4, f"The error of {name} is not of order {order}."


def _is_the_circle(process: Any, factor: float) -> None:
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


def _error_on_narrow_data(sampler: Any, steps: int) -> float:
    """Data N(0, 0.04): the flow multiplies by the ratio of the deviations of its two ends."""

    def spread(u: Tensor) -> Tensor:
        return 0.04 * torch.cos(math.pi / 2 * u) ** 2 + torch.sin(math.pi / 2 * u) ** 2

    def denoise(z: Tensor, u: Tensor) -> Tensor:
        return 0.04 * torch.cos(math.pi / 2 * u) / spread(u) * z

    labels = torch.linspace(0.95, 0.05, steps + 1, dtype=torch.float64)
    start = torch.tensor([-1.0, 0.5], dtype=torch.float64)
    end = start * (spread(labels[-1]) / spread(labels[0])).sqrt()
    return float((sampler(denoise, start, labels) / end - 1).abs().max())
