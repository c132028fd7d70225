"""The step of DDPM and DDIM, and the forward draw where times rise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ddpmlib.broadcast import Time
from ddpmlib.prediction import Denoise
from ddpmlib.process.process import Process, check_eta
from ddpmlib.samplers.noise import NoiseSource, normal
from ddpmlib.samplers.state import State, Step


@dataclass(frozen=True)
class Ancestral:
    """Draw x_s given x_t and x̂_0, see :meth:`ddpmlib.process.process.Process.step`.

    Args:
        eta: 1 is ancestral sampling (Ho et al. 2020), 0 is DDIM (Song et al. 2021).

    Raises:
        ValueError: if η leaves [0, 1].
    """

    eta: float = 1.0

    def __post_init__(self) -> None:
        check_eta(self.eta)

    def __call__(
        self,
        denoise: Denoise,
        process: Process,
        past: Sequence[State],
        s: Time,
        generator: NoiseSource,
    ) -> State:
        t, x = past[-1].t, past[-1].x
        prediction = denoise(x, t)
        noise = None
        if self.eta > 0 and s != process.clean:
            noise = normal(x, generator)
        return State(s, process.step(x, prediction, t, s, self.eta, noise), prediction.x0)


@dataclass(frozen=True)
class Noising:
    """A step where times fall; where they rise, a draw of the forward process.

    Args:
        step: for falling times.
    """

    step: Step

    def __call__(
        self,
        denoise: Denoise,
        process: Process,
        past: Sequence[State],
        s: Time,
        generator: NoiseSource,
    ) -> State:
        t, x = past[-1].t, past[-1].x
        if process.less_noisy(s, t):
            return self.step(denoise, process, past, s, generator)
        return State(s, process.forward(x, t, s, normal(x, generator)))
