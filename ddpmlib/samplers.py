"""Reverse loops as generators: the caller's ``for`` draws progress bars, films and early stops.

There is one loop. Ancestral sampling is every time with η = 1, strided sampling skips times, DDIM
is η = 0: see :meth:`ddpmlib.process.DDPM.step`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import index

import torch
from torch import Tensor

from ddpmlib.broadcast import expand
from ddpmlib.denoiser import Denoise
from ddpmlib.equations import equation
from ddpmlib.process import DDPM, check_eta


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


def uniform_times(T: int, steps: int) -> list[int]:
    """``steps + 1`` times from T down to 0, evenly spaced up to rounding.

    This is the spacing that Lin et al. (2024) recommend and call "trailing": it starts at T, where
    the noise is that of the prior.

    Raises:
        ValueError: if ``steps`` is not in 1..T.
    """
    _check_steps(T, steps)
    return [round(T * k / steps) for k in range(steps, -1, -1)]


def leading_times(T: int, steps: int) -> list[int]:
    """The multiples of T // steps below T, shifted by one, then 0 (Song et al. 2021, DDIM code).

    The chain starts at T + 1 − T // steps, *below* T, where pure noise is not quite the right
    start; "leading" in the words of Lin et al. (2024), who advise against it.

    Raises:
        ValueError: if ``steps`` is not in 1..T.
    """
    _check_steps(T, steps)
    return [*(1 + (T // steps) * k for k in range(steps - 1, -1, -1)), 0]


def linspace_times(T: int, steps: int) -> list[int]:
    """``steps`` times evenly spaced from T to 1, both included, then 0 (Nichol & Dhariwal 2021).

    A single step starts at T, where the prior is.

    Raises:
        ValueError: if ``steps`` is not in 1..T.
    """
    _check_steps(T, steps)
    if steps == 1:
        return [T, 0]
    # Rounded before the shift by one, as in the sources that count from 0: ties go the same way.
    return [*(1 + round((T - 1) * k / (steps - 1)) for k in range(steps - 1, -1, -1)), 0]


def quadratic_times(T: int, steps: int) -> list[int]:
    """About T (k / steps)², k = steps, ..., 0: dense near the data (Song et al. 2021, app. D.2).

    Where rounding would repeat a time the next free one is taken, so there are always ``steps``.

    Raises:
        ValueError: if ``steps`` is not in 1..T.
    """
    _check_steps(T, steps)
    rising = [0]
    for k in range(1, steps + 1):
        rising.append(max(round(T * (k / steps) ** 2), rising[-1] + 1))
    return rising[::-1]


def _check_steps(T: int, steps: int) -> None:
    if not 1 <= steps <= T:
        raise ValueError(f"steps must lie in 1..T = 1..{T}, got {steps}")


@equation("7.15")
def slerp(a: Tensor, b: Tensor, weight: float | Tensor) -> Tensor:
    """Spherical interpolation from ``a`` (weight 0) to ``b`` (weight 1), sample by sample.

    The angle between two latents is divided evenly, so that norms stay those of Gaussian noise
    (Shoemake 1985; Song et al. 2021, DDIM, eq. 67).

    Args:
        a, b: (B, ...), the same shape, without zero vectors.
        weight: a number, or one per sample (B,).

    Returns:
        shape of ``a``.

    Raises:
        ValueError: if shapes differ, a vector is zero, two point in opposite directions, or there
            is not one weight or one per sample.
    """
    if a.shape != b.shape or a.ndim < 2:
        raise ValueError(
            f"slerp needs two tensors of one shape (B, ...), got {tuple(a.shape)} and "
            f"{tuple(b.shape)}"
        )
    norms = a.flatten(1).norm(dim=1) * b.flatten(1).norm(dim=1)
    cosine = (a * b).flatten(1).sum(1) / norms
    if not bool((norms > 0).all()) or bool((cosine < -1 + 1e-6).any()):
        raise ValueError("slerp needs vectors that are neither zero nor opposite to each other")
    angle = torch.acos(cosine.clamp(-1, 1))
    weight = torch.as_tensor(weight, dtype=a.dtype, device=a.device)
    if weight.shape not in ((), (len(a),)):
        raise ValueError(
            f"slerp needs one weight, or one per sample ({len(a)},), got {tuple(weight.shape)}"
        )
    weight = weight.expand(len(a))
    # Between parallel vectors the sphere is flat: sin(w θ) / sin θ tends to w.
    flat = angle < 1e-4
    safe = torch.where(flat, 1.0, angle)
    on_a = torch.where(flat, 1 - weight, torch.sin((1 - weight) * safe) / torch.sin(safe))
    on_b = torch.where(flat, weight, torch.sin(weight * safe) / torch.sin(safe))
    return expand(on_a, a) * a + expand(on_b, b) * b


@equation("2.19")
def sample(
    denoiser: Denoise,
    process: DDPM,
    x: Tensor,
    times: Sequence[int] | None = None,
    *,
    eta: float = 1.0,
    y: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[State]:
    """Walk down the chain: predict the clean data, then draw the next state.

    Arguments are checked at the call; the network first runs when the first step is asked for.

    Args:
        denoiser: network, oracle or guided wrapper.
        process: the forward process.
        x: the state at ``times[0]``; standard normal (B, ...) when that is T.
        times: falling times, by default T, T−1, ..., 0; see :func:`uniform_times`.
        eta: 1 for DDPM, 0 for DDIM, between them a family with the same marginals.
        y: labels (B,), passed on to the denoiser.
        generator: source of the step noise, on the device of ``x``.

    Yields:
        the starting state, then one :class:`State` per step.

    Raises:
        ValueError: if times do not fall within 0..T or η leaves [0, 1].
    """
    check_eta(eta)
    return _walk_down(denoiser, process, x, checked_times(process, times), eta, y, generator)


@torch.no_grad()
def _walk_down(
    denoiser: Denoise,
    process: DDPM,
    x: Tensor,
    times: list[int],
    eta: float,
    y: Tensor | None,
    generator: torch.Generator | None,
) -> Iterator[State]:
    yield State(times[0], x)
    for t, s in pairwise(times):
        prediction = denoiser(x, t, y)
        noise = None
        if eta > 0 and s > 0:
            noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        x = process.step(x, prediction, t, s, eta, noise)
        yield State(s, x, prediction.x0)


def draw(
    denoiser: Denoise,
    process: DDPM,
    x: Tensor,
    times: Sequence[int] | None = None,
    *,
    eta: float = 1.0,
    y: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Run :func:`sample` to its end and return the last x; arguments as there."""
    for state in sample(denoiser, process, x, times, eta=eta, y=y, generator=generator):
        x = state.x
    return x


