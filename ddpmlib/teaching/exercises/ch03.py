"""Checks of chapter 03: train a network, sample from it."""

from typing import Any

import torch
from torch import Tensor

from ddpmlib.prediction import Prediction
from ddpmlib.process import schedules
from ddpmlib.process.ddpm import DDPM
from ddpmlib.samplers.loop import draw
from ddpmlib.samplers.times import uniform_times
from ddpmlib.teaching.exercises import exercise


@exercise(
    "3.1", hint="Put 0 for the network's answer: the loss is then the mean square of the target."
)
def _(answer: Any) -> None:
    """What the untrained network loses."""
    eps_loss, x0_loss = (float(a) for a in answer)
    assert abs(eps_loss - 1) < 1e-9, "The ε-network's loss is not that."
    assert abs(x0_loss - 0.7) < 1e-9, "The x₀-network's loss is not that."


@exercise("3.2", hint="Equation (3.6), right half; then solve it for v.")
def _(answer: Any) -> None:
    """From velocity to noise and back."""
    eps_from_v, v_from_eps = answer
    g = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 100, generator=g, dtype=torch.float64)
    for a in (0.99, 0.5, 0.01):
        x_t, v = a**0.5 * x0 + (1 - a) ** 0.5 * eps, a**0.5 * eps - (1 - a) ** 0.5 * x0
        assert torch.allclose(eps_from_v(v, x_t, a), eps), (
            f"eps_from_v is wrong at alpha_bar = {a}."
        )
        assert torch.allclose(v_from_eps(eps, x_t, a), v), (
            f"v_from_eps is wrong at alpha_bar = {a}."
        )


@exercise("3.3", hint="Which covariance have ε and x_t, and which variance has x_t?")
def _(answer: Any) -> None:
    """The loss that no network can go below, for Gaussian data."""
    g = torch.Generator().manual_seed(0)
    eps, x0 = torch.randn(2, 400_000, generator=g, dtype=torch.float64)
    for alpha_bar, c in ((0.9, 1.0), (0.5, 0.3), (0.2, 2.0)):
        x_t = alpha_bar**0.5 * c * x0 + (1 - alpha_bar) ** 0.5 * eps
        best = (eps * x_t).mean() / (x_t**2).mean() * x_t  # regression measured on samples
        measured = float(((eps - best) ** 2).mean())
        assert abs(float(answer(alpha_bar, c)) - measured) < 0.01, (
            f"For alpha_bar = {alpha_bar}, c = {c} the floor measures {measured:.2f}."
        )


@exercise(
    "3.4", hint="In each step: which x_0 does the noise imply, and where do both lead at time s?"
)
def _(answer: Any) -> None:
    """Your own DDIM."""
    process = DDPM(schedules.cosine(60))
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 3, generator=g, dtype=torch.float64)

    def eps_net(x_t: Tensor, t: int) -> Tensor:
        return torch.tanh(x_t @ weight + t / 60)

    def denoiser(x_t: Tensor, t: Any, y: Any = None, /) -> Prediction:
        scale, std = process.kernel(t, x_t)
        return Prediction((x_t - std * eps_net(x_t, t)) / scale)

    for steps in (60, 7, 1):
        x = torch.randn(5, 3, generator=g, dtype=torch.float64)
        times = uniform_times(60, steps)
        ours = draw(denoiser, process, x, times, eta=0.0)
        yours = answer(eps_net, x, process.alpha_bar, times)
        assert yours.shape == ours.shape, (
            "Return the final x, in the shape of the x you were given."
        )
        assert torch.allclose(yours, ours, rtol=1e-6), f"With {steps} steps yours and ours differ."
