"""Measure a checkpoint: draw samples, let the shipped classifier judge them, note the result."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddpmlib import data, features, metrics, samplers
from ddpmlib.denoiser import Denoiser
from ddpmlib.models import Classifier
from ddpmlib.runs import hardware
from ddpmlib.zoo import Card, find, load


def evaluate(
    name: str | Path,
    *,
    n: int = 2000,
    steps: int = 50,
    eta: float = 0.0,
    seed: int = 0,
    batch_size: int = 500,
    device: torch.device | str | None = None,
) -> dict[str, Any]:
    """Measure a checkpoint and write the result into its card.

    A classifier: accuracy on the test set. A denoiser: ``n`` samples, classes in turn, judged by
    the shipped classifier of its data set: class agreement, and the Fréchet distance to the
    training set on the classifier's features, with the floor that ``n`` real test images reach.

    Raises:
        FileNotFoundError: if the checkpoint or the classifier is missing.
        ValueError: if ``n`` is less than 2, or ``steps`` or ``eta`` are out of range.
    """
    if n < 2:
        raise ValueError(f"measuring samples needs at least 2 of them, got n = {n}")
    path = find(name)
    model, card = load(path, device)
    images = data.load(card.recipe["data"])
    started = time.perf_counter()
    if isinstance(model, Classifier):
        _, logits = features.judge(model, images.x_test)
        result = {"metric": "test accuracy", "n": len(logits)}
        result["value"] = metrics.class_agreement(logits, images.y_test)
    else:
        judge = f"{images.name}-classifier"
        classifier, _ = load(judge, device)  # before the long part: it may be missing
        y = classes_in_turn(card, n)
        x0 = generate(
            model, card.image_shape, y, steps, n=n, eta=eta, seed=seed, batch_size=batch_size
        )
        result = {"metric": "samples", "n": n, "steps": steps, "eta": eta, "seed": seed}
        result |= _judged(classifier, x0, y, images) | {"features": judge}
    result["seconds"] = round(time.perf_counter() - started, 1)
    result["hardware"] = hardware(next(model.parameters()).device)
    card.metrics[:] = [m for m in card.metrics if not _same_cell(m, result)] + [result]
    card.write(path.with_suffix(".json"))
    return result


def classes_in_turn(card: Card, n: int) -> Tensor | None:
    """Labels 0, 1, ..., again from 0: (n,) int64; None if the checkpoint knows no classes."""
    return torch.arange(n) % card.num_classes if card.num_classes else None


def generate(
    denoiser: Denoiser,
    image_shape: tuple[int, ...],
    y: Tensor | None,
    steps: int,
    *,
    n: int | None = None,
    eta: float = 0.0,
    seed: int = 0,
    batch_size: int = 500,
) -> Tensor:
    """Samples in batches with a progress bar: (N, C, H, W) on the CPU, one per label, or n."""
    from tqdm import tqdm

    device = next(denoiser.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    total = n if y is None else len(y)
    if total is None or total < 1 or (n is not None and n != total):
        raise ValueError(f"give labels or a number of samples, at least 1: n = {n}, labels {y}")
    times = samplers.uniform_times(denoiser.process.T, steps)
    done = []
    for i in tqdm(range(0, total, batch_size), unit="batch", disable=None):
        size = min(batch_size, total - i)
        noise = torch.randn(size, *image_shape, device=device, generator=generator)
        labels = None if y is None else y[i : i + size].to(device)
        x0 = samplers.draw(
            denoiser, denoiser.process, noise, times, eta=eta, y=labels, generator=generator
        )
        done.append(x0.cpu())
    return torch.cat(done)


def _judged(
    classifier: Classifier, x0: Tensor, y: Tensor | None, images: data.Images
) -> dict[str, Any]:
    fake, logits = features.judge(classifier, x0)
    train, _ = features.judge(classifier, images.x_train)
    # At random, because test sets are sorted: the first half of MNIST's is the easier one.
    order = torch.randperm(len(images.x_test), generator=torch.Generator().manual_seed(0))
    test, _ = features.judge(classifier, images.x_test[order[: len(x0)]])
    agreement = {} if y is None else {"class_agreement": metrics.class_agreement(logits, y)}
    return agreement | {
        "frechet": round(metrics.frechet_distance(fake, train), 4),
        "frechet_floor": round(metrics.frechet_distance(test, train), 4),
        "floor_n": len(test),
    }


def _same_cell(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(a.get(k) == b.get(k) for k in ("metric", "n", "steps", "eta", "seed"))
