"""Classifier-free guidance: one network asked with and without the class."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ddpmlib.broadcast import Time
from ddpmlib.condition import Condition, as_condition, joined
from ddpmlib.denoiser.denoiser import ProcessDenoiser
from ddpmlib.equations import equation
from ddpmlib.guidance.wrapper import Weight, Wrapper, checked_weight, is_zero, weight_at
from ddpmlib.inputs import check_floats
from ddpmlib.prediction import Prediction

# ---- classifier-free guidance ------------------------------------------------------------------


class ClassifierFree(Wrapper):
    """ε̂ = (1 + w) ε̂_c − w ε̂_∅ (Ho & Salimans 2022, eq. 6), both from one batch of 2B samples.

    The coefficients add up to 1, so the same holds for x̂_0 and v. w = 0 is the plain conditional
    model, w = −1 the unconditional one; programs that call s = 1 + w the guidance scale mean 1 and
    0 by these. Where w is the number 0 the denoiser is asked once and its answer returned as it is.
    A learned variance is the conditional one.

    Args:
        denoiser: takes conditions, and was trained with some of them dropped.
        w: see :data:`Weight`; for some of the times alone, see :func:`interval`.

    Raises:
        ValueError: if the denoiser cannot be without a condition, or a weight is not finite.
    """

    def __init__(self, denoiser: ProcessDenoiser, w: Weight) -> None:
        super().__init__(denoiser)
        self.w = checked_weight("w", w)
        if not self.conditional:
            raise ValueError(
                "classifier-free guidance needs a model with classes and a null label: train one "
                "with label dropout, or use ClassifierGuidance"
            )

    @equation("11.2", "11.3")
    def forward(self, x_t: Tensor, t: Time, y: Condition | None = None) -> Prediction:
        """The guided prediction; arguments as for :class:`ddpmlib.denoiser.denoiser.Denoiser`.

        Raises:
            ValueError: if w ≠ 0 and there are no labels, or not one weight per sample.
        """
        w = weight_at(self.w, t, x_t)
        if is_zero(w):
            return self.denoiser(x_t, t, y)
        if y is None:
            raise ValueError("guidance pulls towards a class: give labels y, or set w = 0")
        check_floats(x_t, "x_t")
        y = as_condition(y, x_t)
        twice = torch.cat([t, t]) if isinstance(t, Tensor) else t
        both = self.denoiser(torch.cat([x_t, x_t]), twice, joined(y, self.without(y)))
        conditional, null = both.x0.chunk(2)
        var_mix = both.var_mix
        if isinstance(var_mix, Tensor):
            var_mix = var_mix.chunk(2)[0]
        return Prediction(conditional + w * (conditional - null), var_mix)


@dataclass(frozen=True)
class _Interval:
    w: float
    low: int
    high: int

    def __call__(self, t: Time) -> float | Tensor:
        if isinstance(t, Tensor):
            return torch.where((self.low <= t) & (t <= self.high), self.w, 0.0)
        return self.w if self.low <= t <= self.high else 0.0


def interval(w: float, low: int, high: int) -> Callable[[Time], float | Tensor]:
    """The weight w at times low ≤ t ≤ high and 0 at all others (Kynkäänniemi et al. 2024).

    Where it is 0 for a whole batch, t being an int, the second pass is not run: a short interval is
    also cheaper.

    Raises:
        ValueError: unless 0 ≤ low ≤ high and w is finite.
    """
    if not 0 <= low <= high or not math.isfinite(w):
        raise ValueError(f"need 0 <= low <= high and a finite w, got {low}, {high} and {w}")
    return _Interval(w, low, high)
