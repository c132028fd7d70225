"""Which times a chain visits: falling sequences from T to 0."""

from collections.abc import Sequence
from itertools import pairwise
from operator import index

from ddpmlib.process.ddpm import DDPM


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
