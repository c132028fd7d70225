"""Chapter 9, where along the chain the quality appears: the predictions of x_0, measured."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ddpmlib import plots, samplers, zoo
from ddpmlib.denoiser import FixedVariance
from ddpmlib.experiments import figures, measuring, runs
from ddpmlib.experiments.cells import Cell, Experiment, sampled_cells
from ddpmlib.experiments.methods import METHODS
from ddpmlib.experiments.results import Row, rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CELLS = sampled_cells(("linear-hybrid", "cosine-hybrid"), ("beta_tilde", "ddim"), 100)


def measure(cell: Cell) -> Row:
    """Fréchet distance and class agreement of x̂_0 along the chain."""
    denoiser, card = measuring.network(runs.folder(cell["run"]))
    walk, started = FixedVariance(denoiser, 0.0), time.perf_counter()
    y, generator = torch.arange(cell["n"]) % 10, torch.Generator().manual_seed(0)
    seen: dict[int, list[Tensor]] = {}
    for labels in y.split(250):
        for t, x0 in _predictions(walk, card, labels, cell, generator):
            seen.setdefault(t, []).append(x0)
    dataset, curve = card.recipe["data"], []
    for t, parts in seen.items():
        x0 = torch.cat(parts).float()
        curve.append({"t": t} | measuring.against_real(x0, y, dataset, ("fid", "agreement")))
    found = {"curve": curve, "seconds": round(time.perf_counter() - started, 1)}
    return measuring.row(cell, found, dataset)


def _predictions(
    walk: FixedVariance, card: zoo.Card, y: Tensor, cell: Cell, generator: torch.Generator
) -> Iterator[tuple[int, Tensor]]:
    """(t, x̂_0 as seen at t) at every fifth step, and the end of the chain as t = 0."""
    noise = torch.randn(len(y), *card.image_shape, generator=generator)
    times, eta = (
        samplers.uniform_times(walk.process.end, cell["steps"]),
        METHODS[cell["method"]].eta,
    )
    with torch.autocast("cpu", torch.bfloat16):
        states = samplers.sample(
            walk, walk.process, noise, times, eta=eta, y=y, generator=generator
        )
        for k, state in enumerate(states):
            if state.x0 is not None and (k - 1) % 5 == 0:
                yield times[k - 1], state.x0.half()
    yield 0, state.x.half()


def figure(ax: Axes, key: str = "frechet") -> Axes:
    """A measurement of x̂_0 over the share of network calls that are done."""
    for row in rows("chain"):
        curve: list[dict[str, Any]] = row["curve"]
        T = curve[0]["t"]
        x = [100 * (1 - point["t"] / T) for point in curve]
        style = "-" if row["method"] == "ddim" else "--"
        colour = plots.BLUE if row["run"].startswith("cosine") else plots.ORANGE
        label = f"{row['run'].split('-')[0]}, {METHODS[row['method']].label}"
        ax.plot(x, [point[key] for point in curve], style, color=colour, label=label)
    ax.set(xlabel="share of the chain that is done (%)")
    return ax


EXPERIMENT = Experiment(
    "chain",
    CELLS,
    measure,
    figures={"chain": lambda ax: figures.log_distance(figure(ax))},
)
