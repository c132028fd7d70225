"""One run in several processes, as ``torchrun`` starts them; alone, every call is a no-op.

The processes deal work out among themselves by number: pieces of a batch, batches of samples,
batches of images whose features are wanted. What each number is does not depend on how many
processes there are, so neither do the results.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

T = TypeVar("T")
PATIENCE = timedelta(minutes=10)  # with a process that does not answer; then torchrun may restart


@contextmanager
def joined(device: torch.device | str | None = None) -> Iterator[torch.device | str | None]:
    """Join the processes that ``torchrun`` started, if it did, until the block ends.

    Args:
        device: as a user gives it: "cpu", "cuda", "mps", or None for the best there is.

    Yields:
        the device of this process: with several processes and CUDA, one GPU each; alone, ``device``
        as it is.

    Raises:
        ValueError: if this machine has fewer GPUs than processes, or the device cannot be shared.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ or dist.is_initialized():
        yield device
        return
    own = _own_device(device)
    # Two backends: tensors on a GPU travel by NCCL, what lies on the CPU by Gloo.
    backend = "cpu:gloo,cuda:nccl" if own.type == "cuda" else "gloo"
    # Of a 1×1 kernel's strides two are free, and DistributedDataParallel warns when they differ.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    store, rank, world_size = next(rendezvous("env://", timeout=PATIENCE))
    dist.init_process_group(
        backend,
        store=PrefixStore(_attempt(), store),
        rank=rank,
        world_size=world_size,
        timeout=PATIENCE,
    )
    try:
        yield own
    finally:
        dist.destroy_process_group()


def _attempt() -> str:
    """A name for this start of the processes, under which they leave each other their addresses.

    The store of ``torchrun`` outlives a restart. Without a new name a process may read the address
    that a dead one left there, and wait for it for ever.
    """
    return f"restart {_restarts()}, {os.environ['WORLD_SIZE']} processes"


def _restarts() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def _own_device(device: torch.device | str | None) -> torch.device:
    local = int(os.environ.get("LOCAL_RANK", "0"))
    kind = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if kind.type == "cpu":
        return kind
    if str(kind) != "cuda":
        raise ValueError(f"several processes share cpu or cuda, one GPU each, not {device!r}")
    if local >= torch.cuda.device_count():
        raise ValueError(
            f"process {local} of this machine needs a GPU of its own, and there are "
            f"{torch.cuda.device_count()}: start as many processes as GPUs, or give --device cpu"
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def size() -> int:
    """Number of processes, 1 if there is only this one."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, 0..size−1."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this process is the one that writes files and speaks to the user."""
    return rank() == 0


def restarted() -> bool:
    """Whether ``torchrun`` started the processes again after one had failed."""
    return _restarts() > 0


def wait() -> None:
    """Until all processes have come here."""
    if size() > 1:
        dist.barrier()


def mean(value: Tensor) -> Tensor:
    """The mean of a tensor over all processes; the tensor itself if there is only this one."""
    if size() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / size()


def own(items: Sequence[T]) -> Iterator[tuple[int, T]]:
    """This process's share of ``items``, with their numbers: dealt out in turn, none twice."""
    return ((i, items[i]) for i in range(rank(), len(items), size()))


def collected(results: Sequence[T]) -> list[T]:
    """The results of all processes for what :func:`own` dealt out, in order, on every process."""
    if size() == 1:
        return list(results)
    parts: list[list[T]] = [[] for _ in range(size())]
    dist.all_gather_object(parts, list(results))
    total = sum(map(len, parts))
    return [parts[i % size()][i // size()] for i in range(total)]
