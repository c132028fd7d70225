"""Guidance: a prediction is edited by wrapping a denoiser in a denoiser; no sampler knows of it.

Every wrapper takes (x_t, t, y) and returns a :class:`~ddpmlib.prediction.Prediction`, so wrappers
nest, and any sampler runs them. Read from the inside out: first the model, then guidance, then
thresholds::

    DynamicThreshold(ClassifierFree(denoiser, w=3.0))

What comes out is the sampler's only source: ε̂ is formed anew from the edited x̂_0, as it must be.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor, nn

from ddpmlib.broadcast import Coefficient, Time, expand
from ddpmlib.condition import Condition, emptied, is_conditional
from ddpmlib.denoiser.denoiser import ProcessDenoiser
from ddpmlib.inputs import check_readable
from ddpmlib.prediction import Prediction
from ddpmlib.process.process import Process

Weight = float | Tensor | Callable[[Time], float | Tensor]
"""How strongly to guide: a number, one per sample (B,), or a function of t that returns either."""


class Wrapper(nn.Module):
    """A denoiser around a denoiser: shares its process and its conditions.

    Args:
        denoiser: network, oracle or another wrapper.

    Raises:
        ValueError: if it carries no process.
    """

    def __init__(self, denoiser: ProcessDenoiser) -> None:
        super().__init__()
        if not isinstance(getattr(denoiser, "process", None), Process):
            raise ValueError(
                f"guidance needs a denoiser with a process, and {type(denoiser).__name__} has none"
            )
        self.denoiser, self.process = denoiser, denoiser.process

    @property
    def conditional(self) -> bool:
        """Whether the denoiser takes conditions that it can be without."""
        return is_conditional(self.denoiser)

    def without(self, y: Condition) -> Condition:
        """The same condition emptied, as the denoiser says."""
        return emptied(self.denoiser, y)

    def forward(self, x_t: Tensor, t: Time, y: Condition | None = None) -> Prediction:
        """The prediction of x_0; arguments as for :class:`ddpmlib.denoiser.denoiser.Denoiser`."""
        return self.denoiser(x_t, t, y)


class Unconditional(Wrapper):
    """The prediction without the label: where guidance of an unconditional model starts.

    ``ClassifierGuidance(Unconditional(denoiser), classifier)`` tells the classifier alone which
    class is wanted.
    """

    def forward(self, x_t: Tensor, t: Time, y: Condition | None = None) -> Prediction:
        """The prediction at y = ∅, whatever ``y`` is."""
        return self.denoiser(x_t, t, None)


# ---- shared ------------------------------------------------------------------------------------


def checked_weight(name: str, weight: Weight) -> Weight:
    if isinstance(weight, Tensor):
        check_readable(weight, name)
        good = weight.ndim == 1 and bool(weight.isfinite().all())
    else:
        good = callable(weight) or (isinstance(weight, int | float) and math.isfinite(weight))
    if not good:
        got = f"a tensor {tuple(weight.shape)}" if isinstance(weight, Tensor) else repr(weight)
        raise ValueError(
            f"{name} is a finite number, a tensor (B,) of them, or a function of t, got {got}"
        )
    return weight


def weight_at(weight: Weight, t: Time, x: Tensor) -> float | Tensor:
    """The weight at t: a float, or one per sample in a shape that multiplies ``x``."""
    value = weight(t) if callable(weight) else weight
    if isinstance(value, Tensor):
        return expand(value.to(x), x)
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"a weight is a finite number or a tensor (B,), got {value!r} at t = {t}")
    return float(value)


def is_zero(weight: float | Tensor) -> bool:
    # A tensor is not looked into: on a GPU that would make the CPU wait.
    return not isinstance(weight, Tensor) and weight == 0


def signal_left(process: Process, t: Time, x: Tensor) -> tuple[Coefficient, Coefficient]:
    """Scale and std at a time where something is left of the data to divide by."""
    scale, std = process.kernel(t, x)
    if not isinstance(scale, Tensor) and scale == 0:
        raise ValueError(f"at t = {t} nothing is left of the data (alpha_bar = 0): start below it")
    return scale, std