@equation("3.9", "7.13")
def ddim_invert(
    denoiser: Denoise,
    process: DDPM,
    x: Tensor,
    times: Sequence[int] | None = None,
    *,
    y: Tensor | None = None,
    refine: int = 1,
) -> Iterator[State]:
    """Walk *up* the deterministic chain: the latent that DDIM (η = 0) decodes to ``x``.

    Each DDIM step x_t → x_s is solved for x_t by fixed-point iteration on the noise that the
    denoiser finds in x_t. One iteration is the usual encoder (Song et al. 2021, section 4.3), which
    takes ε̂ at x_s and is exact only for small steps; a few more make it the inverse of
    :func:`sample` to rounding error wherever the iteration contracts.

    Args:
        denoiser, process, y: as in :func:`sample`.
        x: the state at ``times[-1]``, clean data when that is 0.
        times: the falling times that will decode, walked from the end to the start.
        refine: network calls per step, at least 1.

    Yields:
        the starting state, then one :class:`State` per step, up to ``times[0]``.

    Raises:
        ValueError: if times do not fall within 0..T or ``refine`` < 1.
    """
    if refine < 1:
        raise ValueError(
            f"refine counts network calls per step and must be at least 1, got {refine}"
        )
    return _walk_up(denoiser, process, x, checked_times(process, times), y, refine)


@torch.no_grad()
def _walk_up(
    denoiser: Denoise, process: DDPM, x: Tensor, times: list[int], y: Tensor | None, refine: int
) -> Iterator[State]:
    yield State(times[-1], x)
    for s, t in pairwise(reversed(times)):
        (scale_s, std_s), (scale_t, std_t) = process.kernel(s, x), process.kernel(t, x)
        guess = x
        for _ in range(refine):
            x0 = denoiser(guess, t, y).x0
            eps = process.eps_from_x0(guess, x0, t)
            guess = scale_t / scale_s * (x - std_s * eps) + std_t * eps
        x = guess
        yield State(t, x, x0)


def checked_times(process: DDPM, times: Sequence[int] | None) -> list[int]:
    """``times`` as a list of ints, by default T, T−1, ..., 0.

    Raises:
        ValueError: if they are not whole, or do not fall strictly within T..0.
    """
    try:  # index() takes NumPy's integers too, and refuses 3.0
        times = [index(t) for t in (range(process.T, -1, -1) if times is None else times)]
    except TypeError as error:
        raise ValueError(f"times must be whole numbers ({error})") from error
    falls = len(times) >= 2 and all(s < t for t, s in pairwise(times))
    if not falls or times[0] > process.T or times[-1] < 0:
        raise ValueError(
            f"times must fall strictly within T = {process.T} .. 0 and hold at least two, got "
            f"{times if len(times) < 12 else f'{times[:3]} ... {times[-3:]}'}"
        )
    return times
