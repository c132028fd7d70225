"""Grids of samples while a model is trained, and the film that they make.

Each grid shows the same samples: :data:`N` of them, the classes in turn, by :data:`STEPS` steps of
DDIM from noise that belongs to their numbers and not to the run. Nothing random is drawn but this
noise, from generators of its own, so that a run reaches the same bits with grids and without. A
grid costs as much as about five updates with batches of 64 (measured on digits, on the CPU).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddpmlib import plots, samplers
from ddpmlib.denoiser.denoiser import Denoiser
from ddpmlib.process.process import Process
from ddpmlib.training import parallel
from ddpmlib.training.settings import Progress
from ddpmlib.training.trainer import Trainer

N, STEPS, SEED = 40, 20, 0
FOLDER = "samples"  # in a run's folder


class Previews:
    """Grids in a run's folder, ``samples/000400.png`` after 400 updates, and one at the end.

    Args:
        folder: of the run.
        trainer: whose averaged weights draw.
        image_shape: (C, H, W).
        num_classes: of the model, 0 if it knows none.
        every: updates between two grids.

    Raises:
        ValueError: if what is trained draws no samples.
    """

    def __init__(
        self,
        folder: Path,
        trainer: Trainer,
        image_shape: tuple[int, ...],
        num_classes: int,
        every: int,
    ) -> None:
        if not isinstance(trainer.model, Denoiser):
            raise ValueError("a classifier draws no samples: leave --sample-every out")
        if every < 1:
            raise ValueError(f"need at least 1 update between grids, got {every}")
        self.folder, self.trainer, self.every = folder / FOLDER, trainer, every
        self.image_shape = image_shape
        self.y = torch.arange(N, device=trainer.device) % num_classes if num_classes else None

    def watch(self, updates: Iterator[Progress]) -> Iterator[Progress]:
        """Hand updates on, and draw after those that are due, on the first process.

        The grid of the update from which a run goes on is drawn if it is missing.
        """
        if self.due(self.trainer.step) and not self.path(self.trainer.step).exists():
            self.draw()
        for progress in updates:
            if self.due(progress.step):
                self.draw()
            yield progress

    def due(self, step: int) -> bool:
        """Whether there is a grid after so many updates."""
        return step > 0 and (step % self.every == 0 or step == self.trainer.settings.steps)

    def path(self, step: int) -> Path:
        """Its file."""
        return self.folder / f"{step:06d}.png"

    @torch.no_grad()
    def draw(self) -> None:
        """Draw the grid of where the trainer stands."""
        if not parallel.is_main():
            return
        denoiser = self.trainer.averaged
        assert isinstance(denoiser, Denoiser)
        process = denoiser.process
        like = torch.empty(N, *self.image_shape, device=self.trainer.device)
        noise = process.prior_std * samplers.SampleNoise(SEED, range(N)).like(like)
        x0 = samplers.draw(denoiser, process, noise, _times(process), eta=0.0, y=self.y)
        plots.save_grid(x0, self.path(self.trainer.step))


def _times(process: Process) -> list[Any]:
    if process.times_are_whole:
        return list(samplers.uniform_times(process.end, min(STEPS, process.end)))
    return list(samplers.even_times(process, STEPS))


def pictures(folder: Path) -> dict[int, np.ndarray]:
    """The grids of a run, by the updates behind them and in their order.

    Args:
        folder: of the run.

    Returns:
        step -> uint8 (H, W, 3).

    Raises:
        FileNotFoundError: if there are none.
        ValueError: if one of them is no picture.
    """
    there = (folder / FOLDER).glob("*.png")
    files = {int(path.stem): path for path in there if path.stem.isdecimal()}
    if not files:
        raise FileNotFoundError(
            f"there are no grids in {folder / FOLDER}: train with --sample-every"
        )
    return {step: picture(files[step]) for step in sorted(files)}


def picture(path: Path) -> np.ndarray:
    """One grid, uint8 (H, W, 3).

    Raises:
        ValueError: if the file is no picture.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is no picture ({error})") from error
