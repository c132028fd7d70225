"""Write what the playground in the pages needs: its mixtures, and its pictures for scripts off.

    python scripts/playground.py

The toy data sets of :mod:`ddpmlib.data` become mixtures of Gaussians, for which the best denoiser
is a closed form: ``book/_static/alive/mixtures.js`` hands them to the browser. The pictures are
drawn by ddpmlib with the same mixtures and the settings of each page.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddpmlib import data, oracle, plots, schedules
from ddpmlib.guidance import ClassifierFree
from ddpmlib.process import DDPM
from ddpmlib.samplers import State, sample, uniform_times

FOLDER = Path(__file__).resolve().parent.parent / "book" / "_static" / "alive"
HEADER = "/* Written by scripts/playground.py: data sets in the plane as mixtures of Gaussians. */\n"
DIGITS = 5  # of every number in mixtures.js


def mixtures() -> dict[str, dict[str, Any]]:
    """Every data set: its title, and the weights, means, stds and labels of its components."""
    return {
        "ring": _mixture("Ring of Gaussians", data.ring_means(6), 0.2, torch.arange(6)),
        "moons": _moons(14),
        "spiral": _spiral(42),
        "checkerboard": _checkerboard(),
        "clouds": _mixture("Three clouds", _clouds(), 0.45, torch.arange(3)),
    }


def _mixture(title: str, means: Tensor, std: float, labels: Tensor) -> dict[str, Any]:
    return {
        "title": title,
        "weights": [1] * len(means),
        "means": [[round(float(u), DIGITS) for u in mean] for mean in means],
        "stds": [std] * len(means),
        "labels": labels.tolist(),
    }


def _moons(each: int) -> dict[str, Any]:
    """Components evenly along both half circles of :func:`ddpmlib.data.moons`."""
    angle = (torch.arange(each, dtype=torch.float64) + 0.5) / each * math.pi
    first = torch.stack([angle.cos(), angle.sin()], 1)
    second = torch.tensor([1.0, 0.5], dtype=torch.float64) - first
    means = 1.25 * (torch.cat([first, second]) - torch.tensor([0.5, 0.25], dtype=torch.float64))
    return _mixture("Two moons", means, 0.1, torch.arange(2).repeat_interleave(each))


def _spiral(n: int) -> dict[str, Any]:
    """Components evenly along the arm of :func:`ddpmlib.data.spiral`; its thirds are classes."""
    turn = ((torch.arange(n, dtype=torch.float64) + 0.5) / n).sqrt()
    angle = 3 * math.pi * turn
    means = 1.8 * turn[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
    return _mixture("Spiral", means, 0.09, torch.arange(n) * 3 // n)


def _checkerboard() -> dict[str, Any]:
    """Nine components in each square of :func:`ddpmlib.data.checkerboard`; columns are classes."""
    inside = [(i / 6, j / 6) for i in (1, 3, 5) for j in (1, 3, 5)]
    squares = [(column, 2 * r + column % 2) for column in range(4) for r in range(2)]
    means = torch.tensor(
        [[c + u - 2, r + v - 2] for c, r in squares for u, v in inside], dtype=torch.float64
    )
    labels = torch.tensor([column for column, _ in squares]).repeat_interleave(len(inside))
    return _mixture("Checkerboard", means, 0.13, labels)


def _clouds() -> Tensor:
    """Centres of the three overlapping classes of chapter 11."""
    angle = 2 * math.pi * (torch.arange(3) / 3 + 0.25)
    return 0.6 * torch.stack([angle.cos(), angle.sin()], 1)


def script() -> str:
    """The text of mixtures.js."""
    rows = (f"  {json.dumps(name)}: {json.dumps(one)}" for name, one in mixtures().items())
    return HEADER + "Diffusion.mixtures = {\n" + ",\n".join(rows) + ",\n};\n"


if __name__ == "__main__":
    (FOLDER / "mixtures.js").write_text(script(), "utf-8")
