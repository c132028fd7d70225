"""Chapter 7, does fresh noise correct errors: DDIM, Restart and ancestral chains from one x_T."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ddpmlib import data, evaluation, plots, samplers, zoo
from ddpmlib.denoiser import FixedVariance
from ddpmlib.evaluation import features, intervals, metrics
from ddpmlib.experiments import measuring
from ddpmlib.experiments.cells import Cell, Experiment
from ddpmlib.experiments.results import Row, markdown, rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CELLS: list[Cell] = [
    {"model": "mnist", "steps": 20, "back": 500, "n": 2000, "seed": seed} for seed in range(2)
]
LABELS = {
    "ddim": "DDIM",
    "more": "DDIM, half as many steps again",
    "restart": "DDIM, then Restart once",
    "twice": "DDIM, then Restart twice",
    "late": "η = 1 in the last half",
    "early": "η = 1 in the first half",
    "ancestral": "η = 1 throughout",
}
NAMES = {"frechet": "classifier's features", "pixels": "pixels, 50 components"}
SPACES = tuple(NAMES)
COMPONENTS = 50


def draws(
    denoiser: Any, cell: Cell, noise: Tensor, y: Tensor, generator: torch.Generator
) -> dict[str, tuple[int, Tensor]]:
    """Calls and samples of every chain of :data:`LABELS`, all from the same x_T."""
    process, steps, back = denoiser.process, cell["steps"], cell["back"]
    times = samplers.uniform_times(process.end, steps)
    middle = times.index(back)

    def walk(x: Tensor, visited: list[Any], eta: float) -> Tensor:
        return samplers.draw(denoiser, process, x, visited, eta=eta, y=y, generator=generator)

    early, late = times[: middle + 1], times[middle:]
    half = {eta: walk(noise, early, eta) for eta in (0.0, 1.0)}
    found = {
        "ddim": (steps, walk(half[0.0], late, 0.0)),
        "late": (steps, walk(half[0.0], late, 1.0)),
        "early": (steps, walk(half[1.0], late, 0.0)),
        "ancestral": (steps, walk(half[1.0], late, 1.0)),
    }
    calls, x = found["ddim"]
    for name in ("restart", "twice"):
        fresh = torch.randn(x.shape, generator=generator)
        x = walk(process.q_sample(x, back, fresh), late, 0.0)
        calls += len(late) - 1
        found[name] = (calls, x)
    more = steps * 3 // 2
    found["more"] = (more, walk(noise, samplers.uniform_times(process.end, more), 0.0))
    return found


def measure(cell: Cell) -> Row:
    """All chains of one seed, against real images and against DDIM."""
    denoiser, card = zoo.load(cell["model"], "cpu")
    walk, started = FixedVariance(denoiser, 0.0), time.perf_counter()
    y, generator = torch.arange(cell["n"]) % 10, torch.Generator().manual_seed(cell["seed"])
    parts: dict[str, list[Tensor]] = {}
    calls: dict[str, int] = {}
    for labels in y.split(250):
        noise = torch.randn(len(labels), *card.image_shape, generator=generator)
        for name, (n, x) in draws(walk, cell, noise, labels, generator).items():
            parts.setdefault(name, []).append(x)
            calls[name] = n
    samples = {name: torch.cat(x) for name, x in parts.items()}
    found = compared(samples, calls, y, card.recipe["data"])
    found |= {"seconds": round(time.perf_counter() - started, 1)}
    return measuring.row(cell, found, card.recipe["data"])


@dataclass(frozen=True)
class Space:
    """A feature space: features of images, and the moments of the training set in it."""

    of: Callable[[Tensor], Tensor]
    real: metrics.Moments

    def distance(self, h: Tensor) -> float:
        """Fréchet distance to the training set."""
        return metrics.frechet_distance(h, self.real)


def spaces(dataset: str, n: int) -> tuple[dict[str, Space], Any, Tensor]:
    """The classifier's features and pixels by their principal components; n test images."""
    classifier, images = zoo.load(f"{dataset}-classifier", "cpu")[0], data.load(dataset)
    y = torch.arange(n) % 10
    places = evaluation.sample_quality.random_places(images.labels("test"), n, y)
    real = evaluation.statistics.train_moments(classifier, images)
    components = principal(data.to_float(images.x_train))

    def pixels(x: Tensor) -> Tensor:
        return x.clamp(-1, 1).flatten(1).double() @ components

    seen = pixels(data.to_float(images.x_train))
    found = {
        "frechet": Space(lambda x: features.extract(classifier, x)[0], real),
        "pixels": Space(pixels, metrics.Moments.of(seen)),
    }
    return found, classifier, data.to_float(images.x_test[places])


