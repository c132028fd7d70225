"""What a network must be for a denoiser: one call, and two members if it can do without conditions.

>>> import torch
>>> from ddpmlib.denoiser import Denoiser
>>> from ddpmlib.process import DDPM, schedules
>>> class Shrink(torch.nn.Module):
...     def forward(self, x, t):
...         return 0.5 * x
>>> denoiser = Denoiser(Shrink(), DDPM(schedules.cosine(10)))
>>> denoiser(torch.zeros(2, 3), 5).x0.shape
torch.Size([2, 3])
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from ddpmlib.condition import Condition


class Network(Protocol):
    """(x_t, t) or (x_t, t, y) -> output; any ``nn.Module`` with such a ``forward``.

    ``x_t`` is (B, ...), ``t`` is (B,), what :meth:`ddpmlib.process.process.Process.network_time`
    makes of the times, and ``y`` a condition of B samples, which is handed on only where one is
    given: a network without conditions needs no third argument.
    """

    def forward(self, x: Tensor, t: Tensor, y: Condition | None = None) -> Tensor:
        """The output: x_t's shape, or twice the channels where the variance is learned too."""


class ConditionalNetwork(Network, Protocol):
    """A network that was trained to do without its condition, too: what guidance needs."""

    conditional: bool

    def without(self, y: Condition) -> Condition:
        """The same condition emptied: one that means none, of the same samples."""
