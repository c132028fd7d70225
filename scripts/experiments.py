"""Run the comparison of chapter 09: train its nets, draw from them, write ``data/results``.

    python scripts/experiments.py train [NAME …]     the missing runs, through the CLI
    python scripts/experiments.py measure [NAME …]   the missing cells

Runs lie in ``runs/comparison``; every measured cell is one row of a JSON file, written at once, so
an interrupted command goes on where it stopped. Real MNIST is needed (``DDPMLIB_DATA``).
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddpmlib import data, evaluation, likelihood, samplers, zoo
from ddpmlib.denoiser import Denoiser, FixedVariance
from ddpmlib.experiments import results
from ddpmlib.losses import ImportanceTimes, diffusion_loss, l_simple, l_vlb
from ddpmlib.prediction import AnyDenoiser
from ddpmlib.training import hardware

RUNS = Path("runs/comparison")
RECIPE = "mnist-comparison"
LEARNED = ("var_mix=null", "objective=hybrid")
VLB = ("var_mix=null", "objective=vlb")
TRAININGS: dict[str, tuple[str, ...]] = {
    "linear": (),
    "linear-hybrid": LEARNED,
    "cosine-hybrid": ("schedule=cosine", *LEARNED),
    "cosine": ("schedule=cosine",),
    "linear-vlb": VLB,
    "linear-vlb-importance": (*VLB, "times=importance"),
    "sigmoid": ("schedule=sigmoid",),
    "linear-T500": ("T=500",),
    "linear-T2000": ("T=2000",),
    # For guidance; all others have a label dropout of 10 %.
    "dropout-0": ("schedule=cosine", *LEARNED, "label_dropout=0"),
    "dropout-20": ("schedule=cosine", *LEARNED, "label_dropout=0.2"),
    "dropout-50": ("schedule=cosine", *LEARNED, "label_dropout=0.5"),
}
FIELDS = ("schedule", "T", "var_mix", "objective", "times", "label_dropout")
LADDER = ("linear", "linear-hybrid", "cosine-hybrid")
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Method:
    """How a step is drawn: η, and the place of the variance (None: as the net learned it)."""

    eta: float
    var_mix: float | None


METHODS = {
    "beta": Method(1.0, 1.0),
    "beta_tilde": Method(1.0, 0.0),  # the same as DDIM with η = 1
    "learned": Method(1.0, None),
    "ddim": Method(0.0, 0.0),
    "ddim_half": Method(0.5, 0.0),
}


@dataclass(frozen=True)
class Cell:
    """One row of a table: a net, a method, a number of steps, a number of samples."""

    run: str
    method: str
    steps: int
    n: int = 5000


def _cells(
    runs: tuple[str, ...], methods: tuple[str, ...], *steps: int, n: int = 5000
) -> list[Cell]:
    return [Cell(r, m, k, n) for k in steps for r in runs for m in methods]


ALL = tuple(METHODS)
SCHEDULES = ("linear", "sigmoid", "cosine")
LENGTHS = ("linear-T500", "linear", "linear-T2000")
SAMPLING: dict[str, list[Cell]] = {
    "strides": _cells(("cosine-hybrid",), ALL, 5, 10, 25, 50)
    + _cells(("linear-hybrid",), ALL, 10, 50)
    + _cells(("cosine-hybrid",), ALL, 100, 250, n=2000)
    + _cells(("cosine-hybrid",), ("beta", "beta_tilde", "learned"), 1000, n=1000),
    "schedules": _cells(SCHEDULES, ("beta_tilde", "ddim"), 10, 50),
    "variances": _cells(("linear-hybrid", "linear-vlb", "linear-vlb-importance"), ("learned",), 25)
    + _cells(("linear",), ("beta", "beta_tilde"), 25),
    "lengths": _cells(LENGTHS, ("beta_tilde", "ddim"), 50)
    + _cells(LENGTHS, ("beta_tilde",), 250, n=2000),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=("train", "measure"))
    parser.add_argument("names", nargs="*", help="only these runs, or only these experiments")
    parser.add_argument(
        "--seeds", type=int, default=len(SEEDS), help="training seeds of the ladder's nets"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    chosen = (_train_all if args.verb == "train" else _measure_all)(args.seeds)
    for name, work in chosen.items():
        if not args.names or name in args.names:
            work()


# ---- training ----------------------------------------------------------------------------------


def _train_all(seeds: int) -> dict[str, partial[None]]:
    jobs = {name: (changes, 0) for name, changes in TRAININGS.items()}
    jobs |= {seeded(n, seed): (TRAININGS[n], seed) for seed in SEEDS[1:seeds] for n in LADDER}
    return {name: partial(_train, name, *job) for name, job in jobs.items()}


def seeded(name: str, seed: int) -> str:
    """Name of the run of another training seed."""
    return f"{name}-seed{seed}" if seed else name


def _train(name: str, changes: tuple[str, ...], seed: int) -> None:
    more = ["--seed", str(seed)] * bool(seed) + ["--set", *changes] * bool(changes)
    train(RECIPE, RUNS / name, *more)


def train(recipe: str, folder: Path, *more: str) -> None:
    """Through the CLI with these further words; resumed if interrupted, left alone if finished."""
    if (folder / zoo.MODEL).exists():
        return
    words = ["ddpmlib", "train", recipe, "--bf16", "--compile", "--threads", "1", *more]
    words += ["--resume", "--out", str(folder)]
    print(shlex.join(words), flush=True)
    subprocess.run([sys.executable, "-m", *words], check=True)


# ---- measuring ---------------------------------------------------------------------------------


def _measure_all(seeds: int) -> dict[str, partial[None]]:
    jobs = {name: partial(_sampling, name, cells) for name, cells in SAMPLING.items()}
    ladder = [
        Cell(seeded(run, seed), method, steps)
        for seed in SEEDS[:seeds]
        for run, method, steps in (
            ("linear", "beta_tilde", 250),
            ("linear-hybrid", "ddim", 50),
            ("cosine-hybrid", "ddim", 50),
        )
    ]
    jobs["ladder"] = partial(_sampling, "ladder", ladder)
    others = {"training": _training, "likelihood": _likelihood, "chain": _chain}
    others |= {"gradient_noise": _gradient_noise}
    return jobs | {name: partial(work) for name, work in others.items()}


def _training() -> None:
    """What the cards of the runs say."""
    for cell in missing("training", [{"run": name} for name in _train_all(len(SEEDS))]):
        card = zoo.Card.read(RUNS / cell["run"] / "model.json")
        recipe, how = card.recipe, card.training
        row = {key: recipe[key] for key in FIELDS}
        row |= {"seed": recipe["settings"]["seed"], "updates": recipe["settings"]["steps"]}
        row |= {"parameters": card.parameters, "sha256": card.sha256}
        row |= {key: how[key] for key in ("images_seen", "command", "hardware", "torch")}
        results.add("training", cell | row)


def _with_variance(denoiser: Denoiser, var_mix: float | None) -> Denoiser | FixedVariance:
    return denoiser if var_mix is None else FixedVariance(denoiser, var_mix)


@cache
def load(name: str | Path) -> tuple[Denoiser, zoo.Card]:
    """A checkpoint as by :func:`ddpmlib.zoo.checkpoints.load`, on the CPU, its network compiled."""
    denoiser, card = zoo.load(name, "cpu")
    denoiser.net = torch.compile(denoiser.net)
    return denoiser, card


def missing(name: str, cells: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Cells without a row yet and, where they name a run, with a trained net."""
    for cell in cells:
        asked = {"guidance": None} | cell  # a guided row does not stand for a plain one
        done = [{k: row.get(k) for k in asked} for row in results.rows(name, missing_ok=True)]
        trained = "run" not in cell or (RUNS / cell["run"] / zoo.MODEL).exists()
        if asked not in done and trained:
            print(name, cell, flush=True)
            yield cell


