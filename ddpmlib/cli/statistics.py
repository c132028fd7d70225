"""``ddpmlib statistics``: write what data sets look like in a network's features."""

from __future__ import annotations

import argparse
from typing import Any

from ddpmlib.cli.text import say
from ddpmlib.cli.verbs import verb


def add(verbs: Any) -> None:
    """Its options."""
    parser = verb(verbs, "statistics", run, "write what data sets look like by their features")
    parser.add_argument("data", nargs="+", help="names of data sets, for example mnist")
    parser.add_argument(
        "--features", default="classifier",
        choices=("classifier", "independent", "robust", "inception"),
        help="whose features (default: the shipped classifier's)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    from ddpmlib import data, evaluation
    from ddpmlib.evaluation import statistics
    from ddpmlib.training import parallel

    known = [data.load(name) for name in args.data]  # all of them before the first is written
    for name, images in zip(args.data, known, strict=True):
        network, sha256 = evaluation.network_of(args.features, images, args.device)
        path = statistics.statistics_path(name, args.features)
        found = statistics.compute_statistics(network, images)
        if parallel.is_main():
            statistics.write_statistics(found, path, sha256)
        say(f"{path}: {len(images.x_train):,} training and {len(images.x_test):,} test images")
