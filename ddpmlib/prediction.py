"""What a denoiser says of clean data, and the type of everything that says it."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ddpmlib.broadcast import Time


@dataclass(frozen=True)
class Prediction:
    """A denoiser's belief at (x_t, t).

    Attributes:
        x0: the guess of the clean data, shape of x_t.
        var_mix: place of the reverse variance between β̃ (0) and β (1) in log space; a number for
            the fixed choices, a tensor of x_t's shape when it is learned.
    """

    x0: Tensor
    var_mix: float | Tensor = 0.0


class Denoise(Protocol):
    """Anything that maps (x_t, t, y) to a :class:`Prediction`: networks, oracles, wrappers."""

    def __call__(self, x_t: Tensor, t: Time, y: Tensor | None = None, /) -> Prediction: ...
