"""Optimiser and budget of a training run, and what one update reports."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ddpmlib import seeds
from ddpmlib.condition import Condition

BatchLoss = Callable[[nn.Module, Tensor, Condition | None, torch.Generator], Tensor]
"""(model, x (B, ...) float, y (B,) or None, generator) -> mean loss, a scalar.

A loss that remembers (how to draw times, say) is a module: its buffers are saved and resumed."""


class TrainingDiverged(FloatingPointError):
    """The loss or the weights are no longer finite numbers."""


@dataclass(frozen=True)
class Settings:
    """Optimiser and budget.

    Attributes:
        steps: optimiser updates in all, at most 2²³.
        batch_size: samples per update, over all processes.
        lr: peak learning rate; linear warm-up, then half a cosine down to zero.
        warmup: updates of warm-up.
        weight_decay: of AdamW.
        ema: decay of the averaged weights, reached step by step, see
            :class:`ddpmlib.training.averaging.Average`.
        clip: largest gradient norm.
        seed: of batches, times, noise and label dropout, 0 ≤ seed < 2³².

    Raises:
        ValueError: for a value out of range, or a fraction where a whole number is meant.
    """

    steps: int
    batch_size: int = 64
    lr: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.0
    ema: float = 0.999
    clip: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "warmup", "seed"):
            if not isinstance(getattr(self, name), int):
                raise ValueError(f"{name} must be a whole number, got {getattr(self, name)!r}")
        for name in ("steps", "batch_size", "lr", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")
        if self.steps > seeds.MOST_UPDATES:
            raise ValueError(f"steps must be at most {seeds.MOST_UPDATES}, got {self.steps}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must lie in [0, 1), got {self.ema}")
        for name in ("warmup", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must lie in 0..2**32 - 1, got {self.seed}")

    def lr_at(self, step: int) -> float:
        """Learning rate of update number ``step`` = 0, 1, ..."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


@dataclass(frozen=True)
class Progress:
    """One finished update.

    Attributes:
        step: updates done, 1..steps.
        loss: that of the whole batch, the same on every process, a scalar tensor on the device:
            reading it makes the CPU wait for a GPU.
        lr: its learning rate.
    """

    step: int
    loss: Tensor
    lr: float
