"""The recipes that have a name, as ``ddpmlib train NAME`` carries them out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ddpmlib.models.classifier import ClassifierConfig
from ddpmlib.models.noisy_classifier import NoisyClassifierConfig
from ddpmlib.models.unet import UNetConfig
from ddpmlib.training.settings import Settings
from ddpmlib.zoo.recipe import Recipe
from ddpmlib.zoo.recipes.classifier import ClassifierRecipe
from ddpmlib.zoo.recipes.diffusion import DiffusionRecipe
from ddpmlib.zoo.recipes.noisy_classifier import NoisyClassifierRecipe


def _unet(**options: Any) -> UNetConfig:
    return UNetConfig(**({"num_classes": 10} | options))


_SMALL: dict[str, Any] = {"width": 32, "mults": (1, 2), "attention": (False, True), "heads": 2}


def _half_unet(**options: Any) -> NoisyClassifierConfig:
    return NoisyClassifierConfig(**(_SMALL | {"dropout": 0.1} | options))


def _second_opinions(
    data: str, shape: ClassifierConfig, settings: Settings, reach: int = 2, flip: bool = False
) -> tuple[Recipe, ...]:
    """Whose features stand beside the classifier's: another architecture, another training."""
    other = replace(shape, width=2 * shape.width, architecture="residual")
    common: dict[str, Any] = {"data": data, "reach": reach, "flip": flip}
    return (
        ClassifierRecipe(
            f"{data}-independent", net=other, settings=replace(settings, seed=1), **common
        ),
        ClassifierRecipe(
            f"{data}-robust", net=shape, settings=replace(settings, seed=2), appearance=True,
            **common,
        ),
    )  # fmt: skip


_CATALOGUE: tuple[Recipe, ...] = (
    DiffusionRecipe(
        "digits",
        "digits",
        _unet(width=16, mults=(1, 2), attention=(False, True), heads=2),
        Settings(steps=500, batch_size=64, lr=5e-3, warmup=50, ema=0.985),
    ),
    DiffusionRecipe(
        "mnist",
        "mnist",
        _unet(**_SMALL, patch=2),
        Settings(steps=10_000, batch_size=128, lr=2e-3, warmup=200, ema=0.9995),
        var_mix=None,
        objective="hybrid",
    ),
    DiffusionRecipe(  # the one net of chapter 09's comparisons
        "mnist-comparison",
        "mnist",
        _unet(width=16, mults=(1, 2), attention=(False, False), heads=2, patch=2),
        Settings(steps=4_000, batch_size=64, lr=3e-3, warmup=300, ema=0.998),
        schedule="linear",
    ),
    DiffusionRecipe(
        "fashion_mnist",
        "fashion_mnist",
        _unet(**_SMALL, patch=2),
        Settings(steps=10_000, batch_size=128, lr=2e-3, warmup=200, ema=0.9995),
        var_mix=None,
        objective="hybrid",  # no flips: all shoes of this data set point to the left
    ),
    ClassifierRecipe(
        "digits-classifier",
        "digits",
        ClassifierConfig(width=16),
        Settings(steps=800, batch_size=64, lr=3e-3, ema=0.99),
        reach=1,
    ),
    ClassifierRecipe(
        "mnist-classifier",
        "mnist",
        ClassifierConfig(width=16),
        Settings(steps=4_000, batch_size=128, lr=3e-3, ema=0.995),
    ),
    ClassifierRecipe(
        "fashion_mnist-classifier",
        "fashion_mnist",
        ClassifierConfig(width=24),
        Settings(steps=6_000, batch_size=128, lr=3e-3, ema=0.995),
        flip=True,
    ),
    *_second_opinions(
        "digits", ClassifierConfig(width=16), Settings(800, 64, lr=3e-3, ema=0.99), reach=1
    ),
    *_second_opinions(
        "mnist", ClassifierConfig(width=16), Settings(4_000, 128, lr=3e-3, ema=0.995)
    ),
    *_second_opinions(
        "fashion_mnist",
        ClassifierConfig(width=16),
        Settings(4_000, 128, lr=3e-3, ema=0.995),
        flip=True,
    ),
    *_second_opinions(
        "cifar10",
        ClassifierConfig(channels=3, width=32, features=128),
        Settings(4_000, 128, lr=3e-3, weight_decay=0.05, ema=0.998),
        flip=True,
    ),
    DiffusionRecipe(  # trains on a laptop's CPU: 2×2 patches, and no dropout for so few epochs
        "cifar10-small",
        "cifar10",
        _unet(
            channels=3,
            width=48,
            mults=(1, 2, 2),
            attention=(False, True, True),
            patch=2,
        ),
        Settings(steps=12_000, batch_size=64, lr=1.5e-3, warmup=300, ema=0.999),
        var_mix=None,
        objective="hybrid",
        flip=True,
    ),
    DiffusionRecipe(  # Ho et al. (2020, appendix B), but for the decay of the learning rate
        "cifar10-ddpm",
        "cifar10",
        UNetConfig(
            channels=3,
            width=128,
            mults=(1, 2, 2, 2),
            blocks=2,
            attention=(False, True, False, False),
            heads=1,
            dropout=0.1,
            groups=32,
            conditioning="add",
        ),
        Settings(steps=800_000, batch_size=128, lr=2e-4, warmup=5_000, ema=0.9999),
        schedule="linear",
        predicts="eps",
        var_mix=1.0,
        label_dropout=0.0,
        flip=True,
    ),
    DiffusionRecipe(  # Nichol & Dhariwal (2021, section 4), with labels
        "cifar10",
        "cifar10",
        _unet(
            channels=3,
            width=128,
            mults=(1, 2, 2, 2),
            blocks=3,
            attention=(False, True, True, False),
            dropout=0.3,
            groups=32,
        ),
        Settings(steps=500_000, batch_size=128, lr=1e-4, ema=0.9999),
        T=4000,
        predicts="eps",
        var_mix=None,
        objective="hybrid",
        flip=True,
    ),
    ClassifierRecipe(
        "cifar10-classifier",
        "cifar10",
        ClassifierConfig(channels=3, width=48, features=128),
        Settings(steps=6_000, batch_size=128, lr=3e-3, weight_decay=0.05, ema=0.998),
        flip=True,
    ),
    NoisyClassifierRecipe(
        "digits-noisy-classifier",
        "digits",
        _half_unet(width=16),
        Settings(steps=1_000, batch_size=64, lr=3e-3, weight_decay=0.05, ema=0.99),
        reach=1,
    ),
    NoisyClassifierRecipe(
        "mnist-noisy-classifier",
        "mnist",
        _half_unet(patch=2),
        Settings(steps=6_000, batch_size=128, lr=2e-3, weight_decay=0.05),
    ),
    NoisyClassifierRecipe(
        "fashion_mnist-noisy-classifier",
        "fashion_mnist",
        _half_unet(patch=2),
        Settings(steps=8_000, batch_size=128, lr=2e-3, weight_decay=0.05),
        flip=True,
    ),
)
RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in _CATALOGUE}
