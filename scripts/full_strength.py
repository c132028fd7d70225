"""Train and measure what ships at full strength, in half an hour of one GPU.

    python -m scripts.full_strength --out runs/full                          all, in 30 minutes
    python -m scripts.full_strength --out runs/full --only cifar10 --minutes 20
    python -m scripts.full_strength --out runs/full --dry-run --device cpu   a rehearsal

Each recipe of :data:`JOBS` is trained for its share of the time, shipped into ``OUT/checkpoints``
and measured there. Every step is kept as soon as it is done, so a call that was cut off is called
again, word for word, and goes on. Data sets are archives in the data directory (``DDPMLIB_DATA``);
``--sheets`` names a folder of lossless sheets to make them from. Nothing is downloaded that is
there.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ddpmlib import data, evaluation, zoo
from ddpmlib.cli import time_limit
from ddpmlib.data import archives
from ddpmlib.evaluation import Guidance, Sampling, statistics
from ddpmlib.training import default_device
from ddpmlib.zoo import RECIPES, Recipe, recipes, runs
from ddpmlib.zoo.cost import budget
from ddpmlib.zoo.stretches import recorded

TRAINING = 0.8  # of the time; the rest measures
SAVE_EVERY = 250  # updates


@dataclass(frozen=True)
class Job:
    """A recipe, its share of the time for training, and what is changed in it.

    The changes suit a fast device: larger batches and, as these make fewer updates, larger steps.
    """

    recipe: str
    share: float
    changes: dict[str, Any] = field(default_factory=dict)


LARGE = {"settings.batch_size": 512, "settings.warmup": 500, "settings.ema": 0.9995}
# What the repository has room for: 22 M weights, 45 MB; and few epochs need little dropout.
FITTING = {"net.width": 96, "net.blocks": 2, "net.dropout": 0.1, "settings.batch_size": 256}
JOBS = (  # the networks that others are measured by first
    Job("mnist-classifier", 1),
    Job("fashion_mnist-classifier", 1),
    Job("cifar10-classifier", 3),
    Job("mnist", 6, LARGE | {"settings.lr": 3e-3}),
    Job("fashion_mnist", 6, LARGE | {"settings.lr": 3e-3}),
    Job("cifar10-small", 8, LARGE | {"settings.lr": 2e-3}),
    Job("cifar10", 25, LARGE | {"settings.lr": 4e-4} | FITTING),
)
MEASUREMENTS: list[dict[str, Any]] = [
    *({"n": 5000, "sampling": Sampling(steps=k)} for k in (10, 20, 50, 100)),
    *({"n": 5000, "sampling": Sampling(steps=k, eta=1.0)} for k in (20, 50, 100)),
    *(
        {"n": 5000, "sampling": Sampling(steps=50, eta=1.0, guidance=Guidance(w=w))}
        for w in (0.25, 0.5, 1.0, 2.0)
    ),
    {"metrics": ("nll",), "n": 2000},
]
TOY_RUN = {"settings.steps": 2, "settings.batch_size": 16}
TOY: list[dict[str, Any]] = [
    {"n": 16, "sampling": Sampling(steps=2), "draws": 20},
    {"metrics": ("nll",), "n": 16, "nll_draws": 2},
]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of everything")
    parser.add_argument("--minutes", type=time_limit, default=30.0, help="in all (default 30)")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", choices=[job.recipe for job in JOBS],
        help="these recipes share the time",
    )  # fmt: skip
    parser.add_argument("--sheets", type=Path, help="folder of sheets to make missing archives of")
    parser.add_argument("--device", help="cpu or cuda (default: a GPU if there is one)")
    parser.add_argument(
        "--dry-run", action="store_true", help="two updates and 16 samples of each, in OUT/dry-run"
    )
    args = parser.parse_args()
    out, status = args.out / "dry-run" if args.dry_run else args.out, 0
    for job, minutes in _shared(args.only, args.minutes):
        try:
            _carry_out(job, minutes, out, args)
        except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
            # The others still have their time.
            lines = str(error).strip().splitlines() or [type(error).__name__]
            print(f"{job.recipe}: {lines[0]}", file=sys.stderr)
            status = 2
    return status


def _shared(only: list[str] | None, minutes: float) -> Iterator[tuple[Job, float]]:
    """The jobs that are wanted and known, with the minutes of training that each may take."""
    wanted = [job for job in JOBS if only is None or job.recipe in only]
    for job in wanted:
        if job.recipe not in RECIPES:
            print(f"{job.recipe}: skipped, this version of the library knows no such recipe")
    known = [job for job in wanted if job.recipe in RECIPES]
    total = sum(job.share for job in known)
    return ((job, TRAINING * minutes * job.share / total) for job in known)


def _carry_out(job: Job, minutes: float, out: Path, args: argparse.Namespace) -> None:
    recipe = recipes.changed(RECIPES[job.recipe], job.changes | (TOY_RUN if args.dry_run else {}))
    images = _images(recipe.data, args.sheets)
    _print_plan(recipe, images, minutes)
    device = torch.device(args.device or default_device())
    fast = device.type == "cuda"
    before = recorded(out / recipe.name / zoo.STATE)
    if before is not None:  # it goes on to the end that its minutes gave it
        steps = before.recipe.settings.steps
        recipe = recipes.changed(recipe, {"settings.steps": steps})
    begins = before is None and not args.dry_run
    runs.train(
        recipe, out / recipe.name, resume=True, minutes=minutes if begins else None,
        device=device, compile=fast, channels_last=fast, save_every=SAVE_EVERY,
        command=_command(job, fast),
    )  # fmt: skip
    path = _shipped(out / recipe.name, recipe.name, out / "checkpoints")
    if recipe.kind == "classifier":
        _measure_classifier(path, images, out / "statistics", device)
    else:
        for how in TOY if args.dry_run else MEASUREMENTS:
            _measure(path, how, device)


def _images(name: str, sheets: Path | None) -> data.Dataset:
    if sheets is not None and name in archives.SIDES and not data.archive_path(name).exists():
        print(f"{data.unpack(sheets, name)}: made of the sheets in {sheets}")
    return data.load(name)


def _command(job: Job, fast: bool) -> str:
    """What trains the same model; the number of steps is added when it is known."""
    words = ["ddpmlib", "train", job.recipe, *(["--compile", "--channels-last"] if fast else [])]
    changes = [f"{name}={json.dumps(value)}" for name, value in job.changes.items()]
    return shlex.join([*words, *(["--set", *changes] if changes else [])])


def _print_plan(recipe: Recipe, images: data.Dataset, minutes: float) -> None:
    cost, batch = budget(recipe, images), recipe.settings.batch_size
    held = {"weights": cost.weights, "gradients": cost.weights, "average": cost.average}
    held |= {"optimiser": cost.optimiser, "images": cost.images}
    parts = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in held.items())
    print(
        f"{recipe.name}: {cost.parameters / 1e6:.2f} M weights; {cost.flops / 1e9:.2f} GFLOP an "
        f"image, {cost.flops * batch / 1e12:.3f} TFLOP an update of {batch}; on the device "
        f"{cost.resident / 1e6:.1f} MB ({parts}) and the activations; {minutes:.1f} minutes"
    )


def _shipped(run: Path, name: str, folder: Path) -> Path:
    """The checkpoint of a finished run, in half precision; one that is whole stays."""
    path = folder / f"{name}.safetensors"
    try:
        whole = zoo.read(path)[0].training == zoo.Card.read(run / "model.json").training
    except (OSError, ValueError):
        whole = False
    return path if whole else zoo.ship(run, folder=folder)


def _measure_classifier(
    path: Path, images: data.Dataset, folder: Path, device: torch.device
) -> None:
    """How often a classifier is right, and what its data set looks like to it."""
    if zoo.Card.read(path.with_suffix(".json")).metrics:
        return
    network, sha256 = evaluation.network_of("classifier", images, device, path.parent)
    found = statistics.compute_statistics(network, images)
    statistics.write_statistics(found, folder / f"{images.name}.safetensors", sha256)
    print(evaluation.evaluate(path, device=device))


def _measure(path: Path, how: dict[str, Any], device: torch.device) -> None:
    """One measurement of a denoiser, if the card does not hold it yet."""
    sampling, fast = how.get("sampling"), device.type == "cuda"
    if sampling is None:  # a bound wants all digits, and is cheap
        fast = False
    else:
        how = how | {"sampling": replace(sampling, bf16=fast)}
    entries = zoo.Card.read(path.with_suffix(".json")).metrics
    if not evaluation.is_measured(entries, how["n"], how.get("sampling")):
        print(evaluation.evaluate(path, device=device, compile=fast, **how))


if __name__ == "__main__":
    sys.exit(main())
