"""A model that was trained on one process answers for another."""

from __future__ import annotations

from torch import Tensor, nn

from ddpmlib.broadcast import Time, cast, expand
from ddpmlib.condition import Condition, emptied, is_conditional
from ddpmlib.denoiser.denoiser import Denoiser, ProcessDenoiser
from ddpmlib.prediction import Prediction
from ddpmlib.process.continuous import Interpolated
from ddpmlib.process.ddpm import DDPM
from ddpmlib.process.process import Process


class Translated(nn.Module):
    """A denoiser asked in the time and the scale of another process, at the same log-SNR.

    Noisy data of all processes are alike up to scale where their signal-to-noise ratios are: x_t is
    rescaled, its time renamed, and the prediction of x_0 means the same. A chain of whole times has
    no time for most ratios, and the nearest one is asked: see :func:`between_steps`.

    Args:
        denoiser: what is asked; it carries its own process.
        process: in whose terms.
    """

    def __init__(self, denoiser: ProcessDenoiser, process: Process) -> None:
        super().__init__()
        self.denoiser, self.process = denoiser, process

    @property
    def conditional(self) -> bool:
        """Whether it takes conditions that it can be without."""
        return is_conditional(self.denoiser)

    def without(self, y: Condition) -> Condition:
        """The same condition emptied, as the denoiser says."""
        return emptied(self.denoiser, y)

    def forward(self, x_t: Tensor, t: Time, y: Condition | None = None) -> Prediction:
        """The prediction of x_0 at (x_t, t) of this process; see :class:`Denoiser`."""
        own, theirs = self.process, self.denoiser.process
        t = own.per_sample(t, x_t)
        u = theirs.time_of(own.log_snr(t))
        (a, b), (c, d) = own.coefficients(t), theirs.coefficients(u)
        ratio = expand((c**2 + d**2).sqrt() / (a**2 + b**2).sqrt(), x_t)
        return self.denoiser(cast(ratio, x_t) * x_t, u, y)


def between_steps(denoiser: Denoiser) -> Denoiser:
    """The same network, which is also asked between the whole times that it was trained at.

    It shares the weights. Networks that are told the time by sinusoids answer smoothly between.

    Raises:
        ValueError: if its process is no chain of whole times.
    """
    if not isinstance(denoiser.process, DDPM):
        raise ValueError(f"{denoiser.process} has no steps to ask between")
    process = Interpolated(denoiser.process)
    twin = Denoiser(denoiser.net, process, denoiser.parameterization, denoiser.var_mix)
    return twin.train(denoiser.training)
