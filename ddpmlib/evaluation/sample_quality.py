"""Everything that can be measured on samples, against real images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ddpmlib import data
from ddpmlib.condition import as_condition
from ddpmlib.evaluation import features, intervals, statistics
from ddpmlib.evaluation import metrics as measures
from ddpmlib.evaluation.features import FeatureExtractor
from ddpmlib.evaluation.metrics import Moments
from ddpmlib.inputs import as_images
from ddpmlib.models.classifier import Classifier

OF_SAMPLES = ("agreement", "fid", "contrast", "is", "kid", "pr", "saturation")
NEED_CLASSES = ("agreement", "is")  # which pixels alone cannot give
FEWEST_TEST_IMAGES = 8


# ---- measuring ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """Real images by their features, to hold samples against.

    Attributes:
        moments: of the whole training set.
        train: features of random training images, (n, F): the reference of KID and recall.
        test, test_logits: of as many random test images, or of all if there are fewer: what they
            reach in place of samples is the floor.
        test_saturation: share of saturated pixels of the same test images.
        pixels: mean and standard deviation of all pixels of (random) training images.
        test_pixels: those of the test images.
    """

    moments: Moments
    train: Tensor
    test: Tensor
    test_logits: Tensor
    test_saturation: float
    pixels: tuple[float, float]
    test_pixels: tuple[float, float]


def reference(
    classifier: FeatureExtractor, images: data.Dataset, n: int, y: Tensor | None = None
) -> Reference:
    """The real images to hold ``n`` samples against; worth keeping for many sets of samples.

    Args:
        classifier: whose features.
        images: the data set.
        n: samples that will be measured.
        y: their classes (n,): test images then come in the same numbers per class, because equal
            numbers alone bring samples nearer to the training set than a random draw is.
    """
    x_train = images.x_train[random_places(images.x_train, max(n, 10_000))]
    train, _ = features.extract(classifier, x_train[:n])
    labels = images.x_test if y is None else images.labels("test")
    x_test = images.x_test[random_places(labels, n, y)]
    test, test_logits = features.extract(classifier, x_test)
    saturated = measures.saturation(data.to_float(x_test)).saturated
    moments = statistics.train_moments(classifier, images)
    pixels, test_pixels = _pixels(data.to_float(x_train)), _pixels(data.to_float(x_test))
    return Reference(moments, train, test, test_logits, saturated, pixels, test_pixels)


def _pixels(x: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of all pixels."""
    x = x.double()
    return float(x.mean()), float(x.std(correction=0))


def random_places(labels: Tensor, n: int, y: Tensor | None = None) -> Tensor:
    """Places of n random images, or of as many of each class as in ``y``, in random order.

    Args:
        labels: of the images to choose from; without ``y`` they are only counted.
    """
    # At random, because test sets are sorted: the first half of MNIST's is the easier one.
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    if y is None:
        return order[:n]
    ordered, left = labels[order], torch.bincount(y.cpu(), minlength=int(labels.max()) + 1)
    rank = torch.zeros_like(ordered)  # how many of its class came before
    for k in range(len(left)):
        own = ordered == k
        rank[own] = torch.arange(int(own.sum()))
    return order[rank < left[ordered]]


@dataclass(frozen=True)
class _Seen:
    classifier: FeatureExtractor
    x0: Tensor
    fake: Tensor
    logits: Tensor
    y: Tensor | None
    real: Reference
    draws: int

    @property
    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(0)


def measure_samples(
    classifier: FeatureExtractor,
    x0: Tensor,
    y: Tensor | None,
    images: data.Dataset,
    metrics: Sequence[str] = OF_SAMPLES,
    draws: int = 200,
    real: Reference | None = None,
) -> dict[str, Any]:
    """Everything that can be measured on samples, as plain numbers.

    Args:
        classifier: whose features.
        x0: samples (N, C, H, W) in [-1, 1], N ≥ 2.
        y: the classes that were asked for, (N,), or None.
        images: the data set they should look like.
        metrics: some of :data:`OF_SAMPLES`.
        draws: redrawn sets for the intervals, see :func:`ddpmlib.evaluation.intervals.bootstrap`.
        real: ``reference(classifier, images, N, y)`` if it is at hand.

    Returns:
        numbers by name, for each of ``metrics``

        - agreement: ``class_agreement`` with its ``_interval`` (not without labels, nor for
          Inception, which knows other classes);
        - fid: ``frechet`` to the whole training set with its ``_interval``; ``frechet_floor``,
          what ``floor_n`` random test images reach, as many as the samples if there are so many;
        - contrast: ``contrast``, the deviation of all pixels over that of training images, and
          ``brightness``, the difference of their means, each with the ``_floor`` of test images;
          ``frechet_matched`` with its ``_interval``: the distance when both are made equal, see
          :func:`ddpmlib.evaluation.metrics.matched_contrast`;
        - is: ``inception_score`` with its ``_std`` over ``splits``, and its ``_floor``, which here
          is what test images reach;
        - kid: ``kid`` to as many training images, with its ``_std`` over subsets of ``kid_size``,
          and its ``_floor``;
        - pr: ``precision`` and ``recall``, ``density`` and ``coverage`` against as many training
          images, each with its ``_floor``, that of test images;
        - saturation: ``saturation``, the share of white pixels, with its ``_floor``, that of test
          images, and ``out_of_range``, see :func:`ddpmlib.evaluation.metrics.saturation`.
    """
    x0 = as_images(x0, "samples")
    y = None if y is None else as_condition(y, x0)
    fake, logits = features.extract(classifier, x0)
    real = real or reference(classifier, images, len(x0), y)
    if not isinstance(classifier, Classifier):  # it knows other classes, or none
        y = None
    seen = _Seen(classifier, x0, fake, logits, y, real, draws)
    found: dict[str, Any] = {}
    for name in metrics:
        found |= _MEASURE[name](seen)
    return found


