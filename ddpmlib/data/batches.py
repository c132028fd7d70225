"""Which samples make up batch number k."""

import torch
from torch import Tensor

# ---- batches -----------------------------------------------------------------------------------


class Batches:
    """Which samples make up batch number k: a pure function of (seed, k), so nothing to save.

    Every epoch is a new permutation; the last, incomplete batch of an epoch is left out. The order
    travels to ``device`` once an epoch, so that a batch is then a window onto it.

    Raises:
        ValueError: if the batch is larger than the data set, or a batch number is negative.
    """

    def __init__(
        self, n: int, batch_size: int, seed: int, device: torch.device | str = "cpu"
    ) -> None:
        if not 1 <= batch_size <= n:
            raise ValueError(
                f"batch_size must lie in 1..{n} (the size of the data set), got {batch_size}"
            )
        self.n, self.batch_size, self.seed, self.device = n, batch_size, seed, device
        self.per_epoch = n // batch_size
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def __getitem__(self, k: int) -> Tensor:
        """Indices of batch k = 0, 1, ...: int64 (batch_size,)."""
        if k < 0:
            raise ValueError(f"batches are counted from 0, got number {k}")
        epoch, i = divmod(k, self.per_epoch)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            order = torch.randperm(self.n, generator=generator)
            self._epoch, self._order = epoch, order.to(self.device)
        return self._order[i * self.batch_size : (i + 1) * self.batch_size]
