"""``ddpmlib ship``: copy a finished run into the shipped checkpoints."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ddpmlib.cli.text import say
from ddpmlib.cli.verbs import verb


def add(verbs: Any) -> None:
    """Its options."""
    parser = verb(verbs, "ship", run, "copy a finished run into data/checkpoints")
    parser.add_argument("folder", type=Path, help="folder of the run")
    parser.add_argument("--name", help="name of the checkpoint (default: the recipe's)")
    parser.add_argument(
        "--dtype", default="float16", choices=("float16", "float32"), help="default float16"
    )


def run(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    from ddpmlib import zoo

    say(zoo.ship(args.folder, args.name, args.dtype, tell=say))
