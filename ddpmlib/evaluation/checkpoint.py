"""Measure a checkpoint: draw samples, look at their features, note the result in the card."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ddpmlib import data
from ddpmlib.denoiser.denoiser import Denoiser
from ddpmlib.evaluation.accuracy import accuracy, accuracy_under_noise
from ddpmlib.evaluation.bits_per_dim import nll
from ddpmlib.evaluation.entries import note
from ddpmlib.evaluation.images import EXTRACTORS
from ddpmlib.evaluation.opened import Opened, check_test_images, opened
from ddpmlib.evaluation.sample_jobs import ALL, MEASURED, Drawing, Job, of_samples
from ddpmlib.evaluation.sampling import Sampling
from ddpmlib.files import check_writable
from ddpmlib.models.classifier import Classifier
from ddpmlib.models.noisy_classifier import NoisyClassifier
from ddpmlib.training import parallel
from ddpmlib.training.machine import hardware
from ddpmlib.zoo.checkpoints import find
from ddpmlib.zoo.parts import Build

METRICS = (*MEASURED, "nll")
Report = Callable[[dict[str, Any]], None]


def evaluate(
    name: str | Path,
    sampling: Sampling | None = None,
    *,
    metrics: Sequence[str] | None = None,
    n: int = 2000,
    extractor: str = ALL,
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
    denoiser: for each kind of features one entry "samples" with all that is measured on the same
    ``n`` samples, classes in turn, see :func:`measure_samples`; one entry "memorisation", see
    :func:`ddpmlib.evaluation.memorisation.memorisation`; and one entry "nll" with the variational
    bound on ``n`` test images, see :func:`nll`. An entry of the same setting is replaced, metric by
    metric. Several processes (see :mod:`ddpmlib.training.parallel`) share the drawing and the
    features, and the first one writes. Any number of evaluations of one checkpoint may run at the
    same time.

    Args:
        name: as for :func:`ddpmlib.zoo.checkpoints.load`.
        sampling: how samples are drawn, by default ``Sampling()``. Of "nll" it decides seed and
            bf16, and of a noisy classifier's accuracy the seed.
        metrics: some of :data:`METRICS`, by default all but "nll".
        n: samples, or test images for "nll".
        extractor: whose features: "all" that are at hand, see
            :func:`ddpmlib.evaluation.images.available`, because a conclusion that only one of them
            supports is none; or one of :data:`ddpmlib.evaluation.images.EXTRACTORS`; or a
            classifier's checkpoint. What features without classes cannot give is left out; if none
            have classes, that is printed.
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
    found = opened(name, device, images, skip_broken, build)
    check_writable(found.path.parent)
    check_test_images(found, metrics)
    jobs: list[Job] = []
    if not isinstance(found.model, Denoiser):
        if metrics is not None:
            raise ValueError(
                f"{found.card.name} is a classifier: it is measured by its accuracy alone"
            )
        jobs.append(partial(_accuracy, found, sampling.seed))
    else:
        drawing = Drawing(sampling, n, batch_size, compile, draws)
        jobs += of_samples(found, metrics, extractor, drawing)
    if "nll" in (metrics or ()):
        jobs.append(partial(_bound, found, sampling, n, nll_draws, batch_size))
    return [_measured(job, found, report) for job in jobs]


def _check_choices(metrics: Sequence[str] | None, extractor: str, n: int, draws: int) -> None:
    if n < 2:
        raise ValueError(f"measuring samples needs at least 2 of them, got n = {n}")
    choices: list[tuple[str, str, Sequence[str]]] = [("metrics", m, METRICS) for m in metrics or ()]
    if extractor not in (ALL, *EXTRACTORS):
        find(extractor)  # which says what there is
    for what, value, known in choices:
        if value not in known:
            raise ValueError(f"{what} must be among {', '.join(known)}, got {value!r}")
    if draws < 20:
        raise ValueError(f"a bootstrap interval needs at least 20 draws, got {draws}")


# ---- what is measured --------------------------------------------------------------------------


def _accuracy(found: Opened, seed: int) -> dict[str, Any]:
    if isinstance(found.model, NoisyClassifier):
        return accuracy_under_noise(found.model, found.images, seed)
    assert isinstance(found.model, Classifier)
    return accuracy(found.model, found.images)


def _bound(
    found: Opened, sampling: Sampling, n: int, draws: int, batch_size: int
) -> dict[str, Any]:
    """The entry of the bound on the likelihood."""
    assert isinstance(found.model, Denoiser)
    return nll(
        found.model, found.images, n, draws=draws, seed=sampling.seed,
        labels=found.card.num_classes > 0, bf16=sampling.bf16, batch_size=batch_size,
    )  # fmt: skip


def _measured(job: Job, found: Opened, report: Report | None) -> dict[str, Any]:
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
