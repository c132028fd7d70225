"""Carry out a recipe in a folder: train with a progress bar and a log, resume, export.

A run is a folder: ``training.safetensors`` (everything, to resume from), ``log.jsonl``, and at the
end ``model.safetensors`` (averaged weights) with its card ``model.json``; grids of samples and
events for TensorBoard where they are asked for. Of several processes (see
:mod:`ddpmlib.training.parallel`) the first one writes and shows progress.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ddpmlib import data
from ddpmlib.data import Dataset
from ddpmlib.files import PACKAGE, read_safetensors
from ddpmlib.training import parallel
from ddpmlib.training.loop import fit
from ddpmlib.training.machine import hardware
from ddpmlib.training.settings import Progress
from ddpmlib.training.time_budget import updates_within
from ddpmlib.training.trainer import Trainer
from ddpmlib.zoo import tensorboard as events
from ddpmlib.zoo.card import Card
from ddpmlib.zoo.checkpoints import LOG, MODEL, STATE, read, start_from, write_model
from ddpmlib.zoo.log import Log
from ddpmlib.zoo.previews import Previews
from ddpmlib.zoo.recipe import Recipe, changed, to_dict
from ddpmlib.zoo.source import write_source


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
    compile: bool = False,
    channels_last: bool = False,
    accumulate: int = 1,
    save_every: int = 100,
    log_every: int = 50,
    sample_every: int | None = None,
    tensorboard: bool = False,
    command: str = "",
) -> Card:
    """Carry a recipe out in ``folder``: train with a progress bar and a log, then export.

    Args:
        recipe: see :data:`ddpmlib.zoo.recipes.RECIPES`.
        folder: where the run lives; created if needed.
        dataset: in place of the one that the recipe names; the card then names this one, and the
            folder says where it was read from, see :mod:`ddpmlib.zoo.source`.
        resume: go on from the last saved state, if there is one; also done without a word where
            ``torchrun`` started the processes again.
        minutes: in place of the recipe's steps, as many as fit into this time, see
            :func:`ddpmlib.training.time_budget.updates_within`; a resumed run keeps its number.
        init: a checkpoint whose weights to start from instead of random ones; see
            :func:`ddpmlib.zoo.checkpoints.start_from`. The card names it.
        device, bf16, compile, channels_last, accumulate: see
            :class:`ddpmlib.training.trainer.Trainer`.
        save_every, log_every: updates between saves and between lines of the log.
        sample_every: updates between grids of samples, see :mod:`ddpmlib.zoo.previews`; by default
            there are none. Their time comes on top of ``minutes``.
        tensorboard: repeat the log, and the grids, as events, see :mod:`ddpmlib.zoo.tensorboard`.
        command: what the card says to repeat the run; with ``minutes``, the steps are added.

    Returns:
        the card of the exported model.

    Raises:
        FileExistsError: if the folder holds a run and ``resume`` is False.
        ValueError: if there is no such data set, the model is not made for it, or the run there has
            other settings; the folder is then unchanged.
        TrainingDiverged: if the loss is no longer finite.
        ImportError: if TensorBoard is asked for and not installed.
    """
    if tensorboard:
        events.check_installed()
    folder, state = Path(folder), Path(folder) / STATE
    _check_folder(folder, resume or parallel.restarted())
    recipe, dataset = _fitting(recipe, dataset)
    torch.manual_seed(recipe.settings.seed)
    model = recipe.build()
    sha256 = None if init is None else start_from(model, init)
    trainer = Trainer(
        model, recipe.loss(), dataset.x_train, dataset.y_train, recipe.settings,
        device=device, bf16=bf16, compile=compile, channels_last=channels_last,
        accumulate=accumulate, data_fingerprint=dataset.fingerprint,
    )  # fmt: skip
    shape, k = dataset.image_shape, recipe.num_classes
    grids = None if sample_every is None else Previews(folder, trainer, shape, k, sample_every)
    if minutes is not None:
        recipe = _timed(recipe, trainer, minutes, state, save_every)
        command += f" --steps {recipe.settings.steps}"
    trainer.settings, trainer.recipe = recipe.settings, to_dict(recipe) | {"init": sha256}
    if state.exists():
        trainer.load(state)
    if trainer.step == recipe.settings.steps and (finished := _finished(folder)):
        return finished
    how = {"compile": compile, "channels_last": channels_last, "command": command}
    how |= {"init": f"{init} ({sha256})"} if init else {}
    log = Log(folder / LOG, trainer, log_every)
    updates = log.watch(fit(trainer, checkpoint=state, save_every=save_every))
    updates = grids.watch(updates) if grids else updates
    if tensorboard:
        updates = events.watch(updates, folder, log.rows, trainer.step, grids)
    return _carried_out(recipe, trainer, dataset, folder, how, log, updates)


def _fitting(recipe: Recipe, dataset: Dataset | None) -> tuple[Recipe, Dataset]:
    """The data set that a recipe names, or the recipe that names the data set; they fit."""
    if dataset is None:
        dataset = data.load(recipe.data)
    else:
        recipe = changed(recipe, {"data": dataset.name})
    recipe.check(dataset)
    return recipe, dataset


def _timed(
    recipe: Recipe, trainer: Trainer, minutes: float, state: Path, save_every: int
) -> Recipe:
    """The recipe with as many steps as fit into the time, or as the saved run was given."""
    steps = _saved_steps(state) if state.exists() else None
    if steps is None:
        scratch = state.with_name("timing.safetensors")
        steps = updates_within(trainer, 60 * minutes, scratch, save_every)
        if parallel.is_main():
            print(f"{recipe.name}: {minutes:g} minutes are {steps:,} updates")
    return changed(recipe, {"settings.steps": steps})


def _saved_steps(state: Path) -> int | None:
    """How many steps a saved run is to have; None if its header is damaged, which loading tells."""
    try:
        return int(json.loads(read_safetensors(state)[1]["settings"])["steps"])
    except (KeyError, ValueError, TypeError):
        return None


def _check_folder(folder: Path, resume: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"a run needs a folder, and {folder} is a file")
    state, model = (folder / STATE).exists(), (folder / MODEL).exists()
    if state and not resume:
        raise FileExistsError(
            f"{folder} already holds a run: go on with it by --resume, or give another folder by "
            "--out"
        )
    if model and not state:  # training from the start would in the end replace it
        raise FileExistsError(
            f"{folder} holds a trained model but no {STATE} to go on from: give another folder by "
            "--out"
        )


def _finished(folder: Path) -> Card | None:
    """The card of a run that was exported as a whole: with its measurements, so it is kept."""
    try:
        return read(folder / MODEL)[0]
    except (OSError, ValueError):
        return None


def _carried_out(
    recipe: Recipe, trainer: Trainer, dataset: Dataset, folder: Path, how: dict[str, Any],
    log: Log, updates: Iterator[Progress],
) -> Card:  # fmt: skip
    """The rest of the updates, with a log, and then the export."""
    if dataset.source is not None and parallel.is_main():
        write_source(folder, dataset.source)
    for progress in updates:
        del progress
    if parallel.is_main():
        how = _circumstances(trainer) | how | {"seconds": round(log.seconds, 1)}
        how |= {"data_fingerprint": dataset.fingerprint, "classes": list(dataset.classes)}
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
            loss=_thinned([(row["step"], round(row["loss"], 6)) for row in log.rows]),
        )
        write_model(averaged.state_dict(), card, folder / MODEL)
    parallel.wait()
    return read(folder / MODEL)[0]


def _circumstances(trainer: Trainer) -> dict[str, Any]:
    """What a card says of the machine and the work."""
    return {
        "device": str(trainer.device),
        "bf16": trainer.bf16,
        "accumulate": trainer.accumulate,
        "processes": parallel.size(),
        "images_seen": trainer.settings.steps * trainer.settings.batch_size,
        "hardware": hardware(trainer.device),
        "torch": torch.__version__,
        "commit": _commit(),
    }


def _thinned(pairs: list[tuple[int, float]], most: int = 200) -> list[tuple[int, float]]:
    """At most ``most`` points of a curve, each the mean of its neighbours."""
    size = -(-len(pairs) // most) or 1
    groups = [pairs[i : i + size] for i in range(0, len(pairs), size)]
    return [(g[-1][0], round(sum(v for _, v in g) / len(g), 6)) for g in groups]


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
