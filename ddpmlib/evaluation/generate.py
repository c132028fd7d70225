"""Samples in batches, which several processes share."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ddpmlib import samplers
from ddpmlib.denoiser.denoiser import Denoiser, FixedVariance
from ddpmlib.guidance.wrapper import Wrapper
from ddpmlib.training import parallel
from ddpmlib.training.machine import compile_network
from ddpmlib.zoo.card import Card

SPACINGS: dict[str, Callable[[int, int], list[int]]] = {
    "uniform": samplers.uniform_times,
    "leading": samplers.leading_times,
    "linspace": samplers.linspace_times,
    "quadratic": samplers.quadratic_times,
}


def classes_in_turn(card: Card, n: int) -> Tensor | None:
    """Labels 0, 1, ..., again from 0: (n,) int64; None if the checkpoint knows no classes."""
    return torch.arange(n) % card.num_classes if card.num_classes else None


# ---- drawing -----------------------------------------------------------------------------------


def generate(
    denoiser: Denoiser | FixedVariance | Wrapper,
    image_shape: tuple[int, ...],
    y: Tensor | None,
    steps: int,
    *,
    n: int | None = None,
    eta: float = 0.0,
    seed: int = 0,
    batch_size: int = 500,
    times: Callable[[int, int], list[int]] = samplers.uniform_times,
    bf16: bool = False,
    compile: bool = False,
) -> Tensor:
    """Samples in batches with a progress bar.

    Several processes deal the batches out among themselves. Noise comes from one generator, batch
    after batch, so each process draws what the others use up and throws it away: the samples are
    the same however many there are.

    Args:
        denoiser: or a wrapper around one, see :mod:`ddpmlib.guidance`.
        image_shape: (C, H, W).
        y: labels (N,), or None together with ``n``.
        steps: network calls.
        eta: 0 for DDIM, 1 for DDPM.
        seed: of all noise; another batch size draws other samples.
        times: (T, steps) -> falling times, see :mod:`ddpmlib.samplers`.
        bf16: run the network in bfloat16 by autocast; states stay float32.
        compile: run the network through torch.compile.

    Returns:
        (N, C, H, W) on the CPU, one per label, or n.
    """
    device = next(denoiser.parameters()).device
    total = n if y is None else len(y)
    if total is None or total < 1 or (n is not None and n != total):
        raise ValueError(f"give labels or a number of samples, at least 1: n = {n}, labels {y}")
    chain = times(denoiser.process.end, steps)
    runner = _compiled(denoiser) if compile else denoiser
    noise = _Noise(torch.Generator(device).manual_seed(seed), image_shape, chain, eta)
    labels = torch.arange(total).split(batch_size)
    done = []
    for k, index in progress_bar(list(parallel.own(labels))):
        first = noise.start_of(k, [len(part) for part in labels])
        own = None if y is None else y[index].to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            x0 = samplers.draw(
                runner, denoiser.process, first, chain, eta=eta, y=own, generator=noise.generator
            )
        done.append(x0.cpu())
    return torch.cat(parallel.collected(done))


class _Noise:
    """The one stream of noise that batch after batch of samples is drawn from."""

    def __init__(
        self, generator: torch.Generator, shape: tuple[int, ...], chain: list[int], eta: float
    ) -> None:
        self.generator, self.shape, self.batch = generator, shape, 0
        self.steps = len(chain) - 2 if eta > 0 else 0  # the last step draws nothing

    def start_of(self, batch: int, sizes: list[int]) -> Tensor:
        """The state at T of a batch, after all noise of the batches before it."""
        for size in sizes[self.batch : batch]:
            for _ in range(1 + self.steps):
                self._draw(size)
        self.batch = batch + 1  # whose own steps the sampler draws
        return self._draw(sizes[batch])

    def _draw(self, size: int) -> Tensor:
        device = self.generator.device
        return torch.randn(size, *self.shape, device=device, generator=self.generator)


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