def principal(images: Tensor) -> Tensor:
    """The directions of largest variance of images (N, ...), (D, at most 50)."""
    moments = metrics.Moments.of(images.flatten(1))
    return torch.linalg.eigh(moments.cov).eigenvectors[:, -COMPONENTS:]


def compared(samples: dict[str, Tensor], calls: dict[str, int], y: Tensor, dataset: str) -> Row:
    """Distances in both spaces with 95 % intervals, and how much each chain is below DDIM.

    The gain over DDIM is measured on pairs from one x_T: their images are redrawn together.
    """
    known, classifier, test = spaces(dataset, len(y))
    seen = {name: {k: s.of(x) for k, s in known.items()} for name, x in samples.items()}
    ways = []
    for name in LABELS:
        x, way = samples[name], {"method": name, "calls": calls[name]}
        for key, space in known.items():
            h, base = seen[name][key], seen["ddim"][key]
            way |= {key: space.distance(h), f"{key}_interval": _interval(space.distance, h, y)}
            gain = _gain(space, h.shape[1])
            pairs = torch.cat([base, h], 1)
            way |= {f"{key}_gain": gain(pairs), f"{key}_gain_interval": _interval(gain, pairs, y)}
        logits = features.extract(classifier, x)[1]
        way |= {"class_agreement": metrics.class_agreement(logits, y)}
        way |= {"background": _background(x)}
        ways.append(way)
    floor = {f"{key}_floor": s.distance(s.of(test)) for key, s in known.items()}
    return floor | {"background_floor": _background(test), "ways": ways}


def _background(x: Tensor) -> float:
    """Mean over images of the median pixel, which belongs to the background."""
    return float(x.clamp(-1, 1).flatten(1).median(1).values.mean())


def _gain(space: Space, width: int) -> Callable[[Tensor], float]:
    """Of rows with DDIM's features and another's, by how much the other is nearer."""
    return lambda h: space.distance(h[:, :width]) - space.distance(h[:, width:])


def _interval(metric: Callable[[Tensor], float], h: Tensor, y: Tensor) -> list[float]:
    generator = torch.Generator().manual_seed(0)
    return list(intervals.bootstrap(metric, h, groups=y, generator=generator))


def table(seed: int = 0) -> str:
    """Distances to the training set, and the gain over DDIM with its 95 % interval."""
    (row,) = rows("restart", seed=seed)
    lines = [
        (LABELS[way["method"]], way["calls"], *(_cell(way, key) for key in SPACES))
        for way in row["ways"]
    ]
    floors = [f"{row[f'{key}_floor']:.2f}" for key in SPACES]
    lines.append(("real test images", "", *floors))
    return markdown(("chain", "calls", *NAMES.values()), lines)


def _cell(way: Row, key: str) -> str:
    if way["method"] == "ddim":
        return f"{way[key]:.2f}"
    low, high = way[f"{key}_gain_interval"]
    return f"{way[key]:.2f} (lower by {low:.2f} to {high:.2f})"


def figure(ax: Axes, seed: int = 0) -> Axes:
    """By how much each chain is nearer to the training set than DDIM, 95 % intervals."""
    (row,) = rows("restart", seed=seed)
    ways = row["ways"][1:]
    for key, colour, shift in zip(SPACES, (plots.BLUE, plots.ORANGE), (-0.12, 0.12), strict=True):
        gains = [way[f"{key}_gain"] for way in ways]
        ends = [way[f"{key}_gain_interval"] for way in ways]
        bars = [
            [gain - low for gain, (low, _) in zip(gains, ends, strict=True)],
            [high - gain for gain, (_, high) in zip(gains, ends, strict=True)],
        ]
        at = [k + shift for k in range(len(ways))]
        ax.errorbar(gains, at, xerr=bars, fmt="o", ms=4, color=colour, label=NAMES[key])
    ax.axvline(0, color="k", lw=0.8)
    ax.set(xlabel="Fréchet distance, DDIM minus this chain")
    ax.set_yticks(range(len(ways)), [LABELS[way["method"]] for way in ways])
    ax.invert_yaxis()
    ax.legend(fontsize=9)
    return ax


EXPERIMENT = Experiment("restart", CELLS, measure, {"restart": table}, {"restart": figure})
