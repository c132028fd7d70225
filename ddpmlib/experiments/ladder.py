"""Chapter 9's ladder of methods, each rung with three training seeds, beside that of the slides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ddpmlib import plots
from ddpmlib.experiments import guidance, measuring, runs
from ddpmlib.experiments.cells import Cell, Experiment
from ddpmlib.experiments.methods import METHODS
from ddpmlib.experiments.results import Row, markdown, rows
from ddpmlib.experiments.uncertainty import over_seeds, times_floor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Slides, CIFAR-10, 100 epochs: (rung, Inception Score, FID).
DECK = (
    ("DDPM, linear, T = 500", 1.42, 300),
    ("DDPM, linear, T = 1000", 1.58, 270),
    ("DDPM, linear, T = 2000", 1.88, 230),
    ("IDDPM, 250 calls", 2.38, 200),
    ("linear schedule, sampler not named", 2.3, 250),
    ("IDDPM + DDIM, sigmoid", 2.4, 200),
    ("IDDPM + DDIM, cosine", 2.6, 160),
    ("+ classifier-free guidance", 3.16, 184),
)


@dataclass(frozen=True)
class Rung:
    """A network, a sampler and perhaps guidance, and the slides' numbers where they print any."""

    name: str
    run: str
    method: str
    steps: int
    guidance: str | None
    deck: tuple[str, float, int] | None

    def cell(self, seed: int) -> Cell:
        """What is measured of it, for a network of this training seed."""
        run = runs.seeded(self.run, seed)
        cell: Cell = {"run": run, "method": self.method, "steps": self.steps, "n": 5000}
        return cell | ({"guidance": self.guidance, "w": 1.0} if self.guidance else {})

    def rows(self) -> list[Row]:
        """Its rows, one per training seed."""
        found = rows("ladder", guidance=self.guidance)
        return [row for row in found if runs.unseeded(row["run"]) == self.run]


RUNGS = (
    Rung("DDPM: linear, β̃, 250 calls", "linear", "beta_tilde", 250, None, DECK[1]),
    Rung("IDDPM + DDIM: linear, learned variance, 50 calls",
         "linear-hybrid", "ddim", 50, None, DECK[4]),
    Rung("IDDPM + DDIM: cosine, 50 calls", "cosine-hybrid", "ddim", 50, None, DECK[6]),
    Rung("+ classifier guidance: s = 1, 50 steps",
         "cosine-hybrid", "ddim", 50, "classifier_conditional", None),
    Rung("+ classifier-free guidance: w = 1, 50 steps",
         "cosine-hybrid", "ddim", 50, "classifier_free", DECK[7]),
)  # fmt: skip


def measure(cell: Cell) -> Row:
    """The row of a rung; the last two guide the network of the third."""
    if "guidance" not in cell:
        return measuring.sampled(cell)
    options = guidance.options(cell["guidance"], cell["w"])
    eta = METHODS[cell["method"]].eta
    return measuring.guided(cell, runs.folder(cell["run"]), options, eta)


def table() -> str:
    """Mean over training seeds ± its standard error, and the slides' numbers."""
    header = ("rung", "seeds", "Fréchet", "IS", "recall", "agreement", "slides: IS", "slides: FID")
    return markdown(header, [_line(rung, rung.rows()) for rung in RUNGS])


def _line(rung: Rung, found: list[Row]) -> tuple[Any, ...]:
    columns = [
        _with_error([row[key] for row in found], digits)
        for key, digits in (("frechet", 2), ("inception_score", 2), ("recall", 3))
    ]
    columns.append(_with_error([100 * row["class_agreement"] for row in found], 1) + " %")
    return (rung.name, len(found), *columns, *(rung.deck[1:] if rung.deck else ("–", "–")))


def _with_error(values: list[float], digits: int) -> str:
    mean, error = over_seeds(values)
    return f"{mean:.{digits}f}" + f" ± {error:.{digits}f}" * (len(values) > 1)


def deck_table() -> str:
    """The ladder of the slides, as printed there."""
    return markdown(("rung (slides, CIFAR-10)", "IS", "FID"), DECK)


def figure(ax: Axes) -> Axes:
    """Distance of each rung over its floor, one dot per training seed."""
    for i, rung in enumerate(RUNGS):
        ratios = [times_floor(row) for row in rung.rows()]
        ax.plot([i] * len(ratios), ratios, "o", color=plots.BLUE, alpha=0.6)
        ax.plot([i - 0.2, i + 0.2], [over_seeds(ratios)[0]] * 2, color=plots.ORANGE, lw=2)
    ax.axhline(1, color=plots.GREY, ls=":")
    names = [rung.name.replace(": ", "\n").replace(", ", "\n") for rung in RUNGS]
    ax.set(xticks=range(len(names)), xticklabels=names, ylabel="Fréchet distance / floor")
    ax.set_ylim(bottom=0)
    return ax


EXPERIMENT = Experiment(
    "ladder",
    [rung.cell(seed) for seed in runs.SEEDS for rung in RUNGS],
    measure,
    {"ladder": table, "deck": deck_table},
    {"ladder": figure},
)
