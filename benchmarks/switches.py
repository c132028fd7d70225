"""What each switch gains alone, against a plain set-up of our own training on this device."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.libraries import Ours
from benchmarks.sizes import Size
from benchmarks.timing import Call, Spread, interleaved, ratios, spread
from ddpmlib.data import Batches, to_float
from ddpmlib.training import Average

DECAY = 0.9999


@dataclass(frozen=True)
class Switches:
    """The plain set-up: all off, one thread."""

    channels_last: bool = False
    bf16: bool = False
    compile: bool = False
    fused: bool = False
    foreach: bool = False
    resident: bool = False
    threads: int = 1


WHAT = {
    "channels_last": "weights and images in channels-last order",
    "bf16": "bfloat16 by autocast",
    "compile": "the network through `torch.compile`",
    "fused": "fused AdamW",
    "foreach": "averaged weights by `ddpmlib.training.averaging`, in place of PyTorch's",
    "resident": "uint8 images indexed on the device, in place of a DataLoader",
    "threads": "all processor cores",
}


@dataclass(frozen=True)
class Gain:
    """Milliseconds per update with one switch on, and how many times faster that is."""

    switch: str
    milliseconds: Spread
    gain: Spread


def gains(size: Size, images: Tensor, device: torch.device, rounds: int, whole: bool) -> list[Gain]:
    """Every switch alone; the first entry is the plain set-up.

    Args:
        whole: whether to compile and to use all cores too, which takes minutes where others work.
    """
    torch.compiler.reset()
    cores = len(os.sched_getaffinity(0))
    on: dict[str, Any] = dict.fromkeys(WHAT, True) | {"threads": cores}
    if not whole:
        del on["compile"]
    if not whole or cores == 1 or device.type != "cpu":
        del on["threads"]
    settings = {"plain": Switches()}
    settings |= {name: replace(Switches(), **{name: value}) for name, value in on.items()}
    calls = {name: update(size, images, device, s) for name, s in settings.items()}
    seconds = interleaved(calls, rounds, device)
    plain = seconds["plain"]
    return [
        Gain(name, spread(found).map(lambda s: 1000 * s), ratios(plain, found))
        for name, found in seconds.items()
    ]


def update(size: Size, images: Tensor, device: torch.device, s: Switches) -> Call:
    """One training update of our network with the given switches."""
    recipe = Ours().recipe(size)
    model, loss = recipe.build().to(device).train(), recipe.loss()
    if s.channels_last:
        model.to(memory_format=torch.channels_last)
    if s.compile:
        model.net.compile()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=s.fused, foreach=False)
    average = _average(model, s.foreach)
    generator, batches = torch.Generator(device).manual_seed(0), _stream(size, images, device, s)

    def one() -> None:
        x = to_float(next(batches))
        if s.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=s.bf16):
            mean = loss(model, x, None, generator)
        optimiser.zero_grad()
        mean.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        average(model)

    return _with_threads(one, s.threads) if device.type == "cpu" else one


def _stream(size: Size, images: Tensor, device: torch.device, s: Switches) -> Any:
    if s.resident:
        x, order = images.to(device), Batches(len(images), size.batch, 0)
        return (x[order[k].to(device)] for k in itertools.count())
    loader = DataLoader(TensorDataset(images), size.batch, shuffle=True, drop_last=True)
    return (x.to(device) for _ in itertools.count() for (x,) in loader)


def _average(model: nn.Module, foreach: bool) -> Callable[[nn.Module], None]:
    if foreach:
        average = Average(model, DECAY)
        return lambda its: average.update(its, 10**6)
    return AveragedModel(model, avg_fn=get_ema_avg_fn(DECAY)).update_parameters


def _with_threads(call: Call, threads: int) -> Call:
    def one() -> None:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            call()
        finally:
            torch.set_num_threads(before)

    return one
