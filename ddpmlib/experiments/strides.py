"""Chapter 9, one knob turned: the number of network calls, for five samplers."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ddpmlib import plots
from ddpmlib.experiments import figures
from ddpmlib.experiments.cells import Experiment, sampled_cells
from ddpmlib.experiments.measuring import sampled
from ddpmlib.experiments.methods import ANCESTRAL, METHODS
from ddpmlib.experiments.results import markdown, pivot, rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ALL = tuple(METHODS)
CELLS = [
    *sampled_cells(("cosine-hybrid",), ALL, 5, 10, 25, 50),
    *sampled_cells(("linear-hybrid",), ALL, 10, 50),
    *sampled_cells(("cosine-hybrid",), ALL, 100, 250, n=2000),
    *sampled_cells(("cosine-hybrid",), ANCESTRAL, 1000, n=1000),
]


def table(run: str) -> str:
    """Fréchet distance by number of calls (lines) and sampler (columns)."""
    found = rows("strides", run=run)
    methods = [m for m in METHODS if any(row["method"] == m for row in found)]
    lines = []
    for k, cells in sorted(pivot(found, "steps", "method", "frechet").items(), reverse=True):
        some = next(row for row in found if row["steps"] == k)
        values = [f"{cells[m]:.2f}" if m in cells else "" for m in methods]
        lines.append((k, f"{some['n']:,}", *values, f"{some['frechet_floor']:.2f}"))
    return markdown(("calls", "n", *(METHODS[m].label for m in methods), "floor"), lines)


def figure(run: str, ax: Axes, key: str = "frechet") -> Axes:
    """A measurement over the number of calls, one line per sampler, 95 % intervals where known."""
    for name, method in METHODS.items():
        found = sorted(rows("strides", run=run, method=name), key=lambda r: r["steps"])
        if found:
            figures.curve(ax, found, "steps", key, label=method.label, color=method.colour)
    found = rows("strides", run=run)
    steps = sorted({row["steps"] for row in found})
    floors = {row["steps"]: row[f"{key}_floor"] for row in found if f"{key}_floor" in row}
    if floors:  # an agreement has none
        values = [floors[k] for k in steps]
        ax.plot(steps, values, color=plots.GREY, ls=":", label="real test images")
    ax.set(xlabel="network calls", xscale="log", xticks=steps, xticklabels=steps)
    ax.minorticks_off()
    return ax


def _distance_figure(run: str, ax: Axes) -> Axes:
    return figures.log_distance(figure(run, ax))


NETWORKS = {"linear": "linear-hybrid", "cosine": "cosine-hybrid"}
EXPERIMENT = Experiment(
    "strides",
    CELLS,
    sampled,
    {f"strides_{name}": partial(table, run) for name, run in NETWORKS.items()},
    {f"strides_{name}": partial(_distance_figure, run) for name, run in NETWORKS.items()},
)
