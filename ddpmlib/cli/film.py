"""``ddpmlib film``: join the grids of a run into a film of its training."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ddpmlib.cli.models import RUNS
from ddpmlib.cli.text import say
from ddpmlib.cli.verbs import verb


def add(verbs: Any) -> None:
    """Its options."""
    parser = verb(verbs, "film", run, "join the grids of `train --sample-every` into a film")
    parser.add_argument("run_folder", metavar="RUN", help="name of a run in runs/, or its folder")
    parser.add_argument(
        "--out", type=Path,
        help="a .gif (default: film.gif in the run's folder), or a .webp, which keeps all colours",
    )  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    from ddpmlib import plots
    from ddpmlib.zoo import previews

    own = RUNS / args.run_folder
    folder = own if own.is_dir() else Path(args.run_folder)
    grids = previews.pictures(folder)
    out = args.out or folder / "film.gif"
    plots.save_film(list(grids.values()), out)
    steps = list(grids)
    say(f"{out}: {len(grids)} grids, after {steps[0]:,} to {steps[-1]:,} updates")
