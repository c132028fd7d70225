"""Does a model give its training images back? Tests that compare them with images it never saw.

No distance to a training set can tell: copies of training images score as well as new images of the
same kind, or better. So each of these tests holds training images against held-out ones.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ddpmlib import data
from ddpmlib.data import Dataset
from ddpmlib.denoiser.denoiser import Denoiser
from ddpmlib.evaluation import intervals
from ddpmlib.evaluation.metrics import squared_distances
from ddpmlib.inputs import as_images, as_values

COPY_RATIO = 1 / 3


class Gap(NamedTuple):
    """A mean difference and its standard error."""

    difference: float
    standard_error: float


def nearest_distances(x: Tensor, images: Tensor, k: int = 1, chunk: int = 500) -> Tensor:
    """Root-mean-square difference per pixel of each image from its k nearest ones, nearest first.

    Args:
        x: (N, C, H, W), uint8 0..255 or floats in [-1, 1].
        images: the ones to look among, (M, C, H, W), M ≥ k, uint8 or floats.
        k: how many.
        chunk: images of ``x`` at a time.

    Returns:
        (N, k) float64, in units of the range [-1, 1].

    Raises:
        ValueError: if the images differ in shape, or there are fewer than k to look among.
    """
    x, images = _images(x, "x"), _images(images, "images")
    if x.ndim != 4 or x.shape[1:] != images.shape[1:]:
        raise ValueError(
            f"need images (N, C, H, W) and (M, C, H, W), got {tuple(x.shape)} and "
            f"{tuple(images.shape)}"
        )
    if not 1 <= k <= len(images):
        raise ValueError(f"k must lie in 1..{len(images)}, the images to look among, got {k}")
    pixels = images[0].numel()
    best = torch.full((len(x), k), torch.inf, dtype=torch.float64)
    for others in map(_rows, images.split(10_000)):
        for i in range(0, len(x), chunk):
            found = squared_distances(_rows(x[i : i + chunk]), others)
            known = torch.cat([best[i : i + chunk], found], 1)
            best[i : i + chunk] = known.topk(k, 1, largest=False).values
    return (best / pixels).sqrt()


def copied(x: Tensor, train: Tensor) -> Tensor:
    """Which images are copies: much nearer to one training image than to any second one.

    The nearest training image is at less than a third of the distance of the second nearest, the
    rule of Yoon et al. (2023, "Diffusion probabilistic models generalize when they fail to
    memorize"). Where a training image is there twice, its copies go unnoticed.

    Args:
        x: (N, C, H, W), uint8 or floats in [-1, 1].
        train: (M, C, H, W), M ≥ 2.

    Returns:
        (N,) booleans.
    """
    return _is_copy(nearest_distances(x, train, 2))


def _is_copy(near: Tensor) -> Tensor:
    return near[:, 0] < COPY_RATIO * near[:, 1]


def nearer_to_training(x: Tensor, train: Tensor, held_out: Tensor) -> float:
    """Share of images whose nearest neighbour in both sets together was trained on.

    If the images, the N that were trained on and the M others are all draws of one distribution,
    each of the N + M is as likely to be the nearest, and the share is N / (N + M) on average. For
    copies it is 1.

    Args:
        x: (B, C, H, W), B ≥ 1.
        train, held_out: (N, C, H, W) and (M, C, H, W).

    Raises:
        ValueError: if there is no image, or a set is empty.
    """
    x, train = _images(x, "x"), _images(train, "training images")
    held_out = _images(held_out, "held-out images")
    if not all(part.ndim and len(part) for part in (x, train, held_out)):
        raise ValueError(
            "need images, training images and held-out images, got "
            f"{tuple(x.shape)}, {tuple(train.shape)} and {tuple(held_out.shape)}"
        )
    return _share_nearer(
        nearest_distances(x, train)[:, 0], nearest_distances(x, held_out)[:, 0],
        len(train) / (len(train) + len(held_out)),
    )  # fmt: skip


def _share_nearer(own: Tensor, others: Tensor, by_chance: float) -> float:
    return float(((own < others).double() + by_chance * (own == others).double()).mean())


@torch.no_grad()
def denoising_gap(
    denoiser: Denoiser,
    train: tuple[Tensor, Tensor | None],
    held_out: tuple[Tensor, Tensor | None],
    t: int,
    generator: torch.Generator,
    batch_size: int = 250,
) -> Gap:
    """How much worse x_0 is predicted for held-out images than for training images.

    The mean squared error per pixel of the prediction from x_t; a model that has learned the
    distribution is as good on both, one that has learned its images by heart is not.

    Args:
        denoiser: in evaluation mode.
        train, held_out: images in [-1, 1] (N, C, H, W) with their labels (N,) or None.
        t: a time of the process, in 1..T.
        generator: of the noise.
        batch_size: images per call.

    Returns:
        error on held-out images minus error on training images, and its standard error.
    """
    errors = [_errors(denoiser, *part, t, generator, batch_size) for part in (train, held_out)]
    (a, va), (b, vb) = ((e.mean(), e.var() / len(e)) for e in errors)
    return Gap(float(b - a), float((va + vb).sqrt()))


def measure_memorisation(x0: Tensor, images: Dataset) -> dict[str, Any]:
    """What samples alone tell of memorisation, as plain numbers beside what is to be expected.

    Args:
        x0: samples (N, C, H, W) in [-1, 1].
        images: what was trained on, and the test images that were not.

    Returns:
        ``nearer_to_training``, see :func:`nearer_to_training`, with its ``_interval`` (95 %) and
        its ``_expected`` value for samples of the distribution; ``copies``, the share of copies,
        see :func:`copied`, with ``copies_floor``, that of as many test images.
    """
    x0 = as_images(x0, "samples").clamp(-1, 1)
    near = nearest_distances(x0, images.x_train, 2)
    expected = len(images.x_train) / (len(images.x_train) + len(images.x_test))
    other = nearest_distances(x0, images.x_test)[:, 0]
    share = _share_nearer(near[:, 0], other, expected)
    order = torch.randperm(len(images.x_test), generator=torch.Generator().manual_seed(0))
    floor = copied(images.x_test[order[: len(x0)]], images.x_train)
    interval = intervals.share_interval(share, len(x0))
    return {
        "nearer_to_training": round(share, 4),
        "nearer_to_training_interval": [round(v, 4) for v in interval],
        "nearer_to_training_expected": round(expected, 4),
        "copies": round(float(_is_copy(near).double().mean()), 4),
        "copies_floor": round(float(floor.double().mean()), 4),
    }


def _images(x: Any, name: str) -> Tensor:
    """Images of either kind, whose values can be read and are finite."""
    return as_values(as_images(x, name), name)


def _rows(x: Tensor) -> Tensor:
    x = data.to_float(x) if x.dtype == torch.uint8 else x
    return x.flatten(1).cpu().double()


def _errors(
    denoiser: Denoiser,
    x: Tensor,
    y: Tensor | None,
    t: int,
    generator: torch.Generator,
    batch_size: int,
) -> Tensor:
    x, found = as_images(x), []
    if x.ndim < 2 or not x.is_floating_point() or len(x) < 2:
        raise ValueError(f"need at least two images as floats in [-1, 1], got {tuple(x.shape)}")
    for i in range(0, len(x), batch_size):
        x0, part = x[i : i + batch_size], None if y is None else y[i : i + batch_size]
        times = torch.full((len(x0),), t, device=x0.device)
        eps = torch.randn(x0.shape, generator=generator, device=generator.device).to(x0)
        x_t = denoiser.process.q_sample(x0, times, eps)
        error = (denoiser(x_t, times, part).x0 - x0).flatten(1).square().mean(1)
        found.append(error.cpu().double())
    return torch.cat(found)
