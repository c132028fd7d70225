"""Samples in batches, which several processes share."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddpmlib import samplers
from ddpmlib.condition import Condition, as_condition, count, moved, taken
from ddpmlib.data.sets import CLASSES
from ddpmlib.denoiser.denoiser import Denoiser, FixedVariance
from ddpmlib.evaluation.sampling import Sampling
from ddpmlib.guidance.wrapper import Wrapper
from ddpmlib.training import parallel
from ddpmlib.training.machine import compile_network
from ddpmlib.zoo.card import Card
from ddpmlib.zoo.checkpoints import load

# ---- which classes -------------------------------------------------------------------------------


def class_names(card: Card) -> tuple[str, ...]:
    """The names of a checkpoint's classes in the order of their labels; empty if none are known."""
    told = card.training.get("classes")  # by cards of own data
    names = told if isinstance(told, list) else CLASSES.get(str(card.recipe.get("data")), ())
    fits = len(names) == card.num_classes and all(isinstance(name, str) for name in names)
    return tuple(names) if fits else ()


def label_of(card: Card, given: int | str) -> int:
    """The label of a class that is given by its name, or by its label.

    Args:
        card: of the checkpoint.
        given: a name of :func:`class_names`; else a label as a number, or its digits.

    Raises:
        ValueError: if the checkpoint knows no such class.
    """
    names = class_names(card)
    if given in names:
        return names.index(str(given))
    label = int(given) if str(given).isdecimal() else -1
    if not 0 <= label < card.num_classes:
        known = ", ".join(names) or f"0..{card.num_classes - 1}"
        known = f"one of {known}" if card.num_classes else "none, as it knows no classes"
        raise ValueError(f"a class of {card.name} is {known}; got {given!r}")
    return label


def classes_in_turn(card: Card, n: int) -> Tensor | None:
    """Labels 0, 1, ..., again from 0: (n,) int64; None if the checkpoint knows no classes."""
    return torch.arange(n) % card.num_classes if card.num_classes else None


# ---- drawing -----------------------------------------------------------------------------------


def samples(
    name: str | Path,
    n: int | None = None,
    y: int | str | Sequence[int | str] | Tensor | None = None,
    sampling: Sampling | None = None,
    *,
    device: torch.device | str | None = None,
    batch_size: int = 500,
) -> Tensor:
    """Samples of a checkpoint: load it, and draw.

    >>> from ddpmlib.evaluation import Sampling, samples
    >>> samples("digits", 3, y="7", sampling=Sampling(steps=5), device="cpu").shape
    torch.Size([3, 1, 8, 8])

    Args:
        name: as for :func:`ddpmlib.zoo.checkpoints.load`.
        n: how many, by default 100, or one for each of several ``y``.
        y: one class for all, by its name or label (see :func:`label_of`), or one for each sample;
            by default every class in turn.
        sampling: how, by default ``Sampling()``, 50 steps of DDIM.
        device, batch_size: see :func:`generate`.

    Returns:
        float32 (n, C, H, W) on the CPU, nearly within [-1, 1]: :func:`ddpmlib.plots.save_grid`
        clips them, as do the other writers.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        ValueError: if it is no denoiser, or knows no such class, or ``n`` is not that of ``y``.
    """
    denoiser, card = load(name, device)
    if not isinstance(denoiser, Denoiser):
        raise ValueError(f"{card.name} is a classifier: it measures samples but draws none")
    if n is not None and n < 1:
        raise ValueError(f"n counts samples and must be at least 1, got {n}")
    labels = _labels(card, 100 if n is None else n, y)
    n = (100 if labels is None else len(labels)) if n is None else n
    return generate(
        denoiser, card.image_shape, labels, sampling, n=n, card=card, batch_size=batch_size
    )


def _labels(
    card: Card, n: int, y: int | str | Sequence[int | str] | Tensor | None
) -> Tensor | None:
    if y is None:
        return classes_in_turn(card, n)
    if isinstance(y, int | np.integer | str):
        return torch.full((n,), label_of(card, y))
    several = y.tolist() if isinstance(y, Tensor) else y
    return torch.tensor([label_of(card, one) for one in several])


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
    """All samples of :func:`sample_batches` in one tensor.

    Args:
        denoiser, image_shape, y, sampling, n, card, batch_size, compile: as there.

    Returns:
        (N, C, H, W) on the CPU, one per label, or n.

    Raises:
        ValueError: likewise.
    """
    found = sample_batches(
        denoiser, image_shape, y, sampling,
        n=n, card=card, batch_size=batch_size, compile=compile,
    )  # fmt: skip
    return torch.cat(list(found))


def sample_batches(
    denoiser: Denoiser | FixedVariance | Wrapper,
    image_shape: tuple[int, ...],
    y: Condition | None,
    sampling: Sampling | None = None,
    *,
    n: int | None = None,
    card: Card | None = None,
    batch_size: int = 500,
    compile: bool = False,
) -> Iterator[Tensor]:
    """Samples in batches with a progress bar; several processes deal the batches out.

    For more samples than should be held at once. Sample number i of a seed has the same noise to
    the bit in every batch size and every number of processes, with every way of sampling. With the
    same batch size the sample is the same to the bit in any number of processes on like machines;
    with another it differs by rounding alone, because networks round otherwise in batches of other
    sizes.

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
        an iterator over tensors (at most ``batch_size``, C, H, W) on the CPU, in the order of the
        samples; in every process the same ones, so all of them must go through it to its end.

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

    def batch(index: Tensor) -> Tensor:
        own = None if y is None else taken(y, index)
        return _batch(runner, image_shape, own, sampling, times, index)

    return _in_rounds(batch, torch.arange(total).split(batch_size))


def _in_rounds(batch: Callable[[Tensor], Tensor], indices: Sequence[Tensor]) -> Iterator[Tensor]:
    """A batch of every process, then the next: in order, and on every process."""
    for first in progress_bar(range(0, len(indices), parallel.size())):
        own = first + parallel.rank()  # the last round may hold none for it
        yield from parallel.collected([batch(index) for index in indices[own : own + 1]])


def _count(y: Any, n: int | None) -> int:
    """How many samples a condition is for: its own number, or n where it is one label for all."""
    if isinstance(y, Tensor | Mapping):
        return count(y)
    if isinstance(y, int | np.integer):
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
