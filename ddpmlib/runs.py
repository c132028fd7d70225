"""Carry out a recipe in a folder: train with a progress bar and a log, resume, export.

A run is a folder: ``training.safetensors`` (everything, to resume from), ``log.jsonl``, and at the
end ``model.safetensors`` (averaged weights) with its card ``model.json``. Of several processes (see
:mod:`ddpmlib.parallel`) the first one writes and shows progress.
"""

from __future__ import annotations

import json
import platform
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ddpmlib import data, parallel, recipes
from ddpmlib.files import read_safetensors, write_atomically
from ddpmlib.recipes import ClassifierRecipe, DiffusionRecipe, Recipe
from ddpmlib.training import Trainer, fit, updates_within
from ddpmlib.zoo import LOG, MODEL, PACKAGE, STATE, Card, read, start_from, write_model


def train(
    recipe: Recipe,
    folder: Path | str,
    *,
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
    command: str = "",
) -> Card:
    """Carry a recipe out in ``folder``: train with a progress bar and a log, then export.

    Args:
        recipe: see :data:`ddpmlib.recipes.RECIPES`.
        folder: where the run lives; created if needed.
        resume: go on from the last saved state, if there is one; also done without a word where
            ``torchrun`` started the processes again.
        minutes: in place of the recipe's steps, as many as fit into this time, see
            :func:`ddpmlib.training.updates_within`; a resumed run keeps the number that it had.
        init: a checkpoint whose weights to start from instead of random ones; see
            :func:`ddpmlib.zoo.start_from`. The card names it.
        device, bf16, compile, channels_last, accumulate: see :class:`ddpmlib.training.Trainer`.
        save_every, log_every: updates between saves and between lines of the log.
        command: what the card says to repeat the run; with ``minutes``, the steps are added.

    Returns:
        the card of the exported model.

    Raises:
        FileExistsError: if the folder holds a run and ``resume`` is False.
        ValueError: if the run there has other settings; it is then unchanged.
        TrainingDiverged: if the loss is no longer finite.
    """
    folder = Path(folder)
    state = folder / STATE
    _check_folder(folder, resume or parallel.restarted())
    torch.manual_seed(recipe.settings.seed)
    images = data.load(recipe.data)
    _check_fits(recipe, images)
    model = recipe.build()
    sha256 = None if init is None else start_from(model, init)
    trainer = Trainer(
        model, recipe.loss(), images.x_train, images.y_train, recipe.settings,
        device=device, bf16=bf16, compile=compile, channels_last=channels_last,
        accumulate=accumulate,
    )  # fmt: skip
    if minutes is not None:
        recipe = _fitted(recipe, trainer, minutes, state, save_every)
        command += f" --steps {recipe.settings.steps}"
    trainer.settings, trainer.recipe = recipe.settings, recipes.to_dict(recipe) | {"init": sha256}
    if state.exists():
        trainer.load(state)
    if trainer.step == recipe.settings.steps and (finished := _finished(folder)):
        return finished
    log = _Log(folder / LOG, trainer, log_every)
    for progress in log.watch(fit(trainer, checkpoint=state, save_every=save_every)):
        del progress
    switches = {"device": str(trainer.device), "bf16": trainer.bf16, "compile": compile}
    switches |= {"channels_last": channels_last, "accumulate": accumulate}
    switches |= {"processes": parallel.size()}
    switches |= {"command": command} | ({"init": f"{init} ({sha256})"} if init else {})
    if parallel.is_main():
        _export(recipe, trainer, images, folder, log, switches)
    parallel.wait()
    return read(folder / MODEL)[0]


def _fitted(
    recipe: Recipe, trainer: Trainer, minutes: float, state: Path, save_every: int
) -> Recipe:
    """The recipe with as many steps as fit into the time, or as the saved run was given."""
    steps = _saved_steps(state) if state.exists() else None
    if steps is None:
        scratch = state.with_name("timing.safetensors")
        steps = updates_within(trainer, 60 * minutes, scratch, save_every)
        if parallel.is_main():
            print(f"{recipe.name}: {minutes:g} minutes are {steps:,} updates")
    return replace(recipe, settings=replace(recipe.settings, steps=steps))


def _saved_steps(state: Path) -> int | None:
    """How many steps a saved run is to have; None if its header is damaged, which loading tells."""
    try:
        return int(json.loads(read_safetensors(state)[1]["settings"])["steps"])
    except (KeyError, ValueError, TypeError):
        return None


def _check_fits(recipe: Recipe, images: data.Images) -> None:
    """Whether the network is made for these images, asked before anything is written."""
    channels, *sides = images.image_shape
    classes, unlabelled = recipe.net.num_classes, isinstance(recipe, DiffusionRecipe)
    if recipe.net.channels != channels:
        raise ValueError(f"{images.name} has {channels} channels, the net {recipe.net.channels}")
    if classes != images.num_classes and not (unlabelled and classes == 0):
        raise ValueError(f"{images.name} has {images.num_classes} classes, the net {classes}")
    if not isinstance(recipe, ClassifierRecipe) and any(s % recipe.net.side_divisor for s in sides):
        raise ValueError(
            f"{images.name} is {sides[0]} × {sides[1]} pixels, and this net needs sides that are "
            f"multiples of {recipe.net.side_divisor} (patch and levels halve them)"
        )
    if not isinstance(recipe, DiffusionRecipe) and recipe.reach >= min(sides):
        raise ValueError(f"reach = {recipe.reach} shifts images of side {min(sides)} out of sight")


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


