"""A solver of the reverse SDE, dx = (f − g² ∇ log q) dt + g dω, in the time of the process."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ddpmlib.broadcast import Time, weighted_sum
from ddpmlib.prediction import Denoise
from ddpmlib.process.process import Process
from ddpmlib.samplers.noise import NoiseSource, normal
from ddpmlib.samplers.state import State


@dataclass(frozen=True)
class EulerMaruyama:
    """x + (s−t) drift + g √|s−t| noise, one network call: weak order one (Song et al. 2021).

    The last step, to clean data, adds no noise.
    """

    def __call__(
        self,
        denoise: Denoise,
        process: Process,
        past: Sequence[State],
        s: Time,
        generator: NoiseSource,
    ) -> State:
        t, x = past[-1].t, past[-1].x
        x0 = denoise(x, t).x0
        mean = x + (s - t) * process.reverse_drift(x, x0, t)
        if s == process.clean:
            return State(s, mean, x0)
        spread = process.diffusion(t, x) * math.sqrt(abs(float(s) - float(t)))
        return State(s, weighted_sum(1, mean, spread, normal(x, generator)), x0)
