"""How the cells are measured: load a network, draw samples, compare them with real images."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddpmlib import data, evaluation, zoo
from ddpmlib.denoiser import Denoiser, FixedVariance
from ddpmlib.evaluation import Guidance, Sampling
from ddpmlib.experiments import runs
from ddpmlib.experiments.cells import Cell
from ddpmlib.experiments.methods import METHODS
from ddpmlib.experiments.results import Row
from ddpmlib.training import hardware

OF_GUIDED = ("agreement", "fid", "is", "pr", "saturation")


@cache
def network(name: str | Path) -> tuple[Denoiser, zoo.Card]:
    """A checkpoint as by :func:`ddpmlib.zoo.checkpoints.load`, on the CPU, its network compiled."""
    denoiser, card = zoo.load(name, "cpu")
    denoiser.net = torch.compile(denoiser.net)
    return denoiser, card


def with_variance(denoiser: Denoiser, var_mix: float | None) -> Denoiser | FixedVariance:
    """The denoiser with the variance of a :class:`~ddpmlib.experiments.methods.Method`."""
    return denoiser if var_mix is None else FixedVariance(denoiser, var_mix)


def sampled(cell: Cell) -> Row:
    """The row of a cell that names a run, a sampler, its steps and a number of samples."""
    denoiser, card = network(runs.folder(cell["run"]))
    method = METHODS[cell["method"]]
    how = Sampling(cell["steps"], eta=method.eta, bf16=True)
    return _drawn(cell, with_variance(denoiser, method.var_mix), card, how)


def guided(cell: Cell, name: str | Path, guidance: Guidance, eta: float) -> Row:
    """The row of a cell that draws from a guided checkpoint."""
    denoiser, card = network(name)
    how = Sampling(cell["steps"], eta=eta, bf16=True, guidance=guidance)
    return _drawn(cell, denoiser, card, how, OF_GUIDED)


def _drawn(
    cell: Cell,
    denoiser: Any,
    card: zoo.Card,
    how: Sampling,
    metrics: Sequence[str] = evaluation.OF_SAMPLES,
) -> Row:
    y, started = torch.arange(cell["n"]) % 10, time.perf_counter()
    x0 = evaluation.generate(denoiser, card.image_shape, y, how, card=card, batch_size=250)
    seconds, dataset = time.perf_counter() - started, card.recipe["data"]
    found = against_real(x0, y, dataset, metrics) | {"seconds": round(seconds, 1)}
    found |= {"streams": how.record()["streams"]}  # rows without it drew by another derivation
    return row(cell, found, dataset)


def against_real(
    x0: Tensor, y: Tensor, dataset: str, metrics: Sequence[str] = evaluation.OF_SAMPLES
) -> Row:
    """Samples against real images, by the features of the data set's classifier.

    Args:
        x0: samples (N, C, H, W).
        y: the classes that were asked for, (N,), in turn.
        dataset: what the samples should look like.
        metrics: some of :data:`ddpmlib.evaluation.OF_SAMPLES`.
    """
    classifier, images, real = _real(dataset, len(x0))
    return evaluation.measure_samples(classifier, x0, y, images, real=real, metrics=metrics)


@cache
def _real(dataset: str, n: int) -> tuple[Any, data.Dataset, evaluation.Reference]:
    classifier, images = zoo.load(f"{dataset}-classifier", "cpu")[0], data.load(dataset)
    y = torch.arange(n) % 10
    return classifier, images, evaluation.reference(classifier, images, n, y)


def row(cell: Cell, found: Row, dataset: str) -> Row:
    """A measured cell, with the data set and the hardware."""
    return {"dataset": dataset} | cell | found | {"hardware": hardware(torch.device("cpu"))}
