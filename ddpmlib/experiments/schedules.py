"""Chapter 9, which schedule: linear, sigmoid and cosine at two numbers of calls."""

from __future__ import annotations

from ddpmlib.experiments.cells import Experiment, sampled_cells
from ddpmlib.experiments.measuring import sampled
from ddpmlib.experiments.results import rows
from ddpmlib.experiments.tables import sampled_table

CELLS = sampled_cells(("linear", "sigmoid", "cosine"), ("beta_tilde", "ddim"), 10, 50)


def table() -> str:
    """One line a cell, by sampler and number of calls."""
    return sampled_table(sorted(rows("schedules"), key=lambda r: (r["method"], r["steps"])))


EXPERIMENT = Experiment("schedules", CELLS, sampled, {"schedules": table})
