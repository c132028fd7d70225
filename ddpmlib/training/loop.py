"""The training loop: a generator whose caller decides about progress bars, logs and early stops."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ddpmlib import interruption
from ddpmlib.training import parallel
from ddpmlib.training.settings import Progress, TrainingDiverged
from ddpmlib.training.trainer import Trainer


def fit(
    trainer: Trainer,
    *,
    checkpoint: Path | str | None = None,
    save_every: int = 100,
    check_every: int = 50,
) -> Iterator[Progress]:
    """Train to the end of the budget, from wherever the trainer stands.

    Who calls it decides what is logged, and where: "How to run it" shows the lines for Weights &
    Biases, :mod:`ddpmlib.zoo.log` and :mod:`ddpmlib.zoo.tensorboard` wrap it as generators.

    Ctrl-C or SIGTERM in an update waits until it is done and saved, see
    :func:`ddpmlib.interruption.deferred`. So neither the trainer nor a file ever holds half of one.

    Args:
        trainer: fresh, or after :meth:`~ddpmlib.training.trainer.Trainer.load`.
        checkpoint: file for the state, written every ``save_every`` updates and at the end.
        save_every: updates between two saves.
        check_every: updates between two looks at the loss (each makes the CPU wait for a GPU).

    Yields:
        a :class:`~ddpmlib.training.settings.Progress` per update.

    Raises:
        Interrupted: after an update in which Ctrl-C or SIGTERM came; the trainer then stands there.
        TrainingDiverged: if the loss is no longer finite; the last good checkpoint is kept.
        ValueError: if ``save_every`` or ``check_every`` is less than 1.
    """
    if save_every < 1 or check_every < 1:
        raise ValueError(f"need at least 1 update between looks, got {save_every}, {check_every}")
    total = trainer.settings.steps
    while trainer.step < total:
        with interruption.deferred():
            progress = trainer.update()
            last = progress.step == total
            save = checkpoint is not None and (last or progress.step % save_every == 0)
            if save or last or progress.step % check_every == 0:
                _check_loss(progress, checkpoint)
            if save and checkpoint is not None:
                trainer.save(checkpoint)
            if parallel.is_main():  # the others end with it
                interruption.check(partial(_kept, trainer, progress, checkpoint))
        yield progress


def _kept(trainer: Trainer, progress: Progress, checkpoint: Path | str | None) -> str:
    """Save before the end; returns where, in words."""
    if checkpoint is None:
        return ""
    _check_loss(progress, checkpoint)
    trainer.save(checkpoint)
    return f"update {trainer.step} is saved"


def _check_loss(progress: Progress, checkpoint: Path | str | None) -> None:
    if bool(progress.loss.isfinite()):
        return
    there = checkpoint is not None and Path(checkpoint).exists()
    kept = f"; the last good state is kept in {checkpoint}" if there else ""
    raise TrainingDiverged(
        f"the loss is {float(progress.loss)} at step {progress.step} with learning rate "
        f"{progress.lr:.2g}{kept}. Lower the learning rate or warm up for longer."
    )
