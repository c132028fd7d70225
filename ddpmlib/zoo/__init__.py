"""Recipes, the runs that carry them out, and the checkpoints that came of them."""

from ddpmlib.zoo.card import Card
from ddpmlib.zoo.checkpoints import (
    LOG,
    MODEL,
    STATE,
    find,
    load,
    log_file,
    names,
    ship,
    shipped,
    start_from,
    write_model,
)
from ddpmlib.zoo.log import read_log
from ddpmlib.zoo.recipe import Recipe
from ddpmlib.zoo.recipes import (
    RECIPES,
    ClassifierRecipe,
    DiffusionRecipe,
    NoisyClassifierRecipe,
)
from ddpmlib.zoo.saved import save
from ddpmlib.zoo.unfinished import UnfinishedRun
from ddpmlib.zoo.weights import read, weights_files

__all__ = [
    "LOG",
    "MODEL",
    "RECIPES",
    "STATE",
    "Card",
    "ClassifierRecipe",
    "DiffusionRecipe",
    "NoisyClassifierRecipe",
    "Recipe",
    "UnfinishedRun",
    "find",
    "load",
    "log_file",
    "names",
    "read",
    "read_log",
    "save",
    "ship",
    "shipped",
    "start_from",
    "weights_files",
    "write_model",
]
