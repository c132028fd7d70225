"""The commands ``ddpmlib train``, ``sample``, ``evaluate`` and the others, one module each."""

from ddpmlib.cli.command import main
from ddpmlib.cli.values import time_limit

__all__ = [
    "main",
    "time_limit",
]
