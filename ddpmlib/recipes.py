"""Recipes: everything that is decided before training, as small typed records.

A recipe builds its model and its loss and travels as JSON with every checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from ddpmlib import data, schedules
from ddpmlib.denoiser import PARAMETERIZATIONS, Denoiser
from ddpmlib.losses import l_simple
from ddpmlib.models import Classifier, ClassifierConfig, UNet, UNetConfig
from ddpmlib.models.embedding import Embedding
from ddpmlib.process import DDPM
from ddpmlib.training import BatchLoss, Settings

SCHEDULES: dict[str, Callable[[int], Tensor]] = {
    "linear": schedules.linear,
    "cosine": schedules.cosine,
    "sigmoid": schedules.sigmoid,
}


@dataclass(frozen=True)
class DiffusionRecipe:
    """How a denoiser is trained.

    Attributes:
        name: what the checkpoint is called.
        data: one of :data:`ddpmlib.data.NAMES`.
        net: shape of the U-Net.
        schedule: "linear", "cosine" or "sigmoid".
        T: number of steps.
        predicts: "eps", "x0" or "v".
        var_mix: fixed reverse variance, 0 for β̃, 1 for β.
        label_dropout: share of labels replaced by the null label.
        flip: mirror images at random (not for digits!).
        settings: optimiser and budget.
    """

    kind: ClassVar[str] = "diffusion"
    name: str
    data: str
    net: UNetConfig
    settings: Settings
    schedule: str = "cosine"
    T: int = 1000
    predicts: str = "v"
    var_mix: float = 0.0
    label_dropout: float = 0.1
    flip: bool = False

    def __post_init__(self) -> None:
        _choose("data", self.data, data.NAMES)
        _choose("schedule", self.schedule, SCHEDULES)
        _choose("predicts", self.predicts, PARAMETERIZATIONS)
        if not 0 <= self.label_dropout <= 1:
            raise ValueError(f"label_dropout must lie in [0, 1], got {self.label_dropout}")

    def build(self) -> Denoiser:
        """A denoiser with fresh weights, reproducible from the seed."""
        net = _seeded(self.settings.seed, lambda: UNet(self.net))
        process = DDPM(SCHEDULES[self.schedule](self.T))
        return Denoiser(net, process, PARAMETERIZATIONS[self.predicts], self.var_mix)

    def loss(self) -> BatchLoss:
        """The batch loss for :class:`ddpmlib.training.Trainer`."""

        def batch_loss(
            model: nn.Module, x: Tensor, y: Tensor | None, generator: torch.Generator
        ) -> Tensor:
            if self.flip:
                x = data.random_flip(x, generator)
            y = y if self.net.num_classes else None
            return diffusion_loss(cast(Denoiser, model), x, y, generator, self.label_dropout)

        return batch_loss


@dataclass(frozen=True)
class ClassifierRecipe:
    """How a classifier, the judge of samples, is trained.

    Attributes:
        name: what the checkpoint is called.
        data: one of :data:`ddpmlib.data.NAMES`.
        net: shape of the classifier.
        reach: images are shifted by up to this many pixels.
        flip: mirror images at random.
        settings: optimiser and budget.
    """

    kind: ClassVar[str] = "classifier"
    name: str
    data: str
    net: ClassifierConfig
    settings: Settings
    reach: int = 2
    flip: bool = False

    def __post_init__(self) -> None:
        _choose("data", self.data, data.NAMES)

    def build(self) -> Classifier:
        """A classifier with fresh weights, reproducible from the seed."""
        return _seeded(self.settings.seed, lambda: Classifier(self.net))

    def loss(self) -> BatchLoss:
        """Cross-entropy on shifted (and mirrored) images."""

        def batch_loss(
            model: nn.Module, x: Tensor, y: Tensor | None, generator: torch.Generator
        ) -> Tensor:
            if y is None:
                raise ValueError("a classifier needs labels")
            x = data.random_shift(x, generator, self.reach)
            if self.flip:
                x = data.random_flip(x, generator)
            return nn.functional.cross_entropy(model(x).float(), y)

        return batch_loss


Recipe = DiffusionRecipe | ClassifierRecipe


def diffusion_loss(
    model: Denoiser,
    x: Tensor,
    y: Tensor | None,
    generator: torch.Generator,
    label_dropout: float = 0.0,
) -> Tensor:
    """L_simple at uniformly drawn times (Algorithm 1 of Ho et al. 2020), mean over the batch.

    Args:
        model: the denoiser; its network must know classes where labels are given.
        x: clean data (B, ...), images in [-1, 1].
        y: labels (B,), or None for unconditional training.
        generator: source of times, noise and label dropout, on the device of ``x``.
        label_dropout: probability that a label becomes the null label (Ho & Salimans 2022).
    """
    B, T = len(x), model.process.T
    t = torch.randint(1, T + 1, (B,), device=x.device, generator=generator)
    eps = torch.randn(x.shape, device=x.device, generator=generator)
    if y is not None and label_dropout > 0:
        drop = torch.rand(B, device=x.device, generator=generator) < label_dropout
        y = torch.where(drop, cast(Embedding, model.net.embed).num_classes, y)
    return l_simple(model, x, t, eps, y).mean()


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain JSON values, with its ``kind``."""
    return {"kind": recipe.kind} | asdict(recipe)


def from_dict(values: dict[str, Any]) -> Recipe:
    """The way back from :func:`to_dict`.

    Raises:
        ValueError: for an unknown kind or field, or a missing one.
    """
    values = dict(values)
    kind = values.pop("kind", None)
    if kind == DiffusionRecipe.kind:
        return DiffusionRecipe(**_typed(DiffusionRecipe, values, UNetConfig))
    if kind == ClassifierRecipe.kind:
        return ClassifierRecipe(**_typed(ClassifierRecipe, values, ClassifierConfig))
    raise ValueError(f"a recipe is of kind 'diffusion' or 'classifier', got {kind!r}")


def _typed(cls: type, values: dict[str, Any], net: type) -> dict[str, Any]:
    _check_fields(cls, values)
    _check_fields(net, values["net"])
    _check_fields(Settings, values["settings"])
    lists_to_tuples = {k: tuple(v) if isinstance(v, list) else v for k, v in values["net"].items()}
    return values | {"net": net(**lists_to_tuples), "settings": Settings(**values["settings"])}


def _check_fields(cls: Any, values: Any) -> None:
    if not isinstance(values, dict):
        raise ValueError(f"a {cls.__name__} is a JSON object with named fields, got {values!r}")
    known = {f.name: f.default is MISSING and f.default_factory is MISSING for f in fields(cls)}
    for name in values:
        if name not in known:
            raise ValueError(f"a {cls.__name__} has no field {name!r}")
    for name, needed in known.items():
        if needed and name not in values:
            raise ValueError(f"a {cls.__name__} needs the field {name!r}")


def _choose(name: str, value: str, choices: Any) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def _seeded(seed: int, build: Callable[[], Any]) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


def _unet(**options: Any) -> UNetConfig:
    return UNetConfig(**({"num_classes": 10} | options))


_SMALL = {"width": 32, "mults": (1, 2), "attention": (False, True), "heads": 2}
RECIPES: dict[str, Recipe] = {
    r.name: r
    for r in (
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
            Settings(steps=9_000, batch_size=128, lr=3e-3, warmup=300),
        ),
        DiffusionRecipe(
            "fashion_mnist",
            "fashion_mnist",
            _unet(**_SMALL, patch=2),
            Settings(steps=9_000, batch_size=128, lr=3e-3, warmup=300),
            flip=True,
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
    )
}
