"""The rows of the comparison: what is done, in which unit it is shown, and who took how long."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import methodcaller

import torch
from torch import Tensor

from benchmarks.libraries import Library, Way
from benchmarks.sizes import SIZES, Size
from benchmarks.timing import Call, Spread, interleaved, ratios, spread

STEPS = 50  # of DDIM, by which images per second are stated
PLAIN, BF16, COMPILED = Way(), Way(bf16=True), Way(bf16=True, compile=True)


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        sizes: names in :data:`benchmarks.sizes.SIZES`.
        rounds: measurements of each number.
        batches: of sampling.
        whole: whether to do what takes minutes too: compile, and measure memory and threads.
        images: in the data set that is loaded from.
    """

    sizes: tuple[str, ...]
    rounds: int
    batches: tuple[int, ...] = (1, 16, 256)
    whole: bool = True
    images: int = 2048


@dataclass(frozen=True)
class Row:
    """One thing that all libraries do.

    Attributes:
        name: what is measured.
        size: of the network.
        batch: images at a time.
        unit: of ``values``.
        values: one spread for each library.
        ahead: how many times faster (or smaller) ours is than each peer, round by round.
        measured: every measurement: seconds, or bytes of memory.
        flops: for training, operations per image of each library, forward and backward.
    """

    name: str
    size: str
    batch: int
    unit: str
    values: dict[str, Spread]
    ahead: dict[str, Spread]
    measured: dict[str, list[float]]
    flops: dict[str, float] = field(default_factory=dict)


def row_of(
    name: str,
    size: str,
    batch: int,
    unit: str,
    shown: Callable[[float], float],
    measured: dict[str, list[float]],
    flops: dict[str, float] | None = None,
) -> Row:
    """A row; the first library is the one that the others are held against.

    Args:
        shown: what was measured (less is better) -> the number in ``unit``.
        measured: seconds or bytes, equally many for each library.
    """
    ours, *peers = measured
    values = {library: spread(found).map(shown) for library, found in measured.items()}
    ahead = {peer: ratios(measured[peer], measured[ours]) for peer in peers}
    return Row(name, size, batch, unit, values, ahead, measured, flops or {})


def all_rows(
    libraries: Sequence[Library], plan: Plan, device: torch.device, flops: dict[str, dict[str, int]]
) -> Iterator[Row]:
    """Every row, as soon as it is measured.

    Args:
        flops: operations of one forward pass, by size and library.
    """
    for name in plan.sizes:
        size = SIZES[name]
        images = random_images(size, max(plan.images, size.batch))
        yield from training_rows(libraries, plan, device, size, images, flops[name])
        yield from sampling_rows(libraries, plan, device, size)
    yield from overhead_rows(libraries, plan, device, size, images)


def random_images(size: Size, n: int) -> Tensor:
    """uint8 (n, C, H, W)."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, *size.image_shape), generator=generator, dtype=torch.uint8)


def timings(
    work: Callable[[Library], Call],
    libraries: Sequence[Library],
    plan: Plan,
    device: torch.device,
    steps: int = 1,
) -> dict[str, list[float]]:
    """Seconds for one of the ``steps`` that a call of each library's work consists of."""
    torch.compiler.reset()  # it gives up on code that was compiled for many networks before
    calls: Mapping[str, Call] = {library.name: work(library) for library in libraries}
    found = interleaved(calls, plan.rounds, device)
    return {name: [s / steps for s in seconds] for name, seconds in found.items()}


def training_rows(
    libraries: Sequence[Library],
    plan: Plan,
    device: torch.device,
    size: Size,
    images: Tensor,
    forward: dict[str, int],
) -> Iterator[Row]:
    """Images per second: as documented, with the batch at hand, in bf16, and compiled too."""
    ways = [("Training, as documented", PLAIN, True), ("Training, batch at hand", PLAIN, False)]
    ways += [("Training, bf16", BF16, False)]
    ways += [("Training, bf16 and compiled", COMPILED, False)] if plan.whole else []
    flops = {name: 3.0 * found for name, found in forward.items()}
    for name, way, documented in ways:
        work = methodcaller("training", size, images, device, way, documented)
        seconds = timings(work, libraries, plan, device)
        shown = partial(_rate, size.batch)
        yield row_of(name, size.name, size.batch, "images/s", shown, seconds, flops)


def sampling_rows(
    libraries: Sequence[Library], plan: Plan, device: torch.device, size: Size
) -> Iterator[Row]:
    """Milliseconds per DDIM step, and the images per second that a chain of 50 amounts to."""
    ways = [("Sampling", PLAIN)]
    ways += [("Sampling, bf16 and compiled", COMPILED)] if plan.whole else []
    for name, way in ways:
        for n in plan.batches:
            steps = chain_length(device, n)
            work = methodcaller("sampling", size, device, way, n, steps)
            seconds = timings(work, libraries, plan, device, steps)
            yield row_of(name, size.name, n, "ms/step", _milli, seconds)
            yield row_of(name, size.name, n, "images/s", partial(_rate, n / STEPS), seconds)


def chain_length(device: torch.device, n: int) -> int:
    """Steps that are timed: the whole chain on a GPU, a few of them on a CPU."""
    return STEPS if device.type != "cpu" else 10 if n == 1 else 4 if n <= 16 else 2


def overhead_rows(
    libraries: Sequence[Library], plan: Plan, device: torch.device, size: Size, images: Tensor
) -> Iterator[Row]:
    """What is not the network: the update x_t -> x_s, averaging weights, fetching batches."""
    for name, eta in (("Step alone, DDIM", 0.0), ("Step alone, ancestral", 1.0)):
        for n in plan.batches:
            work = methodcaller("stepping", size, device, n, STEPS, eta)
            seconds = timings(work, libraries, plan, device, STEPS)
            yield row_of(name, size.name, n, "ms/step", _milli, seconds)
    seconds = timings(methodcaller("averaging", size, device), libraries, plan, device)
    yield row_of("Averaging weights", size.name, 1, "ms", _milli, seconds)
    work = methodcaller("loading", images, size.batch, device)
    seconds = timings(work, libraries, plan, device)
    yield row_of("Loading data", size.name, size.batch, "batches/s", partial(_rate, 1), seconds)


def _rate(items: float, seconds: float) -> float:
    return items / seconds


def _milli(seconds: float) -> float:
    return 1000 * seconds
