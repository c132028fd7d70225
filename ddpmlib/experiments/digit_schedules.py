"""Chapter 5, where training looks: digits under three schedules, at the same noise levels."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ddpmlib import data, plots, zoo
from ddpmlib.broadcast import Time
from ddpmlib.condition import Condition
from ddpmlib.denoiser import Denoiser, V
from ddpmlib.evaluation import features, metrics, statistics
from ddpmlib.experiments.cells import Cell, Experiment
from ddpmlib.experiments.measuring import row
from ddpmlib.experiments.results import Row, markdown, rows
from ddpmlib.experiments.uncertainty import over_seeds
from ddpmlib.losses import diffusion_loss
from ddpmlib.models import UNet, UNetConfig
from ddpmlib.prediction import Prediction
from ddpmlib.process import DDPM
from ddpmlib.samplers import draw, uniform_times
from ddpmlib.training import Settings, Trainer, fit
from ddpmlib.zoo.recipes import SCHEDULES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NET = UNetConfig(width=32, mults=(1,), attention=(False,), heads=2, patch=2)
COLOURS = {"linear": plots.BLUE, "sigmoid": plots.GREEN, "cosine": plots.ORANGE}
LEVELS = (6.0, 4.0, 2.0, 0.0, -2.0, -4.0, -6.0, -8.0)
"""Log-SNRs at which the networks are compared."""
CELLS: list[Cell] = [
    {"schedule": schedule, "seed": seed, "updates": 200, "n": 300}
    for schedule in COLOURS
    for seed in range(5)
]


def measure(cell: Cell) -> Row:
    """Train a network under a schedule; its errors at the levels, and how good its samples are."""
    started = time.process_time()
    network = train(cell["schedule"], cell["seed"], cell["updates"])
    seconds = time.process_time() - started
    generator = torch.Generator().manual_seed(cell["seed"])
    x0 = samples(network, cell["n"], generator)
    unseen = data.to_float(data.load("digits").x_test[: cell["n"]])
    found = {
        "errors": [float(f"{e:.5g}") for e in errors(network)],
        "frechet": round(_distance(x0), 2),
        "frechet_floor": round(_distance(unseen), 2),
        "training_cpu_seconds": round(seconds, 1),
    }
    return row(cell, found, "digits")


def train(schedule: str, seed: int, updates: int) -> Denoiser:
    """A small network that predicts v, with the plain loss; its averaged weights."""
    torch.manual_seed(seed)
    denoiser = Denoiser(UNet(NET), DDPM(SCHEDULES[schedule](1000)), V)
    settings = Settings(updates, batch_size=48, lr=5e-3, warmup=30, ema=0.97, seed=seed)
    scans = data.load("digits").x_train
    loss: Any = diffusion_loss  # of a Denoiser, where a trainer takes any module
    trainer = Trainer(denoiser, loss, scans, None, settings, device="cpu")
    for _ in fit(trainer):
        pass
    averaged = trainer.averaged
    assert isinstance(averaged, Denoiser)
    return averaged


@torch.no_grad()
def errors(network: Denoiser) -> list[float]:
    """Mean squared error of ε on unseen scans at each of :data:`LEVELS`."""
    x = data.to_float(data.load("digits").x_test).repeat(2, 1, 1, 1)
    eps = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    process, found = network.process, []
    for t in process.time_of(torch.tensor(LEVELS)).tolist():
        scale, std = process.kernel(t, x)
        x0 = network(process.q_sample(x, t, eps), t).x0
        found.append(float((scale / std) ** 2 * (x0 - x).square().mean()))  # by (5.13)
    return found


def samples(network: Denoiser, n: int, generator: torch.Generator) -> Tensor:
    """n digits in 25 ancestral steps at the noise levels of cosine, whatever was trained on."""
    path, own = DDPM(SCHEDULES["cosine"](1000)), network.process

    def at_level(x_t: Tensor, t: Time, y: Condition | None = None, /) -> Prediction:
        return network(x_t, int(own.time_of(path.log_snr(torch.as_tensor(t)))), y)

    x_T = torch.randn(n, 1, 8, 8, generator=generator)
    return draw(at_level, path, x_T, uniform_times(path.T, 25), generator=generator)


def _distance(x0: Tensor) -> float:
    classifier, images = zoo.load("digits-classifier", "cpu")[0], data.load("digits")
    real = statistics.train_moments(classifier, images)
    return metrics.frechet_distance(features.extract(classifier, x0)[0], real)


def errors_of(schedule: str) -> np.ndarray[Any, Any]:
    """The errors on record, (seeds, levels)."""
    return np.array([row["errors"] for row in rows("digit_schedules", schedule=schedule)])


def table() -> str:
    """Fréchet distances of the samples, mean and standard error over the seeds."""
    lines = []
    for schedule in COLOURS:
        found = rows("digit_schedules", schedule=schedule)
        mean, error = over_seeds([row["frechet"] for row in found])
        lines.append((schedule, f"{mean:.0f} ± {error:.0f}"))
    lines.append((f"{found[0]['n']} real, unseen scans", f"{found[0]['frechet_floor']:.1f}"))
    return markdown(("trained under", f"Fréchet distance, {len(found)} seeds"), lines)


def figure(ax: Axes) -> Axes:
    """Errors as shares of those under linear with the same seed, over log-SNR, a line a seed."""
    for name in ("sigmoid", "cosine"):
        for k, share in enumerate(errors_of(name) / errors_of("linear")):
            label = None if k else f"trained under {name}"
            ax.plot(LEVELS, share, "o-", ms=4, lw=1, color=COLOURS[name], label=label)
    ax.axhline(1, color=COLOURS["linear"], lw=1, label="trained under linear")
    ax.set(xlabel="log-SNR λ (nats), clean on the left", ylabel="error, linear = 1")
    ax.invert_xaxis()
    ax.legend(fontsize=9)
    return ax


EXPERIMENT = Experiment(
    "digit_schedules", CELLS, measure, {"digit_schedules": table}, {"digit_schedules": figure}
)