class _Log:
    """Progress bar and JSON lines; after a resume both go on where the saved state stood."""

    def __init__(self, path: Path, trainer: Trainer, every: int) -> None:
        self.path, self.trainer, self.every = path, trainer, every
        self.rows = [row for row in _rows(path) if row["step"] <= trainer.step]
        content = "".join(json.dumps(row) + "\n" for row in self.rows)
        if parallel.is_main():
            write_atomically(path, content.encode())
        self.seconds = self.rows[-1]["seconds"] if self.rows else 0.0

    def watch(self, updates: Iterator[Any]) -> Iterator[Any]:
        from tqdm import tqdm

        settings, begun = self.trainer.settings, self.trainer.step
        total, count, started, before = 0.0, 0, time.perf_counter(), self.seconds
        last, quiet = started, None if parallel.is_main() else True
        with tqdm(total=settings.steps, initial=begun, unit="step", disable=quiet) as bar:
            for p in updates:
                total, count = total + p.loss.float(), count + 1
                if p.step % self.every == 0 or p.step == settings.steps:
                    loss, now = float(total) / count, time.perf_counter()
                    speed = count * settings.batch_size / (now - last)
                    self.seconds = before + now - started
                    self._write(p.step, loss, p.lr, speed)
                    bar.set_postfix_str(f"loss {loss:.4f}, {speed:.0f} images/s")
                    total, count, last = 0.0, 0, now
                bar.update()
                yield p

    def _write(self, step: int, loss: float, lr: float, speed: float) -> None:
        row = {"step": step, "loss": loss, "lr": lr, "images_per_s": round(speed, 1)}
        row["seconds"] = round(self.seconds, 2)
        self.rows.append(row)
        if parallel.is_main():
            with open(self.path, "a") as file:
                file.write(json.dumps(row) + "\n")


def read_log(path: Path | str) -> dict[str, list[float]]:
    """A run's log as columns: step, loss, lr, images_per_s, seconds.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    rows = _rows(Path(path))
    if not rows and not Path(path).exists():
        raise FileNotFoundError(f"there is no log {path}")
    return {key: [row[key] for row in rows] for key in (rows[0] if rows else ())}


def _rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; a kill may have cut the last one, which is then left out."""
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return [row for row in map(_json_or_none, lines) if row is not None and _is_row(row)]


def _is_row(row: Any) -> bool:
    numbers = ("step", "loss", "lr", "images_per_s", "seconds")
    return isinstance(row, dict) and all(isinstance(row.get(k), int | float) for k in numbers)


def _json_or_none(line: str) -> dict[str, Any] | None:
    """A line of the log; the last one may have been cut by a kill."""
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None


def _export(
    recipe: Recipe,
    trainer: Trainer,
    images: data.Images,
    folder: Path,
    log: _Log,
    how: dict[str, Any],
) -> None:
    averaged = trainer.averaged
    settings = recipe.settings
    card = Card(
        name=recipe.name,
        recipe=recipes.to_dict(recipe),
        sha256="",
        parameters=sum(p.numel() for p in averaged.parameters()),
        dtype="float32",
        image_shape=images.image_shape,
        num_classes=recipe.net.num_classes,
        training=how | {
            "seconds": round(log.seconds, 1),
            "images_seen": settings.steps * settings.batch_size,
            "hardware": hardware(trainer.device),
            "torch": torch.__version__,
            "commit": _commit(),
        },
        loss=_thinned([(row["step"], round(row["loss"], 6)) for row in log.rows]),
    )  # fmt: skip
    write_model(averaged.state_dict(), card, folder / MODEL)


def _thinned(pairs: list[tuple[int, float]], most: int = 200) -> list[tuple[int, float]]:
    """At most ``most`` points of a curve, each the mean of its neighbours."""
    size = -(-len(pairs) // most) or 1
    groups = [pairs[i : i + size] for i in range(0, len(pairs), size)]
    return [(g[-1][0], round(sum(v for _, v in g) / len(g), 6)) for g in groups]


def hardware(device: torch.device) -> str:
    """The processor that did the work, with its threads, and how many processes shared it."""
    several = f", {parallel.size()} processes" if parallel.size() > 1 else ""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device) + several
    threads = torch.get_num_threads()
    return f"{processor()}, {threads} thread{'s' if threads > 1 else ''}{several}"


def processor() -> str:
    """The name that this machine's CPU gives itself."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [
            line.split(":")[1] for line in info.read_text().splitlines() if "model name" in line
        ]
        cpu = models[0].strip() if models else cpu
    return cpu


def _commit() -> str | None:
    """The commit of the clone that this package lies in; None if it is installed elsewhere."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(PACKAGE), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "runs.py")  # else the repository is somebody else's
        return git("rev-parse", "HEAD") + (
            " with changes" if git("status", "--porcelain", ".") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return None
