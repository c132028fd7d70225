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
from ddpmlib.condition import Condition, moved, taken
from ddpmlib.data.batches import Batches
from ddpmlib.data.samples import Samples, fingerprint
from ddpmlib.data.scale import to_float
from ddpmlib.training import parallel, state
from ddpmlib.training.averaging import Average
from ddpmlib.training.inputs import checked_condition, checked_samples, sample_shape
from ddpmlib.training.machine import compile_network, default_device
from ddpmlib.training.reader import Reader
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
        model: what is trained; moved to ``device``. Weights that ask for no gradients stay as they
            are, and tied weights stay tied.
        loss: see :data:`BatchLoss`; gets images scaled to [-1, 1].
        x: all training data (N, ...), tensor or NumPy array: uint8 images, scaled on the fly, or
            floats as they are, images in [-1, 1]. They stay on the device. Or
            :class:`~ddpmlib.data.samples.Samples`, which are read batch by batch, for the same
            weights to the bit.
        y: labels (N,), whole numbers, or another condition of N samples, or None.
        settings: optimiser and budget.
        device: where to train; by default a GPU if there is one.
        bf16: forward pass in bfloat16 by autocast; by default on a CUDA GPU only.
        compile: run the network through torch.compile, with CUDA graphs on a CUDA GPU; off by
            default.
        channels_last: lay weights and images out that way; off by default.
        accumulate: pieces into which each process cuts its share of a batch, one after the other:
            less memory for the same update.
        workers: processes that read ahead where ``x`` does not lie in memory.
        data_fingerprint: which data these are, by default what
            :func:`~ddpmlib.data.samples.fingerprint` says; a state of other data is refused.
        recipe: what else decides the run, as JSON values; a state of another recipe is refused.

    Attributes:
        step: updates done.
        recent: the losses since somebody last took their mean, a :class:`RecentLoss`.
        notes: what its states say of the run beyond that, as JSON values; neither compared nor
            read back.

    Raises:
        TypeError: if data or labels are neither arrays nor tensors.
        ValueError: if data and labels differ in number, float images leave [-1, 1], a label is no
            class of the model, a batch is larger than the data or cannot be cut into equal pieces,
            or all weights are frozen.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: BatchLoss,
        x: Tensor | Samples,
        y: Condition | None,
        settings: Settings,
        *,
        device: torch.device | str | None = None,
        bf16: bool | None = None,
        compile: bool = False,
        channels_last: bool = False,
        accumulate: int = 1,
        workers: int = 0,
        data_fingerprint: str | None = None,
        recipe: dict[str, Any] | None = None,
    ) -> None:
        x = checked_samples(x)
        y = checked_condition(y, len(x), model)
        if not any(p.requires_grad for p in model.parameters()):
            raise ValueError(
                "all weights are frozen, as those of a loaded checkpoint are: there is nothing to "
                "train; call model.requires_grad_() first"
            )
        _check_pieces(settings.batch_size, accumulate)
        self.device = torch.device(device) if device else default_device()
        self.settings, self.recipe, self.accumulate = settings, recipe, accumulate
        self.data_fingerprint, self.shape = data_fingerprint, sample_shape(x)
        self.batches = Batches(len(x), settings.batch_size, settings.seed, self.device)
        self.x = x.to(self.device) if isinstance(x, Tensor) else x
        self.y = None if y is None else moved(y, self.device)
        self._reader = None if isinstance(x, Tensor) else self._reading(x, workers)
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
        self.ema.update(self.model, self.step)
        self.recent.add(loss)
        self.step += 1
        return Progress(self.step, loss, lr)

    def _gradients(self) -> Tensor:
        """Leave the gradients of the whole batch in the weights; return its loss."""
        total = torch.zeros((), device=self.device)
        x, y = self._share()
        pieces = torch.arange(len(x), device=self.device).tensor_split(self.accumulate)
        for number, piece in enumerate(pieces):
            last, of_all = number == len(pieces) - 1, parallel.rank() * self.accumulate + number
            with self._averaging(last), self._random_numbers_of(of_all):
                own = None if y is None else taken(y, piece)
                loss = self._loss_of(x[piece], own) / self.accumulate
                loss.backward()
            total += loss.detach()
        return parallel.mean(total)

    def _share(self) -> tuple[Tensor, Condition | None]:
        """This process's part of the next batch, and its condition, on the device."""
        index = _own_part(self.batches[self.step])
        y = None if self.y is None else taken(self.y, index)
        if self._reader is None:
            assert isinstance(self.x, Tensor)
            return self.x[index], y
        return self._reader.batch(self.step).to(self.device, non_blocking=True), y

    def _reading(self, samples: Samples, workers: int) -> Reader:
        """A reader with batches of its own: it is ahead of the updates by some of them."""
        batches = Batches(len(samples), self.settings.batch_size, self.settings.seed)
        pinned = self.device.type == "cuda"
        return Reader(samples, lambda k: _own_part(batches[k]), workers, pinned)

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

    def _loss_of(self, x: Tensor, y: Condition | None) -> Tensor:
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
        self.data_fingerprint = self.data_fingerprint or fingerprint(self.x, self.y)
        decided = {"settings": asdict(self.settings), "samples": len(self.x)}
        decided |= {"shape": self.shape}  # of a sample; older states do not say it
        decided |= {"data_fingerprint": self.data_fingerprint}
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


def _own_part(batch: Tensor) -> Tensor:
    """What this process takes of a batch: equal parts, in the order of the processes."""
    return batch.tensor_split(parallel.size())[parallel.rank()]


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
