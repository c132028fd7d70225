"""Measure a checkpoint: draw samples, look at their features, note the result in the card."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ddpmlib import data
from ddpmlib.denoiser.denoiser import Denoiser
from ddpmlib.evaluation.accuracy import accuracy, accuracy_under_noise
from ddpmlib.evaluation.bits_per_dim import nll
from ddpmlib.evaluation.drawing import classes_in_turn, generate
from ddpmlib.evaluation.entries import note
from ddpmlib.evaluation.images import EXTRACTORS, has_classifier, images_of, network_of
from ddpmlib.evaluation.sample_quality import (
    FEWEST_TEST_IMAGES,
    NEED_CLASSES,
    OF_SAMPLES,
    measure_samples,
)
from ddpmlib.evaluation.sampling import Sampling
from ddpmlib.files import check_writable
from ddpmlib.models.classifier import Classifier
from ddpmlib.models.noisy_classifier import NoisyClassifier
from ddpmlib.training import parallel
from ddpmlib.training.machine import hardware
from ddpmlib.zoo.card import Card
from ddpmlib.zoo.checkpoints import find, load
from ddpmlib.zoo.parts import Build

METRICS = (*OF_SAMPLES, "nll")
Job = Callable[[], dict[str, Any]]
Report = Callable[[dict[str, Any]], None]


def evaluate(
    name: str | Path,
    sampling: Sampling | None = None,
    *,
    metrics: Sequence[str] | None = None,
    n: int = 2000,
    extractor: str = "classifier",
    images: data.Dataset | Path | str | None = None,
    skip_broken: bool = False,
    build: Build | None = None,
    draws: int = 200,
    nll_draws: int = 50,
    batch_size: int = 500,
    compile: bool = False,
    device: torch.device | str | None = None,
    report: Report | None = None,
) -> list[dict[str, Any]]:
    """Measure a checkpoint and write the results into its card.

    A classifier: accuracy on the test set, for a noisy one see :func:`accuracy_under_noise`. A
    denoiser: one entry "samples" with all that is measured on ``n`` samples, classes in turn, see
    :func:`measure_samples`; and one entry "nll" with the variational bound on ``n`` test images,
    see :func:`nll`. An entry of the same setting is replaced, metric by metric. Several processes
    (see :mod:`ddpmlib.training.parallel`) share the drawing and the features, and the first one
    writes. Any number of evaluations of one checkpoint may run at the same time.

    Args:
        name: as for :func:`ddpmlib.zoo.checkpoints.load`.
        sampling: how samples are drawn, by default ``Sampling()``. Of "nll" it decides seed and
            bf16, and of a noisy classifier's accuracy the seed.
        metrics: some of :data:`METRICS`, by default all but "nll".
        n: samples, or test images for "nll".
        extractor: whose features: "classifier" is the one of the data set, "inception" is for
            colour images, "pixels" needs no network, and a checkpoint names a classifier; see
            :func:`ddpmlib.evaluation.images.network_of`. For images of a user's own that have no
            classifier, pixels are taken. What pixels cannot give is left out, which is printed.
        images: the data that the checkpoint was trained on, or where they lie, if they are a
            user's own and have moved; see :func:`ddpmlib.evaluation.images.images_of`.
        skip_broken: leave out files of ``images`` that cannot be read.
        build: the constructor of a network that is not the library's own, see
            :func:`ddpmlib.zoo.checkpoints.load`.
        draws: redrawn sets for the bootstrap intervals.
        nll_draws: random steps of the chain per test image.
        batch_size, compile: see :func:`generate`.
        report: is handed each result as soon as it is there, before it is written.

    Returns:
        the entries written.

    Raises:
        FileNotFoundError: if the checkpoint or the extractor is missing.
        OSError: if the folder of the card takes no files, which is asked first.
        ValueError: for an unknown metric or extractor, fewer than 2 samples, more steps than the
            process has, other images than those of the training, or guidance that does not fit the
            checkpoint; and if other weights have taken the place of those that were measured.
    """
    sampling = sampling or Sampling()
    _check_choices(metrics, extractor, n, draws)
    found = _opened(name, device, images, skip_broken, build)
    check_writable(found.path.parent)
    _check_test_images(found, metrics)
    jobs: list[Job] = []
    if not isinstance(found.model, Denoiser):
        if metrics is not None:
            raise ValueError(
                f"{found.card.name} is a classifier: it is measured by its accuracy alone"
            )
        jobs.append(partial(_accuracy, found, sampling.seed))
    elif chosen := [m for m in OF_SAMPLES if metrics is None or m in metrics]:
        extractor, chosen = _measurable(found, extractor, chosen, metrics is not None)
        jobs.append(
            partial(_samples, found, sampling, chosen, n, extractor, draws, batch_size, compile)
        )
    if "nll" in (metrics or ()):
        jobs.append(partial(_bound, found, sampling, n, nll_draws, batch_size))
    return [_measured(job, found, report) for job in jobs]


def _check_choices(metrics: Sequence[str] | None, extractor: str, n: int, draws: int) -> None:
    if n < 2:
        raise ValueError(f"measuring samples needs at least 2 of them, got n = {n}")
    choices: list[tuple[str, str, Sequence[str]]] = [("metrics", m, METRICS) for m in metrics or ()]
    if extractor not in EXTRACTORS:
        find(extractor)  # which says what there is
    for what, value, known in choices:
        if value not in known:
            raise ValueError(f"{what} must be among {', '.join(known)}, got {value!r}")
    if draws < 20:
        raise ValueError(f"a bootstrap interval needs at least 20 draws, got {draws}")


# ---- what is measured --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Checkpoint:
    path: Path
    model: Denoiser | Classifier | NoisyClassifier
    card: Card
    images: data.Dataset
    device: torch.device | str | None


def _opened(
    name: str | Path,
    device: torch.device | str | None,
    images: data.Dataset | Path | str | None,
    skip_broken: bool,
    build: Build | None,
) -> _Checkpoint:
    path = find(name)
    model, card = load(path, device, build=build)
    found = images_of(card, path.parent, images, skip_broken)
    return _Checkpoint(path, model, card, found, device)


def _check_test_images(found: _Checkpoint, metrics: Sequence[str] | None) -> None:
    """Whether there are enough to hold something against them."""
    images, of_samples = found.images, metrics is None or set(metrics) - {"nll"}
    needed = FEWEST_TEST_IMAGES if of_samples and isinstance(found.model, Denoiser) else 2
    if len(images.x_test) < needed:
        raise ValueError(
            f"{images.name} has {len(images.x_test)} test images, and measuring needs at least "
            f"{needed}: gather more"
        )


def _measurable(
    found: _Checkpoint, extractor: str, metrics: list[str], asked: bool
) -> tuple[str, list[str]]:
    """Whose features, and which metrics they can give; without a classifier those of pixels."""
    images = found.images
    alone = extractor == "classifier" and not has_classifier(images, found.path.parent)
    if not alone and extractor != "pixels":
        return extractor, metrics
    lost = [m for m in metrics if m in NEED_CLASSES]
    hint = _hint(found)
    if lost and asked:
        raise ValueError(f"{' and '.join(lost)} of {images.name} need a classifier: {hint}")
    if alone or lost:
        why = f"no classifier of {images.name} was found: " if alone else ""
        without = f", without {' and '.join(lost)}" if lost else ""
        print(f"{why}distances are those of pixels{without} ({hint})")
    return "pixels", [m for m in metrics if m not in NEED_CLASSES]


def _hint(found: _Checkpoint) -> str:
    """How to come by what pixels cannot give."""
    if found.images.num_classes < 2:
        return "they are of one kind, so there can be none"
    if has_classifier(found.images, found.path.parent):
        return "--features classifier gives them"
    return "`ddpmlib train --images PATH --kind classifier` trains one"


def _accuracy(found: _Checkpoint, seed: int) -> dict[str, Any]:
    if isinstance(found.model, NoisyClassifier):
        return accuracy_under_noise(found.model, found.images, seed)
    assert isinstance(found.model, Classifier)
    return accuracy(found.model, found.images)


def _samples(
    found: _Checkpoint,
    sampling: Sampling,
    metrics: Sequence[str],
    n: int,
    extractor: str,
    draws: int,
    batch_size: int,
    compile: bool,
) -> dict[str, Any]:
    """The entry of all that is measured on samples."""
    model, card, images = found.model, found.card, found.images
    assert isinstance(model, Denoiser)
    # Before the long part: it may be missing.
    network, sha256 = network_of(extractor, images, found.device, found.path.parent)
    y = classes_in_turn(card, n)
    x0 = generate(
        model, card.image_shape, y, sampling,
        n=n, card=card, batch_size=batch_size, compile=compile,
    )  # fmt: skip
    named = extractor in EXTRACTORS and extractor != "classifier"
    kind = extractor if named else f"{images.name}-classifier"
    entry = {"metric": "samples", "n": n} | sampling.record()
    entry |= measure_samples(network, x0, y, images, metrics, draws)
    return entry | {"features": kind, "extractor": sha256[:12]}


def _bound(
    found: _Checkpoint, sampling: Sampling, n: int, draws: int, batch_size: int
) -> dict[str, Any]:
    """The entry of the bound on the likelihood."""
    assert isinstance(found.model, Denoiser)
    return nll(
        found.model, found.images, n, draws=draws, seed=sampling.seed,
        labels=found.card.num_classes > 0, bf16=sampling.bf16, batch_size=batch_size,
    )  # fmt: skip


def _measured(job: Job, found: _Checkpoint, report: Report | None) -> dict[str, Any]:
    """Do the work, tell of it, and write its result into the card at once."""
    started = time.perf_counter()
    entry = job()
    entry["seconds"] = round(time.perf_counter() - started, 1)
    entry["hardware"] = hardware(next(found.model.parameters()).device)
    if report is not None:
        report(entry)
    if parallel.is_main():
        entry = note(found.path, found.card.sha256, entry)
    return entry
