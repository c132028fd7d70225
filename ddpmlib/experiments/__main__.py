"""Train the networks, measure the cells, write the tables: ``python -m ddpmlib.experiments``."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from ddpmlib.experiments import EXPERIMENTS, runs
from ddpmlib.experiments.cells import Experiment

T = TypeVar("T")


def main(words: Sequence[str] | None = None) -> int:
    """Carry out one verb. Real MNIST and Fashion-MNIST are needed, see ``DDPMLIB_DATA``."""
    args = _parser().parse_args(words)
    torch.set_num_threads(1)
    try:
        args.carry_out(args)
    except subprocess.CalledProcessError as error:  # it has said why
        return error.returncode
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m ddpmlib.experiments", description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="train | measure | tables")
    train = verbs.add_parser("train", help="the runs that are not finished")
    train.add_argument("names", nargs="*", metavar="NAME", help="only these runs")
    train.set_defaults(carry_out=_train)
    measure = verbs.add_parser("measure", help="the cells that have no row yet")
    measure.set_defaults(carry_out=_measure)
    tables = verbs.add_parser("tables", help="tables and figures, from data/results alone")
    tables.add_argument("--out", type=Path, default=Path("_build/experiments"), metavar="FOLDER")
    tables.set_defaults(carry_out=_tables)
    for verb in (measure, tables):
        verb.add_argument("names", nargs="*", metavar="NAME", help="only these experiments")
    return parser


def _chosen(known: Mapping[str, T], names: Sequence[str]) -> list[T]:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"unknown {', '.join(unknown)}: there are {', '.join(known)}")
    return [thing for name, thing in known.items() if not names or name in names]


def _train(args: argparse.Namespace) -> None:
    for training in _chosen(runs.every(), args.names):
        training.carry_out()


def _measure(args: argparse.Namespace) -> None:
    for experiment in _chosen(EXPERIMENTS, args.names):
        experiment.measure_missing()


def _tables(args: argparse.Namespace) -> None:
    chosen = _chosen(EXPERIMENTS, args.names)
    args.out.mkdir(parents=True, exist_ok=True)
    for experiment in chosen:
        for name, text in experiment.tables.items():
            (args.out / f"{name}.md").write_text(text() + "\n")
        _draw(experiment, args.out)
    tables = sum(len(experiment.tables) for experiment in chosen)
    figures = sum(len(experiment.figures) for experiment in chosen)
    print(f"{tables} tables and {figures} figures in {args.out}")


def _draw(experiment: Experiment, folder: Path) -> None:
    import matplotlib as mpl

    from ddpmlib import plots

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    plots.style()
    for name, draw in experiment.figures.items():
        figure, ax = plt.subplots()
        draw(ax)
        figure.savefig(folder / f"{name}.png", dpi=150)
        plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
