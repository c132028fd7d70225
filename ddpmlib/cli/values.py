"""The values of a command line: text that is checked where it is read."""

from __future__ import annotations

import argparse
import math

MOST_THREADS = 1024


def positive(text: str) -> int:
    """A whole number 1..2³¹ − 1."""
    if not text.isdecimal() or not 1 <= int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"must be a whole number 1..2**31 - 1, got {text!r}")
    return int(text)


def threads(text: str) -> int:
    """A number of threads that the runtime can start; it ends the process where it cannot."""
    found = positive(text)
    if found > MOST_THREADS:
        raise argparse.ArgumentTypeError(f"must be at most {MOST_THREADS}, got {text!r}")
    return found


def seed(text: str) -> int:
    """A whole number 0..2³² − 1."""
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"must be a whole number 0..2**32 - 1, got {text!r}")
    return int(text)


def image_size(text: str) -> tuple[int, int]:
    """Height and width: a whole number of pixels for both, or HxW, each 4..1024."""
    words = text.lower().replace("×", "x").split("x")
    sides = [int(word) for word in words if word.isdecimal() and len(word) < 5]
    if len(sides) != len(words) or len(sides) > 2 or not all(4 <= side <= 1024 for side in sides):
        raise argparse.ArgumentTypeError(
            f"must be a number of pixels 4..1024, or height x width as in 40x56, got {text!r}"
        )
    return sides[0], sides[-1]


def time_limit(text: str) -> float:
    """Minutes of a command line: positive and finite."""
    try:
        minutes = float(text)
    except ValueError:
        minutes = math.nan
    if not 0 < minutes < math.inf:
        raise argparse.ArgumentTypeError(f"must be a positive number of minutes, got {text!r}")
    return minutes
