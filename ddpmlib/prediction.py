"""What a denoiser says of clean data, and the types of those that say it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ddpmlib.broadcast import Time
from ddpmlib.condition import Condition


@dataclass(frozen=True)
class Prediction:
    """What a denoiser predicts at (x_t, t).

    Attributes:
        x0: the prediction of the clean data, shape of x_t.
        var_mix: place of the reverse variance between β̃ (0) and β (1) in log space; a number for
            the fixed choices, a tensor of x_t's shape when it is learned.
    """

    x0: Tensor
    var_mix: float | Tensor = 0.0


Denoise = Callable[[Tensor, Time], Prediction]
"""(x_t, t) -> prediction, the condition being bound: what a sampler's step asks."""


class AnyDenoiser(Protocol):
    """Anything that maps (x_t, t, y) to a :class:`Prediction`: networks, oracles, wrappers."""

    def __call__(self, x_t: Tensor, t: Time, y: Condition | None = None, /) -> Prediction: ...
