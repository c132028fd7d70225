"""``ddpmlib evaluate``: measure a checkpoint and note the result in its card."""

from __future__ import annotations

import argparse
from typing import Any

from ddpmlib.cli import sampling, values
from ddpmlib.cli.models import model_of, own_run_or
from ddpmlib.cli.text import say
from ddpmlib.cli.verbs import verb


def add(verbs: Any) -> None:
    """Its options."""
    parser = verb(verbs, "evaluate", run, "measure a checkpoint and note it in its card")
    parser.add_argument("model", nargs="?", help="as for sample")
    parser.add_argument(
        "--metric", nargs="+", metavar="METRIC",
        help="some of agreement, fid, contrast (and fid when it is matched), is, kid, pr "
        "(precision and recall, density and coverage), saturation, memorisation, nll (bound on the "
        "test images in bits per dimension, always over all T steps, unguided, whatever is said of "
        "the samples); default: all but nll",
    )  # fmt: skip
    parser.add_argument(
        "--n", "--samples", dest="n", type=values.positive, default=2000,
        help="samples, test images for nll (default 2000)",
    )  # fmt: skip
    parser.add_argument(
        "--features", default="all", metavar="NETWORK",
        help="whose features: all that are at hand (default), or classifier, that of the data set, "
        "independent, another architecture, robust, trained with varied appearance, pixels, their "
        "principal components, random, convolutions, inception, for colour images, or a "
        "classifier's run, folder or file",
    )  # fmt: skip
    parser.add_argument(
        "--draws", type=values.positive, default=200,
        help="of the bootstrap intervals (default 200)",
    )  # fmt: skip
    parser.add_argument(
        "--nll-draws", type=values.positive, default=50, metavar="DRAWS",
        help="random steps of the chain per test image (default 50)",
    )  # fmt: skip
    parser.add_argument(
        "--images", metavar="PATH", help="where your own images lie, if they have moved"
    )
    parser.add_argument(
        "--skip-broken", action="store_true", help="leave out files there that cannot be read"
    )
    sampling.add_options(parser)


def run(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    from ddpmlib import evaluation

    if args.skip_broken and args.images is None:
        raise ValueError("--skip-broken is for your own images: give --images too")
    named = args.features in ("all", *evaluation.EXTRACTORS)
    evaluation.evaluate(
        model_of(args), sampling.sampling_of(args, own_run_or), metrics=args.metric, n=args.n,
        extractor=args.features if named else str(own_run_or(args.features)),
        images=args.images, skip_broken=args.skip_broken, draws=args.draws,
        nll_draws=args.nll_draws, compile=args.compile, device=args.device, report=_show,
    )  # fmt: skip


def _show(entry: dict[str, Any]) -> None:
    for key, value in entry.items():
        say(f"{key:24} {value}")
    say("")
