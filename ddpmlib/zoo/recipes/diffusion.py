"""How a denoiser is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ddpmlib.data import Dataset, augment
from ddpmlib.denoiser.denoiser import Denoiser
from ddpmlib.denoiser.parameterization import PARAMETERIZATIONS
from ddpmlib.losses.objectives import Objective, diffusion_loss, l_hybrid, l_simple, l_vlb
from ddpmlib.losses.times import ImportanceTimes, Times, UniformTimes
from ddpmlib.models.unet import UNet, UNetConfig
from ddpmlib.process import schedules
from ddpmlib.process.ddpm import DDPM
from ddpmlib.training.settings import BatchLoss, Settings
from ddpmlib.zoo.recipe import (
    check_channels,
    check_choice,
    check_classes,
    check_names,
    check_sides,
    check_T,
    seeded,
)

SCHEDULES: dict[str, Callable[[int], Tensor]] = {
    "linear": schedules.linear,
    "cosine": schedules.cosine,
    "sigmoid": schedules.sigmoid,
}
OBJECTIVES: dict[str, Objective] = {"simple": l_simple, "hybrid": l_hybrid, "vlb": l_vlb}
TIMES: dict[str, Callable[[int], Times]] = {"uniform": UniformTimes, "importance": ImportanceTimes}


def process_of(schedule: str, T: int) -> DDPM:
    """The process that a recipe names; its tables lie on the CPU, wherever the net is built."""
    with torch.device("cpu"):
        return DDPM(SCHEDULES[schedule](T))


@dataclass(frozen=True)
class DiffusionRecipe:
    """How a denoiser is trained.

    Attributes:
        name: what the checkpoint is called.
        data: the data set, see :data:`ddpmlib.data.sets.DATASETS`.
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
        check_names(self)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("predicts", self.predicts, PARAMETERIZATIONS)
        check_choice("objective", self.objective, OBJECTIVES)
        check_choice("times", self.times, TIMES)
        check_T(self.T)
        if not 0 <= self.label_dropout <= 1:
            raise ValueError(f"label_dropout must lie in [0, 1], got {self.label_dropout}")
        learned = self.var_mix is None
        if self.objective == ("simple" if learned else "hybrid"):
            raise ValueError(
                "a learned variance (var_mix = None) needs the objective hybrid or vlb, a fixed "
                f"one simple or vlb, got var_mix = {self.var_mix} and {self.objective!r}"
            )

    @property
    def num_classes(self) -> int:
        return self.net.num_classes

    def build(self) -> Denoiser:
        """A denoiser with fresh weights, reproducible from the seed."""
        outputs = 2 if self.var_mix is None else 1
        net = seeded(self.settings.seed, lambda: UNet(self.net, outputs))
        process = process_of(self.schedule, self.T)
        return Denoiser(net, process, PARAMETERIZATIONS[self.predicts], self.var_mix)

    def loss(self) -> BatchLoss:
        """The batch loss for :class:`ddpmlib.training.trainer.Trainer`, with what it remembers."""
        return _RecipeLoss(self)

    def check(self, dataset: Dataset) -> None:
        """Channels, classes unless the net knows none, and sides that can be halved."""
        check_channels(self.net.channels, dataset)
        if self.net.num_classes:
            check_classes(self.net.num_classes, dataset)
        check_sides(self.net.side_divisor, dataset)


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
            x = augment.random_flip(x, generator)
        y = y if recipe.net.num_classes else None
        objective = OBJECTIVES[recipe.objective]
        return diffusion_loss(model, x, y, generator, recipe.label_dropout, objective, self.times)
