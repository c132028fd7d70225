"""``ddpmlib sample``: draw samples into a grid, a folder of pictures or an array."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ddpmlib.cli import sampling, values
from ddpmlib.cli.models import denoiser_of, own_run_or
from ddpmlib.cli.text import say
from ddpmlib.cli.verbs import verb


def add(verbs: Any) -> None:
    """Its options."""
    parser = verb(verbs, "sample", run, "draw samples: a grid, a folder of pictures, or an array")
    parser.add_argument(
        "model",
        nargs="?",
        help="name of a run in runs/ or of a shipped checkpoint, a run's folder (it may still be "
        "trained), or a weights' file (default: newest finished run)",
    )
    # Two names, as torchrun takes --n for an abbreviation of options of its own.
    parser.add_argument(
        "--n", "--samples", dest="n", type=values.positive, default=100,
        help="samples (default 100)",
    )  # fmt: skip
    parser.add_argument(
        "--label", metavar="CLASS",
        help="one class only, by its name or else its number (default: every class in turn)",
    )  # fmt: skip
    parser.add_argument(
        "--out", default="samples.png",
        help="a .png for a grid (default samples.png); a new folder, for example samples/, for "
        "single PNGs and labels.csv; an .npz for the array that tools for FID read",
    )  # fmt: skip
    sampling.add_options(parser)


def run(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    from ddpmlib import evaluation
    from ddpmlib.evaluation import sample_files
    from ddpmlib.training import parallel

    denoiser, card = denoiser_of(args)
    write = sample_files.writer_for(args.out, card.image_shape)
    how, y = sampling.sampling_of(args, own_run_or), _labels(args, card)
    batches = evaluation.sample_batches(
        denoiser, card.image_shape, y, how, n=args.n, card=card, compile=args.compile
    )
    names = evaluation.class_names(card)
    drawn = sample_files.Drawn(batches, args.n, card.image_shape, y, names)
    if parallel.is_main():
        write(drawn, Path(args.out))
    for _ in batches:  # which all processes draw, and the first one writes
        pass
    guided = "".join(f", {name} {value}" for name, value in how.guidance.record().items())
    said = f"{how.steps} steps, eta {how.eta:g}{guided}"
    say(f"{args.out}: {args.n} samples of {card.name}, {said}")


def _labels(args: argparse.Namespace, card: Any) -> Any:
    """One label per sample, or None if the model knows no classes."""
    import torch

    from ddpmlib import evaluation

    if args.label is None:
        return evaluation.classes_in_turn(card, args.n)
    if args.unconditional and not args.classifier:
        raise ValueError("--unconditional keeps the --label from the model: leave one of them out")
    return torch.full((args.n,), evaluation.label_of(card, args.label))
