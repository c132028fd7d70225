"""The page "Your own images": what so many images and updates bring, on Fashion-MNIST."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ddpmlib import data, evaluation, zoo
from ddpmlib.experiments.cells import Cell, Experiment
from ddpmlib.experiments.measuring import against_real, row
from ddpmlib.experiments.results import Row, markdown, rows
from ddpmlib.zoo import runs
from ddpmlib.zoo.recipe import changed
from ddpmlib.zoo.recipes.own import own_recipe

DATA = "fashion_mnist"
HOW = evaluation.Sampling(20, eta=1.0)
CELLS = [
    {"images": images, "updates": updates, "n": 2000}
    for images in (100, 1_000, 10_000)
    for updates in (500, 2_000)
]


def measure(cell: Cell) -> Row:
    """Train on the first images as if they were all there is, and look at samples."""
    images, k = data.load(DATA), cell["images"]
    own = replace(
        images,
        name="own",
        x_train=images.x_train[:k],
        y_train=images.labels("train")[:k],
        source=None,
    )
    recipe = changed(own_recipe(own), {"settings.steps": cell["updates"]})
    with tempfile.TemporaryDirectory() as folder:
        run, started = Path(folder) / "run", time.process_time()
        runs.train(recipe, run, dataset=own, device="cpu")
        seconds = time.process_time() - started
        denoiser, card = zoo.load(run, "cpu")
    y = evaluation.classes_in_turn(card, cell["n"])
    x0 = evaluation.generate(denoiser, card.image_shape, y, HOW, card=card, batch_size=250)
    assert y is not None
    found = against_real(x0, y, DATA)
    found["cpu_seconds_per_update"] = round(seconds / cell["updates"], 2)
    found["nearest_is_own"] = nearest_is_own(x0, own.x_train, images.x_test[:k])
    found["batch_size"] = recipe.settings.batch_size
    return row(cell, found | HOW.record(), DATA)


def nearest_is_own(x0: Tensor, own: Tensor, others: Tensor) -> float:
    """How often the image nearest to a sample is one that was trained on.

    Against as many that were not: half the time for who learned the distribution, always for who
    learned the images by heart.

    Args:
        x0: samples in [-1, 1], (N, C, H, W).
        own: images that were trained on, uint8 (M, C, H, W).
        others: as many of the same kind that were not.
    """
    near = [torch.cdist(x0.flatten(1), data.to_float(x).flatten(1)).amin(1) for x in (own, others)]
    return round(float((near[0] < near[1]).double().mean()), 4)


def table() -> str:
    """Rows of images and updates; the floor is the distance of as many real images."""
    header = (
        "images", "updates", "minutes", "class agreement", "Fréchet", "recall",
        "nearest image is a training image",
    )  # fmt: skip
    return markdown(header, [_line(found) for found in rows("own_images")])


def _line(found: Row) -> tuple[object, ...]:
    return (
        f"{found['images']:,}", f"{found['updates']:,}", _minutes(found),
        f"{found['class_agreement']:.0%}", f"{found['frechet']:.1f}", f"{found['recall']:.2f}",
        f"{found['nearest_is_own']:.0%}",
    )  # fmt: skip


def _minutes(found: Row) -> str:
    return f"{found['updates'] * found['cpu_seconds_per_update'] / 60:.0f}"


EXPERIMENT = Experiment("own_images", CELLS, measure, {"own_images": table})
