"""How often classifiers are right, on clean images and on noisy ones."""

from __future__ import annotations

from typing import Any

import torch

from ddpmlib import data
from ddpmlib.evaluation import features
from ddpmlib.evaluation import metrics as measures
from ddpmlib.models.classifier import Classifier
from ddpmlib.models.noisy_classifier import NoisyClassifier


def accuracy(model: Classifier, images: data.Dataset) -> dict[str, Any]:
    """Accuracy on the test set, as an entry for the card: metric, n and value, in [0, 1]."""
    _, logits = features.extract(model, images.x_test)
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
    times, found = sorted({max(1, round(process.end * k / 10)) for k in range(11)}), []
    for t in times:
        x_t = process.q_sample(x, t, torch.randn(x.shape, device=device, generator=generator))
        logits = [model(p, torch.full((len(p),), t, device=device)) for p in x_t.split(batch_size)]
        found.append(round(measures.class_agreement(torch.cat(logits), y), 4))
    mean = round(sum(found) / len(found), 4)
    about = {"metric": "test accuracy under noise", "n": len(y), "seed": seed}
    return about | {"value": mean, "times": times, "at_times": found}
