"""The commands ``ddpmlib train | sample | evaluate | statistics | ship | export-web | zoo``."""

from ddpmlib.cli.command import main, time_limit

__all__ = [
    "main",
    "time_limit",
]
