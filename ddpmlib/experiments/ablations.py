"""Chapter 3 and appendix D: what each part of the digits network and of its training is worth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
SLOW, FAST = ("settings.lr", 1e-3), ("settings.lr", 2e-2)
COLD = ("settings.warmup", 0)
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
    "slow": Change("learning rate / 5", (SLOW,)),
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


def field_difference(change: str, key: str) -> tuple[float, float]:
    """The same of a field of the rows, such as the Fréchet distance."""
    pairs = zip(values(change, key), values("recipe", key), strict=True)
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
        ends = f"[{mean - half:+z.3f}, {mean + half:+z.3f}]"
        more = "" if name == "recipe" else f"{mean:+z.3f} {ends}"
        distances = (
            _mean_std(values(name, key), digits)
            for key, digits in (("frechet", 1), ("frechet_pixels", 2))
        )
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


def error_by_time(ax: Axes, shown: Mapping[str, tuple[str, str]]) -> None:
    """Error of x̂_0 at each time over that of the recipe with the same seed: mean and range.

    Args:
        ax: where to draw.
        shown: name of a change → its label and colour.
    """
    for name, (label, colour) in shown.items():
        found = ratios(name)
        times = list(found)
        ax.plot(times, [fmean(r) for r in found.values()], "o-", ms=3, color=colour, label=label)
        low, high = ([f(r) for r in found.values()] for f in (min, max))
        ax.fill_between(times, low, high, color=colour, alpha=0.2)
    ax.set(xlabel="time t", ylabel="error of $\\hat x_0$, relative")
    ax.legend()


def ratios(change: str) -> dict[int, list[float]]:
    """Time → error of x̂_0 over that of the recipe with the same seed, for every seed."""
    times = (*TIMES, *EDGES)
    pairs = list(zip(_seeds(change), _seeds("recipe"), strict=True))
    return {
        t: [ours["x0_error"][i] / base["x0_error"][i] for ours, base in pairs]
        for i, t in sorted(enumerate(times), key=lambda place: place[1])
    }


def targets_figure(ax: Axes) -> None:
    """Error of x̂_0 at each time, of ε- and x_0-networks over that of v-networks."""
    looks = {"eps": ("trained on ε", plots.BLUE), "x0": ("trained on $x_0$", plots.ORANGE)}
    ax.axhline(1, color=plots.GREY, lw=1, label="trained on v")
    error_by_time(ax, looks)
    ax.set(yscale="log", ylabel="error of $\\hat x_0$, times that of v")


def summary_figure(ax: Axes) -> None:
    """The error of every run, a row a change, beside the mean of the recipe."""
    shown = [name for name in CHANGES if name not in ("eps", "x0")]
    for i, name in enumerate(shown):
        ax.plot(errors(name), [i] * len(errors(name)), "o", color=plots.BLUE, alpha=0.7)
    ax.axvline(fmean(errors("recipe")), color=plots.GREY, lw=1)
    ax.set(yticks=range(len(shown)), yticklabels=[CHANGES[name].label for name in shown])
    ax.set(xlabel="loss on unseen scans")
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
