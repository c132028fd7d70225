"""Chapter 9, how long a chain: T = 500, 1000 and 2000, sampled with few calls and with more."""

from __future__ import annotations

from ddpmlib.experiments.cells import Experiment, sampled_cells
from ddpmlib.experiments.measuring import sampled
from ddpmlib.experiments.results import rows
from ddpmlib.experiments.tables import sampled_table

NETWORKS = ("linear-T500", "linear", "linear-T2000")
CELLS = [
    *sampled_cells(NETWORKS, ("beta_tilde", "ddim"), 50),
    *sampled_cells(NETWORKS, ("beta_tilde",), 250, n=2000),
]


def table() -> str:
    """The same network and budget for every length."""
    return sampled_table(sorted(rows("lengths"), key=lambda r: (r["method"], r["steps"])))


EXPERIMENT = Experiment("lengths", CELLS, sampled, {"lengths": table})
