"""Chapter 3 and appendix D: what each part of the digits network and of its training is worth."""

from __future__ import annotations

from ddpmlib.experiments.cells import Cell, Experiment
from ddpmlib.experiments.digit_runs import (
    NO_CLIPPING,
    Change,
    run,
    without_attention,
    without_skips,
    without_zeros,
)
from ddpmlib.experiments.results import Row

SEEDS = (0, 1, 2)
FAST, SLOW = ("settings.lr", 2e-2), ("settings.lr", 1e-3)
COLD, UNCLIPPED = ("settings.warmup", 0), ("settings.clip", NO_CLIPPING)


def _sgd(lr: float) -> Change:
    return Change(f"SGD, learning rate {lr:g}", (("settings.lr", lr),), sgd=True)


CHANGES = {
    "recipe": Change("the recipe"),
    "eps": Change("predicts ε", (("predicts", "eps"),)),
    "x0": Change("predicts x_0", (("predicts", "x0"),)),
    "no-skips": Change("no skip connections", net=without_skips),
    "no-attention": Change("no self-attention", net=without_attention),
    "no-zeros": Change("no zero initialisation", net=without_zeros),
    "constant": Change("constant learning rate", constant=True),
    "cold": Change("no warm-up", (COLD,)),
    "unclipped": Change("no clipping", (UNCLIPPED,)),
    "fast": Change("learning rate × 4", (FAST,)),
    "fast-cold": Change("learning rate × 4, no warm-up", (FAST, COLD)),
    "fast-unclipped": Change("learning rate × 4, no clipping", (FAST, UNCLIPPED)),
    "slow": Change("learning rate / 5", (SLOW,)),
    "sgd-0.2": _sgd(0.2),
    "sgd-0.8": _sgd(0.8),
}
CELLS: list[Cell] = [{"change": name, "seed": seed} for seed in SEEDS for name in CHANGES]


def measure(cell: Cell) -> Row:
    """Train the network of a cell, and measure it."""
    return cell | run(CHANGES[cell["change"]], cell["seed"])


EXPERIMENT = Experiment("ablations", CELLS, measure)
