"""Time several ways of doing one thing in turn, so that whatever disturbs the machine hits all."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

Call = Callable[[], object]


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of one number, measured again and again."""

    median: float
    low: float
    high: float

    def map(self, f: Callable[[float], float]) -> Spread:
        """The spread of f of the number, for a monotone f (seconds to images per second, say)."""
        low, high = sorted((f(self.low), f(self.high)))
        return Spread(f(self.median), low, high)


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles; the ends of the range where two values or one are all there is.

    Raises:
        ValueError: without values.
    """
    if not values:
        raise ValueError("there is no spread of no values")
    if len(values) < 3:
        return Spread(statistics.median(values), min(values), max(values))
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


def ratios(theirs: Sequence[float], ours: Sequence[float]) -> Spread:
    """How many times longer they took, round by round: both met the same disturbance.

    Raises:
        ValueError: if they were not timed equally often.
    """
    return spread([a / b for a, b in zip(theirs, ours, strict=True)])


def turns(names: Sequence[str], rounds: int) -> Iterator[tuple[str, ...]]:
    """The order of each round: everyone once, everyone first equally often."""
    for k in range(rounds):
        first = k % len(names)
        yield (*names[first:], *names[:first])


def interleaved(
    calls: Mapping[str, Call], rounds: int, device: torch.device, least: float = 0.02
) -> dict[str, list[float]]:
    """Seconds per call, ``rounds`` times for each name, in turns.

    Args:
        calls: what to time; each is called twice before, to warm up and to learn how long it takes.
        rounds: times that each is measured.
        device: waited for before the clock is read.
        least: a measurement repeats short calls until it lasts about this many seconds.

    Raises:
        ValueError: without calls, or for less than one round.
    """
    if not calls or rounds < 1:
        raise ValueError(f"need calls and at least one round, got {len(calls)} and {rounds}")
    for call in calls.values():
        seconds(call, 1, device)
    fastest = min(seconds(call, 1, device) for call in calls.values())
    repeats = max(1, math.ceil(least / max(fastest, 1e-9)))
    found: dict[str, list[float]] = {name: [] for name in calls}
    for names in turns(list(calls), rounds):
        for name in names:
            found[name].append(seconds(calls[name], repeats, device))
    return found


def seconds(call: Call, repeats: int, device: torch.device) -> float:
    """Seconds per call, the device's work included."""
    wait(device)
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    wait(device)
    return (time.perf_counter() - start) / repeats


def wait(device: torch.device) -> None:
    """Let the device finish what it was given; a CPU is never behind."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
