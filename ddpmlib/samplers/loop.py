"""Reverse loops as generators: the caller's ``for`` draws progress bars, films and early stops.

There is one loop. Ancestral sampling is every time with η = 1, strided sampling skips times, DDIM
is η = 0: see :meth:`ddpmlib.process.ddpm.DDPM.step`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from ddpmlib.equations import equation
from ddpmlib.prediction import Denoise, Prediction
from ddpmlib.process.ddpm import DDPM, check_eta
from ddpmlib.samplers.noise import NoiseSource, normal
from ddpmlib.samplers.times import checked_times


@dataclass(frozen=True)
class State:
    """Where a chain stands.

    Attributes:
        t: the time reached.
        x: x_t, (B, ...).
        x0: the belief that led here, same shape; None at the start.
    """

    t: int
    x: Tensor
    x0: Tensor | None = None


Step = Callable[
    [Callable[[Tensor, int], Prediction], DDPM, Sequence[State], int, NoiseSource], State
]
"""(denoise, process, past, s, generator) -> the state at s; ``denoise(x, t)`` asks the network."""


@equation("2.19")
def sample(
    denoiser: Denoise,
    process: DDPM,
    x: Tensor,
    times: Sequence[int] | None = None,
    *,
    eta: float = 1.0,
    step: Step | None = None,
    y: Tensor | None = None,
    generator: NoiseSource = None,
) -> Iterator[State]:
    """Walk down the chain: predict the clean data, then draw the next state.

    Arguments are checked at the call; the network first runs when the first step is asked for.

    Args:
        denoiser: network, oracle or guided wrapper.
        process: the forward process.
        x: the state at ``times[0]``; standard normal (B, ...) when that is T.
        times: falling times, by default T, T−1, ..., 0; see :func:`uniform_times`.
        eta: 1 for DDPM, 0 for DDIM, between them a family with the same marginals.
        step: another way of drawing the next state, which knows no ``eta``.
        y: labels (B,), passed on to the denoiser.
        generator: source of the step noise, see :data:`ddpmlib.samplers.noise.NoiseSource`.

    Yields:
        the starting state, then one :class:`State` per step.

    Raises:
        ValueError: if times do not fall within 0..T or η leaves [0, 1].
    """
    check_eta(eta)
    return _walk_down(denoiser, process, x, checked_times(process, times), eta, step, y, generator)


@torch.no_grad()
def _walk_down(
    denoiser: Denoise,
    process: DDPM,
    x: Tensor,
    times: list[int],
    eta: float,
    step: Step | None,
    y: Tensor | None,
    generator: NoiseSource,
) -> Iterator[State]:
    state = State(times[0], x)
    yield state
    for t, s in pairwise(times):
        if step is not None:
            state = step(partial(_asked, denoiser, y), process, (state,), s, generator)
            yield state
            continue
        prediction = denoiser(x, t, y)
        noise = None
        if eta > 0 and s > 0:
            noise = normal(x, generator)
        x = process.step(x, prediction, t, s, eta, noise)
        yield State(s, x, prediction.x0)


def _asked(denoiser: Denoise, y: Tensor | None, x: Tensor, t: int) -> Prediction:
    return denoiser(x, t, y)


def draw(
    denoiser: Denoise,
    process: DDPM,
    x: Tensor,
    times: Sequence[int] | None = None,
    *,
    eta: float = 1.0,
    step: Step | None = None,
    y: Tensor | None = None,
    generator: NoiseSource = None,
) -> Tensor:
    """Run :func:`sample` to its end and return the last x; arguments as there."""
    states = sample(denoiser, process, x, times, eta=eta, step=step, y=y, generator=generator)
    for state in states:
        x = state.x
    return x
