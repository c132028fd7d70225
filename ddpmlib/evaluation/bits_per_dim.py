"""The bound on the likelihood of test images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from ddpmlib import data, likelihood
from ddpmlib.denoiser.denoiser import Denoiser, FixedVariance
from ddpmlib.evaluation.drawing import progress_bar
from ddpmlib.evaluation.sample_quality import random_places


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
    entry = {"metric": "nll", "n": total.n, "steps": denoiser.process.end, "draws": draws}
    entry |= {"seed": seed, "bf16": bf16, "bits_per_dim": round(total.mean / unit, 4)}
    return entry | {"standard_error": round(total.standard_error / unit, 4)}


def _pooled(parts: Sequence[likelihood.Estimate]) -> likelihood.Estimate:
    """One estimate from those of disjoint sets of samples, as if they had been one set."""
    n = sum(p.n for p in parts)
    mean = sum(p.n * p.mean for p in parts) / n
    squares = sum(p.standard_error**2 * p.n * (p.n - 1) + p.n * (p.mean - mean) ** 2 for p in parts)
    return likelihood.Estimate(mean, math.sqrt(squares / (n - 1) / n), n)
