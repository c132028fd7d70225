"""The kinds of recipes there are, and the way back from a card's JSON to one of them."""

from __future__ import annotations

from typing import Any

from ddpmlib.records import typed
from ddpmlib.zoo.recipe import Recipe
from ddpmlib.zoo.recipes.classifier import ClassifierRecipe
from ddpmlib.zoo.recipes.diffusion import DiffusionRecipe
from ddpmlib.zoo.recipes.noisy_classifier import NoisyClassifierRecipe

KINDS: dict[str, type[Recipe]] = {
    "diffusion": DiffusionRecipe,
    "classifier": ClassifierRecipe,
    "noisy-classifier": NoisyClassifierRecipe,
}
"""A new family is a module of its own and a line here."""


def from_dict(values: dict[str, Any]) -> Recipe:
    """The way back from :func:`ddpmlib.zoo.recipe.to_dict`.

    Raises:
        ValueError: for an unknown kind or field, a missing one, or a value of another kind.
    """
    fields = {name: value for name, value in values.items() if name != "kind"}
    kind = values.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        *most, last = map(repr, KINDS)
        raise ValueError(f"a recipe is of kind {', '.join(most)} or {last}, got {kind!r}")
    return typed(KINDS[kind], fields)
