"""Recipes: everything that is decided before training, as small typed records.

A recipe builds its model and its loss and travels as JSON with every checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, get_args, get_type_hints

import torch
from torch import Tensor, nn

from ddpmlib import data
from ddpmlib.denoiser.denoiser import Denoiser
from ddpmlib.denoiser.parameterization import PARAMETERIZATIONS
from ddpmlib.losses.objectives import Objective, diffusion_loss, l_hybrid, l_simple, l_vlb
from ddpmlib.losses.times import ImportanceTimes, Times, UniformTimes
from ddpmlib.models.classifier import Classifier, ClassifierConfig
from ddpmlib.models.noisy_classifier import NoisyClassifier, NoisyClassifierConfig
from ddpmlib.models.unet import UNet, UNetConfig
from ddpmlib.process import schedules
from ddpmlib.process.ddpm import DDPM
from ddpmlib.training.settings import BatchLoss, Settings

SCHEDULES: dict[str, Callable[[int], Tensor]] = {
    "linear": schedules.linear,
    "cosine": schedules.cosine,
    "sigmoid": schedules.sigmoid,
}
OBJECTIVES: dict[str, Objective] = {"simple": l_simple, "hybrid": l_hybrid, "vlb": l_vlb}
TIMES: dict[str, Callable[[int], Times]] = {"uniform": UniformTimes, "importance": ImportanceTimes}


@dataclass(frozen=True)
class DiffusionRecipe:
    """How a denoiser is trained.

    Attributes:
        name: what the checkpoint is called.
        data: one of :data:`ddpmlib.data.sets.NAMES`.
        net: shape of the U-Net.
        schedule: "linear", "cosine" or "sigmoid".
        T: number of steps.
        predicts: "eps", "x0" or "v".
        var_mix: fixed reverse variance, 0 for β̃, 1 for β; None to learn it.
        objective: "simple", "hybrid" or "vlb", see :mod:`ddpmlib.losses`.
        times: how t is drawn, "uniform" or "importance".
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
    var_mix: float | None = 0.0
    objective: str = "simple"
    times: str = "uniform"
    label_dropout: float = 0.1
    flip: bool = False

    def __post_init__(self) -> None:
        _choose("data", self.data, data.NAMES)
        _choose("schedule", self.schedule, SCHEDULES)
        _choose("predicts", self.predicts, PARAMETERIZATIONS)
        _choose("objective", self.objective, OBJECTIVES)
        _choose("times", self.times, TIMES)
        _check_name(self.name)
        _check_T(self.T)
        if not 0 <= self.label_dropout <= 1:
            raise ValueError(f"label_dropout must lie in [0, 1], got {self.label_dropout}")
        learned = self.var_mix is None
        if self.objective == ("simple" if learned else "hybrid"):
            raise ValueError(
                "a learned variance (var_mix = None) needs the objective hybrid or vlb, a fixed "
                f"one simple or vlb, got var_mix = {self.var_mix} and {self.objective!r}"
            )

    def build(self) -> Denoiser:
        """A denoiser with fresh weights, reproducible from the seed."""
        outputs = 2 if self.var_mix is None else 1
        net = _seeded(self.settings.seed, lambda: UNet(self.net, outputs))
        process = DDPM(SCHEDULES[self.schedule](self.T))
        return Denoiser(net, process, PARAMETERIZATIONS[self.predicts], self.var_mix)

    def loss(self) -> BatchLoss:
        """The batch loss for :class:`ddpmlib.training.trainer.Trainer`, with what it remembers."""
        return _RecipeLoss(self)


