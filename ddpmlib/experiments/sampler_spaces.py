"""Chapter 9, DDIM against ancestral sampling by several kinds of features, three trainings."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ddpmlib import evaluation, plots
from ddpmlib.evaluation import Sampling
from ddpmlib.experiments import measuring, runs
from ddpmlib.experiments.cells import Cell, Experiment
from ddpmlib.experiments.methods import METHODS
from ddpmlib.experiments.results import Row, markdown, pivot, rows
from ddpmlib.experiments.spaces import COLOURS, KEYS, LABELS, measured
from ddpmlib.experiments.uncertainty import over_seeds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RUN = "cosine-hybrid"
PAIR = ("beta_tilde", "ddim")
CALLS = (5, 10, 25, 50)
CELLS: list[Cell] = [
    {"run": runs.seeded(RUN, seed), "method": method, "steps": k, "space": space, "n": 2000}
    for seed in runs.SEEDS
    for k in CALLS
    for method in PAIR
    for space in LABELS
]


def measure(cell: Cell) -> Row:
    """The same samples of one network and sampler, by one kind of features."""
    x0, dataset = _drawn(cell["run"], cell["method"], cell["steps"], cell["n"])
    found = measured(dataset, cell["space"], x0, torch.arange(cell["n"]) % 10)
    return measuring.row(cell, found, dataset)


@lru_cache(maxsize=1)
def _drawn(run: str, method: str, steps: int, n: int) -> tuple[Tensor, str]:
    denoiser, card = measuring.network(runs.folder(run))
    walk = measuring.with_variance(denoiser, METHODS[method].var_mix)
    how = Sampling(steps, eta=METHODS[method].eta)
    y = torch.arange(n) % 10
    x0 = evaluation.generate(walk, card.image_shape, y, how, card=card, batch_size=250)
    return x0, card.recipe["data"]


# ---- tables and figures --------------------------------------------------------------------------


def ratios(space: str, steps: int, key: str = "frechet") -> list[float]:
    """DDIM's distance in units of that of ancestral sampling, one value a training seed."""
    found = rows("sampler_spaces", space=space, steps=steps)
    by_run = pivot(found, "run", "method", key)
    return [by_run[runs.seeded(RUN, seed)]["ddim"] / by_run[runs.seeded(RUN, seed)]["beta_tilde"]
            for seed in runs.SEEDS]  # fmt: skip


def table() -> str:
    """For each kind of features the ratio at every number of calls, as it is and matched."""
    lines = [
        (label, how, *(_with_error(ratios(space, k, key)) for k in CALLS))
        for space, label in LABELS.items()
        for key, how in KEYS.items()
    ]
    return markdown(("features", "contrast", *(f"{k} calls" for k in CALLS)), lines)


def _with_error(values: list[float]) -> str:
    mean, error = over_seeds(values)
    return f"{mean:.2f}\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{error:.2f}"


def figure(ax: Axes) -> Axes:
    """DDIM over ancestral against calls: solid as it is, dashed with contrast matched."""
    for space, label in LABELS.items():
        for key, style in zip(KEYS, ("-", "--"), strict=True):
            found = [over_seeds(ratios(space, k, key)) for k in CALLS]
            means, errors = zip(*found, strict=True)
            name = label if style == "-" else None
            ax.errorbar(CALLS, means, errors, ls=style, marker="o", ms=4, capsize=2,
                        color=COLOURS[space], label=name)  # fmt: skip
    ax.axhline(1, color=plots.GREY, ls=":")
    ax.set(xlabel="network calls", ylabel="distance, DDIM / ancestral", xscale="log")
    shares = (0.7, 1, 1.5, 2, 3)
    ax.set(yscale="log", xticks=CALLS, xticklabels=CALLS, yticks=shares, yticklabels=shares)
    ax.minorticks_off()
    ax.legend()
    return ax


EXPERIMENT = Experiment(
    "sampler_spaces", CELLS, measure, {"sampler_spaces": table}, {"sampler_spaces": figure}
)
