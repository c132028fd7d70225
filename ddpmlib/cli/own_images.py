"""The options of ``ddpmlib train`` for images of a user's own, and the recipe that they make."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ddpmlib.cli import values
from ddpmlib.cli.models import recipe_named
from ddpmlib.cli.text import say

if TYPE_CHECKING:
    from ddpmlib.data import Dataset
    from ddpmlib.zoo.recipe import Recipe

KINDS = ("diffusion", "classifier", "noisy-classifier")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Everything that :func:`chosen` reads."""
    group = parser.add_argument_group("your own images, in place of a recipe's name")
    group.add_argument(
        "--images", metavar="PATH",
        help="folder of pictures, with a sub-folder for each class or none, or an .npz file",
    )  # fmt: skip
    group.add_argument("--kind", choices=KINDS, help="what is trained on them (default: diffusion)")
    group.add_argument(
        "--recipe", dest="like", metavar="NAME",
        help="net and settings of this recipe (default: by the images' size and number)",
    )  # fmt: skip
    group.add_argument("--name", help="of the data and the run (default: the folder's)")
    group.add_argument(
        "--size", type=values.image_size, metavar="N|HxW",
        help="height and width, pixels (default: the most common of the pictures)",
    )  # fmt: skip
    colours = group.add_mutually_exclusive_group()
    colours.add_argument("--grey", action="store_true", help="one channel (default: if all are)")
    colours.add_argument("--rgb", action="store_true", help="three channels (default: if one is)")
    group.add_argument("--flip", action="store_true", help="mirror images at random")
    group.add_argument(
        "--skip-broken", action="store_true", help="leave out files that cannot be read"
    )


def chosen(args: argparse.Namespace) -> tuple[Recipe, Dataset]:
    """Read the images that a command line names, and print what will be trained on them.

    Raises:
        FileNotFoundError, ValueError: if they cannot be read, or no such recipe fits them.
    """
    from ddpmlib.data import folders, own
    from ddpmlib.zoo import recipes

    if args.recipe:
        raise ValueError(
            f"--images replaces the recipe {args.recipe!r}: give --recipe {args.recipe} to take "
            "its net and settings"
        )
    like = _named(args)

    def fit(size: tuple[int, int]) -> tuple[int, int]:
        divisor = recipes.divisor_for(size) if like is None else _divisor(like)
        found = folders.nearest(size, divisor)
        if found != size:
            say(
                f"the net halves sides to {divisor} parts: images become {found[0]}×{found[1]} "
                f"pixels instead of {size[0]}×{size[1]}"
            )
        return found

    grey = True if args.grey else False if args.rgb else None
    dataset = own.from_path(
        args.images, args.name, size=args.size, grey=grey, fit=fit, skip_broken=args.skip_broken
    )
    if like is None:
        recipe = recipes.own_recipe(dataset, args.kind or "diffusion", flip=args.flip)
    else:
        recipe = recipes.like(like, dataset, flip=args.flip)
    return recipe, dataset


def check_unused(args: argparse.Namespace) -> None:
    """Raise ValueError if an option is given that only means something with ``--images``."""
    found = {
        "--kind": args.kind, "--recipe": args.like, "--name": args.name, "--size": args.size,
        "--grey": args.grey, "--rgb": args.rgb, "--flip": args.flip,
        "--skip-broken": args.skip_broken,
    }  # fmt: skip
    for option, value in found.items():
        if value:
            raise ValueError(f"{option} is for your own images: give --images too")


def run_name(args: argparse.Namespace) -> str:
    """The name of the run that a command line with ``--images`` is about."""
    from ddpmlib.data import own
    from ddpmlib.zoo import recipes

    like = _named(args)
    kind = like.kind if like else args.kind or "diffusion"
    return recipes.own_name(args.name or own.plain_name(args.images), kind)


def read_again(args: argparse.Namespace, folder: Path, before: Recipe) -> Dataset:
    """The images of a run that goes on, from where they lie now.

    Raises:
        ValueError: if options ask for another recipe than that of the run.
    """
    from ddpmlib.data import own
    from ddpmlib.zoo import recipes
    from ddpmlib.zoo.source import read_source

    if not (args.kind or args.like or args.flip or args.size or args.grey or args.rgb):
        source = read_source(folder)
        skip = args.skip_broken or source.skip_broken
        moved = replace(source, path=str(Path(args.images).resolve()), skip_broken=skip)
        dataset = own.again(moved, before.data, say)
        if moved.path != source.path:
            say(f"{folder}: its images are read from {moved.path} from now on")
        return dataset
    recipe, dataset = chosen(args)
    asked = recipes.changed(recipe, {"settings.steps": before.settings.steps})
    if (args.kind or args.like or args.flip) and asked != before:
        raise ValueError(
            "--kind, --recipe and --flip are decided when a run begins, and this one is of another "
            "recipe: leave them out with --resume, or give another folder by --out"
        )
    return dataset


def without_path(args: argparse.Namespace) -> str:
    """The command that a card shows, which may ship: without the folders above the images."""
    if args.images is None:
        return str(args.command)
    short = Path(args.images).resolve().name
    changed = {args.images: short, f"--images={args.images}": f"--images={short}"}
    return shlex.join(changed.get(word, word) for word in shlex.split(args.command))


def _named(args: argparse.Namespace) -> Recipe | None:
    if not args.like:
        return None
    recipe = recipe_named(args.like)
    if args.kind and args.kind != recipe.kind:
        raise ValueError(f"--recipe {args.like} is of kind {recipe.kind}, not {args.kind}")
    return recipe


def _divisor(recipe: Recipe) -> int:
    """What a recipe's net wants sides to be multiples of."""
    return int(getattr(getattr(recipe, "net", None), "side_divisor", 1))
