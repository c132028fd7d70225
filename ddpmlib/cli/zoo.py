"""``ddpmlib zoo``: list recipes and checkpoints, or show one card."""

from __future__ import annotations

import argparse
from typing import Any

from ddpmlib.cli.models import own_run_or
from ddpmlib.cli.text import say
from ddpmlib.cli.verbs import verb


def add(verbs: Any) -> None:
    """Its options."""
    parser = verb(verbs, "zoo", run, "list recipes and shipped checkpoints, or show one card")
    parser.add_argument("name", nargs="?")


def run(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    from ddpmlib import zoo
    from ddpmlib.zoo import recipes

    if args.name:
        card = zoo.find(own_run_or(args.name)).with_suffix(".json")
        zoo.Card.read(card)  # only what is a card is shown
        for line in card.read_text("utf-8").removesuffix("\n").split("\n"):
            say(line)
        return
    say("recipes:     " + ", ".join(recipes.RECIPES))
    say("checkpoints: " + (", ".join(zoo.names()) or "none"))
