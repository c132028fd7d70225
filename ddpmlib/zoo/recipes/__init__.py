"""Recipes: the families, one module each, the kinds they are, and a catalogue with names."""

from ddpmlib.zoo.recipe import Recipe, changed, to_dict
from ddpmlib.zoo.recipes.catalogue import RECIPES
from ddpmlib.zoo.recipes.classifier import ClassifierRecipe
from ddpmlib.zoo.recipes.diffusion import OBJECTIVES, SCHEDULES, TIMES, DiffusionRecipe
from ddpmlib.zoo.recipes.kinds import KINDS, from_dict
from ddpmlib.zoo.recipes.noisy_classifier import NoisyClassifierRecipe
from ddpmlib.zoo.recipes.own import OWN_KINDS, described, divisor_for, like, own_name, own_recipe

__all__ = [
    "KINDS",
    "OBJECTIVES",
    "OWN_KINDS",
    "RECIPES",
    "SCHEDULES",
    "TIMES",
    "ClassifierRecipe",
    "DiffusionRecipe",
    "NoisyClassifierRecipe",
    "Recipe",
    "changed",
    "described",
    "divisor_for",
    "from_dict",
    "like",
    "own_name",
    "own_recipe",
    "to_dict",
]
