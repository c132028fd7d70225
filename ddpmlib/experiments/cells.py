"""An experiment as a record: cells to measure, how one is measured, what is made of the rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ddpmlib.experiments import results, runs
from ddpmlib.experiments.results import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Cell = dict[str, Any]  # the fields of a row that say what is measured


def sampled_cells(
    networks: Sequence[str], methods: Sequence[str], *steps: int, n: int = 5000
) -> list[Cell]:
    """Every network with every sampler at every number of steps, n samples each."""
    return [
        {"run": run, "method": method, "steps": k, "n": n}
        for k in steps
        for run in networks
        for method in methods
    ]


@dataclass(frozen=True)
class Experiment:
    """One comparison of the book, whole.

    Attributes:
        name: of its module, and of its rows, see :mod:`ddpmlib.experiments.results`.
        cells: what is measured.
        measure: a cell → its row; nothing is written.
        tables: file name → Markdown, made of the rows alone.
        figures: file name → what draws the rows into axes.
    """

    name: str
    cells: Sequence[Cell]
    measure: Callable[[Cell], Row]
    tables: Mapping[str, Callable[[], str]] = field(default_factory=dict)
    figures: Mapping[str, Callable[[Axes], object]] = field(default_factory=dict)

    def missing(self) -> list[Cell]:
        """Cells without a row."""
        found = results.rows(self.name, missing_ok=True)
        return [cell for cell in self.cells if not any(holds(row, cell) for row in found)]

    def measure_missing(self) -> None:
        """Measure what has no row and whose network is trained; each row is written at once."""
        waiting, missing = 0, self.missing()
        if not missing:
            print(f"{self.name}: nothing is missing, {len(self.cells)} cells have their rows")
        for cell in missing:
            if runs.trained(cell):
                print(self.name, cell, flush=True)
                results.add(self.name, self.measure(cell))
            else:
                waiting += 1
        if waiting:
            print(f"{self.name}: {waiting} cells wait for runs that are not finished: train them")


def holds(row: Row, cell: Cell) -> bool:
    """Whether a row is the measurement of a cell; a guided row does not stand for a plain one."""
    return all(row.get(key) == value for key, value in ({"guidance": None} | cell).items())
