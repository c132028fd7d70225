"""Numbers per sample against tensors of any rank: the only two places that know about shapes."""

from torch import Tensor


def expand(v: Tensor, x: Tensor) -> Tensor:
    """Give one number per sample the rank of ``x``.

    Args:
        v: shape (B,).
        x: shape (B, ...), any rank.

    Returns:
        ``v`` with shape (B, 1, ..., 1), ready to be multiplied with ``x``.

    Raises:
        ValueError: if ``v`` does not hold exactly one number per sample of ``x``.
    """
    if v.ndim != 1 or len(v) != len(x):
        raise ValueError(
            f"expected one number per sample, shape ({len(x)},), but got shape {tuple(v.shape)}"
        )
    return v.reshape(-1, *[1] * (x.ndim - 1))


def flat_mean(x: Tensor) -> Tensor:
    """Mean over everything but the batch: (B, ...) -> (B,)."""
    return x.flatten(1).mean(1) if x.ndim > 1 else x
