"""Chapter 9, which loss: how noisy minibatch gradients are, and what importance sampling saves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ddpmlib import data, zoo
from ddpmlib.denoiser import Denoiser
from ddpmlib.experiments import measuring, runs
from ddpmlib.experiments.cells import Cell, Experiment
from ddpmlib.experiments.results import Row, markdown, rows
from ddpmlib.losses import ImportanceTimes, diffusion_loss, l_simple, l_vlb

CELLS: list[Cell] = [
    {"run": run, "objective": objective, "times": times, "batches": 100, "batch_size": 128}
    for run in ("linear-vlb", "linear-hybrid")
    for objective, times in (("vlb", "uniform"), ("vlb", "importance"), ("simple", "uniform"))
]


def measure(cell: Cell) -> Row:
    """The noise of a loss at the weights of a trained network, which stay as they are."""
    model, card = zoo.load(runs.folder(cell["run"]), "cpu")
    images = data.load(card.recipe["data"])
    x, labels = data.to_float(images.x_train[:20_000]), images.labels("train")[:20_000]
    found = noise_to_signal(_gradients(cell, model, x, labels))
    return measuring.row(cell, found, card.recipe["data"])


def _gradients(cell: Cell, model: Denoiser, x: Tensor, labels: Tensor) -> Iterator[Tensor]:
    model.requires_grad_(True)
    generator = torch.Generator().manual_seed(0)
    objective = l_vlb if cell["objective"] == "vlb" else l_simple
    times = ImportanceTimes(model.process.end) if cell["times"] == "importance" else None
    if times:
        _warm(times, model, x, labels, generator)
    for _ in range(cell["batches"]):
        i = torch.randint(len(x), (cell["batch_size"],), generator=generator)
        model.zero_grad()
        diffusion_loss(model, x[i], labels[i], generator, 0.0, objective, times).backward()
        parts = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        yield torch.cat(parts).double()


@torch.no_grad()
def _warm(
    times: ImportanceTimes, model: Denoiser, x: Tensor, y: Tensor, generator: torch.Generator
) -> None:
    """Losses until every time has been seen often enough to be drawn by its importance."""
    while bool((times.seen < times.memory).any()):
        i = torch.randint(len(x), (500,), generator=generator)
        diffusion_loss(model, x[i], y[i], generator, 0.0, l_vlb, times)


def noise_to_signal(gradients: Iterable[Tensor]) -> Row:
    """tr Cov(g), |E g|² and their ratio, from independent gradients (P,), at least two."""
    total, square, n = torch.zeros(1, dtype=torch.float64), 0.0, 0
    for g in gradients:
        total, square, n = total + g, square + float(g @ g), n + 1
    mean = total / n
    # |mean|² overestimates |E g|² by tr Cov / n: both are solved for without bias.
    trace = (square / n - float(mean @ mean)) * n / (n - 1)
    signal = float(mean @ mean) - trace / n
    return {"trace": trace, "signal": signal, "noise_to_signal": trace / signal}


def table() -> str:
    """Noise of minibatch gradients, tr Cov(g) / |E g|²."""
    lines = [
        (row["run"], f"L_{row['objective']}", row["times"], f"{row['noise_to_signal']:.2g}")
        for row in rows("gradient_noise")
    ]
    return markdown(("at the weights of", "objective", "times", "noise / signal"), lines)


EXPERIMENT = Experiment("gradient_noise", CELLS, measure, {"gradient_noise": table})
