"""Chapter 8, memory or generalisation: networks between the two as the training set grows."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ddpmlib import data, evaluation, zoo
from ddpmlib.data import Dataset
from ddpmlib.denoiser import Denoiser
from ddpmlib.experiments.cells import Cell, Experiment
from ddpmlib.experiments.measuring import row
from ddpmlib.experiments.results import Row, markdown, rows
from ddpmlib.zoo import recipes, runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DATA, RECIPE = "mnist", "mnist-comparison"
HOW = evaluation.Sampling(50)  # DDIM: the noise alone decides the sample
SIZES = (8, 40, 200, 1_000, 10_000)
BATCH = 64
GAP_AT = 200  # of 1,000: a signal of 0.81 under noise of 0.58
CELLS: list[Cell] = [{"images": size, "updates": 4_000, "n": 1_000} for size in SIZES]


def measure(cell: Cell) -> Row:
    """Two networks on disjoint sets of so many digits: do they copy, do they agree?"""
    images, k = data.load(DATA), cell["images"]
    halves = [part(images, k * i, k) for i in (0, 1)]
    trained = [_trained(half, cell["updates"]) for half in halves]
    y = evaluation.classes_in_turn(trained[0][1], cell["n"])
    x0 = [
        evaluation.generate(net, card.image_shape, y, HOW, card=card, batch_size=250)
        for net, card in trained
    ]
    own, other = (half.x_train for half in halves)
    found: dict[str, Any] = {
        "nearer_to_training": round(evaluation.nearer_to_training(x0[0], own, other), 4),
        "copies": _share(evaluation.copied(x0[0], own)),
        "copies_of_others": _share(evaluation.copied(x0[0], other)),
        "twins": round(float(likeness(*x0).mean()), 4),
        "strangers": round(float(likeness(x0[0], x0[1].roll(10, 0)).mean()), 4),
    }
    return row(cell, found | _gap(trained[0][0], *halves), DATA)


def part(images: Dataset, first: int, count: int) -> Dataset:
    """A data set that trains on some of the training images of another, shuffled once for all."""
    order = torch.randperm(len(images.x_train), generator=torch.Generator().manual_seed(0))
    places = order[first : first + count]
    x, y = images.x_train[places], images.labels("train")[places]
    return replace(images, name="own", x_train=x, y_train=y, source=None)


def likeness(a: Tensor, b: Tensor) -> Tensor:
    """Correlation of the pixels of pairs of images (N, C, H, W), each about its own mean: (N,)."""
    a, b = (x.flatten(1).double() - x.flatten(1).double().mean(1, keepdim=True) for x in (a, b))
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))


def _trained(own: Dataset, updates: int) -> tuple[Denoiser, zoo.Card]:
    times = -(-BATCH // len(own.x_train))  # of few images each is in a batch several times
    own = replace(
        own, x_train=own.x_train.repeat(times, 1, 1, 1), y_train=own.labels("train").repeat(times)
    )
    changes = {"settings.steps": updates, "settings.batch_size": BATCH, "name": "own"}
    recipe = recipes.changed(recipes.RECIPES[RECIPE], changes | {"data": "own"})
    with tempfile.TemporaryDirectory() as folder:
        runs.train(recipe, Path(folder) / "run", dataset=own, device="cpu")
        denoiser, card = zoo.load(Path(folder) / "run", "cpu")
    assert isinstance(denoiser, Denoiser)
    return denoiser, card


def _gap(net: Denoiser, own: Dataset, other: Dataset) -> Row:
    # Of few images each is seen with several draws of noise.
    times = max(1, 400 // len(own.x_train))
    known, new = (
        (
            data.to_float(half.x_train).repeat(times, 1, 1, 1)[:2000],
            half.labels("train").repeat(times)[:2000],
        )
        for half in (own, other)
    )
    generator = torch.Generator().manual_seed(0)
    gap = evaluation.denoising_gap(net, known, new, GAP_AT, generator)
    return {"gap": round(gap.difference, 6), "gap_error": round(gap.standard_error, 6)}


def _share(hits: Tensor) -> float:
    return round(float(hits.double().mean()), 4)


def table() -> str:
    """From eight digits to ten thousand."""
    header = (
        "training images", "nearest image was trained on", "copies", "gap to held-out images",
        "likeness to the twin's sample", "to a stranger's",
    )  # fmt: skip
    lines = [
        (
            f"{r['images']:,}", f"{r['nearer_to_training']:.0%}", f"{r['copies']:.0%}",
            f"{r['gap']:.4f} ± {r['gap_error']:.4f}", f"{r['twins']:.2f}", f"{r['strangers']:.2f}",
        )
        for r in rows("generalisation")
    ]  # fmt: skip
    return markdown(header, lines)


def figure(ax: Axes) -> Axes:
    """Copies fall as the twins' samples come to agree."""
    found = rows("generalisation")
    x = [r["images"] for r in found]
    ax.semilogx(x, [r["copies"] for r in found], "o-", label="copies of training images")
    ax.semilogx(x, [r["twins"] for r in found], "s-", label="likeness of two networks' samples")
    ax.semilogx(x, [r["strangers"] for r in found], ":", label="likeness of unrelated samples")
    ax.set(xlabel="training images", ylabel="share, correlation", ylim=(-0.05, 1.05))
    ax.legend()
    return ax


EXPERIMENT = Experiment(
    "generalisation", CELLS, measure, {"generalisation": table}, {"generalisation": figure}
)
