"""The real images behind a checkpoint, and the network whose features they are measured by."""

from __future__ import annotations

from pathlib import Path

import torch

from ddpmlib import data
from ddpmlib.data import Dataset, Source, own
from ddpmlib.evaluation import features
from ddpmlib.evaluation.features import FeatureExtractor
from ddpmlib.evaluation.untrained import PixelComponents, RandomConvolutions, identity
from ddpmlib.models.classifier import Classifier
from ddpmlib.training.machine import default_device
from ddpmlib.zoo.card import Card
from ddpmlib.zoo.checkpoints import MODEL, load, names
from ddpmlib.zoo.source import read_source

TRAINED = ("classifier", "independent", "robust")
UNTRAINED: dict[str, type[PixelComponents] | type[RandomConvolutions]] = {
    "pixels": PixelComponents,
    "random": RandomConvolutions,
}
EXTRACTORS = (*TRAINED, *UNTRAINED, "inception")
"""Whose features a data set can be measured by."""


def images_of(
    card: Card,
    folder: Path,
    given: Dataset | Path | str | None = None,
    skip_broken: bool = False,
) -> Dataset:
    """The data that a checkpoint was trained on.

    Args:
        card: of the checkpoint.
        folder: where it lies; of own images it may say where those are.
        given: the images themselves, or where they lie now.
        skip_broken: leave out files there that cannot be read, also if the folder does not say
            that it was so when they were trained on.

    Raises:
        FileNotFoundError: if nobody says where own images are, or nothing is there.
        ValueError: if they are other data than those that the checkpoint was trained on.
    """
    name = card.recipe.get("data", "")
    if isinstance(given, Dataset):
        images = given
    elif given is not None:
        _, height, width = card.image_shape
        skip = skip_broken or _skips(folder)
        source = Source(str(given), (height, width), card.image_shape[0] == 1, skip)
        images = own.again(source, name)
    elif name in data.DATASETS:
        images = data.load(name)
    else:
        images = own.again(read_source(folder), name)
    if not _same(card, images):
        raise ValueError(
            f"{card.name} was trained on other images than these ({len(images.x_train):,} to train "
            "on): give those by --images, or train it again"
        )
    return images


def _skips(folder: Path) -> bool:
    """Whether broken files were left out when these images were read for training."""
    try:
        return read_source(folder).skip_broken
    except (FileNotFoundError, ValueError):
        return False


def _same(card: Card, images: Dataset) -> bool:
    """Whether a card is of these data; cards of older versions do not say."""
    return card.training.get("data_fingerprint") in (None, images.fingerprint)


# ---- by whom -----------------------------------------------------------------------------------


def network_of(
    extractor: str,
    images: Dataset,
    device: torch.device | str | None = None,
    folder: Path | None = None,
) -> tuple[FeatureExtractor, str]:
    """The network whose features a data set is measured by, and the SHA-256 of its file of weights.

    Args:
        extractor: "classifier", "independent" or "robust" for a classifier of the data set (another
            architecture; trained with varied appearance), "pixels" for their principal components,
            "random" for random convolutions, "inception" for colour images; or a checkpoint.
        images: the data set.
        device: where to put it, by default a GPU if there is one.
        folder: of the checkpoint that is measured; a classifier beside it, or in a run beside it,
            comes before the shipped one.

    Raises:
        FileNotFoundError: if there is no such classifier, or no file of Inception's weights.
        ValueError: if the classifier was trained on other data, or the images are grey.
    """
    if extractor in UNTRAINED:
        kind = UNTRAINED[extractor]
        return kind.of(images).to(device or default_device()), identity(kind, images)
    if extractor == "inception":
        if images.image_shape[0] != 3:
            raise ValueError(f"{images.name} is grey, and Inception is for colour images only")
        return features.inception().to(device or default_device()), features.INCEPTION_SHA256
    name = _classifier_of(images, folder, extractor) if extractor in TRAINED else extractor
    classifier, card = load(name, device)
    if not isinstance(classifier, Classifier):
        raise ValueError(f"{card.name} is no classifier of clean images, whose features are needed")
    if not _same(card, images) or card.image_shape[0] != images.image_shape[0]:
        raise ValueError(
            f"{card.name} was trained on other images than {images.name} holds now: train it again "
            "with --kind classifier, or measure by --features pixels"
        )
    return classifier, card.sha256


def available(images: Dataset, folder: Path) -> list[str]:
    """Of :data:`EXTRACTORS` those that are at hand for a checkpoint in this folder.

    Random convolutions have 64 features, whose covariance needs more test images than that.
    """
    found = [kind for kind in TRAINED if _has_classifier(images, folder, kind)]
    found += ["pixels"] + ["random"] * (len(images.x_test) > RandomConvolutions.WIDTH)
    if images.image_shape[0] == 3 and features.has_inception():
        found.append("inception")
    return found


def _has_classifier(images: Dataset, folder: Path, kind: str) -> bool:
    name = _classifier_of(images, folder, kind)
    return isinstance(name, Path) or name in names()


def _classifier_of(images: Dataset, folder: Path | None, kind: str) -> str | Path:
    """Beside a checkpoint, or for own images in a run beside that one's; else a shipped name."""
    name = f"{images.name}-{kind}"
    if folder is not None and (folder / f"{name}.json").is_file():
        return folder / f"{name}.safetensors"
    if folder is not None and images.name not in data.DATASETS:
        run = folder.resolve().parent / name
        return run if (run / MODEL).is_file() else name
    return name
