"""Chapter 3 and appendix D: what each part of the digits network and of its training is worth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from ddpmlib import plots
from ddpmlib.experiments.cells import Cell, Experiment
from ddpmlib.experiments.digit_runs import (
    EDGES,
    NO_CLIPPING,
    TIMES,
    Change,
    alpha_bar,
    run,
    without_attention,
    without_skips,
    without_zeros,
)
from ddpmlib.experiments.results import Row, markdown, rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SEEDS = (0, 1, 2)
FAST, COLD = ("settings.lr", 2e-2), ("settings.warmup", 0)
UNCLIPPED = ("settings.clip", NO_CLIPPING)


def _sgd(lr: float) -> Change:
    return Change(f"SGD, learning rate {lr:g}", (("settings.lr", lr),), sgd=True)


CHANGES = {
    "recipe": Change("the recipe"),
    "eps": Change("predicts ε", (("predicts", "eps"),)),
    "x0": Change("predicts x_0", (("predicts", "x0"),)),
    "no-skips": Change("no skip connections", net=without_skips),
    "no-attention": Change("no self-attention", net=without_attention),
    "no-zeros": Change("no zero initialisation", net=without_zeros),
    "constant": Change("constant learning rate", constant=True),
    "cold": Change("no warm-up", (COLD,)),
    "unclipped": Change("no clipping", (UNCLIPPED,)),
    "fast": Change("learning rate × 4", (FAST,)),
    "fast-cold": Change("learning rate × 4, no warm-up", (FAST, COLD)),
    "fast-unclipped": Change("learning rate × 4, no clipping", (FAST, UNCLIPPED)),
    "sgd-0.2": _sgd(0.2),
    "sgd-0.8": _sgd(0.8),
}
CELLS: list[Cell] = [{"change": name, "seed": seed} for seed in SEEDS for name in CHANGES]


def measure(cell: Cell) -> Row:
    """Train the network of a cell, and measure it."""
    return cell | run(CHANGES[cell["change"]], cell["seed"])


# ---- what the rows say ---------------------------------------------------------------------------

T_975 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # Student's t for 95 %, by the number of seeds
WEIGHTS = {  # of the error of x_0, so that it becomes that of what a network is trained on
    "eps": lambda a: a / (1 - a),
    "v": lambda a: 1 / (1 - a),
    "x0": lambda a: 1.0,
}


def error(row: Row, of: str = "v") -> float:
    """The error on unseen scans, of ε, v or x_0: a mean over ten times from 50 to 950."""
    weight = WEIGHTS[of]
    errors = row["x0_error"][: len(TIMES)]
    return fmean(weight(alpha_bar(t)) * e for t, e in zip(TIMES, errors, strict=True))


def errors(change: str, of: str = "v") -> list[float]:
    """The error of every seed, in their order."""
    return [error(row, of) for row in _seeds(change)]


def values(change: str, key: str) -> list[float]:
    """A field of the rows of every seed, in their order."""
    return [row[key] for row in _seeds(change)]


def _seeds(change: str) -> list[Row]:
    return sorted(rows("ablations", change=change), key=lambda row: row["seed"])


def interval(found: Sequence[float]) -> tuple[float, float]:
    """Mean over seeds, and the half width of its 95 % interval by Student's t."""
    return fmean(found), T_975[len(found)] * stdev(found) / math.sqrt(len(found))


def difference(change: str, of: str = "v") -> tuple[float, float]:
    """Mean of the error less that of the recipe with the same seed, and its half width."""
    pairs = zip(errors(change, of), errors("recipe", of), strict=True)
    return interval([ours - recipe for ours, recipe in pairs])


# ---- tables and figures --------------------------------------------------------------------------


def table(*changes: str) -> str:
    """One line a change: error on unseen scans, what it adds to that of the recipe, distances."""
    header = (
        "", "loss on unseen scans", "more than the recipe [95 %]", "Fréchet, features",
        "Fréchet, pixels",
    )  # fmt: skip
    lines = []
    for name in ("recipe", *changes):
        mean, half = difference(name)
        more = "" if name == "recipe" else f"{mean:+.3f} [{mean - half:+.3f}, {mean + half:+.3f}]"
        distances = (_mean_std(values(name, key)) for key in ("frechet", "frechet_pixels"))
        lines.append((CHANGES[name].label, f"{fmean(errors(name)):.3f}", more, *distances))
    return markdown(header, lines)


def targets_table() -> str:
    """What ε-, x_0- and v-networks lose, each by the loss of each; and their samples."""
    header = (
        "trained on", "loss of $\\varepsilon$", "loss of $v$", "loss of $x_0$", "Fréchet distance",
        "with $\\hat x_0$ clipped",
    )  # fmt: skip
    names = {"eps": "$\\varepsilon$", "recipe": "$v$", "x0": "$x_0$"}
    lines = []
    for name, words in names.items():
        losses = (_mean_std(errors(name, of), 3) for of in WEIGHTS)
        distances = (_mean_std(values(name, key)) for key in ("frechet", "clipped_frechet"))
        lines.append((words, *losses, *distances))
    return markdown(header, lines)


def _mean_std(found: Sequence[float], digits: int = 1) -> str:
    return f"{fmean(found):.{digits}f} ± {stdev(found):.{digits}f}"


def targets_figure(ax: Axes) -> None:
    """Error of x̂_0 at each time over that of the v-network, mean and range over seeds."""
    times = sorted((*TIMES, *EDGES))
    places = {t: i for i, t in enumerate((*TIMES, *EDGES))}
    recipe = _seeds("recipe")
    for name, label, colour in (
        ("eps", "trained on ε", plots.BLUE), ("x0", "trained on $x_0$", plots.ORANGE)
    ):  # fmt: skip
        ratios = [
            [ours["x0_error"][places[t]] / base["x0_error"][places[t]] for t in times]
            for ours, base in zip(_seeds(name), recipe, strict=True)
        ]
        by_time = list(zip(*ratios, strict=True))
        ax.plot(times, [fmean(r) for r in by_time], "o-", ms=3, color=colour, label=label)
        ax.fill_between(
            times, [min(r) for r in by_time], [max(r) for r in by_time], color=colour, alpha=0.2
        )
    ax.axhline(1, color=plots.GREY, lw=1, label="trained on v")
    ax.set(xlabel="time t", ylabel="error of $\\hat x_0$, times that of v", yscale="log")
    ax.legend()


def summary_figure(ax: Axes) -> None:
    """The error of every run, a row a change, beside the mean of the recipe."""
    shown = [name for name in CHANGES if name not in ("eps", "x0")]
    for i, name in enumerate(shown):
        ax.plot(errors(name), [i] * len(errors(name)), "o", color=plots.BLUE, alpha=0.7)
    ax.axvline(fmean(errors("recipe")), color=plots.GREY, lw=1)
    ax.set(yticks=range(len(shown)), yticklabels=[CHANGES[name].label for name in shown])
    ax.set(xlabel="loss on unseen scans", xscale="log")
    ax.invert_yaxis()


def _architecture() -> str:
    return table("no-skips", "no-attention", "no-zeros")


def _training() -> str:
    shown = [name for name in CHANGES if name not in ("recipe", "eps", "x0")]
    return table(*(name for name in shown if not CHANGES[name].net))


EXPERIMENT = Experiment(
    "ablations",
    CELLS,
    measure,
    {
        "ablations_targets": targets_table,
        "ablations_architecture": _architecture,
        "ablations_training": _training,
    },
    {"ablations": summary_figure, "ablations_targets": targets_figure},
)
