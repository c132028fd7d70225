"""Samples in batches, which several processes share."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddpmlib import samplers
from ddpmlib.condition import Condition, as_condition, count, moved, taken
from ddpmlib.denoiser.denoiser import Denoiser, FixedVariance
from ddpmlib.evaluation.sampling import Sampling
from ddpmlib.guidance.wrapper import Wrapper
from ddpmlib.training import parallel
from ddpmlib.training.machine import compile_network
from ddpmlib.zoo.card import Card


def classes_in_turn(card: Card, n: int) -> Tensor | None:
    """Labels 0, 1, ..., again from 0: (n,) int64; None if the checkpoint knows no classes."""
    return torch.arange(n) % card.num_classes if card.num_classes else None


# ---- drawing -----------------------------------------------------------------------------------


def generate(
    denoiser: Denoiser | FixedVariance | Wrapper,
    image_shape: tuple[int, ...],
    y: Condition | None,
    sampling: Sampling | None = None,
    *,
    n: int | None = None,
    card: Card | None = None,
    batch_size: int = 500,
    compile: bool = False,
) -> Tensor:
    """Samples in batches with a progress bar; several processes deal the batches out.

    Sample number i of a seed has the same noise to the bit in every batch size and every number of
    processes, with every way of sampling. With the same batch size the sample is the same to the
    bit in any number of processes on like machines; with another it differs by rounding alone,
    because networks round otherwise in batches of other sizes.

    Args:
        denoiser: or a wrapper around one, see :mod:`ddpmlib.guidance`; it is guided as
            ``sampling`` says.
        image_shape: (C, H, W).
        y: labels (N,), or another condition of N samples; one label, or None, together with ``n``.
        sampling: how, by default ``Sampling()``, 50 steps of DDIM.
        card: of the denoiser, if a classifier that guides should be checked to be of its data.
        batch_size: samples at a time, in each process.
        compile: run the network through torch.compile.

    Returns:
        (N, C, H, W) on the CPU, one per label, or n.

    Raises:
        ValueError: without labels or a number of samples, or if the denoiser cannot be sampled so.
    """
    sampling = sampling or Sampling()
    if y is not None:
        y = as_condition(y, torch.empty(_count(y, n)))
    total = n if y is None else count(y)
    if total is None or total < 1 or (n is not None and n != total):
        raise ValueError(f"give labels or a number of samples, at least 1: n = {n}, labels {y}")
    times, guided = sampling.times(denoiser.process), sampling.wrap(denoiser, card)
    runner = _compiled(guided) if compile else guided
    batches = list(parallel.own(torch.arange(total).split(batch_size)))
    done = [
        _batch(runner, image_shape, None if y is None else taken(y, index), sampling, times, index)
        for _, index in progress_bar(batches)
    ]
    return torch.cat(parallel.collected(done))


def _count(y: Any, n: int | None) -> int:
    """How many samples a condition is for: its own number, or n where it is one label for all."""
    if isinstance(y, Tensor | Mapping):
        return count(y)
    if isinstance(y, int):
        return n or 0
    return len(y) if isinstance(y, Sequence | np.ndarray) else 0


def _batch(
    denoiser: Denoiser | FixedVariance | Wrapper,
    image_shape: tuple[int, ...],
    y: Condition | None,
    sampling: Sampling,
    times: list[Any],
    index: Tensor,
) -> Tensor:
    """The samples whose numbers are ``index``, on the CPU."""
    device = next(denoiser.parameters()).device
    noise = samplers.SampleNoise(sampling.seed, index.tolist())
    like = torch.empty(len(index), *image_shape, device=device)
    own = None if y is None else moved(y, device)
    start = denoiser.process.prior_std * noise.like(like)
    with torch.autocast(device.type, torch.bfloat16, enabled=sampling.bf16):
        x0 = samplers.draw(
            denoiser, denoiser.process, start, times, step=sampling.next_state(), y=own,
            generator=noise,
        )  # fmt: skip
    return x0.cpu()


def progress_bar(batches: Any) -> Iterator[Any]:
    from tqdm import tqdm

    return iter(tqdm(batches, unit="batch", disable=None if parallel.is_main() else True))


def _compiled(denoiser: Any) -> Any:
    """A denoiser that shares everything with the given one, its network compiled."""
    twin = copy.copy(denoiser)
    twin._modules = dict(denoiser._modules)  # else the given one would change too
    for name, child in twin._modules.items():
        twin._modules[name] = copy.copy(child) if name == "net" else _compiled(child)
    if "net" in twin._modules:
        compile_network(twin)
    return twin
