"""Checks of chapter 04: the evidence lower bound."""

import math
from typing import Any

import torch
from torch import Tensor

from ddpmlib.likelihood.bound import elbo
from ddpmlib.likelihood.decoders import continuous
from ddpmlib.losses.weightings import vlb
from ddpmlib.prediction import Prediction
from ddpmlib.process import schedules
from ddpmlib.process.ddpm import DDPM
from ddpmlib.samplers.times import uniform_times
from ddpmlib.teaching.exercises import exercise


@exercise(
    "4.1",
    hint="One factor turns nats into bits, another images into pixels; then go back from 8 bits.",
)
def _(answer: Any) -> None:
    """Nats per image and bits per dimension."""
    bits, nats = (float(a) for a in answer)
    factor = 28 * 28 * math.log(2)
    assert abs(bits - 1900 / factor) < 0.01, "1,900 nats are another number of bits per dimension."
    assert abs(nats - 8 * factor) < 5, "Knowing nothing costs another number of nats."


@exercise("4.2", hint="(4.12) holds the SNR of two neighbouring times: which one is the larger?")
def _(answer: Any) -> None:
    """What the bound pays for an error of the noise."""
    for process in (DDPM(schedules.linear(50)), DDPM(schedules.cosine(12))):
        weights = torch.as_tensor(answer(process.alpha_bar.clone()))
        truth = vlb(process, torch.arange(2, process.T + 1))
        assert weights.shape == truth.shape, "One weight for each t from 2 to T is wanted."
        assert torch.allclose(weights.double(), truth, rtol=1e-5), "These are not the weights."


@exercise("4.3", hint="Which σ² makes E(x_0 − x̂_0)²/σ² + log σ² least, and what is that error?")
def _(answer: Any) -> None:
    """The decoder of a one-step chain."""
    g = torch.Generator().manual_seed(0)
    z, eps = torch.randn(2, 400_000, generator=g, dtype=torch.float64)
    for alpha_bar, v in ((0.9, 0.3), (0.5, 1.0), (0.2, 2.0)):
        x0 = v**0.5 * z
        x_1 = alpha_bar**0.5 * x0 + (1 - alpha_bar) ** 0.5 * eps
        best = (x0 * x_1).mean() / (x_1**2).mean() * x_1  # regression measured on samples
        measured = float(((x0 - best) ** 2).mean())
        assert abs(float(answer(alpha_bar, v)) - measured) < 0.01 * measured, (
            f"For alpha_bar = {alpha_bar}, v = {v} another variance does better."
        )


@exercise(
    "4.4", hint="Three parts: prior, strides, decoder. Each stride pays by the SNR at its two ends."
)
def _(answer: Any) -> None:
    """Your own bound, strides and all."""
    process = DDPM(torch.linspace(0, 0.05, 61))  # signal is left at T, so L_T counts
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 3, generator=g, dtype=torch.float64)
    x0 = torch.randn(5, 3, generator=g, dtype=torch.float64)

    def eps_net(x_t: Tensor, t: int) -> Tensor:
        return torch.tanh(x_t @ weight + t / 60)

    def denoiser(x_t: Tensor, t: Any, y: Any = None, /) -> Prediction:
        scale, std = process.kernel(t, x_t)
        return Prediction((x_t - std * eps_net(x_t, t)) / scale)

    for steps in (60, 7, 2):
        times = uniform_times(60, steps)
        source = torch.Generator().manual_seed(steps)
        noise = {t: torch.randn(5, 3, generator=source, dtype=x0.dtype) for t in times[:-1]}
        again = torch.Generator().manual_seed(steps)
        ours = elbo(denoiser, process, x0, times, decoder=continuous, generator=again).total
        yours = answer(eps_net, x0, process.alpha_bar, times, noise)
        assert yours.shape == ours.shape, "Return one number for each sample, (B,)."
        assert torch.allclose(yours, ours, rtol=1e-6), f"With {steps} steps yours and ours differ."
