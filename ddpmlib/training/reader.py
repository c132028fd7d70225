"""Batches of samples that lie elsewhere, read ahead by workers, in the order of their numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ddpmlib.data.samples import Samples


class Reader:
    """Reads what the updates ask for, and, in other processes, what the next ones will.

    Which samples update k needs is a function of k, so nothing here is saved: after a jump to
    another update, reading starts anew from there.

    Args:
        samples: where they are read.
        wanted: the number of an update -> the samples that this process needs for it.
        workers: processes that read ahead; with 0 nothing is read before it is needed.
        pinned: hand batches over in memory from which a CUDA GPU copies at full speed.
    """

    def __init__(
        self, samples: Samples, wanted: Callable[[int], Tensor], workers: int, pinned: bool
    ) -> None:
        if not isinstance(workers, int) or workers < 0:
            raise ValueError(f"workers counts processes, 0 or more, got {workers!r}")
        self.samples, self.wanted = samples, wanted
        self.workers, self.pinned = workers, pinned
        self._next = -1
        self._batches: Iterator[Tensor] = iter(())

    def batch(self, k: int) -> Tensor:
        """The samples of update k, on the CPU.

        Raises:
            Exception: whatever reading a sample raises.
        """
        if k != self._next:
            self._batches = self._from(k)
        self._next = k + 1
        return next(self._batches)

    def _from(self, k: int) -> Iterator[Tensor]:
        loader: DataLoader[Tensor] = DataLoader(
            _Batchwise(self.samples), batch_size=None, sampler=_Wanted(self.wanted, k),
            num_workers=self.workers, pin_memory=self.pinned,
            generator=torch.Generator(),  # else each start would draw from the global numbers
        )  # fmt: skip
        return iter(loader)


class _Batchwise(Dataset[Tensor]):
    """Whole batches for single items: workers are sent the places of a batch."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __getitem__(self, indices: Tensor) -> Tensor:
        return self.samples.batch(indices)


class _Wanted(Sampler[Tensor]):
    """The places of the samples of updates k, k+1, ..., without end."""

    def __init__(self, wanted: Callable[[int], Tensor], k: int) -> None:
        self.wanted, self.k = wanted, k

    def __iter__(self) -> Iterator[Tensor]:
        k = self.k
        while True:
            yield self.wanted(k).cpu()
            k += 1
