"""``ddpmlib export-web``: write a denoiser as a script that draws in a web page."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ddpmlib.cli.models import denoiser_of
from ddpmlib.cli.text import say
from ddpmlib.cli.verbs import verb


def add(verbs: Any) -> None:
    """Its options."""
    parser = verb(verbs, "export-web", run, "write a denoiser as a script that draws in a web page")
    parser.add_argument("model", help="as for sample")
    parser.add_argument(
        "--out", type=Path, default=Path("weights.js"), help="script to write (default weights.js)"
    )


def run(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    from ddpmlib.teaching import web_export

    model, card = denoiser_of(args)
    size = web_export.write(model, card, args.out)
    say(f"{args.out}: {size / 1e6:.2f} MB")
