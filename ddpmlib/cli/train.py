"""``ddpmlib train``: carry out a recipe."""

from __future__ import annotations

import argparse
import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpmlib.cli import values
from ddpmlib.cli.models import RUNS
from ddpmlib.cli.verbs import verb

if TYPE_CHECKING:
    from ddpmlib.zoo import Recipe


def add(verbs: Any) -> None:
    """Its options."""
    parser = verb(verbs, "train", run, "train a recipe; see `ddpmlib zoo` for the names")
    parser.add_argument(
        "recipe", nargs="?",
        help="name of a recipe, for example digits or mnist; may be left out with --resume --out",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, help="folder of the run (default: runs/RECIPE)")
    parser.add_argument(
        "--resume", action="store_true",
        help="go on from the last saved state, with the options that the run had; with other "
        "--steps the learning rate is stretched to the new end",
    )  # fmt: skip
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
    parser.add_argument("--save-every", type=values.positive, metavar="STEPS", help="default 100")
    parser.add_argument(
        "--bf16", action=argparse.BooleanOptionalAction, help="default: on a CUDA GPU"
    )
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, help="torch.compile the network"
    )
    parser.add_argument(
        "--channels-last", action=argparse.BooleanOptionalAction,
        help="memory layout of weights and images",
    )  # fmt: skip
    parser.add_argument(
        "--accumulate", type=values.positive, metavar="PIECES",
        help="cut each process's share of a batch into pieces, for less memory (default 1)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    from ddpmlib.zoo import runs

    recipe, folder = _asked(args)
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
    print(f"{folder}: {card.parameters:,} weights, {loss}{card.training['seconds']:.0f} s")


def _asked(args: argparse.Namespace) -> tuple[Recipe, Path]:
    """The recipe with its changes, and the folder; a run that goes on has its own recipe."""
    from ddpmlib.zoo import STATE, recipes
    from ddpmlib.zoo.stretches import recorded

    named = None if args.recipe is None else recipes.changed(_named(args.recipe), _changes(args))
    if named is None and not (args.resume and args.out):
        raise ValueError(
            "train what? Name a recipe, for example `ddpmlib train digits`, or a run to go on with "
            "by --resume --out FOLDER"
        )
    folder = args.out or RUNS / (named.name if named else "")
    before = recorded(folder / STATE) if args.resume else None
    if before is not None:
        if named and named.name != before.recipe.name:
            raise ValueError(
                f"{folder} holds a run of {before.recipe.name}, not of {named.name}: give another "
                "folder by --out, or leave the recipe out"
            )
        return recipes.changed(before.recipe, _changes(args)), folder
    if named is None:
        raise FileNotFoundError(f"there is no run in {folder} to go on with: name a recipe")
    if args.resume:
        print(f"no saved state in {folder}: starting from the beginning")
    return named, folder


def _named(name: str) -> Recipe:
    from ddpmlib.zoo import recipes

    if name not in recipes.RECIPES:
        near = difflib.get_close_matches(name, recipes.RECIPES, n=1)
        hint = f"did you mean {near[0]!r}? There are" if near else "choose one of"
        raise ValueError(f"unknown recipe {name!r}: {hint} {', '.join(recipes.RECIPES)}")
    return recipes.RECIPES[name]


def _changes(args: argparse.Namespace) -> dict[str, Any]:
    """Fields of the recipe that the command line names, and their values."""
    given = {k: getattr(args, k) for k in ("steps", "batch_size", "lr", "seed")}
    return _pairs(args.changes) | {f"settings.{k}": v for k, v in given.items() if v is not None}


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
