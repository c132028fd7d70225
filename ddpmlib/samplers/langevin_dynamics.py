"""Langevin dynamics: samplers that need a score and nothing else of diffusion.

They take any denoiser, guided ones too, and yield states as :mod:`ddpmlib.samplers` does.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ddpmlib.equations import equation
from ddpmlib.prediction import Denoise
from ddpmlib.process.ddpm import DDPM, check_eta
from ddpmlib.samplers.loop import State, sample
from ddpmlib.samplers.noise import NoiseSource, normal
from ddpmlib.samplers.times import checked_times


@equation("10.2")
def langevin(
    denoiser: Denoise,
    process: DDPM,
    x: Tensor,
    t: int,
    h: float,
    steps: int,
    *,
    y: Tensor | None = None,
    generator: NoiseSource = None,
) -> Iterator[State]:
    """Unadjusted Langevin at one noise level: x ← x + h ∇ log q(x_t) + √(2h) z.

    Its law tends to q(x_t) up to a bias of first order in h that no number of steps removes: for
    N(0, σ²) it settles at the variance 2σ⁴/(2σ² − h), and for h ≥ 2σ² it never settles (Roberts &
    Tweedie 1996). Between distant modes it takes forever.

    Args:
        denoiser: network, oracle or guided wrapper.
        process: the forward process.
        x: where to start, (B, ...).
        t: the noise level, 1..T; a small one stands for the data.
        h: step size, positive; see :func:`step_size`.
        steps: network calls.
        y: labels (B,), passed on to the denoiser.
        generator: source of the noise, see :data:`ddpmlib.samplers.noise.NoiseSource`.

    Yields:
        the starting state, then one :class:`~ddpmlib.samplers.loop.State` per step, all at t.

    Raises:
        ValueError: if t is not in 1..T, h not positive and finite, or ``steps`` < 1.
    """
    if not isinstance(t, int) or not 1 <= t <= process.T:
        raise ValueError(f"a noise level is an int in 1..{process.T}, got {t}")
    if not 0 < h < math.inf:
        raise ValueError(f"the step size h must be positive and finite, got {h}")
    _check_steps(steps)
    return _walk_at(denoiser, process, x, t, h, steps, y, generator)


def annealed_langevin(
    denoiser: Denoise,
    process: DDPM,
    x: Tensor,
    times: Sequence[int] | None = None,
    *,
    steps: int = 5,
    snr: float = 0.16,
    y: Tensor | None = None,
    generator: NoiseSource = None,
) -> Iterator[State]:
    """Langevin at one noise level after the other, falling (Song & Ermon 2019, Algorithm 1).

    At high noise all modes are one, and by the time they part each has its share of the chains.
    Between levels x stays as it is: the kernel keeps its variance, so no level needs rescaling.

    Args:
        denoiser, process, y, generator: as in :func:`langevin`.
        x: the state at ``times[0]``; standard normal (B, ...) when that is T.
        times: falling noise levels, by default T, T−1, ..., 0. On arrival at 0 there is no score:
            the last state is then the belief E[x_0|x_t] of the level before, the "denoising step"
            of Song & Ermon (2020).
        steps: Langevin steps per level.
        snr: r of :func:`step_size`; the default is that of Song et al. (2021) on CIFAR-10.

    Yields:
        the starting state, then one :class:`~ddpmlib.samplers.loop.State` per level.

    Raises:
        ValueError: if times do not fall within T..0, ``snr`` is not positive, or ``steps`` < 1.
    """
    times = checked_times(process, times)
    _check_steps(steps)
    step_size(process, times[0], snr)
    return _anneal(denoiser, process, x, times, steps, snr, y, generator)


def predictor_corrector(
    denoiser: Denoise,
    process: DDPM,
    x: Tensor,
    times: Sequence[int] | None = None,
    *,
    eta: float = 1.0,
    steps: int = 1,
    snr: float = 0.16,
    y: Tensor | None = None,
    generator: NoiseSource = None,
) -> Iterator[State]:
    """The step of :func:`ddpmlib.samplers.loop.sample`, then Langevin at its level.

    The predictor moves between levels and errs over long steps, the corrector pulls the law of x_s
    back to q(x_s) (Song et al. 2021, score SDE, Algorithm 1). Each level costs 1 + ``steps``
    network calls; clean data, s = 0, are not corrected.

    Args:
        denoiser, process, x, times, eta, y, generator: as in :func:`ddpmlib.samplers.loop.sample`.
        steps: Langevin steps per level.
        snr: r of :func:`step_size`.

    Yields:
        the starting state, then one :class:`~ddpmlib.samplers.loop.State` per level, corrected.

    Raises:
        ValueError: if times, ``eta``, ``snr`` or ``steps`` are out of range.
    """
    check_eta(eta)
    times = checked_times(process, times)
    _check_steps(steps)
    step_size(process, times[0], snr)
    return _correct(denoiser, process, x, times, eta, steps, snr, y, generator)


@equation("10.5")
def step_size(process: DDPM, t: int, snr: float) -> float:
    """h = 2 (r √(1−ᾱ_t))², so that the drift is r times as long as the noise.

    Song et al. (2021, score SDE, Algorithm 4) take h = 2 (r |z|/|g|)² with the score g of the
    moment. Here |g| is what it is for a point, |z|/√(1−ᾱ_t): the same step for every chain, so its
    law stays Langevin's, no leap at a mode where g = 0, and h ∝ 1−ᾱ_t from level to level, which is
    the rule of Song & Ermon (2019, section 4.3).

    Args:
        process: the forward process.
        t: the noise level, 1..T.
        snr: r, positive; h stays stable for r < 1 whatever the data.

    Raises:
        ValueError: if t or r is out of range.
    """
    if not isinstance(t, int) or not 1 <= t <= process.T:
        raise ValueError(f"a noise level is an int in 1..{process.T}, got {t}")
    if not 0 < snr < math.inf:
        raise ValueError(f"snr must be positive and finite, got {snr}")
    return 2 * snr**2 * float(1 - process.alpha_bar[t])


def _check_steps(steps: int) -> None:
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps counts network calls and must be at least 1, got {steps}")


def _last(states: Iterator[State]) -> State:
    return deque(states, maxlen=1)[0]


@torch.no_grad()
def _walk_at(
    denoiser: Denoise,
    process: DDPM,
    x: Tensor,
    t: int,
    h: float,
    steps: int,
    y: Tensor | None,
    generator: NoiseSource,
) -> Iterator[State]:
    yield State(t, x)
    for _ in range(steps):
        x0 = denoiser(x, t, y).x0
        z = normal(x, generator)
        x = x + h * process.score_from_x0(x, x0, t) + (2 * h) ** 0.5 * z
        yield State(t, x, x0)


@torch.no_grad()
def _anneal(
    denoiser: Denoise,
    process: DDPM,
    x: Tensor,
    times: list[int],
    steps: int,
    snr: float,
    y: Tensor | None,
    generator: NoiseSource,
) -> Iterator[State]:
    state = State(times[0], x)
    yield state
    for t in times:
        if t == 0:
            x0 = denoiser(state.x, state.t, y).x0
            yield State(0, x0, x0)
            return
        h = step_size(process, t, snr)
        state = _last(_walk_at(denoiser, process, state.x, t, h, steps, y, generator))
        yield state


@torch.no_grad()
def _correct(
    denoiser: Denoise,
    process: DDPM,
    x: Tensor,
    times: list[int],
    eta: float,
    steps: int,
    snr: float,
    y: Tensor | None,
    generator: NoiseSource,
) -> Iterator[State]:
    yield State(times[0], x)
    for t, s in pairwise(times):
        state = _last(sample(denoiser, process, x, [t, s], eta=eta, y=y, generator=generator))
        if s > 0:
            h = step_size(process, s, snr)
            state = _last(_walk_at(denoiser, process, state.x, s, h, steps, y, generator))
        x = state.x
        yield state