def _sampling(name: str, cells: list[Cell]) -> None:
    for cell in missing(name, [vars(c) for c in cells]):
        denoiser, card = load(RUNS / cell["run"])
        method = METHODS[cell["method"]]
        measure(name, cell, _with_variance(denoiser, method.var_mix), card, method.eta)


def measure(
    name: str, cell: dict[str, Any], denoiser: Any, card: zoo.Card, eta: float, **options: Any
) -> None:
    """Draw the samples of a cell, judge them, keep the row; ``options`` as for :func:`judged`."""
    y, started = torch.arange(cell["n"]) % 10, time.perf_counter()
    x0 = evaluation.generate(
        denoiser, card.image_shape, y,
        evaluation.Sampling(steps=cell["steps"], eta=eta, bf16=True), batch_size=250,
    )  # fmt: skip
    seconds, dataset = time.perf_counter() - started, card.recipe["data"]
    row = judged(x0, y, dataset, **options) | {"seconds": round(seconds, 1)}
    add_row(name, cell | {"dataset": dataset}, row)


@cache
def _real(dataset: str, n: int) -> tuple[Any, data.Dataset, evaluation.Reference]:
    classifier, images = zoo.load(f"{dataset}-classifier", "cpu")[0], data.load(dataset)
    y = torch.arange(n) % 10
    return classifier, images, evaluation.reference(classifier, images, n, y)


