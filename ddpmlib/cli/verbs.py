"""What every verb of the command line has."""

from __future__ import annotations

import argparse
from typing import Any

from ddpmlib.cli import values


def verb(verbs: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    """A parser with the options that all share; ``run`` does what it says."""
    parser = verbs.add_parser(name, help=text, description=text, allow_abbrev=False)
    parser.add_argument("--device", help="cpu, cuda or mps (default: a GPU if there is one)")
    parser.add_argument("--threads", type=values.threads, help="CPU threads (one is often fastest)")
    parser.set_defaults(run=run)
    return parser
