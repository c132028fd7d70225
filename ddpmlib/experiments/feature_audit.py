"""Chapter 8, whose features: what each kind of features sees of changes to real images."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ddpmlib import data, evaluation
from ddpmlib.data import Dataset
from ddpmlib.evaluation import features, statistics
from ddpmlib.experiments.cells import Cell, Experiment
from ddpmlib.experiments.measuring import row
from ddpmlib.experiments.results import Row, markdown, pivot, rows
from ddpmlib.experiments.spaces import SPACES
from ddpmlib.models.classifier import Classifier

N = {"digits": 300, "mnist": 5000, "fashion_mnist": 5000}  # images in each set


def _contrast(x: Tensor) -> Tensor:
    """× 0.9 with the background left where it is: strokes get paler."""
    return (x + 1) * 0.9 - 1


def _noise(x: Tensor) -> Tensor:
    g = torch.Generator().manual_seed(1)
    return (x + 0.05 * torch.randn(x.shape, generator=g)).clamp(-1, 1)


def _blur(x: Tensor) -> Tensor:
    """Half of each image replaced by its mean over 3×3 pixels."""
    smooth = functional.avg_pool2d(functional.pad(x, [1] * 4, mode="replicate"), 3, 1)
    return (x + smooth) / 2


def _shift(x: Tensor) -> Tensor:
    """By one pixel to the right."""
    return functional.pad(x, [1, 0, 0, 0], value=-1.0)[..., :-1]


def _rotate(x: Tensor) -> Tensor:
    """By ten degrees, half of the images each way."""
    angle = torch.tensor(10.0).deg2rad() * torch.where(torch.arange(len(x)) % 2 == 0, 1.0, -1.0)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(-1, 2, 2)
    grid = functional.affine_grid(
        torch.cat([turn, torch.zeros(len(x), 2, 1)], 2), list(x.shape), align_corners=False
    )
    return functional.grid_sample(x + 1, grid, align_corners=False) - 1


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "values × 0.97": lambda x: x * 0.97,
    "strokes × 0.9": _contrast,
    "noise 0.05": _noise,
    "blur": _blur,
    "shift by 1 pixel": _shift,
    "rotation by 10°": _rotate,
}
SETS = ("one class missing", "copies of training images")  # other images in place of changed ones
CELLS: list[Cell] = [
    {"dataset": name, "space": space, "change": change, "n": N[name]}
    for name in N
    for space in SPACES[name]
    for change in (*CHANGES, *SETS)
]


def measure(cell: Cell) -> Row:
    """The Fréchet distance of changed test images to the training set, and what is left of them."""
    images = data.load(cell["dataset"])
    network, moments = _space(cell["dataset"], cell["space"])
    x, y = changed(images, cell["change"], cell["n"])
    h, logits = features.extract(network, x)
    found: dict[str, Any] = {"frechet": round(evaluation.frechet_distance(h, moments), 5)}
    if isinstance(network, Classifier):
        found["class_agreement"] = evaluation.class_agreement(logits, y)
    return row(cell, found, cell["dataset"])


@cache
def _space(name: str, space: str) -> tuple[Any, evaluation.Moments]:
    images = data.load(name)
    network, _ = evaluation.network_of(space, images, "cpu")
    return network, statistics.train_moments(network, images)


def changed(images: Dataset, change: str, n: int) -> tuple[Tensor, Tensor]:
    """n real images in [-1, 1] with a change, or another set of them, with their labels.

    Args:
        images: the data set.
        change: of :data:`CHANGES` or :data:`SETS`.
        n: how many, at random.
    """
    if change == SETS[1]:
        x, y = images.x_train, images.labels("train")
    else:
        x, y = images.x_test, images.labels("test")
    if change == SETS[0]:
        kept = y != images.num_classes - 1
        x, y = x[kept], y[kept]
    some = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:n]
    floats = data.to_float(x[some])
    return CHANGES.get(change, CHANGES["none"])(floats), y[some]


def times_missing_class(dataset: str) -> dict[str, dict[str, float]]:
    """change → space → distance above that of untouched images, in units of a missing class.

    Each kind of features has a unit of its own; what the absence of one of ten classes costs is a
    change that any measure of samples should see.
    """
    table = pivot(rows("feature_audit", dataset=dataset), "change", "space", "frechet")
    untouched, unit = table["none"], table[SETS[0]]
    return {
        change: {s: (v - untouched[s]) / (unit[s] - untouched[s]) for s, v in found.items()}
        for change, found in table.items()
    }


def table(dataset: str) -> str:
    """Changes by kinds of features, in units of a missing class; agreement beside it."""
    found = times_missing_class(dataset)
    kept = pivot(rows("feature_audit", dataset=dataset), "change", "space", "class_agreement")
    spaces = SPACES[dataset]
    header = ("test images with", *spaces, "agreement (classifier)")
    lines = [
        (change, *(f"{found[change][s]:z.2f}" for s in spaces), f"{kept[change]['classifier']:.1%}")
        for change in found
    ]
    return markdown(header, lines)


EXPERIMENT = Experiment(
    "feature_audit", CELLS, measure, {f"feature_audit_{d}": partial(table, d) for d in N}
)
