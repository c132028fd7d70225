"""How a run is carried out, beyond its recipe, and what its state tells of that when it goes on.

The state is the one place where this stands: it is written before the first update, and again
whenever something is changed. A run that goes on does so as before, unless it is told otherwise,
and then a new stretch begins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ddpmlib.records import typed
from ddpmlib.training import state
from ddpmlib.zoo.recipe import Recipe
from ddpmlib.zoo.recipes.kinds import from_dict

USUAL: dict[str, Any] = {
    "bf16": None, "compile": False, "channels_last": False, "accumulate": 1, "save_every": 100,
    "log_every": 50, "sample_every": None, "tensorboard": False,
}  # fmt: skip
LAST = ("device", "bf16", "accumulate", "processes", "compile", "channels_last")


@dataclass(frozen=True)
class Stretch:
    """A part of a run that was carried out in one way.

    Attributes:
        since: updates done before it.
        steps: the run's updates in all, as meant then: the learning rate follows it.
        bf16, compile, channels_last, accumulate: see
            :class:`ddpmlib.training.trainer.Trainer`.
        save_every, log_every: updates between saves and between lines of the log.
        sample_every, tensorboard: grids of samples and events, see
            :func:`ddpmlib.zoo.runs.train`.
        device, processes: on what, and shared by how many.
        command: that began it.
    """

    since: int
    steps: int
    bf16: bool
    compile: bool
    channels_last: bool
    accumulate: int
    save_every: int
    log_every: int
    device: str
    processes: int
    command: str
    sample_every: int | None = None
    tensorboard: bool = False


@dataclass(frozen=True)
class Recorded:
    """What a saved run says of itself.

    Attributes:
        recipe: see :class:`ddpmlib.zoo.recipe.Recipe`.
        init: SHA-256 of the checkpoint that it started from; None for random weights.
        start: the same in words.
        stretches: none for a run that an older version began.
        step: updates done when it was saved.
    """

    recipe: Recipe
    init: str | None
    start: str | None
    stretches: tuple[Stretch, ...]
    step: int


def recorded(path: Path) -> Recorded | None:
    """What a run's state says of the run; None if there is no state.

    Raises:
        ValueError: if it is damaged, or no state of a run.
    """
    if not path.exists():
        return None
    found = state.read(path)
    said = found.said
    try:
        recipe = dict(said["recipe"])
        init = recipe.pop("init", None)
        stretches = tuple(typed(Stretch, one) for one in said.get("stretches", ()))
        return Recorded(from_dict(recipe), init, said.get("start"), stretches, found.step)
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{path} does not say which run it is of ({error})") from error


def options(before: Recorded | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Of each option what is given, else what the run was last carried out with, else the usual."""
    last = before.stretches[-1] if before and before.stretches else None
    usual = {name: getattr(last, name) for name in USUAL} if last else USUAL
    return {name: usual[name] if value is None else value for name, value in given.items()}


def continued(before: Sequence[Stretch], new: Stretch) -> tuple[Stretch, ...]:
    """The stretches of a run that goes on: a new one only if something is done in another way."""
    if before and replace(before[-1], since=new.since, command=new.command) == new:
        return tuple(before)
    return (*before, new)


def told(stretches: Sequence[Stretch]) -> dict[str, Any]:
    """What a card says of them: how to repeat the run, and each stretch if there are several."""
    commands, steps = [stretches[0].command], stretches[0].steps
    for stretch in stretches[1:]:
        if stretch.steps != steps:
            commands.append(f"{stretch.command} --resume")
            steps = stretch.steps
    several = {"stretches": [asdict(s) for s in stretches]} if len(stretches) > 1 else {}
    last = {k: getattr(stretches[-1], k) for k in LAST}
    return last | {"command": " && ".join(commands)} | several


def notes(stretches: Sequence[Stretch], start: str | None) -> dict[str, Any]:
    """What a state says of them, for :func:`recorded`."""
    return {"stretches": [asdict(s) for s in stretches]} | ({"start": start} if start else {})
