"""Write what the playground in the pages needs: its mixtures, and its pictures for scripts off.

    python scripts/playground.py

The toy data sets of :mod:`ddpmlib.data` become mixtures of Gaussians, for which the best denoiser
is a closed form: ``book/_static/alive/mixtures.js`` hands them to the browser. The pictures are
drawn by ddpmlib with the same mixtures and the settings of each page.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ddpmlib import data, plots
from ddpmlib.denoiser import oracle
from ddpmlib.denoiser.denoiser import ProcessDenoiser
from ddpmlib.guidance import ClassifierFree
from ddpmlib.process import DDPM, schedules
from ddpmlib.samplers import State, sample, uniform_times

FOLDER = Path(__file__).resolve().parent.parent / "book" / "_static" / "alive"
HEADER = "/* Written by scripts/playground.py: data in the plane as mixtures of Gaussians. */\n"
DIGITS = 5  # of every number in mixtures.js
REACH = 3.0


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
    """Components evenly along both half circles of :func:`ddpmlib.data.toys.moons`."""
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


# ---- pictures ----------------------------------------------------------------------------------


def exact(name: str) -> oracle.Mixture:
    """The exact denoiser of a data set, under the cosine schedule with T = 1000."""
    one = mixtures()[name]
    weights, means, stds = (
        torch.tensor(one[key], dtype=torch.float64) for key in ("weights", "means", "stds")
    )
    process = DDPM(schedules.cosine(1000))
    return oracle.Mixture(process, weights, means, stds, torch.tensor(one["labels"]))


def _states(
    denoiser: ProcessDenoiser, n: int, steps: int, eta: float, y: Tensor | None = None
) -> list[State]:
    """A seeded chain of n points from noise to data."""
    process, generator = denoiser.process, torch.Generator().manual_seed(1)
    noise = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    times = uniform_times(process.end, steps)
    return list(sample(denoiser, process, noise, times, eta=eta, y=y, generator=generator))


def _panels(n: int) -> tuple[Figure, list[Axes]]:
    figure, axes = plt.subplots(1, n, figsize=(7.2, 7.2 / n + 0.3), sharey=True, dpi=100)
    return figure, list(axes)


def _scatter(mixture: oracle.Mixture, state: State, ax: Axes, **looks: Any) -> None:
    """The points of a state in the colours of the classes that they look like."""
    classes = mixture.class_logits(state.x, state.t).argmax(1).tolist()
    colours = [plots.COLOURS[c] for c in classes]
    plots.scatter(state.x, ax, reach=REACH, color=colours, s=5, alpha=0.8, **looks)
    ax.set_axis_off()


def _moments(name: str, steps: int) -> Figure:
    """Four moments of a DDPM chain."""
    mixture = exact(name)
    states = _states(mixture, 500, steps, eta=1.0)
    figure, axes = _panels(4)
    for ax, part in zip(axes, (0.0, 0.5, 0.8, 1.0), strict=True):
        state = states[round(part * steps)]
        _scatter(mixture, state, ax)
        ax.set_title(f"t = {state.t}")
    return figure


def _paths(name: str, steps: int, etas: Sequence[float]) -> Figure:
    """The ways of eight points of five hundred."""
    mixture = exact(name)
    figure, axes = _panels(len(etas))
    for ax, eta in zip(axes, etas, strict=True):
        states = _states(mixture, 500, steps, eta)
        _scatter(mixture, states[-1], ax)
        ways = torch.stack([state.x[:8] for state in states])
        ax.plot(ways[..., 0], ways[..., 1], color="0.25", lw=0.9)
        ax.set_title(f"{steps} steps, η = {eta:g}")
    return figure


def _guided(name: str, steps: int, weights: Sequence[float]) -> Figure:
    """Each class in turn, under more and more guidance."""
    mixture = exact(name)
    y = torch.arange(500) % (mixture.null_label or 1)
    figure, axes = _panels(len(weights))
    for ax, w in zip(axes, weights, strict=True):
        _scatter(mixture, _states(ClassifierFree(mixture, w), 500, steps, 1.0, y)[-1], ax)
        ax.set_title(f"w = {w:g}")
    return figure


# What stands in the pages where scripts are off, by the name of its file.
PICTURES: dict[str, Callable[[], Figure]] = {
    "playground_intro.png": partial(_moments, "moons", steps=50),
    "playground_03_ddpm.png": partial(_moments, "ring", steps=250),
    "playground_07_ddim.png": partial(_paths, "spiral", steps=7, etas=(0.0, 1.0)),
    "playground_11_classifier_free.png": partial(_guided, "clouds", 50, (0.0, 1.0, 4.0)),
}


def draw(name: str, folder: Path) -> None:
    """Draw one of ``PICTURES`` into a folder."""
    plots.style()
    figure = PICTURES[name]()
    figure.savefig(folder / name)
    plt.close(figure)


if __name__ == "__main__":
    (FOLDER / "mixtures.js").write_text(script(), "utf-8")
    for name in PICTURES:
        draw(name, FOLDER)
