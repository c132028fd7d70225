"""The networks of the comparisons: how each is trained, and where it lies."""

from __future__ import annotations

import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddpmlib import zoo

RUNS = Path("runs/comparison")
CLEAN = Path("runs/guidance/mnist-clean-classifier")
RECIPE = "mnist-comparison"
SEEDS = (0, 1, 2)
LADDER = ("linear", "linear-hybrid", "cosine-hybrid")  # these are trained with every seed

HYBRID = ("var_mix=null", "objective=hybrid")
VLB = ("var_mix=null", "objective=vlb")
CHANGES: dict[str, tuple[str, ...]] = {
    "linear": (),
    "linear-hybrid": HYBRID,
    "cosine-hybrid": ("schedule=cosine", *HYBRID),
    "cosine": ("schedule=cosine",),
    "linear-vlb": VLB,
    "linear-vlb-importance": (*VLB, "times=importance"),
    "sigmoid": ("schedule=sigmoid",),
    "linear-T500": ("T=500",),
    "linear-T2000": ("T=2000",),
    # For guidance; all others have a label dropout of 10 %.
    "dropout-0": ("schedule=cosine", *HYBRID, "label_dropout=0"),
    "dropout-20": ("schedule=cosine", *HYBRID, "label_dropout=0.2"),
    "dropout-50": ("schedule=cosine", *HYBRID, "label_dropout=0.5"),
}


def folder(run: str) -> Path:
    """Where a network of the comparison lies."""
    return RUNS / run


def seeded(name: str, seed: int) -> str:
    """Name of the run of another training seed."""
    return f"{name}-seed{seed}" if seed else name


def unseeded(run: str) -> str:
    """The way back from :func:`seeded`."""
    return run.split("-seed")[0]


@dataclass(frozen=True)
class Training:
    """One run: a recipe with changes, carried out by the command ``ddpmlib train``."""

    recipe: str
    folder: Path
    words: tuple[str, ...]

    @property
    def command(self) -> list[str]:
        """As typed in a shell; it goes on with what an interrupted one left."""
        how = ["--bf16", "--compile", "--threads", "1", *self.words]
        return ["ddpmlib", "train", self.recipe, *how, "--resume", "--out", str(self.folder)]

    def carry_out(self) -> None:
        """Train, or leave alone what is finished."""
        if finished(self.folder):
            return
        print(shlex.join(self.command), flush=True)
        subprocess.run([sys.executable, "-m", *self.command], check=True)


def comparison() -> dict[str, Training]:
    """The runs of one recipe that differ in a few fields, or in the seed."""
    jobs = [(name, 0) for name in CHANGES]
    jobs += [(name, seed) for seed in SEEDS[1:] for name in LADDER]
    return {seeded(*job): _training(*job) for job in jobs}


def _training(name: str, seed: int) -> Training:
    changes = CHANGES[name]
    words = ("--seed", str(seed)) * bool(seed) + ("--set", *changes) * bool(changes)
    return Training(RECIPE, folder(seeded(name, seed)), words)


def every() -> dict[str, Training]:
    """All runs: the comparison, and the twin of the noisy classifier that never sees noise."""
    words = ("--set", "noisy=false", "--steps", "1500")  # a quarter of the updates
    return comparison() | {CLEAN.name: Training("mnist-noisy-classifier", CLEAN, words)}


def finished(run: Path) -> bool:
    """Whether a run has come to its end."""
    return (run / zoo.MODEL).is_file()


def trained(cell: dict[str, Any]) -> bool:
    """Whether the runs that a cell needs are finished; shipped checkpoints always are."""
    needed = [folder(cell["run"])] if "run" in cell else []
    needed += [CLEAN] * (cell.get("method") == "clean_classifier")
    return all(map(finished, needed))
