"""The commands ``ddpmlib train | sample | evaluate | statistics | ship | export-web | zoo``."""

from ddpmlib.cli.command import main
from ddpmlib.cli.values import time_limit

__all__ = [
    "main",
    "time_limit",
]
