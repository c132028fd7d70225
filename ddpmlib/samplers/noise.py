"""Where the noise of a step comes from."""

import torch
from torch import Tensor


def normal(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal noise like ``x``, on its device and in its dtype."""
    return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
