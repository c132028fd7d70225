"""The training loop: a generator whose caller decides about progress bars, logs and early stops.

A :class:`Trainer` holds everything that changes while training; one file holds it all, is replaced
in one go, and brings the run back to the same bits on the CPU. Random numbers are no part of it:
those of a piece of an update are a function of (seed, update, piece), see
:mod:`ddpmlib.seeds`. So a batch may be cut into pieces, and these dealt out to several processes
(see :mod:`ddpmlib.training.parallel`), and nothing else changes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ddpmlib import seeds
from ddpmlib.data.batches import Batches
from ddpmlib.data.scale import to_float
from ddpmlib.files import read_safetensors, write_safetensors
from ddpmlib.training import parallel
from ddpmlib.training.averaging import Average
from ddpmlib.training.machine import compile_network, default_device
from ddpmlib.training.settings import BatchLoss, Progress, Settings, TrainingDiverged

FORMAT = "ddpmlib-training-2"
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what AdamW keeps for each weight


class Trainer:
    """Model, averaged model, optimiser and data, on the device of this process.

    Under ``torchrun`` (see :func:`ddpmlib.training.parallel.joined`) each process holds all of it
    and works on its own pieces of each batch; gradients are averaged, so weights and their
    averages stay the same everywhere. N processes do what one does in N times as many pieces: the
    same to rounding error, but for batch normalisation and
    :class:`ddpmlib.losses.times.ImportanceTimes`, which go
    on from piece to piece in one process, and from the first process's in several.

    Args:
        model: what is trained; moved to ``device``.
        loss: see :data:`BatchLoss`; gets images scaled to [-1, 1].
        x: all training data (N, ...): uint8 images, scaled on the fly, or float points as they are.
        y: labels (N,) int64, or None.
        settings: optimiser and budget.
        device: where to train; by default a GPU if there is one.
        bf16: forward pass in bfloat16 by autocast; by default on a CUDA GPU only.
        compile: run the network through torch.compile, with CUDA graphs on a CUDA GPU; off by
            default.
        channels_last: lay weights and images out that way; off by default.
        accumulate: pieces into which each process cuts its share of a batch, one after the other:
            less memory for the same update.
        recipe: what else decides the run, as JSON values; a state of another recipe is refused.

    Raises:
        ValueError: if data and labels differ in number, a batch is larger than the data, or it
            cannot be cut into equal pieces.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: BatchLoss,
        x: Tensor,
        y: Tensor | None,
        settings: Settings,
        *,
        device: torch.device | str | None = None,
        bf16: bool | None = None,
        compile: bool = False,
        channels_last: bool = False,
        accumulate: int = 1,
        recipe: dict[str, Any] | None = None,
    ) -> None:
        if y is not None and len(y) != len(x):
            raise ValueError(f"need one label per sample, got {len(y)} labels for {len(x)} samples")
        if x.dtype != torch.uint8 and not x.is_floating_point():
            raise ValueError(f"data are uint8 images or float points, got {x.dtype}")
        _check_pieces(settings.batch_size, accumulate)
        self.device = torch.device(device) if device else default_device()
        self.settings, self.recipe, self.accumulate = settings, recipe, accumulate
        self.batches = Batches(len(x), settings.batch_size, settings.seed, self.device)
        self.x, self.y = x.to(self.device), None if y is None else y.to(self.device)
        self.layout = torch.channels_last if channels_last else torch.preserve_format
        self.model = model.to(self.device).to(memory_format=self.layout)
        self.ema = Average(self.model, settings.ema)
        fused = self.device.type in ("cuda", "cpu")
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=fused
        )
        self.generator = torch.Generator(self.device)
        self.bf16 = self.device.type == "cuda" if bf16 is None else bf16
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
        x, y = self.x[index], None if self.y is None else self.y[index]
        x = to_float(x) if x.dtype == torch.uint8 else x
        x = x.to(memory_format=self.layout) if x.ndim == 4 else x
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return self._objective(x, y, self.generator)

    # ---- everything in one file --------------------------------------------------------------

    def save(self, path: Path | str) -> None:
        """Write the whole state to ``path`` (safetensors), replacing an older file in one go.

        Of several processes, which all hold the same, the first one writes.

        Raises:
            TrainingDiverged: if a weight is not finite; the older file then stays as it was.
            OSError: if the file cannot be written; likewise.
        """
        tensors = self._tensors()
        for name, value in tensors.items():
            if value.is_floating_point() and not bool(value.isfinite().all()):
                raise TrainingDiverged(
                    f"{name} is not finite after step {self.step}; nothing was saved. Lower the "
                    "learning rate or warm up for longer."
                )
        header = {"format": FORMAT, "step": str(self.step)}
        header |= {key: json.dumps(value) for key, value in self._decided().items()}
        if parallel.is_main():
            write_safetensors(path, tensors, header)

    def load(self, path: Path | str) -> None:
        """Continue from a file written by :meth:`save` for the same model, data and settings.

        The number of processes and pieces, and the device, may be others than before.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is not such a file, or belongs to other settings, another recipe or
                another model. The trainer is then unchanged, as after any error.
        """
        tensors, header = read_safetensors(path)
        if header.get("format") != FORMAT:
            raise ValueError(f"{path} is not a training state of this library ({FORMAT})")
        try:
            step = self._step_of(header)
            theirs = {key: json.loads(header[key]) for key in self._decided() if key in header}
        except (KeyError, ValueError) as error:
            raise ValueError(f"{path} has a damaged header ({error})") from error
        ours = {k: v for k, v in self._decided().items() if k in theirs or k == "settings"}
        _check_same(path, theirs, ours)
        self._check_tensors(path, tensors, step)
        self._restore(tensors)
        self.step = step

    def _step_of(self, header: dict[str, str]) -> int:
        step = int(header["step"])
        if not 0 <= step <= self.settings.steps:
            raise ValueError(f"step {step} is not in 0..{self.settings.steps}")
        return step

    def _decided(self) -> dict[str, Any]:
        """What must not change between a start and its resume, as it reads back from JSON."""
        decided = {"settings": asdict(self.settings), "samples": len(self.x)}
        decided |= {"recipe": self.recipe} if self.recipe else {}
        return json.loads(json.dumps(decided))

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.state_dict().items()}
        tensors |= {f"loss.{k}": v for k, v in self._memory.state_dict().items()}
        for i, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{i}.{k}": v for k, v in state.items()}
        return {k: v.detach().cpu().contiguous() for k, v in tensors.items()}

    def _check_tensors(self, path: Path | str, tensors: dict[str, Tensor], step: int) -> None:
        ours = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        ours |= {f"ema.{k}": v for k, v in self.ema.state_dict().items()}
        ours |= {f"loss.{k}": v for k, v in self._memory.state_dict().items()}
        there = {k for k in tensors if k.startswith(("model.", "ema.", "loss."))}
        for name, value in ours.items():
            there.discard(name)
            _check_tensor(path, name, value, tensors.get(name))
        if there:
            raise ValueError(f"{path} belongs to another network: here is no {min(there)}")
        for key, value in tensors.items():
            if key.startswith("optimiser."):
                self._check_optimiser(path, key, value)
        moments = {key for key in tensors if key.startswith("optimiser.")}
        whole = {f"optimiser.{k.split('.')[1]}.{m}" for k in moments for m in MOMENTS}
        if moments != whole or (step > 0 and not moments):
            raise ValueError(f"{path} is damaged: the optimiser's moments are not all there")

    def _check_optimiser(self, path: Path | str, key: str, value: Tensor) -> None:
        parameters = list(self.model.parameters())
        index, name = key.removeprefix("optimiser.").split(".", 1)
        shapes: list[tuple[int, ...]] = [tuple(p.shape) for p in parameters]
        known = index.isdecimal() and int(index) < len(shapes)
        if not known or tuple(value.shape) != (() if name == "step" else shapes[int(index)]):
            raise ValueError(f"{path} belongs to another network: {key} fits no weight here")

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        self.model.load_state_dict(part("model."))
        self.ema.load_state_dict(part("ema."))
        self._memory.load_state_dict(part("loss."))
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in part("optimiser.").items():
            i, name = key.split(".", 1)
            state.setdefault(int(i), {})[name] = value
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": state, "param_groups": groups})


