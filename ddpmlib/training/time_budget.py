"""How many updates fit into a time, and how much time they will take."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from ddpmlib.training import parallel
from ddpmlib.training.settings import Progress
from ddpmlib.training.trainer import Trainer

WARM_UP, STRETCH = 3, 5  # updates: before time is taken, and between two looks at the clock
RESERVE = 0.05  # of a limit of time, for machines that slow down


def updates_within(trainer: Trainer, seconds: float, scratch: Path, save_every: int) -> int:
    """How many updates fit into a time, estimated by the first ones, which are then undone.

    A fiftieth of the time is spent on it. The answer is the same on every process, and a part of
    the time stays in reserve, :data:`RESERVE`. The learning rate can then fall to zero when the
    time is up: schedules are counted in updates, so that a run can be repeated.

    Args:
        trainer: comes back as it was.
        seconds: the limit, this measurement included.
        scratch: a file for a save whose time is taken, and which is then removed.
        save_every: updates between two saves.

    Returns:
        a number of updates, at least 1.

    Raises:
        ValueError: if ``seconds`` is not positive and finite.
    """
    if not 0 < seconds < math.inf:
        raise ValueError(f"a limit of time must be positive and finite, got {seconds} s")
    before, step = {k: v.clone() for k, v in trainer.state_dict().items()}, trainer.step
    spent = _seconds_of(trainer, WARM_UP)  # kernels are chosen, or compiled, in the first ones
    stretches = [_seconds_of(trainer, STRETCH)]
    while sum(stretches) < seconds / 50:
        stretches.append(_seconds_of(trainer, STRETCH))
    each = sum(stretches) / (STRETCH * len(stretches))
    saving = _seconds_of_saving(trainer, scratch)
    trainer.load_state_dict(before)
    trainer.step = step
    left = (1 - RESERVE) * seconds - spent - sum(stretches) - saving
    return max(1, int(left / (each + saving / save_every)))


def forecast(
    updates: Iterator[Progress], steps: int, tell: Callable[[float], Any]
) -> Iterator[Progress]:
    """Pass updates on, and tell after the first ones how long the others will take.

    Args:
        updates: see :func:`ddpmlib.training.loop.fit`.
        steps: that they come to in the end.
        tell: gets the expected seconds, once; never if the updates end before.

    Yields:
        the updates.
    """
    started = 0.0
    for count, progress in enumerate(updates, 1):
        if count in (WARM_UP, WARM_UP + STRETCH):
            float(progress.loss)  # a GPU may be behind
            now = time.perf_counter()
            if count > WARM_UP:
                tell((steps - progress.step) * (now - started) / STRETCH)
            started = now
        yield progress


def _seconds_of(trainer: Trainer, updates: int) -> float:
    """The mean over all processes, so that all of them come to the same decision."""
    started = time.perf_counter()
    for _ in range(updates):
        loss = trainer.update().loss
    float(loss)  # a GPU may be behind
    return float(parallel.mean(torch.tensor(time.perf_counter() - started)))


def _seconds_of_saving(trainer: Trainer, scratch: Path) -> float:
    started = time.perf_counter()
    try:
        trainer.save(scratch)
        parallel.wait()
    finally:
        if parallel.is_main():
            scratch.unlink(missing_ok=True)
    return float(parallel.mean(torch.tensor(time.perf_counter() - started)))
