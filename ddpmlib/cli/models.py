"""Which checkpoint or recipe a command line means."""

from __future__ import annotations

import argparse
import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpmlib.cli.text import say

if TYPE_CHECKING:
    from ddpmlib.zoo.recipe import Recipe

RUNS = Path("runs")


def denoiser_of(args: argparse.Namespace) -> Any:
    """The denoiser that ``args.model`` names, and its card."""
    from ddpmlib import zoo
    from ddpmlib.denoiser.denoiser import Denoiser

    model, card = zoo.load(model_of(args), args.device)
    if not isinstance(model, Denoiser):
        raise ValueError(f"{card.name} is a classifier: it measures samples but draws none")
    return model, card


def own_run_or(name: str) -> str | Path:
    """A run in ``runs/`` comes before a shipped checkpoint of its name, once it is finished."""
    from ddpmlib import zoo

    own = RUNS / name
    finished = (own / zoo.MODEL).is_file()
    if not finished and (own / zoo.STATE).is_file() and name in zoo.names():
        say(f"{own} is not finished, and {name} is the shipped checkpoint; name the folder for it")
    return own if finished or (own.is_dir() and name not in zoo.names()) else name


def model_of(args: argparse.Namespace) -> str | Path:
    """What ``args.model`` names, by default the newest run."""
    if args.model:
        return own_run_or(args.model)
    finished = sorted(RUNS.glob("*/model.safetensors"), key=lambda p: p.stat().st_mtime)
    finished = [p for p in finished if "classifier" not in p.parent.name]
    if not finished:
        raise FileNotFoundError(
            f"no finished run in {RUNS}/: run `ddpmlib train digits` first, or name a checkpoint, "
            "for example `ddpmlib sample mnist`"
        )
    return finished[-1]


def recipe_named(name: str) -> Recipe:
    """The recipe of the catalogue.

    Raises:
        ValueError: if there is none of this name.
    """
    from ddpmlib.zoo import recipes

    if name not in recipes.RECIPES:
        near = difflib.get_close_matches(name, recipes.RECIPES, n=1)
        hint = f"did you mean {near[0]!r}? There are" if near else "choose one of"
        raise ValueError(f"unknown recipe {name!r}: {hint} {', '.join(recipes.RECIPES)}")
    return recipes.RECIPES[name]
