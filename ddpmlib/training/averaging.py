"""The moving average of a network's weights, which is what samples are drawn from."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class Average(nn.Module):
    """θ̄ ← dₙ θ̄ + (1−dₙ) θ after every update, dₙ = min(d, (1+n)/(10+n)), from θ̄ = θ at the start.

    n counts the updates done *before* this one: 0 for the first, whose dₙ is 1/10. With a fixed
    decay d (Ho et al. 2020, appendix B: 0.9999) the average still holds the share dᴺ of the random
    weights of the start after N updates: with d = 0.9995 and N = 400 that is 82 %, and samples are
    noise. The growing decay is that of TensorFlow's ``ExponentialMovingAverage`` with
    ``num_updates``: while it grows, the weights after update number k of N count in proportion to
    (k+1)(k+2)…(k+8), so that the start is forgotten like N⁻⁹, and what counts is a tenth of the run
    old on average, however long that is. From n = (10d − 1)/(1 − d) on (17,990 for d = 0.9995, 890
    for 0.99) it is the average with a fixed decay.

    Karras et al. (2024, "Analyzing and improving the training dynamics of diffusion models")
    average by a power of time to the end, without d; their profile k^γ with γ = 8 is the one above.
    Dividing by 1 − dᴺ, as Adam does, would remove the start too, but average over a short run
    evenly, its worst weights with its best.

    PyTorch's ``AveragedModel`` asks a tensor how often it was updated, and so makes the CPU wait
    for a GPU twice an update; here whoever updates says n, and a saved state needs no count beside
    its step. Only weights are averaged: buffers, such as the running statistics of batch
    normalisation, are averages already and are copied.

    Args:
        model: stays as it is; ``module`` is a copy of it.
        decay: d, in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__()
        self.module = copy.deepcopy(model)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, n: int) -> None:
        """Move towards the weights of ``model``, which has the same shape, in a few fused calls.

        Args:
            model: after its update.
            n: updates before that one, 0, 1, ...
        """
        decay = min(self.decay, (1 + n) / (10 + n))
        ours: list[Tensor] = list(self.module.parameters())
        theirs: list[Tensor] = list(model.parameters())
        torch._foreach_lerp_(ours, theirs, 1 - decay)
        for mine, its in zip(self.module.buffers(), model.buffers(), strict=True):
            mine.copy_(its)
