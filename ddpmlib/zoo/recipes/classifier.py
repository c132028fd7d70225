"""How a classifier is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ddpmlib.condition import Condition
from ddpmlib.data import Dataset, augment
from ddpmlib.models.classifier import Classifier, ClassifierConfig
from ddpmlib.training.settings import BatchLoss, Settings
from ddpmlib.zoo.recipe import check_channels, check_classes, check_names, check_reach, seeded


@dataclass(frozen=True)
class ClassifierRecipe:
    """How a classifier is trained, through whose features samples are measured.

    Attributes:
        name: what the checkpoint is called.
        data: the data set, see :data:`ddpmlib.data.sets.DATASETS`.
        net: shape of the classifier.
        reach: images are shifted by up to this many pixels.
        flip: mirror images at random.
        appearance: vary contrast, brightness, sharpness and grain at random, see
            :func:`ddpmlib.data.augment.random_appearance`.
        settings: optimiser and budget.
    """

    kind: ClassVar[str] = "classifier"
    name: str
    data: str
    net: ClassifierConfig
    settings: Settings
    reach: int = 2
    flip: bool = False
    appearance: bool = False

    def __post_init__(self) -> None:
        check_names(self)
        check_reach(self.reach)

    @property
    def num_classes(self) -> int:
        return self.net.num_classes

    def build(self) -> Classifier:
        """A classifier with fresh weights, reproducible from the seed."""
        return seeded(self.settings.seed, lambda: Classifier(self.net))

    def loss(self) -> BatchLoss:
        """Cross-entropy on images that are shifted and, if asked, mirrored and varied."""

        def batch_loss(
            model: nn.Module, x: Tensor, y: Condition | None, generator: torch.Generator
        ) -> Tensor:
            if not isinstance(y, Tensor):
                raise ValueError("a classifier needs labels")
            x = augment.random_shift(x, generator, self.reach)
            if self.flip:
                x = augment.random_flip(x, generator)
            if self.appearance:
                x = augment.random_appearance(x, generator)
            return nn.functional.cross_entropy(model(x).float(), y)

        return batch_loss

    def check(self, dataset: Dataset) -> None:
        """Channels, classes, and shifts within the images."""
        check_channels(self.net.channels, dataset)
        check_classes(self.net.num_classes, dataset)
        check_reach(self.reach, dataset)
