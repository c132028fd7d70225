"""How the times of a batch are drawn: uniformly, or where the loss is large."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn

from ddpmlib.broadcast import exact
from ddpmlib.equations import equation
from ddpmlib.inputs import check_readable
from ddpmlib.process.process import Process


class Times(Protocol):
    """How times are drawn: a module, so that a training state holds what it has learned."""

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]: ...

    def update(self, t: Tensor, losses: Tensor) -> None: ...

    def check(self, process: Process) -> None: ...


class UniformTimes(nn.Module):
    """Every time in 1..T equally often; every sample weighs 1."""

    def __init__(self, T: int) -> None:
        super().__init__()
        self.T = T

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """n times (n,) int64 and their weights (n,), on the generator's device."""
        t = torch.randint(1, self.T + 1, (n,), device=generator.device, generator=generator)
        return t, torch.ones(n, device=t.device)

    def update(self, t: Tensor, losses: Tensor) -> None:
        """Nothing to learn."""

    def check(self, process: Process) -> None:
        """Raise ValueError unless the process is a chain of T steps."""
        _check_length(self.T, process)


class UniformContinuousTimes(nn.Module):
    """Times of a continuous process, uniform from its end to clean data, which is left out.

    Raises:
        ValueError: if the process counts steps, or has no finite end.
    """

    def __init__(self, process: Process) -> None:
        super().__init__()
        if process.times_are_whole or not math.isfinite(process.end - process.clean):
            raise ValueError(f"{process} has no continuous times between two finite ends")
        self.process = process

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """n times (n,) float32 and their weights, 1 each (n,), on the generator's device."""
        u = 1 - torch.rand(n, device=generator.device, generator=generator)  # in (0, 1]
        clean, end = self.process.clean, self.process.end
        return clean + (end - clean) * u, torch.ones_like(u)

    def update(self, t: Tensor, losses: Tensor) -> None:
        """Nothing to learn."""

    def check(self, process: Process) -> None:
        """Raise ValueError unless it is the same process."""
        if process != self.process:
            raise ValueError(f"times of {self.process} do not fit {process}")


@equation("6.10", "6.12")
class ImportanceTimes(nn.Module):
    """Times drawn where the loss is large: p_t ∝ √E[L_t²] (Nichol & Dhariwal 2021, eq. 18).

    The weights 1/(T p_t) undo the choice, so that the mean of weight · loss stays that of uniform
    times. Until every time has been seen ``memory`` times, times are uniform. The history lies in
    buffers: a training state that holds this module resumes it.

    Args:
        T: number of steps.
        memory: how many of the latest losses per time make its second moment.
        uniform: share of draws that stay uniform, so that no weight grows without bound.

    Raises:
        ValueError: if T or ``memory`` < 1, or ``uniform`` leaves (0, 1].
    """

    def __init__(self, T: int, memory: int = 10, uniform: float = 1e-3) -> None:
        super().__init__()
        if T < 1 or memory < 1 or not 0 < uniform <= 1:
            raise ValueError(
                f"need T >= 1, memory >= 1 and uniform in (0, 1], got {T}, {memory}, {uniform}"
            )
        self.T, self.memory, self.uniform = T, memory, uniform
        self.history: Tensor
        self.seen: Tensor
        self.register_buffer("history", torch.zeros(T, memory))
        self.register_buffer("seen", torch.zeros(T, dtype=torch.int64))

    def probabilities(self) -> Tensor:
        """p_1, …, p_T, (T,) float64 (float32 on Apple's GPU)."""
        dtype = exact(self.seen)
        flat = torch.full((self.T,), 1 / self.T, dtype=dtype, device=self.seen.device)
        if bool((self.seen < self.memory).any()):
            return flat
        root = (self.history.to(dtype) ** 2).mean(1).sqrt()
        total = root.sum()
        if not float(total) > 0:
            return flat
        return (1 - self.uniform) * root / total + self.uniform * flat

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """n times (n,) int64 and their weights (n,), on the generator's device."""
        p = self.probabilities().to(generator.device)
        index = torch.multinomial(p, n, replacement=True, generator=generator)
        return index + 1, (1 / (self.T * p[index])).float()

    @torch.no_grad()
    def update(self, t: Tensor, losses: Tensor) -> None:
        """Note the unweighted losses (B,) of the times (B,) that were drawn."""
        alike = isinstance(t, Tensor) and isinstance(losses, Tensor) and t.shape == losses.shape
        if not alike or t.ndim != 1 or t.dtype != torch.int64 or losses.is_complex():
            raise ValueError("need times (B,) int64 and one loss for each time, both tensors")
        check_readable(t, "times")
        check_readable(losses, "losses")
        if t.numel() and not 1 <= int(t.min()) <= int(t.max()) <= self.T:
            raise ValueError(f"need one loss for each time in 1..{self.T}, got times {t}")
        for i, loss in zip((t - 1).tolist(), losses.detach().float().tolist(), strict=True):
            if not math.isfinite(loss):
                continue  # whoever trains stops at it; the history stays usable
            self.history[i, self.seen[i] % self.memory] = loss
            self.seen[i] += 1

    def check(self, process: Process) -> None:
        """Raise ValueError unless the process is a chain of T steps."""
        _check_length(self.T, process)


def uniform_over(process: Process) -> Times:
    """Uniform times of a process: 1..T of a chain, or all of a continuous one."""
    return UniformTimes(process.end) if process.times_are_whole else UniformContinuousTimes(process)


def _check_length(T: int, process: Process) -> None:
    if not process.times_are_whole or process.end != T:
        raise ValueError(f"times in 1..{T} do not fit a process of T = {process.end}")
