"""Chapter 9, which variance and which loss: bits per dimension of test images."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from ddpmlib import data
from ddpmlib.experiments import measuring, runs
from ddpmlib.experiments.cells import Cell, Experiment
from ddpmlib.experiments.methods import METHODS
from ddpmlib.experiments.results import Row, markdown, rows
from ddpmlib.likelihood import bits_per_dim, elbo_monte_carlo


def _cells(run: str) -> list[Cell]:
    methods = ("learned",) * ("var_mix=null" in runs.CHANGES[run]) + ("beta", "beta_tilde")
    return [{"run": run, "method": m, "steps": 1000, "n": 2000, "draws": 40} for m in methods]


NETWORKS = [run for run in runs.CHANGES if "T" not in run and "dropout" not in run]
CELLS = [cell for run in NETWORKS for cell in _cells(run)]


def measure(cell: Cell) -> Row:
    """The variational bound over the whole chain; every cell sees the same images and noise."""
    denoiser, card = measuring.network(runs.folder(cell["run"]))
    x0, y = _test_images(card.recipe["data"], cell["n"])
    denoise = measuring.with_variance(denoiser, METHODS[cell["method"]].var_mix)
    generator, started = torch.Generator().manual_seed(0), time.perf_counter()
    nats = elbo_monte_carlo(
        denoise, denoiser.process, x0, draws=cell["draws"], y=y, generator=generator
    )
    bits, se = (bits_per_dim(v, x0[0].numel()) for v in (nats.mean, nats.standard_error))
    found = {"bits_per_dim": round(bits, 4), "se": round(se, 4)}
    found |= {"seconds": round(time.perf_counter() - started, 1)}
    return measuring.row(cell, found, card.recipe["data"])


def _test_images(dataset: str, n: int) -> tuple[Tensor, Tensor]:
    images = data.load(dataset)
    order = torch.randperm(len(images.x_test), generator=torch.Generator().manual_seed(0))[:n]
    return data.to_float(images.x_test[order]), images.labels("test")[order]


def table() -> str:
    """Bits per dimension of test images, whole chain."""
    lines = [
        (row["run"], _variance(row["method"]), f"{row['bits_per_dim']:.3f} ± {row['se']:.3f}")
        for row in rows("likelihood")
    ]
    return markdown(("net", "variance", "bits/dim"), lines)


def _variance(method: str) -> str:
    return METHODS[method].label.removeprefix("ancestral, ").removesuffix(" (η = 1)")


EXPERIMENT = Experiment("likelihood", CELLS, measure, {"likelihood": table})
