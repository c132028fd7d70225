"""Checks of page D: training in practice."""

import math
from typing import Any

import torch
from torch import nn

from ddpmlib.experiments.ablations import T_975
from ddpmlib.teaching.exercises import exercise
from ddpmlib.training import Average


@exercise("D.1", hint="Each update multiplies it by its own decay. Which one has the first update?")
def _(answer: Any) -> None:
    """How much of the random start an average still holds."""
    for decay in (0.9, 0.985, 0.9995):
        for updates in (1, 3, 40, 400):
            found = [float(share) for share in answer(updates, decay)]
            assert len(found) == 2, "Return two shares: of a fixed decay, of a growing one."
            for share, count, name in zip(found, (10**9, 0), ("fixed", "growing"), strict=True):
                want = _left(updates, decay, count)
                assert abs(share / want - 1) < 1e-6, (
                    f"After {updates} updates with d = {decay} the {name} decay leaves another "
                    "share of the start."
                )


def _left(updates: int, decay: float, count: int) -> float:
    """What an average whose updates are counted from ``count`` keeps of a weight that was 1."""
    model = nn.Module()
    model.theta = nn.Parameter(torch.ones(1, dtype=torch.float64))
    average = Average(model, decay)
    nn.init.zeros_(model.theta)
    for n in range(updates):
        average.update(model, count + n)
    return float(average.module.get_parameter("theta").detach())


@exercise(
    "D.2", hint="One number a seed first. How many of them are free once their mean is known?"
)
def _(answer: Any) -> None:
    """A difference between two recipes, with its interval."""
    g = torch.Generator().manual_seed(0)
    for n in (3, 5):
        seed, noise = torch.randn(2, n, generator=g, dtype=torch.float64)
        theirs = (0.25 + 0.02 * seed).tolist()
        ours = (0.26 + 0.02 * seed + 0.003 * noise).tolist()
        mean, half = (float(x) for x in answer(ours, theirs))
        pairs = torch.tensor(ours, dtype=torch.float64) - torch.tensor(theirs, dtype=torch.float64)
        assert abs(mean - float(pairs.mean())) < 1e-9, "The mean difference is not that."
        want = T_975[n] * float(pairs.std()) / math.sqrt(n)
        assert abs(half / want - 1) < 1e-3, f"For {n} seeds the half width is not that."


def _by_moments(rate: float, decay: float) -> tuple[float, float]:
    """Variances of weight and average, from the recursion of their second moments."""
    keep = 1 - rate
    weight, both, average = 0.0, 0.0, 0.0
    for _ in range(200_000):
        before = (weight, both, average)
        average = decay**2 * average + 2 * decay * (1 - decay) * keep * both
        both = decay * keep * both
        weight = keep**2 * weight + rate**2
        both += (1 - decay) * weight
        average += (1 - decay) ** 2 * weight
        if math.dist(before, (weight, both, average)) < 1e-15:
            break
    return weight, average


def _close(found: Any, want: float) -> bool:
    return abs(float(found) / want - 1) < 1e-4


@exercise("D.3", hint="Write θ with its own past, and first find the covariance of θ and average.")
def _(answer: Any) -> None:
    """Averaging and a small learning rate do the same to the noise of the gradients."""
    assert len(answer) == 3, "Give the functions last, averaged and decay."
    last, averaged, decay = answer
    for rate in (0.05, 0.4, 1.0, 1.6):
        for d in (0.0, 0.5, 0.98):
            weight, average = _by_moments(rate, d)
            assert _close(last(rate), weight), f"At r = {rate} the weight has another variance."
            assert _close(averaged(rate, d), average), (
                f"At r = {rate}, d = {d} the average has another variance."
            )
    for rate in (0.05, 0.4, 0.9):
        for k in (2, 10):
            d = float(decay(rate, k))
            assert 0 <= d < 1, "A decay lies in [0, 1)."
            assert _close(_by_moments(rate, d)[1], _by_moments(rate / k, 0.0)[0]), (
                f"At r = {rate} this decay does not do what a learning rate {k} times smaller does."
            )
