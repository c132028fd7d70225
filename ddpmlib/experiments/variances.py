"""Chapter 9, which variance and which loss: L_simple, L_hybrid and L_vlb, by their samples."""

from __future__ import annotations

from ddpmlib.experiments.cells import Experiment, sampled_cells
from ddpmlib.experiments.measuring import sampled
from ddpmlib.experiments.results import rows
from ddpmlib.experiments.tables import sampled_table

CELLS = [
    *sampled_cells(("linear-hybrid", "linear-vlb", "linear-vlb-importance"), ("learned",), 25),
    *sampled_cells(("linear",), ("beta", "beta_tilde"), 25),
]


def table() -> str:
    """Learned and fixed variances at the same number of calls."""
    return sampled_table(sorted(rows("variances"), key=lambda r: r["steps"]))


EXPERIMENT = Experiment("variances", CELLS, sampled, {"variances": table})