def judged(x0: Tensor, y: Tensor, dataset: str = "mnist", **options: Any) -> dict[str, Any]:
    """What the data set's classifier says of samples; ``options`` of ``evaluation.judged``."""
    classifier, images, real = _real(dataset, len(x0))
    return evaluation.judged(classifier, x0, y, images, real=real, **options)


def add_row(name: str, cell: dict[str, Any], row: dict[str, Any]) -> None:
    """Keep a measured cell, with the data set (MNIST if it names none) and the hardware."""
    row = {"dataset": "mnist"} | cell | row | {"hardware": hardware(torch.device("cpu"))}
    results.add(name, row)


def _likelihood(n: int = 2000, draws: int = 40) -> None:
    images = data.load("mnist")
    order = torch.randperm(len(images.x_test), generator=torch.Generator().manual_seed(0))[:n]
    x0, y = data.to_float(images.x_test[order]), images.labels("test")[order]
    for run in (run for run in TRAININGS if "T" not in run and "dropout" not in run):
        methods = ("learned",) * ("var_mix=null" in TRAININGS[run]) + ("beta", "beta_tilde")
        cells = [{"run": run, "method": m, "steps": 1000, "n": n, "draws": draws} for m in methods]
        for cell in missing("likelihood", cells):
            denoiser, _ = load(RUNS / run)
            denoise = _with_variance(denoiser, METHODS[cell["method"]].var_mix)
            generator, started = torch.Generator().manual_seed(0), time.perf_counter()
            nats = likelihood.elbo_monte_carlo(
                denoise, denoiser.process, x0, draws=draws, y=y, generator=generator
            )
            bits = likelihood.bits_per_dim(torch.tensor([nats.mean, nats.standard_error]), 784)
            row = {"bits_per_dim": round(float(bits[0]), 4), "se": round(float(bits[1]), 4)}
            add_row("likelihood", cell, row | {"seconds": round(time.perf_counter() - started, 1)})


