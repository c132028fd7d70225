"""How a classifier of noisy images is trained, which guides a denoiser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ddpmlib.condition import Condition
from ddpmlib.data import Dataset, augment
from ddpmlib.losses.times import UniformTimes
from ddpmlib.models.noisy_classifier import NoisyClassifier, NoisyClassifierConfig
from ddpmlib.training.settings import BatchLoss, Settings
from ddpmlib.zoo.recipe import (
    check_channels,
    check_choice,
    check_classes,
    check_names,
    check_reach,
    check_sides,
    check_T,
    seeded,
)
from ddpmlib.zoo.recipes.diffusion import SCHEDULES, process_of


@dataclass(frozen=True)
class NoisyClassifierRecipe:
    """How a classifier that guides, p(y|x_t) at every noise level, is trained.

    Attributes:
        name: what the checkpoint is called.
        data: the data set, see :data:`ddpmlib.data.sets.DATASETS`.
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
        check_names(self)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_T(self.T)
        check_reach(self.reach)

    @property
    def num_classes(self) -> int:
        return self.net.num_classes

    def build(self) -> NoisyClassifier:
        """A classifier with fresh weights, reproducible from the seed."""
        process = process_of(self.schedule, self.T)
        return seeded(self.settings.seed, lambda: NoisyClassifier(self.net, process))

    def loss(self) -> BatchLoss:
        """Cross-entropy at uniformly drawn times, on noised (shifted, mirrored) images."""
        process = process_of(self.schedule, self.T)

        def batch_loss(
            model: nn.Module, x: Tensor, y: Condition | None, generator: torch.Generator
        ) -> Tensor:
            if not isinstance(y, Tensor):
                raise ValueError("a classifier needs labels")
            x = augment.random_shift(x, generator, self.reach) if self.reach else x
            x = augment.random_flip(x, generator) if self.flip else x
            t, _ = UniformTimes(self.T).draw(len(x), generator)
            if self.noisy:
                eps = torch.randn(x.shape, device=x.device, generator=generator)
                x = process.q_sample(x, t, eps)
            return nn.functional.cross_entropy(model(x, t).float(), y)

        return batch_loss

    def check(self, dataset: Dataset) -> None:
        """Channels, classes, sides that can be halved, and shifts within the images."""
        check_channels(self.net.channels, dataset)
        check_classes(self.net.num_classes, dataset)
        check_sides(self.net.side_divisor, dataset)
        check_reach(self.reach, dataset)
