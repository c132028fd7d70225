"""Training objectives, one number per sample."""

from torch import Tensor

from ddpmlib.broadcast import flat_mean
from ddpmlib.denoiser import Denoiser
from ddpmlib.equations import equation


@equation("3.2")
def l_simple(
    denoiser: Denoiser, x0: Tensor, t: Tensor, eps: Tensor, y: Tensor | None = None
) -> Tensor:
    """Squared error of the network's output, unweighted (Ho et al. 2020, eq. 14).

    For an ε-network this is L_simple itself; an x_0- or v-network regresses on its own target,
    which weights the times differently.

    Args:
        denoiser: network, process and parameterization.
        x0: clean data (B, ...), images in [-1, 1].
        t: times (B,), int64 in 1..T.
        eps: standard normal, shape of ``x0``.
        y: class labels (B,) or None.

    Returns:
        the loss of each sample, (B,), in the dtype of ``x0``.
    """
    x_t = denoiser.process.q_sample(x0, t, eps)
    scale, std = denoiser.process.kernel(t, x0)
    target = denoiser.parameterization.target(x0, eps, scale, std)
    return flat_mean((denoiser.raw(x_t, t, y) - target) ** 2)
