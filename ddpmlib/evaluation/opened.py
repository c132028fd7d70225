"""A checkpoint with the images that it was trained on, ready to be measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ddpmlib import data
from ddpmlib.denoiser.denoiser import Denoiser
from ddpmlib.evaluation.images import images_of
from ddpmlib.evaluation.sample_quality import FEWEST_TEST_IMAGES
from ddpmlib.models.classifier import Classifier
from ddpmlib.models.noisy_classifier import NoisyClassifier
from ddpmlib.zoo.card import Card
from ddpmlib.zoo.checkpoints import find, load
from ddpmlib.zoo.parts import Build


@dataclass(frozen=True)
class Opened:
    """What :func:`opened` found."""

    path: Path
    model: Denoiser | Classifier | NoisyClassifier
    card: Card
    images: data.Dataset
    device: torch.device | str | None


def opened(
    name: str | Path,
    device: torch.device | str | None,
    images: data.Dataset | Path | str | None,
    skip_broken: bool,
    build: Build | None,
) -> Opened:
    """Load a checkpoint and its images, as for :func:`ddpmlib.evaluation.checkpoint.evaluate`.

    Raises:
        ValueError: if the checkpoint is neither a denoiser nor a classifier.
    """
    path = find(name)
    model, card = load(path, device, build=build)
    if not isinstance(model, Denoiser | Classifier | NoisyClassifier):
        raise ValueError(
            f"{card.name} is a {type(model).__name__}, and measured are Denoisers and classifiers: "
            "put the network into a Denoiser, which knows its process, and save that"
        )
    found = images_of(card, path.parent, images, skip_broken)
    return Opened(path, model, card, found, device)


def check_test_images(found: Opened, metrics: Sequence[str] | None) -> None:
    """Whether there are enough to hold something against them."""
    images, of_samples = found.images, metrics is None or set(metrics) - {"nll"}
    needed = FEWEST_TEST_IMAGES if of_samples and isinstance(found.model, Denoiser) else 2
    if len(images.x_test) < needed:
        raise ValueError(
            f"{images.name} has {len(images.x_test)} test images, and measuring needs at least "
            f"{needed}: gather more"
        )