class _Objective(nn.Module):
    """Model and loss as one module, whose call is what several processes keep in step."""

    def __init__(self, model: nn.Module, loss: BatchLoss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, x: Tensor, y: Tensor | None, generator: torch.Generator) -> Tensor:
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


def fit(
    trainer: Trainer,
    *,
    checkpoint: Path | str | None = None,
    save_every: int = 100,
    check_every: int = 50,
) -> Iterator[Progress]:
    """Train to the end of the budget, from wherever the trainer stands.

    Args:
        trainer: fresh, or after :meth:`Trainer.load`.
        checkpoint: file for :meth:`Trainer.save`, every ``save_every`` updates and at the end.
        save_every: updates between two saves.
        check_every: updates between two looks at the loss (each makes the CPU wait for a GPU).

    Yields:
        a :class:`Progress` per update.

    Raises:
        TrainingDiverged: if the loss is no longer finite; the last good checkpoint is kept.
        ValueError: if ``save_every`` or ``check_every`` is less than 1.
    """
    if save_every < 1 or check_every < 1:
        raise ValueError(f"need at least 1 update between looks, got {save_every}, {check_every}")
    total = trainer.settings.steps
    while trainer.step < total:
        progress = trainer.update()
        last = progress.step == total
        save = checkpoint is not None and (last or progress.step % save_every == 0)
        if save or last or progress.step % check_every == 0:
            _check_loss(progress, checkpoint)
        if save and checkpoint is not None:
            trainer.save(checkpoint)
        yield progress


def _check_loss(progress: Progress, checkpoint: Path | str | None) -> None:
    if bool(progress.loss.isfinite()):
        return
    there = checkpoint is not None and Path(checkpoint).exists()
    kept = f"; the last good state is kept in {checkpoint}" if there else ""
    raise TrainingDiverged(
        f"the loss is {float(progress.loss)} at step {progress.step} with learning rate "
        f"{progress.lr:.2g}{kept}. Lower the learning rate or warm up for longer."
    )


def _check_same(path: Path | str, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    for name, value in ours.items():
        found = theirs.get(name)
        if isinstance(found, dict) and isinstance(value, dict):
            _check_same(path, found, value)
        elif found != value:
            raise ValueError(
                f"{path} was trained with {name} = {found}, not {value}: resume with the same "
                "settings, or start in another folder"
            )


def _check_tensor(path: Path | str, name: str, ours: Tensor, theirs: Tensor | None) -> None:
    if theirs is None or theirs.shape != ours.shape or theirs.dtype != ours.dtype:
        found = "missing" if theirs is None else f"{tuple(theirs.shape)} {theirs.dtype}"
        raise ValueError(
            f"{path} belongs to another network: {name} is {tuple(ours.shape)} {ours.dtype} here "
            f"and {found} in the file"
        )
