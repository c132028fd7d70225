"""The same samples by several kinds of features: what chapters 9 and 11 compare."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

from ddpmlib import data, evaluation, plots
from ddpmlib.evaluation import Guidance, Sampling
from ddpmlib.experiments import measuring
from ddpmlib.experiments.cells import Cell
from ddpmlib.experiments.results import Row

LABELS = {
    "classifier": "classifier",
    "independent": "independent classifier",
    "robust": "robust classifier",
    "pixels": "pixels",
    "random": "random convolutions",
}
COLOURS = dict(zip(LABELS, plots.COLOURS, strict=False))
SPACES = {
    "digits": tuple(LABELS),
    "mnist": tuple(LABELS),
    "fashion_mnist": ("classifier", "pixels", "random"),
}
"""Data set → the kinds of features that are at hand there."""
KEYS = {"frechet": "as it is", "frechet_matched": "contrast matched"}
MEASURES = ("fid", "contrast", "pr")


def measured(dataset: str, space: str, x0: Tensor, y: Tensor) -> Row:
    """Distance, distance with contrast matched, precision and recall by one kind of features.

    Args:
        dataset: what the samples should look like.
        space: one of :data:`SPACES` of the data set.
        x0: samples (N, C, H, W).
        y: the classes that were asked for, (N,), in turn.
    """
    network, images, real = _real(dataset, space, len(x0))
    return evaluation.measure_samples(network, x0, y, images, MEASURES, real=real)


@cache
def _real(dataset: str, space: str, n: int) -> tuple[Any, data.Dataset, evaluation.Reference]:
    images = data.load(dataset)
    network, _ = evaluation.network_of(space, images, "cpu")
    return network, images, evaluation.reference(network, images, n, torch.arange(n) % 10)


def measured_guided(cell: Cell, guidance: Guidance) -> Row:
    """The row of a cell that names a data set, steps, η, n and a kind of features."""
    name, n = cell["dataset"], cell["n"]
    x0 = guided(name, guidance, cell["steps"], cell["eta"], n)
    found = measured(name, cell["space"], x0, torch.arange(n) % 10)
    return measuring.row(cell, found, name)


@lru_cache(maxsize=1)
def guided(dataset: str, guidance: Guidance, steps: int, eta: float, n: int) -> Tensor:
    """n guided samples (n, C, H, W) of the shipped checkpoint of a data set, classes in turn."""
    denoiser, card = measuring.network(dataset)
    how, y = Sampling(steps, eta=eta, guidance=guidance), torch.arange(n) % 10
    return evaluation.generate(denoiser, card.image_shape, y, how, card=card, batch_size=250)
