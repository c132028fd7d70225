"""What a recipe is: everything that is decided before training, as a small typed record.

A recipe builds its model and its loss, says which data sets fit, and travels as JSON with every
checkpoint. Each family has a module in :mod:`ddpmlib.zoo.recipes`; here is what they share.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import nn

from ddpmlib.data.sets import Dataset
from ddpmlib.records import WORDS, check_kind, check_plain_name, typed, types
from ddpmlib.training.settings import BatchLoss, Settings

T = TypeVar("T")
R = TypeVar("R", bound="Recipe")


class Recipe(Protocol):
    """How a model is trained: a frozen dataclass of plain values, and of dataclasses of these.

    A new kind is a class like this and a line in :data:`ddpmlib.zoo.recipes.KINDS`; nothing else
    in the library asks which kind it has before it.

    Attributes:
        kind: what its JSON says that it is.
        name: what the checkpoint is called.
        data: the data set's name, by which :func:`ddpmlib.data.sets.load` finds it.
        settings: optimiser and budget.
        num_classes: of the model; 0 if it knows none.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]
    kind: ClassVar[str]

    @property
    def name(self) -> str: ...

    @property
    def data(self) -> str: ...

    @property
    def settings(self) -> Settings: ...

    @property
    def num_classes(self) -> int: ...

    def build(self) -> nn.Module:
        """The model with fresh weights, reproducible from the seed."""

    def loss(self) -> BatchLoss:
        """The batch loss for :class:`ddpmlib.training.trainer.Trainer`, with what it remembers."""

    def check(self, dataset: Dataset) -> None:
        """Whether the model is made for these images, asked before anything is written.

        Raises:
            ValueError: if not, in one sentence.
        """


# ---- as JSON -------------------------------------------------------------------------------------


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain JSON values, with its ``kind``."""
    return {"kind": recipe.kind} | asdict(recipe)


# ---- changed -------------------------------------------------------------------------------------


def changed(recipe: R, changes: dict[str, Any]) -> R:
    """A recipe with some fields replaced; ``net.`` and ``settings.`` reach the fields inside.

    Args:
        recipe: where to start from; it stays as it is.
        changes: for example ``{"schedule": "linear", "T": 500, "net.width": 16}``.

    Raises:
        ValueError: for an unknown field, or a value of another type than the field's.
    """
    values = asdict(recipe)
    for name, value in changes.items():
        part, kind = _place(recipe, values, name)
        check_kind(name, value, kind)
        part[name.split(".")[-1]] = value
    return typed(type(recipe), values)


def _place(recipe: Recipe, values: dict[str, Any], name: str) -> tuple[dict[str, Any], Any]:
    """The dictionary that holds the field, and the type that the field has."""
    *outer, field = name.split(".")
    cls: Any = type(recipe)
    for key in outer:
        cls = types(cls).get(key)
        cls, values = (cls, values[key]) if is_dataclass(cls) else (object, {})
    kinds = types(cls)
    kind = kinds.get(field)
    if kind not in WORDS:
        there = ", ".join(".".join([*outer, n]) for n, k in kinds.items() if k in WORDS)
        hint = f": there are {there}" if there else ""
        raise ValueError(f"a recipe of kind {recipe.kind!r} has no field {name!r} to set{hint}")
    return values, kind


# ---- what the families check and build alike -----------------------------------------------------


def check_names(recipe: Recipe) -> None:
    """Whether the checkpoint and the data set have names that a file can bear."""
    check_plain_name("recipe", recipe.name)
    check_plain_name("data set", recipe.data)


def check_T(T: Any) -> None:
    """Whether T is a number of steps."""
    if not isinstance(T, int) or not 1 <= T <= 100_000:
        raise ValueError(f"T counts steps, a whole number in 1..100,000, got {T!r}")


def check_choice(name: str, value: str, choices: Any) -> None:
    """Whether a word is one of those that a field takes."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def check_reach(reach: int, dataset: Dataset | None = None) -> None:
    """Whether images can be shifted by so many pixels: at all, and without losing sight of them."""
    if reach < 0:
        raise ValueError(f"reach counts pixels and must not be negative, got {reach}")
    if dataset is not None and reach >= min(dataset.image_shape[1:]):
        side = min(dataset.image_shape[1:])
        raise ValueError(f"reach = {reach} shifts images of side {side} out of sight")


def check_channels(channels: int, dataset: Dataset) -> None:
    """Whether a net sees all channels of the images."""
    found = dataset.image_shape[0]
    if found != channels:
        raise ValueError(
            f"{dataset.name} has {found} channels, the net {channels}: set net.channels to {found}"
        )


def check_classes(num_classes: int, dataset: Dataset) -> None:
    """Whether a net knows the classes of the images."""
    if dataset.num_classes != num_classes:
        found = dataset.num_classes
        raise ValueError(f"{dataset.name} has {found} classes, the net {num_classes}")


def check_sides(divisor: int, dataset: Dataset) -> None:
    """Whether a U-Net can halve the images as often as it has levels."""
    _, *sides = dataset.image_shape
    if any(side % divisor for side in sides):
        raise ValueError(
            f"{dataset.name} is {sides[0]} × {sides[1]} pixels, and this net needs sides that are "
            f"multiples of {divisor} (patch and levels halve them)"
        )


def seeded(seed: int, build: Callable[[], T]) -> T:
    """What ``build`` makes of random numbers from a seed; the global generator stays as it is."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()
