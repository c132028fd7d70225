"""Checks of chapter 06: learning the variance."""

import math
from typing import Any

import torch

from ddpmlib.process import schedules
from ddpmlib.process.ddpm import DDPM
from ddpmlib.teaching.exercises import exercise


@exercise(
    "6.1", hint="Which of the two kinds of data leaves nothing to be guessed once x_t is known?"
)
def _(answer: Any) -> None:
    """Which end of the range belongs to which data."""
    point, normal = (float(a) for a in answer)
    assert abs(point) < 1e-9, "The place for a single point is not that."
    assert abs(normal - 1) < 1e-9, "The place for a standard normal is not that."


@exercise(
    "6.2",
    hint="Both ends belong to the stride t → s; it is their logarithms that v mixes linearly.",
)
def _(answer: Any) -> None:
    """The variance of a stride, from the table of ᾱ alone."""
    process = DDPM(schedules.cosine(200))
    for t, s in ((200, 150), (80, 79), (40, 3)):
        for v in (0.0, 0.35, 1.0):
            expected = process.posterior_std(t, s, v) ** 2
            found = float(answer(process.alpha_bar, t, s, v))
            assert math.isclose(found, expected, rel_tol=1e-9), (
                f"For t = {t}, s = {s}, v = {v} it is another number."
            )


@exercise(
    "6.3",
    hint="Minimise the sum of E|g_t|²/p_t with a Lagrange multiplier for Σ p_t = 1; the weight "
    "must keep the mean of a loss that is 1 at every time.",
)
def _(answer: Any) -> None:
    """The probabilities with the calmest gradient, and the weights that keep it unbiased."""
    g = torch.Generator().manual_seed(0)
    square = torch.rand(9, generator=g, dtype=torch.float64) ** 3 + 1e-3
    p, weight = answer(square)
    assert p.shape == weight.shape == square.shape, "Give one probability and one weight per time."
    assert abs(float(p.sum()) - 1) < 1e-9, "The probabilities do not add up to one."
    assert abs(float((p * weight).sum()) - 1) < 1e-9, "The mean weight is not one."
    losses = torch.rand(9, generator=g, dtype=torch.float64)
    assert abs(float((p * weight * losses).sum() - losses.mean())) < 1e-9, "The mean moves."
    noise, least = float((p * weight**2 * square).sum()), float(square.sqrt().mean()) ** 2
    assert noise < least * (1 + 1e-9), "There are calmer probabilities."


@exercise(
    "6.4",
    hint="Compare the gradient at `output` with and without the second term: it must not change. "
    "Which tensor method cuts a gradient?",
)
def _(answer: Any) -> None:
    """L_hybrid of one reverse step, with the stop where it belongs."""
    g = torch.Generator().manual_seed(0)
    start, target = torch.randn(2, 50, generator=g, dtype=torch.float64)
    place = torch.rand(50, generator=g, dtype=torch.float64)
    low, high, on_x0 = 0.01, 0.04, 0.2
    for share in (0.1, 2.0):
        x, v = start.clone().requires_grad_(), place.clone().requires_grad_()
        loss = answer(x, target, v, low, high, on_x0, share)
        log_var = place * math.log(high) + (1 - place) * math.log(low)
        ratio = (low + (on_x0 * (start - target)) ** 2) / log_var.exp()
        kl = 0.5 * (ratio - 1 - math.log(low) + log_var)
        value = ((start - target) ** 2 + share * kl).mean()
        assert abs(float(loss.detach() - value)) < 1e-9, "The value of the loss is another."
        assert loss.requires_grad, "Nothing can learn from this number."
        on_mean, on_place = torch.autograd.grad(loss, (x, v), allow_unused=True)
        assert on_mean is not None and torch.allclose(on_mean, 2 * (start - target) / 50), (
            "The mean feels the second term."
        )
        slope = share * 0.5 * math.log(high / low) * (1 - ratio) / 50
        assert on_place is not None and torch.allclose(on_place, slope), (
            "The variance learns something else."
        )
