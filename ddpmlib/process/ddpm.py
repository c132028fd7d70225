"""The forward process of DDPM: a chain of T steps, whose times are whole numbers.

Tables run over t = 0..T in float64; t = 0 is clean data, so ``alpha_bar[0] == 1`` and "the step
before the first" needs no special case. Where a method takes a time it takes an int (one time for
the whole batch, coefficients are then plain floats and nothing waits for a GPU) or a LongTensor of
shape (B,) on the device of the data.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ddpmlib.broadcast import Coefficient, Pair, Time, cast, check_alike, exact_on, expand
from ddpmlib.equations import equation
from ddpmlib.inputs import as_tensor, check_floats, check_readable
from ddpmlib.process.process import Process, Stride
from ddpmlib.process.schedules import log_snr


class DDPM(Process):
    """Gaussian forward process x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε (Ho et al. 2020).

    Args:
        beta: shape (T+1,) with ``beta[0] == 0``, see :mod:`ddpmlib.process.schedules`.

    Attributes:
        T: number of steps.
        beta: β_t; like all that follow a float64 table of shape (T+1,) on the CPU.
        alpha: 1 − β_t.
        alpha_bar: ᾱ_t, the product of all α up to t.
        beta_tilde: β̃_t, the variance of q(x_{t−1}|x_t, x_0); 0 at t = 0 and 1.
        scale: √ᾱ_t, which the kernel q(x_t|x_0) multiplies x_0 with.
        std: √(1−ᾱ_t), its standard deviation.
        angle: arctan(std/scale), from 0 for clean data to π/2 for pure noise.

    Raises:
        ValueError: if ``beta`` is not such a table (0 < β_t < 1; β_T = 1 is allowed).
    """

    clean = 0
    times_are_whole: ClassVar[bool] = True

    def __init__(self, beta: Tensor) -> None:
        self.beta = _checked_beta(beta)
        self.T = self.end = len(self.beta) - 1
        self.alpha = 1 - self.beta
        self.alpha_bar = self.alpha.cumprod(0)
        self.scale = self.alpha_bar.sqrt()
        self.std = (1 - self.alpha_bar).sqrt()
        self.angle = torch.atan2(self.std, self.scale)
        before = torch.cat([self.alpha_bar[:1], self.alpha_bar[:-1]])
        self.beta_tilde = torch.zeros_like(self.beta)
        self.beta_tilde[1:] = ((1 - before) / (1 - self.alpha_bar) * self.beta)[1:]
        # For single times, without a tensor.
        self._alpha_bars: list[float] = self.alpha_bar.tolist()
        self._log_snr = log_snr(self.alpha_bar)
        self._on_device: dict[tuple[str, torch.device], Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        # What travelled to a device stays there: the copy may be opened where there is none.
        return self.__dict__ | {"_on_device": {}}

    def __repr__(self) -> str:
        return f"DDPM(T={self.T}, alpha_bar_T={float(self.alpha_bar[-1]):.3g})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DDPM) and self._alpha_bars == other._alpha_bars

    def __hash__(self) -> int:
        return hash((self.T, self._alpha_bars[-1]))

    # ---- as a process, in the form of ᾱ ----------------------------------------------------

    def coefficients(self, t: Tensor) -> Pair:
        """√ᾱ_t and √(1−ᾱ_t) at whole times, any shape."""
        self.check_time(t)  # an index of −1 would be the noisiest entry
        return self.table("scale", t.device)[t], self.table("std", t.device)[t]

    def time_of(self, log_snr: Tensor) -> Tensor:
        """The time 0..T whose log-SNR is nearest, int64; 0 for clean data (λ = ∞) alone.

        Raises:
            ValueError: on the CPU, for what is not a number: a negative σ, say, is no noise level.
        """
        # Looking into a GPU tensor would make the CPU wait.
        if log_snr.device.type == "cpu" and bool(log_snr.isnan().any()):
            raise ValueError("a log-SNR is not a number: did the label leave its range?")
        between = (self._log_snr[:-1] + self._log_snr[1:]) / 2
        # searchsorted wants a rising table, and λ falls. A last entry of −∞ is between nothing.
        time = torch.searchsorted(-between.to(log_snr), -log_snr.contiguous())
        return torch.where(log_snr == -torch.inf, self.T, time)

    def snr(self, t: Tensor) -> Tensor:
        """ᾱ_t/(1−ᾱ_t) at whole times, any shape; infinite at t = 0."""
        self.check_time(t)  # as in coefficients
        alpha_bar = self.table("alpha_bar", t.device)[t]
        return alpha_bar / (1 - alpha_bar)

    def kernel(self, t: Time, x: Tensor) -> tuple[Coefficient, Coefficient]:
        """Scale √ᾱ_t and std √(1−ᾱ_t) of q(x_t|x_0), ready to multiply ``x`` (B, ...)."""
        check_floats(x)
        self.check_time(t)
        a = self._looked_up(t, x)
        return cast(a**0.5, x), cast((1 - a) ** 0.5, x)

    def stride(self, t: Time, s: Time, x: Tensor) -> Stride:
        """The relation of two times, s < t; see :class:`ddpmlib.process.process.Stride`."""
        a_t: Coefficient
        a_s: Coefficient
        if type(t) is type(s) is int and 0 <= s < t <= self.T:  # without a call, for each step
            a_t, a_s = self._alpha_bars[t], self._alpha_bars[s]
        else:
            self.check_pair(t, s)
            a_t, a_s = self._looked_up(t, x), self._looked_up(s, x)
        beta, ratio = 1 - a_t / a_s, (a_t / a_s) ** 0.5
        beta_tilde = (1 - a_s) / (1 - a_t) * beta
        return Stride(a_t**0.5, a_s**0.5, 1 - a_t, 1 - a_s, ratio, beta, beta_tilde)

    def less_noisy(self, s: Time, t: Time) -> bool | Tensor:
        """Whether s lies nearer to clean data than t: s < t."""
        return s < t

    @equation("1.1", "1.2")
    def q_step(self, x_prev: Tensor, t: int, noise: Tensor) -> Tensor:
        """One forward step from t−1 to t (Ho et al. 2020, eq. 2): √(1−β_t) x_{t−1} + √β_t noise.

        Raises:
            ValueError: if t is not in 1..T or ``noise`` has another shape than ``x_prev``.
        """
        if isinstance(t, bool) or not isinstance(t, int) or not 1 <= t <= self.T:
            raise ValueError(f"a forward step arrives at one time, an int in 1..{self.T}, got {t}")
        check_alike(x_prev, noise, "noise")
        beta = float(self.beta[t])
        return (1 - beta) ** 0.5 * x_prev + beta**0.5 * noise

    # ---- look-ups ------------------------------------------------------------------------

    def _looked_up(self, t: Time, x: Tensor) -> Coefficient:
        """ᾱ at times that were checked."""
        if isinstance(t, Tensor):
            check_floats(x)
            return expand(self.table("alpha_bar", t.device)[t], x)
        return self._alpha_bars[int(t)]

    def table(self, name: str, device: torch.device) -> Tensor:
        """One of the tables, (T+1,), on a device to which it travels only once.

        Args:
            name: "beta", "alpha", "alpha_bar", "beta_tilde", "scale", "std" or
                "angle".
            device: where it is looked up.
        """
        if (name, device) not in self._on_device:
            dtype = exact_on(device)
            self._on_device[name, device] = getattr(self, name).to(device=device, dtype=dtype)
        return self._on_device[name, device]

    def check_time(self, t: Time) -> None:
        """Raise ValueError unless t is an int in 0..T, or an int64 tensor of such."""
        if isinstance(t, Tensor):
            if t.dtype != torch.int64:
                raise ValueError(f"times must be an int or an int64 tensor, got {t.dtype}")
            # Looking into a GPU tensor would make the CPU wait, so only CPU times are ranged.
            if (
                t.device.type == "cpu"
                and t.numel()
                and not 0 <= int(t.min()) <= int(t.max()) <= self.T
            ):
                raise ValueError(
                    f"times must lie in 0..{self.T}, got {int(t.min())}..{int(t.max())}"
                )
        elif not isinstance(t, int) or isinstance(t, bool):
            raise ValueError(f"times must be an int or an int64 tensor, got {type(t).__name__}")
        elif not 0 <= t <= self.T:
            raise ValueError(f"times must lie in 0..{self.T}, got {t}")


def _checked_beta(beta: Any) -> Tensor:
    if not isinstance(beta, list | tuple):
        check_readable(as_tensor(beta, "beta"), "beta")
    beta = torch.as_tensor(beta).detach().to(device="cpu", dtype=torch.float64, copy=True)
    if beta.ndim != 1 or len(beta) < 2 or beta[0] != 0:
        raise ValueError(
            "beta must be a table of shape (T+1,) with beta[0] == 0, see ddpmlib.process.schedules"
        )
    inside = (beta[1:] > 0) & (beta[1:] < 1)
    inside[-1] |= beta[-1] == 1
    if not bool(inside.all()):
        t = int(torch.nonzero(~inside)[0]) + 1
        raise ValueError(f"beta must lie in (0, 1) at t = 1..T, but beta[{t}] = {float(beta[t]):g}")
    return beta
