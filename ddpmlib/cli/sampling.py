"""The options of every verb that draws samples, and the one record that they make."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ddpmlib.cli import values

if TYPE_CHECKING:
    from ddpmlib.evaluation import Sampling


def add_options(parser: argparse.ArgumentParser) -> None:
    """Everything that :func:`sampling_of` reads; what is left out is as in ``Sampling()``."""
    from ddpmlib.evaluation.sampling import SPACINGS, STEPS, Sampling

    usual = Sampling()
    parser.add_argument(
        "--steps", "--sampling-steps", dest="sampling_steps", type=values.positive,
        default=usual.steps, help=f"from noise to data (default {usual.steps})",
    )  # fmt: skip
    parser.add_argument(
        "--eta", type=float, default=usual.eta, help="0 is DDIM (default), 1 is DDPM"
    )
    parser.add_argument(
        "--seed", type=values.seed, default=usual.seed,
        help=f"of the noise (default {usual.seed}); sample number i of a seed is always the same",
    )  # fmt: skip
    parser.add_argument(
        "--spacing", default=usual.spacing, choices=tuple(SPACINGS),
        help=f"of the sampling steps over 1..T (default {usual.spacing})",
    )  # fmt: skip
    parser.add_argument(
        "--step", default=usual.step, choices=tuple(STEPS),
        help=f"how the next state is drawn (default {usual.step})",
    )  # fmt: skip
    parser.add_argument("--bf16", action="store_true", help="run the network in bfloat16")
    parser.add_argument("--compile", action="store_true", help="torch.compile the network")
    _add_guidance(parser.add_argument_group("guidance towards the class"))


def _add_guidance(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--w", type=float, default=0.0,
        help="of classifier-free guidance: 0 is none (default); where others say guidance scale s, "
        "w = s - 1",
    )  # fmt: skip
    group.add_argument("--classifier", default="", help="noisy classifier that guides")
    group.add_argument("--strength", type=float, default=0.0, help="of its gradient")
    group.add_argument(
        "--unconditional", action="store_true", help="do not tell the model the class"
    )
    group.add_argument(
        "--interval", type=int, nargs=2, default=(None, None), metavar=("LOW", "HIGH"),
        help="guide at these times alone (default: all; with a classifier 1 to 9T/10)",
    )  # fmt: skip
    group.add_argument(
        "--threshold", type=float, default=0.0, metavar="QUANTILE",
        help="dynamic thresholding after guidance, for example 0.995",
    )  # fmt: skip
    group.add_argument(
        "--clip", action="store_true", help="clip predictions to the range of images"
    )


def sampling_of(args: argparse.Namespace, found: Callable[[str], str | Path] = str) -> Sampling:
    """The record that a command line describes.

    Args:
        args: read by a parser with :func:`add_options`.
        found: the name of a classifier -> where it is.
    """
    from ddpmlib.evaluation import Guidance, Sampling

    low, high = args.interval
    classifier = str(found(args.classifier)) if args.classifier else ""
    guidance = Guidance(
        w=args.w, classifier=classifier, strength=args.strength,
        unconditional=args.unconditional, low=low, high=high, threshold=args.threshold,
        clip=args.clip,
    )  # fmt: skip
    return Sampling(
        steps=args.sampling_steps, spacing=args.spacing, eta=args.eta, step=args.step,
        seed=args.seed, bf16=args.bf16, guidance=guidance,
    )  # fmt: skip
