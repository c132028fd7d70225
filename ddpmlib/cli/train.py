"""``ddpmlib train``: carry out a recipe."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddpmlib.cli import values
from ddpmlib.cli.models import RUNS
from ddpmlib.cli.text import say
from ddpmlib.cli.verbs import verb


def add(verbs: Any) -> None:
    """Its options."""
    parser = verb(verbs, "train", run, "train a recipe; see `ddpmlib zoo` for the names")
    parser.add_argument("recipe", help="name of a recipe, for example digits or mnist")
    parser.add_argument("--out", type=Path, help="folder of the run (default: runs/RECIPE)")
    parser.add_argument("--resume", action="store_true", help="go on from the last saved state")
    parser.add_argument("--init", help="checkpoint whose weights to start from")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, help="instead of the recipe's steps")
    length.add_argument(
        "--minutes",
        type=values.time_limit,
        help="as many steps as fit into this time, estimated by the first",
    )
    for name, kind in (("batch-size", int), ("lr", float), ("seed", values.seed)):
        parser.add_argument(f"--{name}", type=kind, help=f"instead of the recipe's {name}")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="FIELD=VALUE", dest="changes",
        help="other fields of the recipe, for example schedule=linear T=500 net.width=16",
    )  # fmt: skip
    parser.add_argument(
        "--save-every", type=values.positive, default=100, metavar="STEPS", help="default 100"
    )
    parser.add_argument(
        "--bf16", action=argparse.BooleanOptionalAction, help="default: on a CUDA GPU"
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile the network")
    parser.add_argument(
        "--channels-last", action="store_true", help="memory layout of weights and images"
    )
    parser.add_argument(
        "--accumulate", type=values.positive, default=1, metavar="PIECES",
        help="cut each process's share of a batch into pieces, for less memory (default 1)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    from ddpmlib import zoo
    from ddpmlib.zoo import recipes, runs

    if args.recipe not in recipes.RECIPES:
        near = difflib.get_close_matches(args.recipe, recipes.RECIPES, n=1)
        hint = f"did you mean {near[0]!r}? There are" if near else "choose one of"
        raise ValueError(f"unknown recipe {args.recipe!r}: {hint} {', '.join(recipes.RECIPES)}")
    recipe = recipes.changed(recipes.RECIPES[args.recipe], _pairs(args.changes))
    given = {k: getattr(args, k) for k in ("steps", "batch_size", "lr", "seed")}
    changes = {k: v for k, v in given.items() if v is not None}
    recipe = dataclasses.replace(recipe, settings=dataclasses.replace(recipe.settings, **changes))
    folder = args.out or RUNS / recipe.name
    if args.resume and not (folder / zoo.STATE).exists():
        say(f"no saved state in {folder}: starting from the beginning")
    card = runs.train(
        recipe,
        folder,
        resume=args.resume,
        minutes=args.minutes,
        init=args.init,
        device=args.device,
        bf16=args.bf16,
        compile=args.compile,
        channels_last=args.channels_last,
        accumulate=args.accumulate,
        save_every=args.save_every,
        command=args.command,
    )
    loss = f"loss {card.loss[-1][1]:.4f}, " if card.loss else ""
    say(f"{folder}: {card.parameters:,} weights, {loss}{card.training['seconds']:.0f} s")


def _pairs(words: Sequence[str]) -> dict[str, Any]:
    """FIELD=VALUE as a dictionary; values are JSON where they read as JSON, else plain words."""
    pairs = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise ValueError(f"--set takes FIELD=VALUE, for example T=500, got {word!r}")
        try:
            pairs[name] = json.loads(text)
        except json.JSONDecodeError:
            pairs[name] = text
    return pairs