def _agreement(seen: _Seen) -> dict[str, Any]:
    if seen.y is None:
        return {}
    value = measures.class_agreement(seen.logits, seen.y)
    interval = intervals.share_interval(value, len(seen.y))
    return {"class_agreement": value, "class_agreement_interval": _rounded(interval)}


def _fid(seen: _Seen) -> dict[str, Any]:
    value, interval = _distance(seen, seen.fake)
    return {
        "frechet": value,
        "frechet_interval": interval,
        "frechet_floor": round(measures.frechet_distance(seen.real.test, seen.real.moments), 4),
        "floor_n": len(seen.real.test),
    }


def _contrast(seen: _Seen) -> dict[str, Any]:
    mean, std = seen.real.pixels
    found: dict[str, Any] = {}
    for suffix, (m, s) in (("", _pixels(seen.x0.clamp(-1, 1))), ("_floor", seen.real.test_pixels)):
        found |= {f"contrast{suffix}": round(s / std, 4), f"brightness{suffix}": round(m - mean, 4)}
    matched = measures.matched_contrast(seen.x0, mean, std)
    value, interval = _distance(seen, features.extract(seen.classifier, matched)[0])
    return found | {"frechet_matched": value, "frechet_matched_interval": interval}


def _distance(seen: _Seen, fake: Tensor) -> tuple[float, list[float]]:
    """The Fréchet distance to the training set, and its bootstrap interval."""
    train = seen.real.moments
    train.root()  # once for all

    def distance(h: Tensor) -> float:
        return measures.frechet_distance(h, train)

    interval = intervals.bootstrap(
        distance, fake, draws=seen.draws, groups=seen.y, generator=seen.generator
    )
    return round(distance(fake), 4), _rounded(interval)


def _is(seen: _Seen) -> dict[str, Any]:
    splits = max(1, min(10, len(seen.logits) // 100))  # each must hold all classes
    score = measures.inception_score(seen.logits, splits)
    real = seen.real.test_logits
    # Splits of equal size, because small ones score lower.
    floor = measures.inception_score(real, max(1, len(real) * splits // len(seen.logits)))
    found = {"inception_score": score.mean, "inception_score_std": score.std}
    found = {k: round(v, 4) for k, v in found.items()}
    return found | {"inception_score_floor": round(floor.mean, 4), "splits": splits}


def _kid(seen: _Seen) -> dict[str, Any]:
    sets = seen.fake, seen.real.train, seen.real.test
    size = max(2, min(1000, min(map(len, sets)) // 2))  # of all, subsets would not differ
    scores = [
        measures.kid(h, seen.real.train, size=size, generator=seen.generator)
        for h in (seen.fake, seen.real.test)
    ]
    (value, std), (floor, _) = scores
    found = {"kid": value, "kid_std": std, "kid_floor": floor}
    return {k: round(v, 6) for k, v in found.items()} | {"kid_size": size}


def _pr(seen: _Seen) -> dict[str, Any]:
    train, found = seen.real.train, dict[str, Any]()
    names = ("precision", "recall", "density", "coverage")
    k = min(3, len(seen.fake) - 1, len(seen.real.test) - 1)
    for suffix, h in (("", seen.fake), ("_floor", seen.real.test)):
        spread = measures.density_coverage(train, h, min(5, len(train) - 1))
        values = (*measures.precision_recall(train, h, k), *spread)
        found |= {f"{n}{suffix}": round(v, 4) for n, v in zip(names, values, strict=True)}
    return found


def _saturation(seen: _Seen) -> dict[str, Any]:
    saturated, out_of_range = measures.saturation(seen.x0)
    found = {"saturation": saturated, "saturation_floor": seen.real.test_saturation}
    return {k: round(v, 5) for k, v in (found | {"out_of_range": out_of_range}).items()}


_MEASURE: dict[str, Callable[[_Seen], dict[str, Any]]] = {
    "agreement": _agreement, "fid": _fid, "contrast": _contrast, "is": _is, "kid": _kid, "pr": _pr,
    "saturation": _saturation,
}  # fmt: skip


def _rounded(interval: intervals.Interval) -> list[float]:
    return [round(v, 4) for v in interval]
