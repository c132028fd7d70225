"""Checks of chapter 05: noise schedules and loss weightings."""

import math
from typing import Any

import torch

from ddpmlib import losses
from ddpmlib.process import schedules
from ddpmlib.process.ddpm import DDPM
from ddpmlib.teaching.exercises import exercise


@exercise("5.1", hint="Solve (5.5) for u; a larger image needs more noise, and which sign is that?")
def _(answer: Any) -> None:
    """Where the cosine path is, and where a larger image needs it."""
    middle, late, shift = (float(a) for a in answer)
    for u, lam, part in ((middle, 0.0, "a"), (late, -6.0, "b")):
        assert 0 < u < 1, f"({part}) u is a fraction of the chain, between 0 and 1."
        found = -2 * math.log(math.tan(math.pi * u / 2))
        assert abs(found - lam) < 0.01, f"({part}) At that u log-SNR is {found:.2f}, not {lam:g}."
    assert shift < 0, "(c) A larger image needs more noise, so a lower log-SNR."
    assert abs(math.exp(-shift) - 16) < 0.1, "(c) The noise averages out over 4×4 pixels."


@exercise("5.2", hint="Translate the weight by (5.13), and draw the factor into the minimum.")
def _(answer: Any) -> None:
    """Min-SNR for a network that predicts v."""
    process = DDPM(schedules.cosine(200))
    t = torch.arange(1, 201)
    for gamma in (1.0, 5.0):
        yours = answer(process.alpha_bar[1:], gamma)
        ours = losses.min_snr(gamma)(process, t) * process.alpha_bar[1:]
        assert torch.allclose(yours, ours), f"For gamma = {gamma:g} it is not min-SNR."
        ends = answer(torch.tensor([0.0, 1.0]), gamma)
        assert bool(ends.isfinite().all()), "At alpha_bar = 0 or 1 the weight is not finite."
        assert bool((ends == 0).all()), "At both ends v tells nothing that this weight counts."


@exercise(
    "5.3", hint="Which ᾱ' has n² times less SNR than ᾱ? Then a step is a ratio of neighbours."
)
def _(answer: Any) -> None:
    """A schedule for larger images."""
    for beta in (schedules.cosine(300), schedules.linear(100)):
        lam = schedules.log_snr(DDPM(beta).alpha_bar)[1:]
        for n in (1, 2, 8):
            yours = answer(beta.clone(), n)
            assert yours.shape == beta.shape and float(yours[0]) == 0, (
                "Return a table of the same length that starts with beta_0 = 0."
            )
            moved = schedules.log_snr(DDPM(yours).alpha_bar)[1:]
            assert torch.allclose(moved, lam - 2 * math.log(n), rtol=1e-5, atol=1e-6), (
                f"For n = {n} log-SNR should move by {-2 * math.log(n):.2f} nats at every t."
            )


@exercise("5.4", hint="All steps share the area under √m equally: where on λ does each share end?")
def _(answer: Any) -> None:
    """The path along which the bound is estimated with the least variance."""
    lam = torch.linspace(8, -6, 4001, dtype=torch.float64)
    for power in (0.0, 1.0):
        m = torch.exp(power * lam / 2)
        path = torch.as_tensor(answer(lam, m, 101))
        assert path.shape == (101,), "Return T log-SNRs."
        assert bool((path[1:] < path[:-1]).all()), "Log-SNR falls along a path."
        ends = abs(float(path[0]) - 8) + abs(float(path[-1]) + 6)
        assert ends < 1e-6, "The path keeps the end points."
        # between neighbours the area under √m is the same everywhere
        root = torch.exp(power * path / 4)
        area = (path[:-1] - path[1:]) if power == 0 else 4 / power * (root[:-1] - root[1:])
        assert float(area.max() / area.min()) < 1.01, (
            "Neighbours on the path should share the area under √m equally."
        )