def _chain(n: int = 5000, steps: int = 100) -> None:
    """Fréchet distance of x̂_0 along the chain."""
    cells = [
        {"run": run, "method": method, "steps": steps, "n": n}
        for run in ("linear-hybrid", "cosine-hybrid")
        for method in ("beta_tilde", "ddim")
    ]
    for cell in missing("chain", cells):
        denoiser, card = load(RUNS / cell["run"])
        process, started = denoiser.process, time.perf_counter()
        walk = FixedVariance(denoiser, 0.0)
        generator, seen = torch.Generator().manual_seed(0), {}  # type: ignore[var-annotated]
        for i in range(0, n, 250):
            y = torch.arange(i, i + 250) % 10
            for t, guess in _guesses(
                walk, card, process, y, METHODS[cell["method"]].eta, steps, generator
            ):
                seen.setdefault(t, []).append(guess)
        y, curve = torch.arange(n) % 10, []
        for t, guesses in seen.items():
            found = judged(torch.cat(guesses).float(), y, metrics=("fid", "agreement"))
            curve.append({"t": t} | found)
        add_row("chain", cell, {"curve": curve, "seconds": round(time.perf_counter() - started, 1)})


def _guesses(
    denoise: AnyDenoiser, card: zoo.Card, process: Any, y: Tensor, eta: float, steps: int,
    generator: torch.Generator, every: int = 5,
) -> Iterator[tuple[int, Tensor]]:  # fmt: skip
    """(t, x̂_0 as seen at t) at every fifth step, and the end of the chain as t = 0."""
    noise = torch.randn(len(y), *card.image_shape, generator=generator)
    times = samplers.uniform_times(process.T, steps)
    with torch.autocast("cpu", torch.bfloat16):
        states = samplers.sample(denoise, process, noise, times, eta=eta, y=y, generator=generator)
        for k, state in enumerate(states):
            if state.x0 is not None and (k - 1) % every == 0:
                yield times[k - 1], state.x0.half()
    yield 0, state.x.half()


def _gradient_noise(batches: int = 100, batch_size: int = 128) -> None:
    """tr Cov(g) / |E g|² of minibatch gradients g: uniform and importance-drawn times."""
    images = data.load("mnist")
    x, labels = data.to_float(images.x_train[:20_000]), images.labels("train")[:20_000]
    kinds = (("vlb", "uniform"), ("vlb", "importance"), ("simple", "uniform"))
    cells = [
        {"run": run, "objective": o, "times": t, "batches": batches, "batch_size": batch_size}
        for run in ("linear-vlb", "linear-hybrid")
        for o, t in kinds
    ]
    for cell in missing("gradient_noise", cells):
        model, _ = zoo.load(RUNS / cell["run"], "cpu")
        model.requires_grad_(True)
        generator = torch.Generator().manual_seed(0)
        objective = l_vlb if cell["objective"] == "vlb" else l_simple
        times = ImportanceTimes(model.process.T) if cell["times"] == "importance" else None
        if times:
            _warm(times, model, x, labels, generator)
        total, square = torch.zeros(1, dtype=torch.float64), 0.0
        for _ in range(batches):
            i = torch.randint(len(x), (batch_size,), generator=generator)
            model.zero_grad()
            diffusion_loss(model, x[i], labels[i], generator, 0.0, objective, times).backward()
            parts = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
            g = torch.cat(parts).double()
            total, square = total + g, square + float(g @ g)
        mean = total / batches
        # |mean|² overestimates |E g|² by tr Cov / batches: both are solved for without bias.
        trace = (square / batches - float(mean @ mean)) * batches / (batches - 1)
        signal = float(mean @ mean) - trace / batches
        noise = {"trace": trace, "signal": signal, "noise_to_signal": trace / signal}
        add_row("gradient_noise", cell, noise)


@torch.no_grad()
def _warm(
    times: ImportanceTimes, model: Denoiser, x: Tensor, y: Tensor, generator: torch.Generator
) -> None:
    while bool((times.seen < times.memory).any()):
        i = torch.randint(len(x), (500,), generator=generator)
        diffusion_loss(model, x[i], y[i], generator, 0.0, l_vlb, times)


if __name__ == "__main__":
    main()
