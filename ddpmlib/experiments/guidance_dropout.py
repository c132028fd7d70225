"""Chapter 11, how many labels to drop: small networks with four shares, each guided."""

from __future__ import annotations

from ddpmlib.evaluation import Guidance
from ddpmlib.experiments import measuring, runs
from ddpmlib.experiments.cells import Cell, Experiment
from ddpmlib.experiments.guidance import HOW
from ddpmlib.experiments.results import Row, markdown, rows
from ddpmlib.experiments.tables import GUIDED_HEADER, guided_columns

NETWORKS = {0.0: "dropout-0", 0.1: "cosine-hybrid", 0.2: "dropout-20", 0.5: "dropout-50"}
CELLS: list[Cell] = [
    {"run": run, "label_dropout": share, "w": w} | HOW
    for w in (0.0, 1.0, 4.0)
    for share, run in NETWORKS.items()
]


def measure(cell: Cell) -> Row:
    """Samples of a network of the comparison, with classifier-free guidance."""
    guidance = Guidance(w=cell["w"])
    return measuring.guided(cell, runs.folder(cell["run"]), guidance, cell["eta"])


def table() -> str:
    """One line per strength and share of dropped labels."""
    found = sorted(rows("guidance_dropout"), key=lambda r: (r["w"], r["label_dropout"]))
    lines = [(f"{r['label_dropout']:.0%}", f"{r['w']:g}", *guided_columns(r)) for r in found]
    return markdown(("label dropout", "w", *GUIDED_HEADER), lines)


EXPERIMENT = Experiment("guidance_dropout", CELLS, measure, {"dropout": table})
