"""Langevin dynamics: samplers that need a score and nothing else of diffusion.

They take any denoiser, guided ones too, and yield states as :mod:`ddpmlib.samplers.loop` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ddpmlib.broadcast import Time
from ddpmlib.condition import Condition
from ddpmlib.equations import equation
from ddpmlib.prediction import AnyDenoiser, Denoise
from ddpmlib.process.process import Process
from ddpmlib.samplers.ancestral import Ancestral
from ddpmlib.samplers.loop import check_same_process, walk
from ddpmlib.samplers.noise import NoiseSource, normal
from ddpmlib.samplers.state import State, Step
from ddpmlib.samplers.times import checked_times


@equation("10.2")
def langevin(
    denoiser: AnyDenoiser,
    process: Process,
    x: Tensor,
    t: Time,
    h: float,
    steps: int,
    *,
    y: Condition | None = None,
    generator: NoiseSource = None,
) -> Iterator[State]:
    """Unadjusted Langevin at one noise level: x ← x + h ∇ log q(x_t) + √(2h) z.

    Its distribution tends to q(x_t) up to a bias of first order in h that no number of steps
    removes: for N(0, σ²) it settles at the variance 2σ⁴/(2σ² − h), and for h ≥ 2σ² it never settles
    (Roberts & Tweedie 1996). Between distant modes it takes forever.

    Args:
        denoiser: network, oracle or guided wrapper.
        process: the forward process.
        x: where to start, (B, ...).
        t: the noise level, 1..T; a small one stands for the data.
        h: step size, positive; see :func:`step_size`.
        steps: network calls.
        y: labels (B,), passed on to the denoiser.
        generator: source of the noise, on the device of ``x``.

    Yields:
        the starting state, then one :class:`~ddpmlib.samplers.state.State` per step, all at t.

    Raises:
        ValueError: if t is not in 1..T, h not positive and finite, or ``steps`` < 1.
    """
    check_same_process(denoiser, process)
    _check_level(process, t)
    if not 0 < h < math.inf:
        raise ValueError(f"the step size h must be positive and finite, got {h}")
    _check_steps(steps)
    step = Langevin(lambda process, t: h)
    return walk(denoiser, process, x, [t] * (steps + 1), step, y, generator=generator)


def annealed_langevin(
    denoiser: AnyDenoiser,
    process: Process,
    x: Tensor,
    times: Sequence[Time] | None = None,
    *,
    steps: int = 5,
    snr: float = 0.16,
    y: Condition | None = None,
    generator: NoiseSource = None,
) -> Iterator[State]:
    """Langevin at one noise level after the other, falling (Song & Ermon 2019, Algorithm 1).

    At high noise all modes are one, and by the time they part each has its share of the chains.
    Between levels x stays as it is: the kernel keeps its variance, so no level needs rescaling.

    Args:
        denoiser, process, y, generator: as in :func:`langevin`.
        x: the state at ``times[0]``; standard normal (B, ...) when that is T.
        times: falling noise levels, by default T, T−1, ..., 0. On arrival at 0 there is no score:
            the last state is then the prediction E[x_0|x_t] of the level before, the "denoising
            step" of Song & Ermon (2020).
        steps: Langevin steps per level.
        snr: r of :func:`step_size`; the default is that of Song et al. (2021) on CIFAR-10.

    Yields:
        the starting state, then one :class:`~ddpmlib.samplers.state.State` per level.

    Raises:
        ValueError: if times do not fall within T..0, ``snr`` is not positive, or ``steps`` < 1.
    """
    check_same_process(denoiser, process)
    times = checked_times(process, times)
    _check_steps(steps)
    step_size(process, times[0], snr)
    step = Annealed(Langevin(partial(step_size, snr=snr), steps))
    return walk(denoiser, process, x, [times[0], *times], step, y, generator=generator)


def predictor_corrector(
    denoiser: AnyDenoiser,
    process: Process,
    x: Tensor,
    times: Sequence[Time] | None = None,
    *,
    eta: float = 1.0,
    steps: int = 1,
    snr: float = 0.16,
    y: Condition | None = None,
    generator: NoiseSource = None,
) -> Iterator[State]:
    """The step of :func:`ddpmlib.samplers.loop.sample`, then Langevin at its level.

    The predictor moves between levels and errs over long steps, the corrector pulls the
    distribution of x_s back to q(x_s) (Song et al. 2021, score SDE, Algorithm 1). Each level costs
    1 + ``steps`` network calls; clean data, s = 0, are not corrected.

    Args:
        denoiser, process, x, times, eta, y, generator: as in :func:`ddpmlib.samplers.loop.sample`.
        steps: Langevin steps per level.
        snr: r of :func:`step_size`.

    Yields:
        the starting state, then one :class:`~ddpmlib.samplers.state.State` per level, corrected.

    Raises:
        ValueError: if times, ``eta``, ``snr`` or ``steps`` are out of range.
    """
    check_same_process(denoiser, process)
    predictor, times = Ancestral(eta), checked_times(process, times)
    _check_steps(steps)
    step_size(process, times[0], snr)
    step = Corrected(predictor, Langevin(partial(step_size, snr=snr), steps))
    return walk(denoiser, process, x, times, step, y, generator=generator)


# ---- as steps ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Langevin:
    """Langevin steps at the level s, to which x belongs already.

    Args:
        size: (process, s) -> h.
        steps: network calls.
    """

    size: Callable[[Process, Time], float]
    steps: int = 1

    def __call__(
        self,
        denoise: Denoise,
        process: Process,
        past: Sequence[State],
        s: Time,
        generator: NoiseSource,
    ) -> State:
        x, h = past[-1].x, self.size(process, s)
        for _ in range(self.steps):
            x0 = denoise(x, s).x0
            z = normal(x, generator)
            x = x + h * process.score_from_x0(x, x0, s) + (2 * h) ** 0.5 * z
        return State(s, x, x0)


@dataclass(frozen=True)
class Annealed:
    """Langevin at the level s; where s is clean data, the prediction at the level before."""

    langevin: Langevin

    def __call__(
        self,
        denoise: Denoise,
        process: Process,
        past: Sequence[State],
        s: Time,
        generator: NoiseSource,
    ) -> State:
        if s != process.clean:
            return self.langevin(denoise, process, past, s, generator)
        x0 = denoise(past[-1].x, past[-1].t).x0
        return State(s, x0, x0)


@dataclass(frozen=True)
class Corrected:
    """A predictor's step, then Langevin at the level where it arrived, unless that is clean data.

    Args:
        predictor: any step.
        corrector: Langevin.
    """

    predictor: Step
    corrector: Langevin

    def __call__(
        self,
        denoise: Denoise,
        process: Process,
        past: Sequence[State],
        s: Time,
        generator: NoiseSource,
    ) -> State:
        state = self.predictor(denoise, process, past, s, generator)
        if s == process.clean:
            return state
        return self.corrector(denoise, process, [*past, state], s, generator)


@equation("10.5")
def step_size(process: Process, t: Time, snr: float) -> float:
    """h = 2 (r √(1−ᾱ_t))², so that the drift is r times as long as the noise.

    Song et al. (2021, score SDE, Algorithm 4) take h = 2 (r |z|/|g|)² with the score g of the
    moment. Here |g| is what it is for a point, |z|/√(1−ᾱ_t): the same step for every chain, so its
    distribution stays Langevin's, no leap at a mode where g = 0, and h ∝ 1−ᾱ_t from level to level,
    which is the rule of Song & Ermon (2019, section 4.3).

    Args:
        process: the forward process.
        t: the noise level, 1..T.
        snr: r, positive; h stays stable for r < 1 whatever the data.

    Raises:
        ValueError: if t or r is out of range.
    """
    _check_level(process, t)
    if not 0 < snr < math.inf:
        raise ValueError(f"snr must be positive and finite, got {snr}")
    _, std = process.kernel(t, torch.zeros((), dtype=torch.float64))
    return 2 * snr**2 * float(std) ** 2


def _check_level(process: Process, t: Time) -> None:
    chain = process.times_are_whole
    if isinstance(t, Tensor) or (chain and not isinstance(t, int)) or t == process.clean:
        what = f"an int in 1..{process.end}" if chain else "one time with noise"
        raise ValueError(f"a noise level is {what}, got {t}")
    process.check_time(t)


def _check_steps(steps: int) -> None:
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps counts network calls and must be at least 1, got {steps}")
