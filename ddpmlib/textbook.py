"""The algorithms exactly as the papers print them, one line per line, with a bare ε-network.

Nothing here is fast or general; :mod:`tests.test_textbook` holds the engine to these lines.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from ddpmlib.equations import equation

EpsNet = Callable[[Tensor, int], Tensor]


@equation("3.1")
def algorithm_1_loss(eps_net: EpsNet, x0: Tensor, t: int, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """Line 5 of Algorithm 1 (Ho et al. 2020): ‖ε − ε_θ(√ᾱ_t x_0 + √(1−ᾱ_t) ε, t)‖².

    Args:
        eps_net: (x_t, t) -> ε̂, shape of x_t.
        x0, eps: (B, ...).
        t: 1..T.
        alpha_bar: (T+1,).

    Returns:
        the squared norm of each sample, (B,) — a sum over pixels, as printed.
    """
    x_t = alpha_bar[t].sqrt() * x0 + (1 - alpha_bar[t]).sqrt() * eps
    return ((eps - eps_net(x_t, t)) ** 2).flatten(1).sum(1)


@equation("3.3")
def algorithm_2(
    eps_net: EpsNet,
    x_T: Tensor,
    alpha: Tensor,
    alpha_bar: Tensor,
    sigma: Tensor,
    z: Sequence[Tensor],
) -> Tensor:
    """Algorithm 2 (Ho et al. 2020), sampling.

    Args:
        eps_net: (x_t, t) -> ε̂, shape of x_t.
        x_T: standard normal (B, ...).
        alpha, alpha_bar, sigma: (T+1,); sigma is the deviation of the reverse step.
        z: T+1 standard normal tensors; z[t] is the draw of step t, z[0] and z[1] are not used.

    Returns:
        x_0.
    """
    x = x_T
    for t in range(len(alpha) - 1, 0, -1):
        noise = z[t] if t > 1 else 0
        mean = (x - (1 - alpha[t]) / (1 - alpha_bar[t]).sqrt() * eps_net(x, t)) / alpha[t].sqrt()
        x = mean + sigma[t] * noise
    return x


@equation("3.8")
def ddim_update(
    x_t: Tensor, eps: Tensor, alpha_bar_t: Tensor, alpha_bar_s: Tensor, sigma: Tensor, z: Tensor
) -> Tensor:
    """Eq. 12 of DDIM (Song et al. 2021), whose α is our ᾱ.

    "Predicted x_0", "direction pointing to x_t" and "random noise", in this order.
    """
    predicted_x0 = (x_t - (1 - alpha_bar_t).sqrt() * eps) / alpha_bar_t.sqrt()
    direction = (1 - alpha_bar_s - sigma**2).sqrt() * eps
    return alpha_bar_s.sqrt() * predicted_x0 + direction + sigma * z
