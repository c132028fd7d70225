"""One update after another: model, averaged model, optimiser and data on one device.

A :class:`Trainer` holds everything that changes while training; one file holds it all, is replaced
in one go, and brings the run back to the same bits on the CPU. Random numbers are no part of it:
those of a piece of an update are a function of (seed, update, piece), see
:mod:`ddpmlib.seeds`. So a batch may be cut into pieces, and these dealt out to several processes
(see :mod:`ddpmlib.training.parallel`), and nothing else changes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ddpmlib import seeds
from ddpmlib.condition import Condition, count, moved, taken
from ddpmlib.data.batches import Batches
from ddpmlib.data.scale import to_float
from ddpmlib.training import parallel, state
from ddpmlib.training.averaging import Average
from ddpmlib.training.machine import compile_network, default_device
from ddpmlib.training.settings import BatchLoss, Progress, Settings


class Trainer:
    """Model, averaged model, optimiser and data, on the device of this process.

    Under ``torchrun`` (see :func:`ddpmlib.training.parallel.joined`) each process holds all of it
    and works on its own pieces of each batch; gradients are averaged, so weights and their
    averages stay the same everywhere. N processes do what one does in N times as many pieces: the
    same to rounding error, but for batch normalisation and
    :class:`ddpmlib.losses.times.ImportanceTimes`, which go on from piece to piece in one process,
    and from the first process's in several.

    Args:
        model: what is trained; moved to ``device``.
        loss: see :data:`BatchLoss`; gets images scaled to [-1, 1].
        x: all training data (N, ...): uint8 images, scaled on the fly, or float points as they are.
        y: labels (N,) int64, or another condition of N samples, or None.
        settings: optimiser and budget.
        device: where to train; by default a GPU if there is one.
        bf16: forward pass in bfloat16 by autocast; by default on a CUDA GPU only.
        compile: run the network through torch.compile, with CUDA graphs on a CUDA GPU; off by
            default.
        channels_last: lay weights and images out that way; off by default.
        accumulate: pieces into which each process cuts its share of a batch, one after the other:
            less memory for the same update.
        recipe: what else decides the run, as JSON values; a state of another recipe is refused.

    Attributes:
        step: updates done.
        recent: the losses since somebody last took their mean, a :class:`RecentLoss`.
        notes: what its states say of the run beyond that, as JSON values; neither compared nor
            read back.

    Raises:
        ValueError: if data and labels differ in number, a batch is larger than the data, or it
            cannot be cut into equal pieces.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: BatchLoss,
        x: Tensor,
        y: Condition | None,
        settings: Settings,
        *,
        device: torch.device | str | None = None,
        bf16: bool | None = None,
        compile: bool = False,
        channels_last: bool = False,
        accumulate: int = 1,
        recipe: dict[str, Any] | None = None,
    ) -> None:
        if y is not None and (labels := count(y)) != len(x):
            raise ValueError(f"need one label per sample, got {labels} labels for {len(x)} samples")
        if x.dtype != torch.uint8 and not x.is_floating_point():
            raise ValueError(f"data are uint8 images or float points, got {x.dtype}")
        _check_pieces(settings.batch_size, accumulate)
        self.device = torch.device(device) if device else default_device()
        self.settings, self.recipe, self.accumulate = settings, recipe, accumulate
        self.batches = Batches(len(x), settings.batch_size, settings.seed, self.device)
        self.x, self.y = x.to(self.device), None if y is None else moved(y, self.device)
        self.layout = torch.channels_last if channels_last else torch.preserve_format
        self.model = model.to(self.device).to(memory_format=self.layout)
        self.ema = Average(self.model, settings.ema)
        fused = self.device.type in ("cuda", "cpu")
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=fused
        )
        self.generator = torch.Generator(self.device)
        self.bf16 = self.device.type == "cuda" if bf16 is None else bf16
        self.recent = RecentLoss().to(self.device)
        self.notes: dict[str, Any] = {}
        self._memory = loss.to(self.device) if isinstance(loss, nn.Module) else nn.Module()
        objective = _Objective(self.model, loss)
        several = parallel.size() > 1
        self._objective: nn.Module = DistributedDataParallel(objective) if several else objective
        if compile:
            compile_network(self.model)
        self.step = 0

    @property
    def averaged(self) -> nn.Module:
        """The model with averaged weights, in evaluation mode: the one to sample from."""
        return self.ema.module.eval()

    def update(self) -> Progress:
        """One optimiser update on the next batch."""
        lr = self.settings.lr_at(self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        self.model.train()
        self.optimiser.zero_grad(set_to_none=True)
        loss = self._gradients()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        self.optimiser.step()
        self.ema.update(self.model)
        self.recent.add(loss)
        self.step += 1
        return Progress(self.step, loss, lr)

    def _gradients(self) -> Tensor:
        """Leave the gradients of the whole batch in the weights; return its loss."""
        index, total = self.batches[self.step], torch.zeros((), device=self.device)
        pieces = index.tensor_split(parallel.size() * self.accumulate)
        first = parallel.rank() * self.accumulate
        for number in range(first, first + self.accumulate):
            last = number == first + self.accumulate - 1
            with self._averaging(last), self._random_numbers_of(number):
                loss = self._loss_of(pieces[number]) / self.accumulate
                loss.backward()
            total += loss.detach()
        return parallel.mean(total)

    def _averaging(self, last: bool) -> AbstractContextManager[Any]:
        """Gradients travel between processes once an update, with the last piece."""
        if last or not isinstance(self._objective, DistributedDataParallel):
            return nullcontext()
        return self._objective.no_sync()

    @contextmanager
    def _random_numbers_of(self, piece: int) -> Iterator[None]:
        """Seed what draws: the loss by its generator, dropout by PyTorch's own numbers."""
        run, devices = self.settings.seed, [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            # Two seeds: from one, the noise and the mask of a dropout would be the same numbers.
            torch.manual_seed(seeds.of_update(run, "dropout", self.step, piece))
            self.generator.manual_seed(seeds.of_update(run, "loss", self.step, piece))
            yield

    def _loss_of(self, index: Tensor) -> Tensor:
        x, y = self.x[index], None if self.y is None else taken(self.y, index)
        x = to_float(x) if x.dtype == torch.uint8 else x
        x = x.to(memory_format=self.layout) if x.ndim == 4 else x
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return self._objective(x, y, self.generator)

    # ---- everything in one file --------------------------------------------------------------

    def save(self, path: Path | str) -> None:
        """Write the whole state to ``path``, replacing an older file in one go.

        Of several processes, which all hold the same, the first one writes.

        Raises:
            TrainingDiverged: if a weight is not finite; the older file then stays as it was.
            OSError: if the file cannot be written; likewise.
        """
        tensors = self.state_dict()
        state.check_finite(tensors, self.step)
        if parallel.is_main():
            counts = {
                i: int(tensors.get(f"optimiser.{i}.step", 0))
                for i, _ in enumerate(self.model.parameters())
            }
            others = {i: n for i, n in counts.items() if n != self.step}
            state.write(path, tensors, self.step, self.notes | self._decided(), others)

    def load(self, path: Path | str) -> None:
        """Continue from a file written by :meth:`save` for the same model, data and settings.

        The number of processes and pieces, and the device, may be others than before; the file may
        be of an older format, see :mod:`ddpmlib.training.state`.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is not such a file, or belongs to other settings, another recipe or
                another model. The trainer is then unchanged, as after any error.
        """
        found = state.read(path)
        state.check_same(path, found, self._decided(), self.settings.steps)
        weights = list(self.model.parameters())
        frozen = [i for i, weight in enumerate(weights) if not weight.requires_grad]
        shapes = [tuple(weight.shape) for weight in weights]
        state.check_fits(path, found, self._modules(), shapes, frozen)
        self.load_state_dict(found.tensors)
        self.step = found.step

    def state_dict(self) -> dict[str, Tensor]:
        """All that changes while training but the number of updates, as tensors on the CPU."""
        return state.collect(self._modules(), self.optimiser)

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """The way back from :meth:`state_dict`."""
        state.restore(tensors, self._modules(), self.optimiser)

    def _modules(self) -> dict[str, nn.Module]:
        own = {"model": self.model, "ema": self.ema, "loss": self._memory}
        return own | {"recent": self.recent}

    def _decided(self) -> dict[str, Any]:
        """What must not change between a start and its resume, as it reads back from JSON."""
        decided = {"settings": asdict(self.settings), "samples": len(self.x)}
        decided |= {"recipe": self.recipe} if self.recipe else {}
        return json.loads(json.dumps(decided))


class RecentLoss(nn.Module):
    """The mean loss of the last updates, on the device; a part of the state, so that it is exact.

    Attributes:
        total, count: sum of the losses, float32, and number of updates, int64; both scalars.
    """

    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(()))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def add(self, loss: Tensor) -> None:
        """One more update."""
        self.total += loss.float()
        self.count += 1

    def taken(self) -> float | None:
        """The mean of the losses since it was last taken, if there were any; starts anew."""
        total, count = float(self.total), int(self.count)
        self.total.zero_()
        self.count.zero_()
        return total / count if count else None


class _Objective(nn.Module):
    """Model and loss as one module, whose call is what several processes keep in step."""

    def __init__(self, model: nn.Module, loss: BatchLoss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, x: Tensor, y: Condition | None, generator: torch.Generator) -> Tensor:
        return self.loss(self.model, x, y, generator)


def _check_pieces(batch_size: int, accumulate: int) -> None:
    if not isinstance(accumulate, int) or accumulate < 1:
        raise ValueError(f"accumulate counts pieces and must be at least 1, got {accumulate!r}")
    pieces = parallel.size() * accumulate
    if pieces > seeds.MOST_PIECES:
        raise ValueError(f"a batch is cut into at most {seeds.MOST_PIECES} pieces, got {pieces}")
    if batch_size % pieces:
        raise ValueError(
            f"batch_size = {batch_size} cannot be cut into equal pieces, {accumulate} for each of "
            f"{parallel.size()} processes: make it a multiple of {pieces}"
        )
