"""Carry out a recipe in a folder: train with a progress bar and a log, resume, export.

A run is a folder: ``training.safetensors`` (everything, to resume from), ``log.jsonl``, and at the
end ``model.safetensors`` (averaged weights) with its card ``model.json``; grids of samples and
events for TensorBoard where they are asked for. Of several processes (see
:mod:`ddpmlib.training.parallel`) the first one writes and shows progress. While a run is trained,
its folder is locked.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ddpmlib import data, interruption
from ddpmlib.data import Dataset
from ddpmlib.files import PACKAGE
from ddpmlib.training import parallel
from ddpmlib.training.loop import fit
from ddpmlib.training.machine import hardware
from ddpmlib.training.settings import Progress
from ddpmlib.training.time_budget import forecast, updates_within
from ddpmlib.training.trainer import Trainer
from ddpmlib.zoo import tensorboard as events
from ddpmlib.zoo.card import Card
from ddpmlib.zoo.checkpoints import LOG, MODEL, STATE, name_plainly, start_from, write_model
from ddpmlib.zoo.log import Log, thinned
from ddpmlib.zoo.previews import Previews
from ddpmlib.zoo.recipe import Recipe, changed, to_dict
from ddpmlib.zoo.run_folder import check_folder, reserved, stamp_of
from ddpmlib.zoo.source import SOURCE, images_again, write_source
from ddpmlib.zoo.stretches import Recorded, Stretch, continued, notes, options, recorded, told
from ddpmlib.zoo.weights import read


def train(
    recipe: Recipe,
    folder: Path | str,
    *,
    dataset: Dataset | None = None,
    resume: bool = False,
    minutes: float | None = None,
    init: str | Path | None = None,
    device: torch.device | str | None = None,
    bf16: bool | None = None,
    compile: bool | None = None,
    channels_last: bool | None = None,
    accumulate: int | None = None,
    save_every: int | None = None,
    log_every: int | None = None,
    sample_every: int | None = None,
    tensorboard: bool | None = None,
    command: str = "",
) -> Card:
    """Carry a recipe out in ``folder``: train with a progress bar and a log, then export.

    The folder is locked meanwhile. Ctrl-C or SIGTERM ends the run after the current update, which
    is saved.

    Args:
        recipe: see :data:`ddpmlib.zoo.recipes.RECIPES`. A run that is resumed may get other steps
            than it had, at least as many as are done: the cosine of the learning rate is stretched
            to the new end, and the next update has the rate of the new schedule.
        folder: where the run lives; created if needed.
        dataset: in place of the one that the recipe names; the card then names this one, and the
            folder says where it was read from, see :mod:`ddpmlib.zoo.source`. A resumed run reads
            it again from there. Its images lie in memory: on others
            (:class:`ddpmlib.data.map_style.MapStyle`) a
            :class:`ddpmlib.training.trainer.Trainer` trains the recipe's model and loss, and
            :func:`ddpmlib.zoo.saved.save` keeps it.
        resume: go on from the last saved state, if there is one; also done without a word where
            ``torchrun`` started the processes again.
        minutes: in place of the recipe's steps, as many as fit into this time, see
            :func:`ddpmlib.training.time_budget.updates_within`; a resumed run goes on for so long
            from where it stands, and its learning rate follows. Without, the minutes that are
            expected are printed after the first updates, if there is one or more.
        init: a checkpoint whose weights to start from instead of random ones; see
            :func:`ddpmlib.zoo.checkpoints.start_from`. The card names it.
        device, bf16, compile, channels_last, accumulate: see
            :class:`ddpmlib.training.trainer.Trainer`. A resumed run goes on with those that it had
            but for the device; others are noted in state and card.
        save_every, log_every: updates between saves (by default 100) and between lines of the log
            (50); likewise.
        sample_every: updates between grids of samples, see :mod:`ddpmlib.zoo.previews`; by default
            there are none. Their time comes on top of ``minutes``.
        tensorboard: repeat the log, and the grids, as events, see :mod:`ddpmlib.zoo.tensorboard`.
        command: what the card says to repeat the run; with ``minutes``, the steps are added.

    Returns:
        the card of the exported model.

    Raises:
        FileExistsError: if the folder holds a run and ``resume`` is False.
        Held: if somebody else trains there, naming the process.
        Interrupted: after Ctrl-C or SIGTERM.
        ValueError: if there is no such data set, the model is not made for it, or the run there has
            another recipe; the folder is then unchanged.
        TrainingDiverged: if the loss is no longer finite.
        ImportError: if TensorBoard is asked for and not installed.
    """
    folder, state = Path(folder), Path(folder) / STATE
    check_folder(folder, resume)
    recipe, dataset = _fitting(recipe, dataset, folder)
    stamp, before = stamp_of(state), recorded(state)
    given: dict[str, Any] = {"bf16": bf16, "compile": compile, "channels_last": channels_last}
    given |= {"accumulate": accumulate, "save_every": save_every, "log_every": log_every}
    given |= {"sample_every": sample_every, "tensorboard": tensorboard}
    how = options(before, given)
    if how["tensorboard"]:
        events.check_installed()
    torch.manual_seed(recipe.settings.seed)
    model = recipe.build()
    start = _start(model, init, before)
    trainer = Trainer(
        model, recipe.loss(), dataset.x_train, dataset.y_train, recipe.settings,
        device=device, bf16=how["bf16"], compile=how["compile"],
        channels_last=how["channels_last"], accumulate=how["accumulate"],
        data_fingerprint=dataset.fingerprint,
    )  # fmt: skip
    shape, k = dataset.image_shape, recipe.num_classes
    every = how["sample_every"]
    grids = None if every is None else Previews(folder, trainer, shape, k, every)
    with reserved(folder):
        if stamp_of(state) != stamp:
            raise ValueError(f"{folder} has changed since this run was prepared: try again")
        if minutes is not None:
            recipe = _timed(recipe, trainer, minutes, before, state, how["save_every"])
            command += f" --steps {recipe.settings.steps}"
        _take_up(trainer, recipe, start[0], before, state)
        now = _stretch(trainer, how, command)
        if trainer.step == now.steps and (card := _finished(folder, recipe)):
            return card
        stretches = continued(before.stretches if before else (), now)
        tell = partial(_tell, recipe.name) if minutes is None else None
        watched = partial(_watched, folder, trainer, grids, how["tensorboard"], tell)
        return _carried_out(recipe, trainer, dataset, folder, stretches, start[1], watched)


# ---- before the first update ---------------------------------------------------------------------


def _fitting(recipe: Recipe, dataset: Dataset | None, folder: Path) -> tuple[Recipe, Dataset]:
    """The data set that a recipe names, or the recipe that names the data set; they fit.

    A run of own images that goes on reads them again from where they lay.
    """
    if dataset is not None:
        recipe = changed(recipe, {"data": dataset.name})
    elif recipe.data in data.DATASETS or not (folder / SOURCE).is_file():
        dataset = data.load(recipe.data)
    else:
        dataset = images_again(folder, recipe.data)
    recipe.check(dataset)
    return recipe, dataset


def _start(
    model: nn.Module, init: str | Path | None, before: Recorded | None
) -> tuple[str | None, str | None]:
    """SHA-256 of the checkpoint that a run starts from, and the same in words; None for neither."""
    if init is None:
        return (before.init, before.start) if before else (None, None)
    sha256 = start_from(model, init)
    return sha256, f"{init} ({sha256})"


def _timed(
    recipe: Recipe,
    trainer: Trainer,
    minutes: float,
    before: Recorded | None,
    state: Path,
    save_every: int,
) -> Recipe:
    """The recipe with as many steps as fit into the time, beyond those that are done."""
    if before is not None and parallel.restarted():  # they were counted before the restart
        return changed(recipe, {"settings.steps": before.recipe.settings.steps})
    steps = updates_within(trainer, 60 * minutes, state.with_name("timing.safetensors"), save_every)
    done = before.step if before is not None else 0
    if parallel.is_main():
        after = f" after the {done:,} that are done" if done else ""
        print(f"{recipe.name}: {minutes:g} minutes are {steps:,} updates{after}")
    return changed(recipe, {"settings.steps": done + steps})


def _take_up(
    trainer: Trainer, recipe: Recipe, init: str | None, before: Recorded | None, state: Path
) -> None:
    """Bring the trainer to where the run stands, with the steps that it is to have now."""
    steps = recipe.settings.steps
    if before is not None:
        old = changed(recipe, {"settings.steps": before.recipe.settings.steps})
        trainer.settings, trainer.recipe = old.settings, to_dict(old) | {"init": init}
        trainer.load(state)
        if steps < trainer.step:
            raise ValueError(
                f"{state.parent} has {trainer.step:,} updates behind it: --steps must be at least "
                f"that, got {steps:,}"
            )
        if old != recipe and parallel.is_main():
            print(_stretched(recipe, old, trainer.step))
    trainer.settings, trainer.recipe = recipe.settings, to_dict(recipe) | {"init": init}


def _stretched(recipe: Recipe, old: Recipe, step: int) -> str:
    """One line that says what a run of other steps does to the learning rate."""
    now, then = recipe.settings, old.settings
    rate, old_rate = (f"{settings.lr_at(step):.3g}" for settings in (now, then))
    differs = f", so after {step:,} updates it is {rate}, and not {old_rate}"
    return (
        f"{recipe.name}: {now.steps:,} updates instead of {then.steps:,}; the schedule of the "
        f"learning rate is stretched to the new end{differs if rate != old_rate else ''}"
    )


def _stretch(trainer: Trainer, how: Mapping[str, Any], command: str) -> Stretch:
    return Stretch(
        since=trainer.step, steps=trainer.settings.steps, bf16=trainer.bf16,
        compile=how["compile"], channels_last=how["channels_last"], accumulate=how["accumulate"],
        save_every=how["save_every"], log_every=how["log_every"], device=str(trainer.device),
        processes=parallel.size(), command=command, sample_every=how["sample_every"],
        tensorboard=how["tensorboard"],
    )  # fmt: skip


def _finished(folder: Path, recipe: Recipe) -> Card | None:
    """The card of a run that was exported as a whole: with its measurements, so it is kept."""
    model = folder / MODEL
    try:
        name_plainly(model, Card.read(model.with_suffix(".json")))  # a kill may have come before
        card = read(model)[0]
    except (OSError, ValueError):
        return None
    return card if card.recipe["settings"]["steps"] == recipe.settings.steps else None


# ---- the updates ---------------------------------------------------------------------------------


def _carried_out(
    recipe: Recipe, trainer: Trainer, dataset: Dataset, folder: Path,
    stretches: Sequence[Stretch], start: str | None,
    watched: Callable[[Iterator[Progress], Log], Iterator[Progress]],
) -> Card:  # fmt: skip
    """The rest of the updates, with a log, and then the export."""
    now, state = stretches[-1], folder / STATE
    if dataset.source is not None and parallel.is_main():
        write_source(folder, dataset.source)
    trainer.notes = notes(stretches, start) | {"classes": list(dataset.classes)}
    parallel.wait()  # all have read the state
    with interruption.deferred():
        if trainer.step == now.since:  # a new stretch, which must not be forgotten
            trainer.save(state)
        log = Log(folder / LOG, trainer, now.log_every)
        updates = log.watch(fit(trainer, checkpoint=state, save_every=now.save_every))
        for progress in watched(updates, log):
            del progress
    if parallel.is_main():
        how = _circumstances(trainer) | told(stretches) | {"seconds": round(log.seconds, 1)}
        how |= {"data_fingerprint": dataset.fingerprint, "classes": list(dataset.classes)}
        how |= {"init": start} if start else {}
        averaged = trainer.averaged
        card = Card(
            name=recipe.name,
            recipe=to_dict(recipe),
            sha256="",
            parameters=sum(p.numel() for p in averaged.parameters()),
            dtype="float32",
            image_shape=dataset.image_shape,
            num_classes=recipe.num_classes,
            training=how,
            loss=thinned([(row["step"], round(row["loss"], 6)) for row in log.rows]),
        )
        write_model(averaged.state_dict(), card, folder / MODEL)
    parallel.wait()
    return read(folder / MODEL)[0]


def _watched(
    folder: Path,
    trainer: Trainer,
    grids: Previews | None,
    tensorboard: bool,
    tell: Callable[[float], None] | None,
    updates: Iterator[Progress],
    log: Log,
) -> Iterator[Progress]:
    """The updates, with grids of samples, events and their time where they are asked for."""
    updates = grids.watch(updates) if grids else updates
    if tensorboard:
        updates = events.watch(updates, folder, log.rows, trainer.step, grids)
    return forecast(updates, trainer.settings.steps, tell) if tell else updates


def _tell(name: str, seconds: float) -> None:
    """Say how long a run will take, unless it is over before that has been read."""
    from tqdm import tqdm

    if seconds >= 60 and parallel.is_main():
        minutes = round(seconds / 60)
        tqdm.write(f"{name}: about {minutes:,} minute{'s' if minutes > 1 else ''} to go")


def _circumstances(trainer: Trainer) -> dict[str, Any]:
    """What a card says of the machine and the work, beyond how it was done."""
    return {
        "images_seen": trainer.settings.steps * trainer.settings.batch_size,
        "hardware": hardware(trainer.device),
        "torch": torch.__version__,
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The commit of the clone that this package lies in; None if it is installed elsewhere."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(PACKAGE), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "zoo/runs.py")  # else the repository is somebody else's
        return git("rev-parse", "HEAD") + (
            " with changes" if git("status", "--porcelain", ".") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return None
