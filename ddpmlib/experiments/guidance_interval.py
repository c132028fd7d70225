"""Chapter 11, when to guide: classifier-free guidance at some of the times only."""

from __future__ import annotations

from functools import partial

from ddpmlib.evaluation import Guidance
from ddpmlib.experiments import measuring
from ddpmlib.experiments.cells import Cell, Experiment
from ddpmlib.experiments.guidance import DATASETS, HOW
from ddpmlib.experiments.results import Row, markdown, rows
from ddpmlib.experiments.tables import GUIDED_HEADER, guided_columns

INTERVALS = ((1, 333), (334, 666), (667, 1000), (1, 666))
CELLS: list[Cell] = [
    {"dataset": dataset, "w": 4.0, "low": low, "high": high} | HOW
    for dataset in reversed(DATASETS)
    for low, high in INTERVALS
]


def measure(cell: Cell) -> Row:
    """Samples of the shipped checkpoint of a data set, guided at times low ≤ t ≤ high."""
    guidance = Guidance(w=cell["w"], low=cell["low"], high=cell["high"])
    return measuring.guided(cell, cell["dataset"], guidance, cell["eta"])


def table(dataset: str) -> str:
    """Guidance at some times, beside the sweep's rows for none and all."""
    found = rows("guidance_interval", dataset=dataset)
    strengths = {0.0, *(row["w"] for row in found)}
    sweep = rows("guidance", dataset=dataset, method="classifier_free", threshold=False)
    lines = [
        (f"{row['w']:g}", _times(row), *guided_columns(row))
        for row in [row for row in sweep if row["w"] in strengths] + found
    ]
    return markdown(("w", "times", *GUIDED_HEADER), lines)


def _times(row: Row) -> str:
    if row["w"] == 0:
        return "none"
    return f"{row['low']}–{row['high']}" if "low" in row else "all"


EXPERIMENT = Experiment(
    "guidance_interval",
    CELLS,
    measure,
    {f"interval_{dataset}": partial(table, dataset) for dataset in DATASETS},
)
