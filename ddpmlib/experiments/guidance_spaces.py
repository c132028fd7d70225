"""Chapter 11, guidance by several kinds of features: distance, matched contrast, recall."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ddpmlib import plots
from ddpmlib.evaluation import Guidance
from ddpmlib.experiments import figures, spaces
from ddpmlib.experiments.cells import Cell, Experiment
from ddpmlib.experiments.results import Row, markdown, rows
from ddpmlib.experiments.spaces import COLOURS, KEYS, LABELS, SPACES
from ddpmlib.experiments.uncertainty import times_floor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DATASETS = ("mnist", "fashion_mnist")
WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
CELLS: list[Cell] = [
    {"dataset": name, "w": w, "space": space, "steps": 20, "eta": 1.0, "n": 1000}
    for name in DATASETS
    for w in WEIGHTS
    for space in SPACES[name]
]


def measure(cell: Cell) -> Row:
    """The same guided samples of the shipped checkpoint, by one kind of features."""
    return spaces.measured_guided(cell, Guidance(w=cell["w"]))


# ---- tables and figures --------------------------------------------------------------------------


def found(dataset: str, space: str) -> list[Row]:
    """The rows of a data set by one kind of features, in the order of w."""
    return sorted(rows("guidance_spaces", dataset=dataset, space=space), key=lambda r: r["w"])


def best(dataset: str, space: str, key: str = "frechet") -> float:
    """The w of the smallest distance."""
    return float(min(found(dataset, space), key=lambda row: row[key])["w"])


def table(dataset: str) -> str:
    """Contrast at every w; for each kind of features the distance as it is, and matched."""
    header = ["features", "contrast", *(f"w = {w:g}" for w in WEIGHTS), "test images"]
    first = found(dataset, "classifier")
    lines = [("", "of the samples", *(f"{row['contrast']:.3f}" for row in first),
              f"{first[0]['contrast_floor']:.3f}")]  # fmt: skip
    for space in SPACES[dataset]:
        of_space = found(dataset, space)
        floor = {"frechet": f"{of_space[0]['frechet_floor']:.2f}", "frechet_matched": ""}
        for key, how in KEYS.items():
            lines.append((LABELS[space], how, *(f"{row[key]:.2f}" for row in of_space), floor[key]))
    return markdown(header, lines)


def figure(dataset: str, ax: Axes) -> Axes:
    """Distance over its floor against w; dashed with contrast matched."""
    for space in SPACES[dataset]:
        of_space, colour, label = found(dataset, space), COLOURS[space], LABELS[space]
        for key, style in (("frechet", "-"), ("frechet_matched", "--")):
            look: dict[str, Any] = {"color": colour, "ls": style}
            look |= {"label": label} if style == "-" else {}
            figures.curve(ax, [_over_floor(row) for row in of_space], "w", key, **look)
    ax.axhline(1, color=plots.GREY, ls=":", label="real test images")
    ax.set_xscale("symlog", linthresh=0.25, base=2)
    ax.set(xlabel="w", ylabel="Fréchet distance / floor", yscale="log", xticks=WEIGHTS)
    ax.set_xticklabels([f"{w:g}" for w in WEIGHTS])
    ax.minorticks_off()
    return ax


def _over_floor(row: Row) -> Row:
    """The row with distances in units of what as many test images reach."""
    unit, scaled = row["frechet_floor"], {"w": row["w"]}
    for key in ("frechet", "frechet_matched"):
        scaled |= {key: row[key] / unit, f"{key}_interval": [
            end / unit for end in row[f"{key}_interval"]
        ]}  # fmt: skip
    return scaled


def frontier_figure(dataset: str, ax: Axes) -> Axes:
    """Distance over its floor against recall, one curve for each kind of features, along w."""
    for space in SPACES[dataset]:
        of_space, colour, label = found(dataset, space), COLOURS[space], LABELS[space]
        recall = [row["recall"] for row in of_space]
        over = [times_floor(row) for row in of_space]
        ax.plot(recall, over, "o-", ms=4, color=colour, label=label)
        for row, x, y in zip(of_space, recall, over, strict=True):
            ax.annotate(f"{row['w']:g}", (x, y), (3, 3), textcoords="offset points", fontsize=7)
    ax.set(xlabel="recall (diversity)", ylabel="Fréchet distance / floor", yscale="log")
    return ax


EXPERIMENT = Experiment(
    "guidance_spaces",
    CELLS,
    measure,
    {f"guidance_spaces_{name}": partial(table, name) for name in DATASETS},
    {f"guidance_spaces_{name}": partial(figure, name) for name in DATASETS},
)
