"""Checks of chapter 5: noise schedules and loss weightings."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

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


def _bumps(lam: Tensor) -> Tensor:
    """Errors that depend on λ alone, (K, len(lam)): narrow bumps, and one step."""
    centres = torch.linspace(-5, 5, 9, dtype=torch.float64)[:, None]
    bumps = torch.exp(-((lam - centres) ** 2) / 0.5)
    return torch.cat([bumps, torch.sigmoid(4 * lam)[None]])


@exercise(
    "5.2",
    hint="A time of B stands for a cell of the λ axis: what share of A's times lies in that cell?",
)
def _(answer: Any) -> None:
    """Training under one schedule as if it were another."""
    tables = {
        "linear": DDPM(schedules.linear(1000)).alpha_bar,
        "cosine": DDPM(schedules.cosine(1000)).alpha_bar,
        "sigmoid": DDPM(schedules.sigmoid(600)).alpha_bar,
    }
    for a, b in (
        ("linear", "cosine"), ("cosine", "linear"), ("sigmoid", "cosine"), ("linear", "linear"),
    ):  # fmt: skip
        weights = torch.as_tensor(answer(tables[a].clone(), tables[b].clone())).double()
        lam_a, lam_b = (torch.logit(tables[name][1:]) for name in (a, b))
        assert weights.shape == lam_b.shape, "Return one weight for each time of B, t = 1..T_B."
        assert bool((weights >= 0).all()), "A weight is a share of times: not negative, no NaN."
        wanted, found = _bumps(lam_a).mean(1), (_bumps(lam_b) * weights).mean(1)
        assert float((found / wanted - 1).abs().max()) < 0.03, (
            f"Weighted times of {b} do not have the means of the times of {a}."
        )
        outside = (lam_b < lam_a.min() - 0.5) | (lam_b > lam_a.max() + 0.5)
        assert not bool(weights[outside].any()), "Where A never is, the weight is zero."


@exercise("5.3", hint="ln σ ~ N(−1.2, 1.2²) and λ = −2 ln σ: draw λ, then find the nearest time.")
def _(answer: Any) -> None:
    """Karras' noise levels on a table."""
    n = 20_000
    for beta in (schedules.cosine(1000), schedules.linear(1000), schedules.cosine(300)):
        process = DDPM(beta)
        source = torch.Generator().manual_seed(0)
        t = torch.as_tensor(answer(process.alpha_bar.clone(), n, source))
        again = torch.as_tensor(
            answer(process.alpha_bar.clone(), n, torch.Generator().manual_seed(0))
        )
        assert t.shape == (n,) and not t.is_floating_point(), "Return n whole numbers."
        assert bool((t == again).all()), "The same generator gives the same times."
        assert int(t.min()) >= 1 and int(t.max()) <= process.T, "Times lie in 1..T."
        table = torch.logit(process.alpha_bar[1:])
        lam = table[t - 1]
        # at the middles between levels the share above is that of the normal distribution
        for middle in torch.linspace(-5, 6, 12, dtype=torch.float64):
            k = int((table > middle).sum())
            edge = float(table[k - 1] + table[k]) / 2
            share = float((lam > edge).double().mean())
            normal = 0.5 * math.erfc((edge - 2.4) / (2.4 * math.sqrt(2)))
            assert abs(share - normal) < 0.02, (
                f"Of your levels {share:.0%} lie above λ = {edge:.1f}, of Karras' {normal:.0%}."
            )


@exercise("5.4", hint="All steps share the area under √m equally: where on λ does each share end?")
def _(answer: Any) -> None:
    """The path along which the bound is estimated with the least variance."""
    even = torch.linspace(0, 1, 4001, dtype=torch.float64)
    for power, bend in ((0.0, 2.0), (1.0, 2.0), (1.0, 0.7), (-0.5, 1.0)):
        lam = 8 - 14 * even**bend  # a grid whose cells are not equally wide
        path = torch.as_tensor(answer(lam, torch.exp(power * lam / 2), 101)).double()
        assert path.shape == (101,), "Return T log-SNRs."
        assert bool((path[1:] < path[:-1]).all()), "Log-SNR falls along a path."
        ends = abs(float(path[0]) - 8) + abs(float(path[-1]) + 6)
        assert ends < 1e-6, "The path keeps the end points."
        # between neighbours the area under √m is the same everywhere
        area = path[:-1] - path[1:]
        if power:
            root = torch.exp(power * path / 4)
            area = 4 / power * (root[:-1] - root[1:])
        assert float(area.max() / area.min()) < 1.02, (
            "Neighbours on the path should share the area under √m equally."
        )
    _check_variance(answer)


def _check_variance(answer: Any) -> None:
    """On data N(0, c²), where the ε-error is Gaussian: E|ε − ε̂|² = g and m = 3 g²."""
    nodes = torch.tensor(np.polynomial.legendre.leggauss(400)[0], dtype=torch.float64)
    lam = 0.5 - 8.5 * nodes  # from 9 down to −8, crowded at the ends
    lam = torch.cat([lam.new_tensor([9.0]), lam, lam.new_tensor([-8.0])])

    def gain(level: Tensor) -> Tensor:
        return torch.sigmoid(level + 2 * math.log(0.3))  # c² SNR / (1 + c² SNR), c = 0.3

    path = torch.as_tensor(answer(lam, 3 * gain(lam) ** 2, 801)).double()
    step, middle = path[:-1] - path[1:], (path[:-1] + path[1:]) / 2
    mean = float((gain(middle) * step).sum()) / 2
    second = 800 * float((3 * gain(middle) ** 2 * step**2).sum()) / 4
    least = 0.25 * 3 * (2 * mean) ** 2 - mean**2  # (5.11), where √m = √3 g
    assert second - mean**2 < 1.01 * least, (
        "Along your path the estimate of the bound has more variance than it need have: "
        "a cell of the grid counts with its width."
    )
