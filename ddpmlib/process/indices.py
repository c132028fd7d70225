"""Tables that are indexed differently: programs that count from 0, and running products."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ddpmlib.broadcast import Pair, Time
from ddpmlib.equations import equation
from ddpmlib.inputs import as_values
from ddpmlib.process.ddpm import DDPM
from ddpmlib.process.process import Process


class ZeroBased(Process):
    """Programs that count 0..T−1, as diffusers does: their index i is our t = i + 1.

    Clean data have no index; the time of λ = ∞ is −1, where their tables hold the noisiest entry.

    Args:
        process: the chain whose times run over 0..T.
    """

    clean = -1
    times_are_whole: ClassVar[bool] = True

    def __init__(self, process: DDPM) -> None:
        self.process, self.end = process, process.T - 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ZeroBased) and self.process == other.process

    def __hash__(self) -> int:
        return hash(("zero-based", self.process))

    def coefficients(self, t: Tensor) -> Pair:
        """√ᾱ and √(1−ᾱ) at the indices t, int64."""
        return self.process.coefficients(t + 1)

    def time_of(self, log_snr: Tensor) -> Tensor:
        """The index whose log-SNR is nearest."""
        return self.process.time_of(log_snr) - 1

    def check_time(self, t: Time) -> None:
        """Raise ValueError unless t is a whole number in −1..T−1, or an int64 tensor of such."""
        if isinstance(t, Tensor):
            if t.dtype != torch.int64:
                raise ValueError(f"indices must be an int or an int64 tensor, got {t.dtype}")
            if t.device.type != "cpu" or not t.numel():
                return
            low, high = int(t.min()), int(t.max())
        elif isinstance(t, bool) or not isinstance(t, int):
            raise ValueError(f"indices must be an int or an int64 tensor, got {type(t).__name__}")
        else:
            low = high = t
        if not self.clean <= low <= high <= self.end:
            raise ValueError(f"indices must lie in {self.clean}..{self.end}, got {low}..{high}")


@equation("B.6")
def beta_from_alpha_bar(alpha_bar: Tensor) -> Tensor:
    """The book's β table of running products: β_t = 1 − ᾱ_t/ᾱ_{t−1}, with β_0 = 0.

    Args:
        alpha_bar: ᾱ_1, ..., ᾱ_T, shape (T,): ``alphas_cumprod`` of diffusers, α_1, ..., α_T of the
            DDIM paper.

    Returns:
        beta, float64 (T+1,), as :class:`~ddpmlib.process.ddpm.DDPM` takes it.

    Raises:
        ValueError: if the products do not fall from below 1, as they do when β were given.
    """
    table = as_values(alpha_bar, "running products").double()
    falls = table.ndim == 1 and bool(torch.diff(table, prepend=table.new_ones(1)).lt(0).all())
    if not falls or bool((table < 0).any()):
        raise ValueError("running products fall: 1 > alpha_bar_1 > alpha_bar_2 > ...; are these β?")
    before = torch.cat([table.new_ones(1), table[:-1]])
    return torch.cat([table.new_zeros(1), 1 - table / before])
