"""The exponential moving average of a network's weights, which is what samples are drawn from."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class Average(nn.Module):
    """θ̄ ← d θ̄ + (1−d) θ after every update (Ho et al. 2020, appendix B), from θ̄ = θ at the start.

    PyTorch's ``AveragedModel`` does the same, but asks a tensor how often it was updated, and so
    makes the CPU wait for a GPU twice an update. Only weights are averaged: buffers, such as the
    running statistics of batch normalisation, are averages already and are copied.

    Args:
        model: stays as it is; ``module`` is a copy of it.
        decay: d, in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__()
        self.module = copy.deepcopy(model)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move towards the weights of ``model``, which has the same shape, in a few fused calls."""
        ours: list[Tensor] = list(self.module.parameters())
        theirs: list[Tensor] = list(model.parameters())
        torch._foreach_lerp_(ours, theirs, 1 - self.decay)
        for mine, its in zip(self.module.buffers(), model.buffers(), strict=True):
            mine.copy_(its)
