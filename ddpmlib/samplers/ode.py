"""Solvers of the probability-flow ODE, dx/dt = a'(t) x̂_0 + b'(t) ε̂, in the time of the process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ddpmlib.broadcast import Time
from ddpmlib.prediction import Denoise
from ddpmlib.process.process import Process
from ddpmlib.samplers.noise import NoiseSource
from ddpmlib.samplers.state import State


@dataclass(frozen=True)
class Euler:
    """x + (s−t) dx/dt, one network call: first order.

    Along straight lines and in EDM's σ it is DDIM; in other times it is not.
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
        return State(s, x + (s - t) * process.flow(x, x0, t), x0)


@dataclass(frozen=True)
class Heun:
    """Euler, then the mean of both ends' velocities: second order, two network calls.

    The last step, to clean data, is Euler's: there is no velocity where there is no noise (Karras
    et al. 2022, Algorithm 1). K steps are 2K − 1 network calls.
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
        velocity = process.flow(x, x0, t)
        ahead = x + (s - t) * velocity
        if s == process.clean:
            return State(s, ahead, x0)
        x0 = denoise(ahead, s).x0
        return State(s, x + (s - t) / 2 * (velocity + process.flow(ahead, x0, s)), x0)
