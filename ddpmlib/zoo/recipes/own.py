"""Recipes for images of a user's own: net and settings from their size and their number.

The shapes are those of the catalogue's small nets, carried on to larger sides: pixel patches bring
the finest level down to at most 32×32 or so, levels the coarsest to 4..16, and attention works on
the two coarsest. They train on a laptop. What was chosen can be changed field by field, see
:func:`ddpmlib.zoo.recipe.changed`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ddpmlib.data import Dataset
from ddpmlib.models.classifier import ClassifierConfig
from ddpmlib.models.noisy_classifier import NoisyClassifierConfig
from ddpmlib.models.unet import UNetConfig
from ddpmlib.training.settings import Settings
from ddpmlib.zoo.recipe import Recipe, changed
from ddpmlib.zoo.recipes.classifier import ClassifierRecipe
from ddpmlib.zoo.recipes.diffusion import DiffusionRecipe
from ddpmlib.zoo.recipes.noisy_classifier import NoisyClassifierRecipe

OWN_KINDS = ("diffusion", "classifier", "noisy-classifier")


@dataclass(frozen=True)
class _Shape:
    """Of a U-Net: patch at the door, and features of each level in units of the width."""

    patch: int
    mults: tuple[int, ...]

    @property
    def attention(self) -> tuple[bool, ...]:
        levels = len(self.mults)
        return tuple(level >= max(1, levels - 2) for level in range(levels))

    @property
    def divisor(self) -> int:
        return self.patch * 2 ** (len(self.mults) - 1)


_SHAPES = {  # longest side in pixels, up to which each is taken
    16: _Shape(1, (1, 2)),
    32: _Shape(2, (1, 2)),
    64: _Shape(2, (1, 2, 2)),
    128: _Shape(4, (1, 2, 2)),
}
_LARGE = _Shape(4, (1, 2, 2, 2))
_STEPS = {1_000: 3_000, 10_000: 8_000, 50_000: 12_000}  # training images, up to which each holds
_MOST_STEPS = 20_000


def divisor_for(size: tuple[int, int]) -> int:
    """What height and width must be multiples of, for the net that :func:`own_recipe` chooses."""
    return _shape_for(size).divisor


def own_recipe(dataset: Dataset, kind: str = "diffusion", *, flip: bool = False) -> Recipe:
    """A recipe for a data set, chosen from the size and the number of its images.

    A denoiser predicts v on the cosine schedule and learns its variance, as the catalogue's small
    ones do. With few images the net is the small one and has dropout, but it will learn a few
    hundred of them by heart all the same.

    Args:
        dataset: the images; its name becomes the recipe's, for a classifier with its kind.
        kind: one of :data:`OWN_KINDS`.
        flip: mirror images at random: right for faces and flowers, wrong for letters.

    Raises:
        ValueError: for another kind, or a classifier of images without classes.
    """
    _check_kind(kind, dataset)
    common: dict[str, Any] = {"name": own_name(dataset.name, kind), "data": dataset.name}
    common |= {"flip": flip}
    if kind == "classifier":
        return _classifier(dataset, common)
    n = len(dataset.x_train)
    width = 32 if n < 5_000 else 48
    net, shape = _net(dataset, width), _shape_for(dataset.image_shape[1:])
    if kind == "noisy-classifier":
        config = NoisyClassifierConfig(**net | {"dropout": 0.1, "mults": shape.mults})
        settings = Settings(_steps(n) // 2, _batch(n, 64), lr=2e-3, weight_decay=0.05)
        return NoisyClassifierRecipe(net=config, settings=settings, **common)
    batch = _batch(n, 32 if n <= 1_000 else 64)
    settings = Settings(_steps(n), batch, lr=2e-3 * 32 / width, warmup=200)
    return DiffusionRecipe(
        net=UNetConfig(**net), settings=settings, var_mix=None, objective="hybrid", **common
    )


def like(recipe: Recipe, dataset: Dataset, *, flip: bool = False) -> Recipe:
    """Another recipe's net and settings for a data set: its channels, classes and names.

    Args:
        recipe: see :data:`ddpmlib.zoo.recipes.RECIPES`; it stays as it is.
        dataset: the images.
        flip: mirror images at random; the other recipe's flips are not taken over.

    Raises:
        ValueError: if it is a classifier's and the images have no classes.
    """
    _check_kind(recipe.kind, dataset)
    n = len(dataset.x_train)
    return changed(
        recipe,
        {
            "name": own_name(dataset.name, recipe.kind),
            "data": dataset.name,
            "flip": flip,
            "net.channels": dataset.image_shape[0],
            "net.num_classes": dataset.num_classes,
            "settings.batch_size": min(recipe.settings.batch_size, _batch(n, n)),
        },
    )


def own_name(data: str, kind: str) -> str:
    """What the checkpoint of a kind is called that was trained on a data set."""
    return data if kind == "diffusion" else f"{data}-{kind}"


def described(recipe: Recipe, dataset: Dataset, minutes: float | None = None) -> list[str]:
    """Data, net and settings in two sentences, as they are printed before training.

    With ``minutes`` the updates are those that fit, and not the recipe's.
    """
    c, h, w = dataset.image_shape
    n, settings = len(dataset.x_train), recipe.settings
    kinds = f", {dataset.num_classes} classes" if dataset.num_classes else ", no classes"
    colours = {1: "grey", 3: "RGB"}.get(c, f"of {c} channels")
    weights = sum(p.numel() for p in recipe.build().parameters())
    size, m = settings.batch_size, len(dataset.x_test)
    if minutes is None:
        passes = settings.steps * size / n
        length = f"{settings.steps:,} updates of {size} images, {passes:,.0f} passes over the data"
    else:
        length = f"as many updates of {size} images as fit into {minutes:g} minutes"
    return [
        f"{dataset.name}: {n:,} images to train on and {m:,} to test with, "
        f"{h}×{w} pixels, {colours}{kinds}",
        f"{recipe.name}: {recipe.kind}, {_net_in_words(recipe)}, {weights:,} weights; {length}",
    ]


def _net_in_words(recipe: Any) -> str:
    net = recipe.net
    if not isinstance(net, UNetConfig):
        return f"width {net.width}"
    levels = "-".join(str(m * net.width) for m in net.mults)
    patch = f" on {net.patch}×{net.patch} patches" if net.patch > 1 else ""
    return f"U-Net {levels}{patch}"


# ---- parts ---------------------------------------------------------------------------------------


def _check_kind(kind: str, dataset: Dataset) -> None:
    if kind not in OWN_KINDS:
        raise ValueError(f"a recipe for own images is of kind {', '.join(OWN_KINDS)}, got {kind!r}")
    if kind != "diffusion" and dataset.num_classes < 2:
        found = f"{dataset.num_classes} class{'' if dataset.num_classes == 1 else 'es'}"
        raise ValueError(
            f"{dataset.name} has {found}, and a classifier needs at least 2: put the pictures of "
            "each class into a folder of its name"
        )


def _shape_for(size: Sequence[int]) -> _Shape:
    return next((shape for most, shape in _SHAPES.items() if max(size) <= most), _LARGE)


def _net(dataset: Dataset, width: int) -> dict[str, Any]:
    shape, few = _shape_for(dataset.image_shape[1:]), len(dataset.x_train) < 5_000
    return {
        "channels": dataset.image_shape[0], "num_classes": dataset.num_classes, "width": width,
        "mults": shape.mults, "attention": shape.attention, "patch": shape.patch, "heads": 2,
        "dropout": 0.1 if few else 0.0,
    }  # fmt: skip


def _classifier(dataset: Dataset, common: dict[str, Any]) -> ClassifierRecipe:
    n = len(dataset.x_train)
    net = ClassifierConfig(
        channels=dataset.image_shape[0], num_classes=dataset.num_classes,
        width=16 if n < 5_000 else 32, features=64,
    )  # fmt: skip
    settings = Settings(
        _steps(n) // 2, _batch(n, 64), lr=3e-3, weight_decay=0.05, ema=0.995,
    )  # fmt: skip
    reach = 2 if min(dataset.image_shape[1:]) >= 16 else 1
    return ClassifierRecipe(net=net, settings=settings, reach=reach, **common)


def _steps(n: int) -> int:
    return next((steps for most, steps in _STEPS.items() if n <= most), _MOST_STEPS)


def _batch(n: int, most: int) -> int:
    """The largest power of two that is neither more than ``most`` nor than the images."""
    return 1 << (min(n, most).bit_length() - 1)