class _RecipeLoss(nn.Module):
    """A module, so that a training state can hold what its drawing of times has learned."""

    def __init__(self, recipe: DiffusionRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.times = TIMES[recipe.times](recipe.T)

    def forward(
        self, model: Denoiser, x: Tensor, y: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        recipe = self.recipe
        if recipe.flip:
            x = data.random_flip(x, generator)
        y = y if recipe.net.num_classes else None
        objective = OBJECTIVES[recipe.objective]
        return diffusion_loss(model, x, y, generator, recipe.label_dropout, objective, self.times)


@dataclass(frozen=True)
class ClassifierRecipe:
    """How a classifier, the judge of samples, is trained.

    Attributes:
        name: what the checkpoint is called.
        data: one of :data:`ddpmlib.data.sets.NAMES`.
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
        _check_name(self.name)
        if self.reach < 0:
            raise ValueError(f"reach counts pixels and must not be negative, got {self.reach}")

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


@dataclass(frozen=True)
class NoisyClassifierRecipe:
    """How a classifier that guides, p(y|x_t) at every noise level, is trained.

    Attributes:
        name: what the checkpoint is called.
        data: one of :data:`ddpmlib.data.sets.NAMES`.
        net: shape of the half U-Net.
        schedule, T: those of the denoiser that it will guide.
        noisy: train on x_t; False trains the same net on clean images, which is told the same
            times and so learns to ignore them: an ordinary classifier, to show that it guides ill.
        reach: images are shifted by up to this many pixels before the noise.
        flip: mirror images at random.
        settings: optimiser and budget.
    """

    kind: ClassVar[str] = "noisy-classifier"
    name: str
    data: str
    net: NoisyClassifierConfig
    settings: Settings
    schedule: str = "cosine"
    T: int = 1000
    noisy: bool = True
    reach: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        _choose("data", self.data, data.NAMES)
        _choose("schedule", self.schedule, SCHEDULES)
        _check_name(self.name)
        _check_T(self.T)
        if self.reach < 0:
            raise ValueError(f"reach counts pixels and must not be negative, got {self.reach}")

    def build(self) -> NoisyClassifier:
        """A classifier with fresh weights, reproducible from the seed."""
        process = DDPM(SCHEDULES[self.schedule](self.T))
        return _seeded(self.settings.seed, lambda: NoisyClassifier(self.net, process))

    def loss(self) -> BatchLoss:
        """Cross-entropy at uniformly drawn times, on noised (shifted, mirrored) images."""
        process = DDPM(SCHEDULES[self.schedule](self.T))

        def batch_loss(
            model: nn.Module, x: Tensor, y: Tensor | None, generator: torch.Generator
        ) -> Tensor:
            if y is None:
                raise ValueError("a classifier needs labels")
            x = data.random_shift(x, generator, self.reach) if self.reach else x
            x = data.random_flip(x, generator) if self.flip else x
            t, _ = UniformTimes(self.T).draw(len(x), generator)
            if self.noisy:
                eps = torch.randn(x.shape, device=x.device, generator=generator)
                x = process.q_sample(x, t, eps)
            return nn.functional.cross_entropy(model(x, t).float(), y)

        return batch_loss


Recipe = DiffusionRecipe | ClassifierRecipe | NoisyClassifierRecipe
NETS: dict[type[Recipe], type] = {
    DiffusionRecipe: UNetConfig,
    ClassifierRecipe: ClassifierConfig,
    NoisyClassifierRecipe: NoisyClassifierConfig,
}


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
    for recipe, net in NETS.items():
        if kind == recipe.kind:
            return recipe(**_typed(recipe, values, net))
    kinds = [repr(recipe.kind) for recipe in NETS]
    raise ValueError(f"a recipe is of kind {', '.join(kinds[:-1])} or {kinds[-1]}, got {kind!r}")


def changed(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    """A recipe with some fields replaced; ``net.`` and ``settings.`` reach the fields inside.

    Args:
        recipe: where to start from; it stays as it is.
        changes: for example ``{"schedule": "linear", "T": 500, "net.width": 16}``.

    Raises:
        ValueError: for an unknown field, or a value of another type than the field's.
    """
    values = to_dict(recipe)
    for name, value in changes.items():
        part, kind = _place(recipe, values, name)
        if not _fits(value, kind):
            raise ValueError(f"{name} must be {_KINDS[kind]}, got {value!r}")
        part[name.split(".")[-1]] = value
    return from_dict(values)


_KINDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    float | None: "a number or null",
    str: "a word",
    bool: "true or false",
    tuple[int, ...]: "a list of whole numbers",
    tuple[bool, ...]: "a list of true or false",
}


def _place(recipe: Recipe, values: dict[str, Any], name: str) -> tuple[dict[str, Any], Any]:
    """The dictionary that holds the field, and the type that the field has."""
    *outer, field = name.split(".")
    cls: Any = type(recipe)
    for key in outer:
        cls = get_type_hints(cls).get(key)
        cls, values = (cls, values[key]) if is_dataclass(cls) else (object, {})
    kind = get_type_hints(cls).get(field)
    if kind not in _KINDS:
        raise ValueError(f"a recipe of kind {recipe.kind!r} has no field {name!r} to set")
    return values, kind


def _fits(value: Any, kind: Any) -> bool:
    if kind == float | None:
        return value is None or _fits(value, float)
    if kind in (tuple[int, ...], tuple[bool, ...]):
        return isinstance(value, list | tuple) and all(_fits(v, get_args(kind)[0]) for v in value)
    if isinstance(value, bool) or kind is bool:  # Python counts True as a whole number
        return isinstance(value, bool) and kind is bool
    return isinstance(value, int | float if kind is float else kind)


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


def _check_name(name: str) -> None:
    if not name or Path(name).name != name or name.startswith("."):
        raise ValueError(f"a recipe's name is a plain file name, got {name!r}")


def _check_T(T: Any) -> None:
    if not isinstance(T, int) or not 1 <= T <= 100_000:
        raise ValueError(f"T counts steps, a whole number in 1..100,000, got {T!r}")


def _choose(name: str, value: str, choices: Any) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def _seeded(seed: int, build: Callable[[], Any]) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


def _unet(**options: Any) -> UNetConfig:
    return UNetConfig(**({"num_classes": 10} | options))


_SMALL: dict[str, Any] = {"width": 32, "mults": (1, 2), "attention": (False, True), "heads": 2}


def _half_unet(**options: Any) -> NoisyClassifierConfig:
    return NoisyClassifierConfig(**(_SMALL | {"dropout": 0.1} | options))


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
}
