"""``ddpmlib train``: carry out a recipe."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpmlib.cli import own_images, values
from ddpmlib.cli.models import RUNS, recipe_named
from ddpmlib.cli.text import say
from ddpmlib.cli.verbs import verb

if TYPE_CHECKING:
    from ddpmlib.data import Dataset
    from ddpmlib.zoo import Recipe


def add(verbs: Any) -> None:
    """Its options."""
    parser = verb(
        verbs, "train", run, "train a recipe (see `ddpmlib zoo` for the names) or your own images"
    )
    parser.add_argument(
        "recipe", nargs="?",
        help="name of a recipe, for example digits or mnist; may be left out with --resume --out",
    )  # fmt: skip
    own_images.add_options(parser)
    parser.add_argument("--out", type=Path, help="folder of the run (default: runs/NAME)")
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
        help="as many steps as fit into this time, estimated by the first; with --resume, so many "
        "minutes from where the run stands",
    )
    for name, kind in (("batch-size", int), ("lr", float), ("seed", values.seed)):
        parser.add_argument(f"--{name}", type=kind, help=f"instead of the recipe's {name}")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="FIELD=VALUE", dest="changes",
        help="other fields of the recipe, for example schedule=linear T=500 net.width=16",
    )  # fmt: skip
    parser.add_argument("--save-every", type=values.positive, metavar="STEPS", help="default 100")
    parser.add_argument(
        "--sample-every", type=values.positive, metavar="STEPS",
        help="draw a grid of the same samples so often, and at the end, into samples/ in the run's "
        "folder; `ddpmlib film` joins them",
    )  # fmt: skip
    parser.add_argument(
        "--tensorboard", action=argparse.BooleanOptionalAction,
        help="write events for TensorBoard beside the log",
    )  # fmt: skip
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

    recipe, folder, dataset = _asked(args)
    card = runs.train(
        recipe,
        folder,
        dataset=dataset,
        resume=args.resume,
        minutes=args.minutes,
        init=args.init,
        device=args.device,
        bf16=args.bf16,
        compile=args.compile,
        channels_last=args.channels_last,
        accumulate=args.accumulate,
        save_every=args.save_every,
        sample_every=args.sample_every,
        tensorboard=args.tensorboard,
        command=own_images.without_path(args),
    )
    loss = f"loss {card.loss[-1][1]:.4f}, " if card.loss else ""
    say(f"{folder}: {card.parameters:,} weights, {loss}{card.training['seconds']:.0f} s")


def _asked(args: argparse.Namespace) -> tuple[Recipe, Path, Dataset | None]:
    """The recipe with its changes, the folder, and own images; a run goes on with its recipe."""
    from ddpmlib.evaluation.sample_quality import FEWEST_TEST_IMAGES
    from ddpmlib.zoo import STATE, recipes
    from ddpmlib.zoo.run_folder import check_folder
    from ddpmlib.zoo.stretches import recorded

    folder = _run_of(args) if args.resume or args.images is not None else None
    before = recorded(folder / STATE) if folder and args.resume else None
    if folder and before:
        dataset = _checked(args, folder, before.recipe)
        return recipes.changed(before.recipe, _changes(args)), folder, dataset
    if args.resume and not (args.recipe or args.images) and folder:
        raise FileNotFoundError(f"there is no run in {folder} to go on with: name a recipe")
    if folder and args.images is not None:
        check_folder(folder, args.resume)  # before all pictures are read
    named, dataset = _named(args)
    folder = args.out or RUNS / named.name
    if dataset is not None:
        for line in recipes.described(named, dataset, args.minutes):
            say(line)
        if named.kind == "diffusion" and len(dataset.x_test) < FEWEST_TEST_IMAGES:
            say(f"too few to test with for `ddpmlib evaluate`, which needs {FEWEST_TEST_IMAGES}")
    if args.resume:
        say(f"no saved state in {folder}: starting from the beginning")
    return named, folder, dataset


def resumption(args: argparse.Namespace) -> list[str]:
    """The words of the command that goes on with a run."""
    return ["ddpmlib", "train", "--resume", "--out", str(_run_of(args))]


def _run_of(args: argparse.Namespace) -> Path | None:
    """The folder of the run, as far as options say it."""
    if args.out:
        return Path(args.out)
    if "name" in (changes := _pairs(args.changes)):
        return RUNS / str(changes["name"])
    if args.images is not None:
        return RUNS / own_images.run_name(args)
    return RUNS / str(args.recipe) if args.recipe else None


def _checked(args: argparse.Namespace, folder: Path, before: Recipe) -> Dataset | None:
    """The own images of a run that goes on, if they are named again; it must be the same run."""
    from ddpmlib.zoo import recipes

    if args.images is not None:
        return own_images.read_again(args, folder, before)
    own_images.check_unused(args)
    named = recipes.RECIPES.get(args.recipe) if args.recipe else None
    if named and named.name != before.name:
        raise ValueError(
            f"{folder} holds a run of {before.name}, not of {named.name}: give another folder by "
            "--out, or leave the recipe out"
        )
    return None


def _named(args: argparse.Namespace) -> tuple[Recipe, Dataset | None]:
    """The recipe that a command line asks for, and own images."""
    from ddpmlib.zoo import recipes

    if args.images is not None:
        recipe, dataset = own_images.chosen(args)
        return recipes.changed(recipe, _changes(args)), dataset
    own_images.check_unused(args)
    if args.recipe is not None:
        return recipes.changed(recipe_named(args.recipe), _changes(args)), None
    raise ValueError(
        "train what? Name a recipe, for example `ddpmlib train digits`, give your own --images, or "
        "go on with a run by --resume --out FOLDER"
    )


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
