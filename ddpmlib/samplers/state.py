"""What a chain is made of: states, the steps that draw them, the hooks that edit them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ddpmlib.broadcast import Time
from ddpmlib.prediction import Denoise
from ddpmlib.process.process import Process
from ddpmlib.samplers.noise import NoiseSource


@dataclass(frozen=True)
class State:
    """Where a chain stands.

    Attributes:
        t: the time reached.
        x: x_t, (B, ...).
        x0: the prediction that led here, same shape; None at the start and after a forward draw.
        residual: of inversion alone (:func:`ddpmlib.samplers.latents.ddim_invert`), (B,): by how
            much, RMS, the fixed-point map moves the best guess of x at which the network was asked;
            0 where DDIM leads back exactly.
    """

    t: Time
    x: Tensor
    x0: Tensor | None = None
    residual: Tensor | None = None


PAST = 4
"""How many of the latest states a step is handed."""
Step = Callable[[Denoise, Process, Sequence[State], Time, NoiseSource], State]
"""(denoise, process, past, s, generator) -> the state at s.

``denoise(x, t)`` asks the network, the condition being bound; ``past`` holds the latest states, the
present one last (at most :data:`PAST`); noise comes from :func:`ddpmlib.samplers.noise.normal`."""
Hook = Callable[[State], Tensor]
"""state -> the x, of the same shape, that the chain goes on from."""
