"""Where features come from: our own classifiers, one per data set."""

import torch
from torch import Tensor

from ddpmlib import data
from ddpmlib.models import Classifier


@torch.no_grad()
def judge(classifier: Classifier, x: Tensor, batch_size: int = 500) -> tuple[Tensor, Tensor]:
    """Penultimate features and logits of images, batch by batch.

    Args:
        classifier: in evaluation mode.
        x: (N, C, H, W), uint8 0..255 or float in [-1, 1]; clipped to the range of images.
        batch_size: images per pass.

    Returns:
        features (N, F) and logits (N, K), on the CPU.
    """
    device = next(classifier.parameters()).device
    features, logits = [], []
    for part in x.split(batch_size):
        part = data.to_float(part) if part.dtype == torch.uint8 else part.clamp(-1, 1)
        h = classifier.features(part.to(device))
        features.append(h.cpu())
        logits.append(classifier.head(h).cpu())
    return torch.cat(features), torch.cat(logits)
