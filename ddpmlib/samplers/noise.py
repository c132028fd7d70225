"""Where the noise of a chain comes from: one generator, or one for each sample.

Every sampler draws by :func:`normal` alone. So it works with PyTorch's generators, which hand the
next numbers to whoever asks, and with :class:`SampleNoise`, where they belong to samples.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ddpmlib import seeds
from ddpmlib.inputs import check_floats


class SampleNoise:
    """Standard normal noise that belongs to samples: a generator for each, wherever it is drawn.

    The k-th draw of sample number i of a seed is the same to the bit in every batch, of every size,
    in every process, and whatever the sampler draws for others. It is drawn on the CPU and then
    moved, so that it is the same on every device too.

    Args:
        seed: of all samples.
        numbers: those of the samples of this batch, in its order, each 0 ≤ i < 2³².
    """

    def __init__(self, seed: int, numbers: Iterable[int]) -> None:
        self.generators = [torch.Generator().manual_seed(seeds.of_sample(seed, i)) for i in numbers]

    def __len__(self) -> int:
        return len(self.generators)

    def like(self, x: Tensor) -> Tensor:
        """The next draw of every sample, in the shape, the dtype and on the device of ``x``.

        Raises:
            ValueError: if ``x`` does not hold these samples, (len(self), ...).
        """
        check_floats(x, "the state")
        if not x.ndim or len(x) != len(self):
            raise ValueError(
                f"this noise is that of {len(self)} samples, and the state has shape "
                f"{tuple(x.shape)}"
            )
        noise = torch.empty(x.shape, dtype=x.dtype)
        for own, generator in zip(noise, self.generators, strict=True):
            own.normal_(generator=generator)
        return noise.to(x.device, non_blocking=True)


NoiseSource = torch.Generator | SampleNoise | None
"""A generator on the device of the state, noise by sample, or None for PyTorch's own numbers."""


def normal(x: Tensor, generator: NoiseSource = None) -> Tensor:
    """Standard normal noise like ``x``: the only way in which samplers draw.

    Args:
        x: gives shape (B, ...), dtype and device.
        generator: see :data:`NoiseSource`.
    """
    if isinstance(generator, SampleNoise):
        return generator.like(x)
    return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
