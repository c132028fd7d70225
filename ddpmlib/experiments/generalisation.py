"""Chapter 8, memory or generalisation: networks between the two as the training set grows."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ddpmlib import data, evaluation, zoo
from ddpmlib.data import Dataset
from ddpmlib.denoiser import Denoiser
from ddpmlib.evaluation.memorisation import Gap
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
CELLS: list[Cell] = [{"images": size, "updates": 2_000, "n": 500} for size in SIZES]


def measure(cell: Cell) -> Row:
    """Two networks on disjoint sets of so many digits: do they copy, do they agree?"""
    images, k = data.load(DATA), cell["images"]
    halves = [part(images, k * i, k) for i in (0, 1)]
    nets = [_trained(half, cell["updates"]) for half in halves]
    x0 = [
        evaluation.generate(net, images.image_shape, None, HOW, n=cell["n"], batch_size=250)
        for net in nets
    ]
    found: dict[str, Any] = {
        "twins": round(float(likeness(*x0).mean()), 4),
        "strangers": round(float(likeness(x0[0], x0[1].roll(1, 0)).mean()), 4),
    }
    both = zip(nets, x0, halves, halves[::-1], strict=True)
    found |= _transposed(_of_one(*one) for one in both)
    return row(cell, found | HOW.record(), DATA)


def _of_one(net: Denoiser, x0: Tensor, own: Dataset, other: Dataset) -> dict[str, float]:
    """What one network's samples, and its errors, say of the images that it has seen."""
    gap = _gap(net, own, other)
    return {
        "nearer_to_training": evaluation.nearer_to_training(x0, own.x_train, other.x_train),
        "copies": float(evaluation.copied(x0, own.x_train).double().mean()),
        "copies_of_others": float(evaluation.copied(x0, other.x_train).double().mean()),
        "gap": gap.difference,
        "gap_error": gap.standard_error,
    }


def _transposed(found: Iterable[dict[str, float]]) -> dict[str, list[float]]:
    first, second = found
    return {key: [round(first[key], 6), round(second[key], 6)] for key in first}


def part(images: Dataset, first: int, count: int) -> Dataset:
    """Some of the training images of a data set, shuffled once for all, without their labels."""
    order = torch.randperm(len(images.x_train), generator=torch.Generator().manual_seed(0))
    x = images.x_train[order[first : first + count]]
    return Dataset("own", x, None, images.x_test, None)


def likeness(a: Tensor, b: Tensor) -> Tensor:
    """Correlation of the pixels of pairs of images (N, C, H, W), each about its own mean: (N,)."""
    a, b = (x.flatten(1).double() - x.flatten(1).double().mean(1, keepdim=True) for x in (a, b))
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))


def _trained(own: Dataset, updates: int) -> Denoiser:
    times = -(-BATCH // len(own.x_train))  # of few images each is in a batch several times
    own = replace(own, x_train=own.x_train.repeat(times, 1, 1, 1))
    changes = {"settings.steps": updates, "settings.batch_size": BATCH, "name": "own"}
    changes |= {"data": "own", "net.num_classes": 0}
    recipe = recipes.changed(recipes.RECIPES[RECIPE], changes)
    with tempfile.TemporaryDirectory() as folder:
        runs.train(recipe, Path(folder) / "run", dataset=own, device="cpu")
        denoiser, _ = zoo.load(Path(folder) / "run", "cpu")
    assert isinstance(denoiser, Denoiser)
    return denoiser


def _gap(net: Denoiser, own: Dataset, other: Dataset) -> Gap:
    """How much better it denoises its own images; few are seen with several draws of noise."""
    times = max(1, 400 // len(own.x_train))
    known, new = (
        (data.to_float(half.x_train).repeat(times, 1, 1, 1)[:2000], None) for half in (own, other)
    )
    return evaluation.denoising_gap(net, known, new, GAP_AT, torch.Generator().manual_seed(0))


def table() -> str:
    """From eight digits to ten thousand: means of the two networks."""
    header = (
        "training images", "nearest image was trained on", "copies", "gap",
        "likeness, same noise", "likeness, other noise",
    )  # fmt: skip
    return markdown(header, [_line(found) for found in rows("generalisation")])


def _line(found: Row) -> tuple[str, ...]:
    return (
        f"{found['images']:,}", f"{fmean(found['nearer_to_training']):.0%}",
        f"{fmean(found['copies']):.0%}", f"{fmean(found['gap']):.4f}",
        f"{found['twins']:.2f}", f"{found['strangers']:.2f}",
    )  # fmt: skip


def figure(ax: Axes) -> Axes:
    """Copies fall as the twins' samples come to agree."""
    found = rows("generalisation")
    x = [r["images"] for r in found]
    ax.semilogx(x, [fmean(r["copies"]) for r in found], "o-", label="copies of training images")
    ax.semilogx(x, [r["twins"] for r in found], "s-", label="likeness, two networks' samples")
    ax.semilogx(x, [r["strangers"] for r in found], ":", label="likeness, unrelated samples")
    ax.set(xlabel="training images", ylabel="share, correlation", ylim=(-0.05, 1.05))
    ax.legend()
    return ax


EXPERIMENT = Experiment(
    "generalisation", CELLS, measure, {"generalisation": table}, {"generalisation": figure}
)
