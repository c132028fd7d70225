"""Measure a checkpoint: draw samples, let a judge look at them, note the result in the card."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ddpmlib import data, likelihood
from ddpmlib.denoiser.denoiser import Denoiser, FixedVariance
from ddpmlib.evaluation import features
from ddpmlib.evaluation import metrics as measures
from ddpmlib.evaluation.features import Judge
from ddpmlib.evaluation.generate import SPACINGS, classes_in_turn, generate, progress_bar
from ddpmlib.evaluation.guidance_options import GuidanceOptions
from ddpmlib.evaluation.judged import OF_SAMPLES, judged, random_places
from ddpmlib.models.classifier import Classifier
from ddpmlib.models.noisy_classifier import NoisyClassifier
from ddpmlib.training import parallel
from ddpmlib.training.machine import default_device, hardware
from ddpmlib.zoo.card import Card
from ddpmlib.zoo.checkpoints import find, load

METRICS = (*OF_SAMPLES, "nll")
# What makes two entries of a card the same measurement; older entries lack some keys.
CELL: dict[str, Any] = dict.fromkeys(("metric", "n", "steps", "eta", "seed", "draws", "features"))
CELL |= {"spacing": "uniform", "bf16": False, "guidance": None}


def evaluate(
    name: str | Path,
    *,
    metrics: Sequence[str] | None = None,
    n: int = 2000,
    steps: int = 50,
    eta: float = 0.0,
    seed: int = 0,
    spacing: str = "uniform",
    bf16: bool = False,
    compile: bool = False,
    judge: str = "classifier",
    draws: int = 200,
    nll_draws: int = 50,
    batch_size: int = 500,
    guidance: GuidanceOptions | None = None,
    device: torch.device | str | None = None,
) -> list[dict[str, Any]]:
    """Measure a checkpoint and write the results into its card.

    A classifier: accuracy on the test set, for a noisy one see :func:`accuracy_under_noise`. A
    denoiser: one entry "samples" with all that is measured on ``n`` samples, classes in turn, see
    :func:`judged`; and one entry "nll" with the variational bound on ``n`` test images, see
    :func:`nll`. An entry of the same setting is replaced, metric by metric. Several processes (see
    :mod:`ddpmlib.training.parallel`) share the drawing and the features, and the first one writes.

    Args:
        name: as for :func:`ddpmlib.zoo.checkpoints.load`.
        metrics: some of :data:`METRICS`, by default all but "nll".
        n: samples, or test images for "nll".
        steps, eta, seed, spacing, bf16, compile, batch_size: see :func:`generate`; ``spacing``
            names one of :data:`SPACINGS`.
        judge: whose features: "classifier" is the one of the data set, see :func:`network_of`,
            "inception" is for colour images.
        draws: redrawn sets for the bootstrap intervals.
        nll_draws: random steps of the chain per test image.
        guidance: of the samples; a bound on the likelihood has none.

    Returns:
        the entries written.

    Raises:
        FileNotFoundError: if the checkpoint or the judge is missing.
        ValueError: for an unknown metric, spacing or judge, fewer than 2 samples, ``steps`` or
            ``eta`` out of range, or guidance that does not fit the checkpoint.
    """
    _check_choices(metrics, spacing, judge, n)
    if draws < 20:
        raise ValueError(f"a bootstrap interval needs at least 20 draws, got {draws}")
    path = find(name)
    model, card = load(path, device)
    images = data.load(card.recipe["data"])
    setting = {"n": n, "steps": steps, "eta": eta, "seed": seed, "spacing": spacing, "bf16": bf16}
    if guidance and guidance.record():
        setting["guidance"] = guidance.record()

    def samples(chosen: Sequence[str]) -> dict[str, Any]:
        # Before the long part: it may be missing.
        network, sha256 = network_of(judge, images, device, path.parent)
        y = classes_in_turn(card, n)
        x0 = generate(
            guidance.wrap(model, card) if guidance else model, card.image_shape, y, steps,
            n=n, eta=eta, seed=seed, batch_size=batch_size,
            times=SPACINGS[spacing], bf16=bf16, compile=compile,
        )  # fmt: skip
        found = judged(network, x0, y, images, chosen, draws)
        kind = f"{images.name}-classifier" if judge == "classifier" else judge
        about = {"features": kind, "judge": sha256[:12]}
        return {"metric": "samples"} | setting | found | about

    def likelihood_bound() -> dict[str, Any]:
        how: dict[str, Any] = {
            "draws": nll_draws,
            "seed": seed,
            "bf16": bf16,
            "batch_size": batch_size,
        }
        return nll(model, images, n, labels=card.num_classes > 0, **how)

    jobs: list[Callable[[], dict[str, Any]]] = []
    if isinstance(model, Classifier | NoisyClassifier):
        if metrics is not None:
            raise ValueError(f"{card.name} is a classifier: it is measured by its accuracy alone")
        if isinstance(model, Classifier):
            jobs.append(partial(_accuracy, model, images))
        else:
            jobs.append(partial(accuracy_under_noise, model, images, seed))
    elif of_samples := [m for m in OF_SAMPLES if metrics is None or m in metrics]:
        jobs.append(partial(samples, of_samples))
    if "nll" in (metrics or ()):
        jobs.append(likelihood_bound)
    return [_measured(job, model, card, path.with_suffix(".json")) for job in jobs]


def _measured(
    job: Callable[[], dict[str, Any]], model: torch.nn.Module, card: Card, path: Path
) -> dict[str, Any]:
    """Do the work, and write its result into the card at once."""
    started = time.perf_counter()
    entry = job()
    entry["seconds"] = round(time.perf_counter() - started, 1)
    entry["hardware"] = hardware(next(model.parameters()).device)
    card.metrics[:], entry = _with_entry(card.metrics, entry)
    if parallel.is_main():
        card.write(path)
    return entry


def _check_choices(metrics: Sequence[str] | None, spacing: str, judge: str, n: int) -> None:
    if n < 2:
        raise ValueError(f"measuring samples needs at least 2 of them, got n = {n}")
    choices: list[tuple[str, str, Sequence[str]]] = [("metrics", m, METRICS) for m in metrics or ()]
    choices += [("spacing", spacing, list(SPACINGS))]
    choices += [("the judge", judge, ("classifier", "inception"))]
    for what, value, known in choices:
        if value not in known:
            raise ValueError(f"{what} must be among {', '.join(known)}, got {value!r}")


def network_of(
    judge: str,
    images: data.Dataset,
    device: torch.device | str | None = None,
    folder: Path | None = None,
) -> tuple[Judge, str]:
    """The network that judges a data set, and the SHA-256 of its file of weights.

    Args:
        judge: "classifier" or "inception".
        folder: of checkpoints; a classifier there comes before the shipped one.
    """
    if judge == "classifier":
        name = f"{images.name}-classifier"
        own = folder is not None and (folder / f"{name}.json").is_file()
        classifier, card = load(folder / f"{name}.safetensors" if folder and own else name, device)
        return classifier, card.sha256
    if images.image_shape[0] != 3:
        raise ValueError(f"{images.name} is grey, and Inception judges colour images only")
    return features.inception().to(device or default_device()), features.INCEPTION_SHA256


def _accuracy(model: Classifier, images: data.Dataset) -> dict[str, Any]:
    _, logits = features.judge(model, images.x_test)
    value = measures.class_agreement(logits, images.labels("test"))
    return {"metric": "test accuracy", "n": len(logits), "value": value}


@torch.no_grad()
def accuracy_under_noise(
    model: NoisyClassifier, images: data.Dataset, seed: int = 0, batch_size: int = 500
) -> dict[str, Any]:
    """Accuracy of p(y|x_t) on the test set at t = 1, T/10, 2T/10, ..., T, fresh noise at each.

    Args:
        model: with the process that it was trained on.
        images: the data set.
        seed: of the noise.
        batch_size: images per pass.

    Returns:
        an entry for the card: ``times`` and the accuracies ``at_times``, and as ``value`` the
        mean of these, all in [0, 1].

    Raises:
        ValueError: if the model knows no process.
    """
    process = model.process
    if process is None:
        raise ValueError("the classifier knows no process whose noise it should be measured under")
    device = next(model.parameters()).device
    x, y = data.to_float(images.x_test).to(device), images.labels("test").to(device)
    generator = torch.Generator(device).manual_seed(seed)
    times, found = sorted({max(1, round(process.T * k / 10)) for k in range(11)}), []
    for t in times:
        x_t = process.q_sample(x, t, torch.randn(x.shape, device=device, generator=generator))
        logits = [model(p, torch.full((len(p),), t, device=device)) for p in x_t.split(batch_size)]
        found.append(round(measures.class_agreement(torch.cat(logits), y), 4))
    mean = round(sum(found) / len(found), 4)
    about = {"metric": "test accuracy under noise", "n": len(y), "seed": seed}
    return about | {"value": mean, "times": times, "at_times": found}


# ---- likelihood --------------------------------------------------------------------------------


def nll(
    denoiser: Denoiser | FixedVariance,
    images: data.Dataset,
    n: int,
    *,
    draws: int = 50,
    seed: int = 0,
    labels: bool = True,
    bf16: bool = False,
    batch_size: int = 500,
) -> dict[str, Any]:
    """The variational bound on −log p of random test images, in bits per dimension.

    The bound of the whole chain T, …, 0, estimated without bias from ``draws`` random steps per
    image (:func:`ddpmlib.likelihood.bound.elbo_monte_carlo`), with the standard error of the mean.

    Args:
        denoiser: its reverse variance, fixed or learned, is part of what is measured.
        n: test images, at least 2; all if there are fewer.
        labels: condition on the classes of the images.

    Returns:
        metric, n, steps (T), draws, seed, bf16, bits_per_dim, standard_error.
    """
    device = next(denoiser.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    order = random_places(images.x_test, n)
    found, parts = [], max(1, len(order) // batch_size)  # none of a single image
    for index in progress_bar(order.tensor_split(parts)):
        x0 = data.to_float(images.x_test[index]).to(device)
        y = images.labels("test")[index].to(device) if labels else None
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            found.append(
                likelihood.elbo_monte_carlo(
                    denoiser, denoiser.process, x0, draws=draws, y=y, generator=generator
                )
            )
    total = _pooled(found)
    unit = math.log(2) * math.prod(images.image_shape)
    entry = {"metric": "nll", "n": total.n, "steps": denoiser.process.T, "draws": draws}
    entry |= {"seed": seed, "bf16": bf16, "bits_per_dim": round(total.mean / unit, 4)}
    return entry | {"standard_error": round(total.standard_error / unit, 4)}


def _pooled(parts: Sequence[likelihood.Estimate]) -> likelihood.Estimate:
    """One estimate from those of disjoint sets of samples, as if they had been one set."""
    n = sum(p.n for p in parts)
    mean = sum(p.n * p.mean for p in parts) / n
    squares = sum(p.standard_error**2 * p.n * (p.n - 1) + p.n * (p.mean - mean) ** 2 for p in parts)
    return likelihood.Estimate(mean, math.sqrt(squares / (n - 1) / n), n)


# ---- the card ----------------------------------------------------------------------------------


def _with_entry(
    known: list[dict[str, Any]], entry: dict[str, Any]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The list with the entry in place of that of the same cell.

    The other metrics of that one are kept if the same judge made them: the samples are the same.
    """
    for before in known:
        if _cell(before) == _cell(entry) and before.get("judge") == entry.get("judge"):
            entry = before | entry
    same = [i for i, m in enumerate(known) if _cell(m) == _cell(entry)]
    place = same[0] if same else len(known)
    others = [m for i, m in enumerate(known[place:], place) if i not in same]
    return [*known[:place], entry, *others], entry


def _cell(entry: dict[str, Any]) -> list[Any]:
    return [entry.get(key, default) for key, default in CELL.items()]
