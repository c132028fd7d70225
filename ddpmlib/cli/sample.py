"""``ddpmlib sample``: draw a grid of samples into a PNG."""

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
    parser = verb(verbs, "sample", run, "draw a grid of samples into a PNG")
    parser.add_argument(
        "model",
        nargs="?",
        help="name of a run in runs/ or of a shipped checkpoint, a run's folder, or a weights' "
        "file (default: newest run)",
    )
    # Two names, as torchrun takes --n for an abbreviation of options of its own.
    parser.add_argument(
        "--n", "--samples", dest="n", type=values.positive, default=100,
        help="samples (default 100)",
    )  # fmt: skip
    parser.add_argument("--label", type=int, help="one class only (default: every class in turn)")
    parser.add_argument("--out", type=Path, default=Path("samples.png"), help="default samples.png")
    sampling.add_options(parser)


def run(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    from ddpmlib import evaluation, plots
    from ddpmlib.training import parallel

    if args.out.suffix.lower() != ".png" or args.out.is_dir():
        raise ValueError(f"--out names the PNG to write, for example samples.png, got {args.out}")
    denoiser, card = denoiser_of(args)
    how = sampling.sampling_of(args, own_run_or)
    x0 = evaluation.generate(
        denoiser,
        card.image_shape,
        _labels(args, card),
        how,
        n=args.n,
        card=card,
        compile=args.compile,
    )
    if parallel.is_main():
        plots.save_grid(x0, args.out, ncol=10)
    guided = "".join(f", {name} {value}" for name, value in how.guidance.record().items())
    drawn = f"{how.steps} steps, eta {how.eta:g}{guided}"
    say(f"{args.out}: {args.n} samples of {card.name}, {drawn}")


def _labels(args: argparse.Namespace, card: Any) -> Any:
    """One label per sample, or None if the model knows no classes."""
    import torch

    from ddpmlib import evaluation

    if args.label is None:
        return evaluation.classes_in_turn(card, args.n)
    if args.unconditional and not args.classifier:
        raise ValueError("--unconditional keeps the --label from the model: leave one of them out")
    if not 0 <= args.label < card.num_classes:
        known = f"must lie in 0..{card.num_classes - 1}" if card.num_classes else "needs classes"
        raise ValueError(f"--label {known} for {card.name}, got {args.label}")
    return torch.full((args.n,), args.label)
