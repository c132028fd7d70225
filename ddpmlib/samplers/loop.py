"""The one loop of all samplers, as a generator: the caller's ``for`` draws bars and films.

What changes from sampler to sampler is the :data:`Step`, which draws the next state; what is edited
between steps is said by a :data:`Hook`. Neither needs a loop of its own.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from ddpmlib.broadcast import Time
from ddpmlib.condition import Condition, as_condition
from ddpmlib.equations import equation
from ddpmlib.inputs import as_floats
from ddpmlib.prediction import AnyDenoiser, Prediction
from ddpmlib.process.process import Process
from ddpmlib.samplers.ancestral import Ancestral, Noising
from ddpmlib.samplers.noise import NoiseSource
from ddpmlib.samplers.state import PAST, Hook, State, Step
from ddpmlib.samplers.times import checked_times


@equation("2.19")
def sample(
    denoiser: AnyDenoiser,
    process: Process,
    x: Tensor,
    times: Sequence[Time] | None = None,
    *,
    eta: float | None = None,
    step: Step | None = None,
    y: Condition | None = None,
    hook: Hook | None = None,
    generator: NoiseSource = None,
) -> Iterator[State]:
    """Walk along the times: predict the clean data, then draw the next state.

    Arguments are checked at the call; the network first runs when the first step is asked for.
    Where the times rise, x is noised again by a draw of the forward process, which costs no network
    call (RePaint, Lugmayr et al. 2022; restart sampling).

    Args:
        denoiser: network, oracle or guided wrapper.
        process: the forward process, the denoiser's own if it carries one.
        x: the state at ``times[0]``, (B, ...), a tensor or an array of NumPy; normal with
            ``process.prior_std`` at ``process.end``.
        times: by default T, T−1, ..., 0; see :mod:`ddpmlib.samplers.times`. A continuous process
            has no default.
        eta: 1 for DDPM, the default, 0 for DDIM, between them a family with the same marginals.
        step: another way of drawing the next state, in place of ``eta``: see
            :mod:`ddpmlib.samplers`.
        y: condition, passed on to the denoiser: a label or one for each sample, or a mapping of
            tensors (B, ...), see :func:`ddpmlib.condition.as_condition`.
        hook: edits each new state before the chain goes on from it, and before it is yielded.
        generator: source of the step noise, see :data:`ddpmlib.samplers.noise.NoiseSource`.

    Yields:
        the starting state, then one :class:`State` per step.

    Raises:
        ValueError: if times leave the process or stand still, η leaves [0, 1], both η and a step
            are given, or the denoiser belongs to another process.
    """
    if eta is not None and step is not None:
        raise ValueError(f"eta = {eta} is for the ancestral step: give it, or another step")
    step = Ancestral(1.0 if eta is None else eta) if step is None else step
    check_same_process(denoiser, process)
    times = checked_times(process, times, rising=True)
    rises = any(process.less_noisy(t, s) for t, s in pairwise(times))
    step = Noising(step) if rises else step
    return walk(denoiser, process, x, times, step, y, hook, generator)


def walk(
    denoiser: AnyDenoiser,
    process: Process,
    x: Tensor,
    times: Sequence[Time],
    step: Step,
    y: Condition | None = None,
    hook: Hook | None = None,
    generator: NoiseSource = None,
) -> Iterator[State]:
    """The loop itself, its times unchecked: one step for each pair; see :func:`sample`.

    Raises:
        ValueError: if ``x`` holds no floats, or ``y`` is no condition of its samples.
    """
    x = as_floats(x, "x")
    return _walk(denoiser, process, x, times, step, as_condition(y, x), hook, generator)


def _walk(
    denoiser: AnyDenoiser,
    process: Process,
    x: Tensor,
    times: Sequence[Time],
    step: Step,
    y: Condition | None,
    hook: Hook | None,
    generator: NoiseSource,
) -> Iterator[State]:
    def denoise(x: Tensor, t: Time) -> Prediction:
        return denoiser(x, t, y)

    past = deque([State(times[0], x)], maxlen=PAST)
    yield past[-1]
    without_gradients = torch.no_grad()  # not in the caller's code between two steps
    for s in times[1:]:
        with without_gradients:
            state = step(denoise, process, tuple(past), s, generator)
            if not isinstance(state, State):
                raise TypeError(f"a step answers a State, got {type(state).__name__}")
            if hook is not None:
                state = _hooked(hook, state)
        past.append(state)
        yield state


def _hooked(hook: Hook, state: State) -> State:
    x = hook(state)
    if not isinstance(x, Tensor) or x.shape != state.x.shape:
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(
            f"a hook answers a tensor of the state's shape, {tuple(state.x.shape)}, got {got}"
        )
    return replace(state, x=x)


def draw(
    denoiser: AnyDenoiser,
    process: Process,
    x: Tensor,
    times: Sequence[Time] | None = None,
    *,
    eta: float | None = None,
    step: Step | None = None,
    y: Condition | None = None,
    hook: Hook | None = None,
    generator: NoiseSource = None,
) -> Tensor:
    """Run :func:`sample` to its end and return the last x; arguments as there."""
    states = sample(
        denoiser, process, x, times, eta=eta, step=step, y=y, hook=hook, generator=generator
    )
    return last(states).x


def last(states: Iterator[State]) -> State:
    """The state in which a walk ends."""
    return deque(states, maxlen=1)[0]


def check_same_process(denoiser: AnyDenoiser, process: Process) -> None:
    """Raise ValueError unless these are a denoiser and a process, its own if it carries one.

    A model that is asked at the noise levels of another process answers without a word, and badly.
    """
    if not callable(denoiser) or not isinstance(process, Process):
        raise ValueError(
            "a sampler needs a denoiser and a process, got "
            f"{type(denoiser).__name__} and {type(process).__name__}"
        )
    theirs = getattr(denoiser, "process", None)
    if theirs is not None and theirs != process:
        raise ValueError(
            f"the denoiser was made for {theirs}, not for {process}: sample with its own process, "
            "or translate it (ddpmlib.denoiser.Translated)"
        )
