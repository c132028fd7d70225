"""Runs that are not finished: what they have learned so far, read from their training state."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddpmlib.training import state
from ddpmlib.zoo.card import Card
from ddpmlib.zoo.recipes.kinds import from_dict
from ddpmlib.zoo.weights import check_weights

PREFIX = "ema.module."  # of the averaged weights in a state


class UnfinishedRun(UserWarning):
    """A model was loaded from a run that has updates left."""


def so_far(path: Path) -> tuple[Card, dict[str, Tensor]]:
    """The averaged weights in the training state of a run, and a card for them.

    Warns (:class:`UnfinishedRun`) of which step they are; ``card.training`` says it too, as
    ``step`` and ``steps``.

    Args:
        path: the state's file, in the run's folder.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no whole training state of a recipe.
    """
    saved = state.read(path)
    try:
        recipe, shape = saved.said["recipe"], saved.said["shape"]
        values = {k: v for k, v in recipe.items() if k != "init"}
        found = from_dict(values)
        if not (len(shape) == 3 and all(type(n) is int and n > 0 for n in shape)):
            raise ValueError(f"shape = {shape}")
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} does not say which model it trains ({error}): resume the run, whose next save "
            "will, or finish it"
        ) from error
    averaged = {k.removeprefix(PREFIX): v for k, v in saved.tensors.items() if k.startswith(PREFIX)}
    with torch.device("meta"):
        needed = found.build().state_dict()
    check_weights(path, averaged, needed)
    warnings.warn(
        f"the run in {path.parent} is not finished: these are its averaged weights after "
        f"{saved.step:,} of {found.settings.steps:,} updates",
        UnfinishedRun,
        stacklevel=3,
    )
    how: dict[str, Any] = {"step": saved.step, "steps": found.settings.steps}
    how |= {"classes": saved.said["classes"]} if "classes" in saved.said else {}
    card = Card(
        name=found.name, recipe=values, sha256="",
        parameters=sum(v.numel() for v in averaged.values()), dtype="float32",
        image_shape=tuple(shape), num_classes=found.num_classes, training=how,
    )  # fmt: skip
    return card, averaged
