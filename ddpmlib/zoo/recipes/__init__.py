"""Recipes: the families, one module each, the kinds they are, and a catalogue with names."""

from ddpmlib.zoo.recipe import Recipe, changed, to_dict
from ddpmlib.zoo.recipes.catalogue import RECIPES
from ddpmlib.zoo.recipes.classifier import ClassifierRecipe
from ddpmlib.zoo.recipes.diffusion import OBJECTIVES, SCHEDULES, TIMES, DiffusionRecipe
from ddpmlib.zoo.recipes.kinds import KINDS, from_dict
from ddpmlib.zoo.recipes.noisy_classifier import NoisyClassifierRecipe

__all__ = [
    "KINDS",
    "OBJECTIVES",
    "RECIPES",
    "SCHEDULES",
    "TIMES",
    "ClassifierRecipe",
    "DiffusionRecipe",
    "NoisyClassifierRecipe",
    "Recipe",
    "changed",
    "from_dict",
    "to_dict",
]
