"""Tables that are indexed differently, and the book's own noise level that is nearest to theirs."""

from __future__ import annotations

import torch
from torch import Tensor

from ddpmlib.equations import equation
from ddpmlib.process.continuous import Convention, Pair
from ddpmlib.process.ddpm import DDPM
from ddpmlib.process.schedules import log_snr as log_snr_of

# ---- the book's own levels, and tables that are indexed differently ----------------------


def nearest_time(process: DDPM, log_snr: Tensor) -> Tensor:
    """The time 0..T whose log-SNR is nearest, int64; 0 for clean data (λ = ∞) alone.

    Raises:
        ValueError: on the CPU, for what is not a number: a negative σ, say, is no noise level.
    """
    # Looking into a GPU tensor would make the CPU wait.
    if log_snr.device.type == "cpu" and bool(log_snr.isnan().any()):
        raise ValueError("a log-SNR is not a number: did the label leave its range?")
    table = log_snr_of(process.alpha_bar)
    between = (table[:-1] + table[1:]) / 2
    # searchsorted wants a rising table, and λ falls. A last entry of −∞ is between nothing.
    time = torch.searchsorted(-between.to(log_snr), -log_snr.contiguous())
    return torch.where(log_snr == -torch.inf, process.T, time)


def discrete(process: DDPM) -> Convention:
    """The book's own: u is the time t in 0..T, int64 (Ho et al. 2020; Nichol & Dhariwal 2021).

    Between two times it knows no label: ``label`` takes the nearest one.
    """

    def coefficients(t: Tensor) -> Pair:
        process._check_time(t)  # an index of −1 would be the noisiest entry
        return process.scale.to(t.device)[t], process.std.to(t.device)[t]

    return Convention(coefficients, lambda lam: nearest_time(process, lam))


def zero_based(process: DDPM) -> Convention:
    """Programs that count 0..T−1, as diffusers does: their index i is our t = i + 1.

    Clean data have no index; the label of λ = ∞ is −1, where their tables hold the noisiest entry.
    """
    ours = discrete(process)
    return Convention(lambda i: ours.coefficients(i + 1), lambda lam: ours.label(lam) - 1)


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
    table = alpha_bar.double()
    falls = table.ndim == 1 and bool(torch.diff(table, prepend=table.new_ones(1)).lt(0).all())
    if not falls or bool((table < 0).any()):
        raise ValueError("running products fall: 1 > alpha_bar_1 > alpha_bar_2 > ...; are these β?")
    before = torch.cat([table.new_ones(1), table[:-1]])
    return torch.cat([table.new_zeros(1), 1 - table / before])
