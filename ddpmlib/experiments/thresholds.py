"""Chapter 11, three ways to end a prediction: as it is, clipped, with the dynamic threshold."""

from __future__ import annotations

from functools import partial

from ddpmlib.evaluation import Guidance
from ddpmlib.experiments import measuring
from ddpmlib.experiments.cells import Cell, Experiment
from ddpmlib.experiments.guidance import DATASETS, HOW
from ddpmlib.experiments.results import Row, markdown, rows
from ddpmlib.experiments.tables import GUIDED_HEADER, guided_columns

THRESHOLDS = ("none", "static", "dynamic")
# Clipped alone; the others are rows of the sweep, see :mod:`ddpmlib.experiments.guidance`.
CELLS: list[Cell] = [
    {"dataset": dataset, "method": "classifier_free", "w": w, "clip": True} | HOW
    for w in (1.0, 4.0)
    for dataset in DATASETS
]


def measure(cell: Cell) -> Row:
    """Samples of the shipped checkpoint of a data set, guided, every prediction clipped."""
    guidance = Guidance(w=cell["w"], clip=cell["clip"])
    return measuring.guided(cell, cell["dataset"], guidance, cell["eta"])


def table(dataset: str) -> str:
    """Classifier-free guidance without a threshold, clipped, and with the dynamic one."""
    clipped = rows("thresholds", dataset=dataset)
    sweep = rows("guidance", dataset=dataset, method="classifier_free")
    found = clipped + [row for row in sweep if row["w"] in {r["w"] for r in clipped}]
    lines = [
        (f"{row['w']:g}", _threshold(row), *guided_columns(row))
        for row in sorted(found, key=lambda r: (r["w"], THRESHOLDS.index(_threshold(r))))
    ]
    return markdown(("w", "threshold", *GUIDED_HEADER), lines)


def _threshold(row: Row) -> str:
    if "clip" in row:
        return "static"
    return "dynamic" if row["threshold"] else "none"


EXPERIMENT = Experiment(
    "thresholds",
    CELLS,
    measure,
    {f"thresholds_{dataset}": partial(table, dataset) for dataset in DATASETS},
)
