"""Which times a chain visits: falling sequences from T to 0."""

import math
from collections.abc import Sequence
from itertools import pairwise
from operator import index
from typing import Any

import numpy as np
import torch

from ddpmlib.broadcast import Time
from ddpmlib.process.process import Process


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


def _check_steps(T: int, steps: Any) -> None:
    if isinstance(steps, bool) or not hasattr(steps, "__index__") or not 1 <= steps <= T:
        raise ValueError(f"steps must lie in 1..T = 1..{T}, got {steps}")


def even_times(process: Process, steps: int, last: float | None = None) -> list[float]:
    """``steps`` times from ``process.end``, evenly spaced, then clean data.

    Args:
        process: a continuous one.
        steps: at least 1.
        last: the time before clean data; by default the spacing goes on to clean data itself.

    Raises:
        ValueError: if ``steps`` < 1, the process has no finite end, or its times are whole.
    """
    _check_continuous(process, steps)
    if last is None:
        return [process.end + (process.clean - process.end) * k / steps for k in range(steps + 1)]
    gap = (last - process.end) / max(1, steps - 1)
    return [*(process.end + gap * k for k in range(steps)), process.clean]


def log_snr_times(process: Process, steps: int, low: float, high: float) -> list[float]:
    """``steps`` times whose log-SNRs rise evenly from ``low`` to ``high``, then clean data.

    Raises:
        ValueError: if ``steps`` < 1, or the process's times are whole.
    """
    _check_continuous(process, steps)
    levels = torch.linspace(low, high, steps, dtype=torch.float64)
    return [*process.time_of(levels).tolist(), process.clean]


def karras_times(
    process: Process,
    steps: int,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
) -> list[float]:
    """``steps`` times whose σ = b/a fall evenly in σ^(1/ρ), then clean data.

    The grid of Karras et al. (2022, eq. 5), for any continuous process.

    Raises:
        ValueError: if ``steps`` < 1, or σ and ρ are not 0 < sigma_min ≤ sigma_max and ρ > 0.
    """
    _check_continuous(process, steps)
    if not 0 < sigma_min <= sigma_max < math.inf or not rho > 0:
        raise ValueError(
            f"need 0 < sigma_min <= sigma_max and rho > 0, got {sigma_min}, {sigma_max} and {rho}"
        )
    ends = torch.tensor([sigma_max, sigma_min], dtype=torch.float64) ** (1 / rho)
    share = torch.linspace(0, 1, steps, dtype=torch.float64)
    sigma = (ends[0] + share * (ends[1] - ends[0])) ** rho
    return [*process.time_of(-2 * sigma.log()).tolist(), process.clean]


def _check_continuous(process: Process, steps: int) -> None:
    if steps < 1:
        raise ValueError(f"steps counts network calls and must be at least 1, got {steps}")
    if process.times_are_whole or not math.isfinite(process.end):
        raise ValueError(f"{process} has no continuous times with an end to start from")


def checked_times(
    process: Process, times: Sequence[Time] | None, rising: bool = False
) -> list[Any]:
    """``times`` as a list of numbers, by default T, T−1, ..., 0 of a chain.

    Args:
        process: whose times they are.
        times: falling towards clean data.
        rising: they may also rise, but not stand still.

    Raises:
        ValueError: if they are none of the process's, or do not fall strictly within T..0.
    """
    if times is None and not process.times_are_whole:
        raise ValueError(f"{process} has no times of its own: give them, for example even_times")
    chosen = range(process.end, process.clean - 1, -1) if times is None else times
    found = [_number(t, process.times_are_whole) for t in chosen]
    falls = [process.less_noisy(s, t) or (rising and s != t) for t, s in pairwise(found)]
    first, last = sorted((process.clean, process.end))
    inside = all(first <= t <= last for t in found)
    if len(found) < 2 or not all(falls) or not inside:
        way = "change at every step" if rising else "fall strictly"
        raise ValueError(
            f"times must {way} within T = {process.end} .. {process.clean} and hold at least two, "
            f"got {found if len(found) < 12 else f'{found[:3]} ... {found[-3:]}'}"
        )
    return found


def _number(t: Any, whole: bool) -> Any:
    try:  # index() takes NumPy's integers too, and refuses 3.0
        if isinstance(t, bool | np.bool_ | str) or getattr(t, "dtype", None) == torch.bool:
            raise TypeError(f"got {t!r}")
        return index(t) if whole else float(t)
    except (TypeError, ValueError) as error:
        kind = "whole numbers" if whole else "numbers"
        raise ValueError(f"times must be {kind} ({error})") from error
