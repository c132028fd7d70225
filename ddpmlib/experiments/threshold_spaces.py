"""Chapter 11, thresholding under guidance by several kinds of features."""

from __future__ import annotations

from functools import partial

from ddpmlib.evaluation import Guidance
from ddpmlib.experiments import guidance_spaces, spaces
from ddpmlib.experiments.cells import Cell, Experiment
from ddpmlib.experiments.guidance import QUANTILE
from ddpmlib.experiments.results import Row, markdown, rows
from ddpmlib.experiments.spaces import KEYS, LABELS, SPACES
from ddpmlib.experiments.thresholds import THRESHOLDS

WEIGHTS = (1.0, 4.0)
# Without a threshold: rows of :mod:`ddpmlib.experiments.guidance_spaces`.
CELLS: list[Cell] = [
    {"dataset": name, "w": w, "threshold": how, "space": space, "steps": 20, "eta": 1.0, "n": 1000}
    for name in guidance_spaces.DATASETS
    for w in WEIGHTS
    for how in THRESHOLDS[1:]
    for space in SPACES[name]
]


def measure(cell: Cell) -> Row:
    """The same guided samples with a threshold, by one kind of features."""
    dynamic = cell["threshold"] == "dynamic"
    quantile = QUANTILE if dynamic else 0.0
    return spaces.measured_guided(cell, Guidance(w=cell["w"], threshold=quantile, clip=not dynamic))


def times_none(dataset: str, w: float, key: str) -> dict[str, dict[str, float]]:
    """threshold → space → distance over that of the same guidance without a threshold."""
    plain = rows("guidance_spaces", dataset=dataset, w=w)
    unit = {row["space"]: row[key] for row in plain}
    table: dict[str, dict[str, float]] = {}
    for row in rows("threshold_spaces", dataset=dataset, w=w):
        table.setdefault(row["threshold"], {})[row["space"]] = row[key] / unit[row["space"]]
    return table


def table(dataset: str) -> str:
    """For each kind of features what a threshold multiplies the distance by."""
    header = ["features", "contrast"]
    header += [f"{how}, w = {w:g}" for how in THRESHOLDS[1:] for w in WEIGHTS]
    found = {key: {w: times_none(dataset, w, key) for w in WEIGHTS} for key in KEYS}
    lines = []
    for space in SPACES[dataset]:
        for key, said in KEYS.items():
            ratios = [found[key][w][how][space] for how in THRESHOLDS[1:] for w in WEIGHTS]
            lines.append((LABELS[space], said, *(f"{ratio:.2f}" for ratio in ratios)))
    return markdown(header, lines)


EXPERIMENT = Experiment(
    "threshold_spaces",
    CELLS,
    measure,
    {f"threshold_spaces_{name}": partial(table, name) for name in guidance_spaces.DATASETS},
)
