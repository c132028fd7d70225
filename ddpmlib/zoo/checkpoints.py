"""The zoo: checkpoints with their cards, loaded ready to use, shipped from finished runs.

A checkpoint is a file of weights, a card (JSON) with its SHA-256 beside it, and the log of the run
that made it. The shipped ones lie in ``data/checkpoints``; weights that are too large for one file
there lie in parts, which are joined when they are read. Weights are written under names that hold
the beginning of that SHA-256, so that new ones never replace old ones, and the card, which comes
after them and in one go, decides which are meant. What ships keeps these names, but for files of
older versions; the weights of a run or of a save then get their plain name. Nothing is ever
unpickled.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ddpmlib.files import (
    data_folder,
    read_content,
    to_safetensors,
    write_atomically,
)
from ddpmlib.locks import locked
from ddpmlib.records import check_plain_name
from ddpmlib.training.machine import default_device
from ddpmlib.zoo import parts
from ddpmlib.zoo.card import Card
from ddpmlib.zoo.log import LARGEST as LARGEST_LOG
from ddpmlib.zoo.recipes.kinds import from_dict
from ddpmlib.zoo.unfinished import so_far
from ddpmlib.zoo.weights import part_files, read

STATE, LOG, MODEL = "training.safetensors", "log.jsonl", "model.safetensors"
LARGEST = 8_000_000  # bytes of a file that ships
PATIENCE = 60.0  # seconds for another process to write a card, which takes it a moment


def shipped() -> Path:
    """Where shipped checkpoints lie."""
    return data_folder("checkpoints")


def names() -> list[str]:
    """Names of the shipped checkpoints."""
    return sorted(card.stem for card in shipped().glob("*.json"))


def load(
    name: str | Path, device: torch.device | str | None = None, *, build: parts.Build | None = None
) -> tuple[Any, Card]:
    """A trained model, ready to use, and its card.

    Of a run that is still trained, or was interrupted, these are the averaged weights as they were
    last saved, and a warning (:class:`~ddpmlib.zoo.unfinished.UnfinishedRun`) says of which step.

    Args:
        name: a shipped checkpoint ("mnist", see :func:`names`), a run's folder, or a weights' file.
        device: where to put it, by default a GPU if there is one.
        build: the constructor of a network that is not the library's own, for what
            :func:`ddpmlib.zoo.saved.save` wrote; called with the arguments that the card records.

    Returns:
        a :class:`~ddpmlib.denoiser.denoiser.Denoiser`, :class:`~ddpmlib.models.Classifier` or
        :class:`~ddpmlib.models.NoisyClassifier`, or whatever network was saved, in evaluation mode
        and without gradients of its weights, and its :class:`Card`.

    Raises:
        FileNotFoundError: if there is no such checkpoint, or a part of it is missing.
        ValueError: if it is damaged, see :func:`read`; or if a constructor is missing, or given
            where none is needed.
    """
    state = Path(name) / STATE
    if _place(name) is None and state.is_file():
        (card, tensors), path = so_far(state), state
    else:
        card, tensors = read(path := find(name))
    if card.recipe.get("kind") == parts.KIND:
        saved = parts.rebuilt(path, card.recipe, tensors, build)
        return saved.to(device or default_device()).eval().requires_grad_(False), card
    if build is not None:
        raise ValueError(f"{path} was made by a recipe, which needs no build: load it without")
    model = from_dict(card.recipe).build()
    model.load_state_dict(
        {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
    )
    return model.to(device or default_device()).eval().requires_grad_(False), card


def start_from(model: nn.Module, name: str | Path) -> str:
    """Copy the weights of a checkpoint into a model of the same shape, to train it further.

    A model that also learns its variance may start from one that did not: the last layer's new
    outputs then start at zero.

    Returns:
        the SHA-256 of the checkpoint.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        ValueError: if it is damaged, or belongs to another network.
    """
    path = find(name)
    card, tensors = read(path)
    tensors.pop(parts.BETA, None)  # a schedule, and no weight
    ours = model.state_dict()
    fits = ours.keys() == tensors.keys()
    for key, value in ours.items() if fits else ():
        found = tensors[key]
        if key.startswith("net.out.") and 2 * len(found) == len(value):
            found = torch.cat([found, torch.zeros_like(found)])
        fits &= found.shape == value.shape
        ours[key] = found
    if not fits:
        raise ValueError(f"{path} belongs to another network than this recipe's")
    model.load_state_dict(ours)
    return card.sha256


def log_file(path: Path, card: Card) -> Path:
    """The log of the run that made a shipped checkpoint, named like its weights, see there."""
    own = _log_of(path, card.sha256)
    return own if own.is_file() else path.with_suffix(".jsonl")


def _log_of(path: Path, sha256: str) -> Path:
    return path.with_name(f"{path.stem}.{sha256[:12]}.jsonl")


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """The card beside weights, which nobody else writes meanwhile.

    Raises:
        Held: if somebody does for longer than :data:`PATIENCE`.
    """
    card = path.with_suffix(".json")
    lock = card.with_name(f".{card.name}.lock")
    with locked(lock, f"{card} is being written", "try again", PATIENCE):
        yield card


def find(name: str | Path) -> Path:
    """The weights' file behind a shipped name, a run's folder or a path; it may lie in parts."""
    if place := _place(name):
        return place
    if (Path(name) / STATE).is_file():
        raise FileNotFoundError(
            f"the run in {name} is not finished: resume it with `ddpmlib train`"
        )
    raise FileNotFoundError(
        f"no checkpoint {str(name)!r}: give a folder of a finished run, a .safetensors file, or "
        f"one of {', '.join(names()) or '(none shipped)'}"
    )


def _place(name: str | Path) -> Path | None:
    """Where weights of this name lie, if they do."""
    candidates = [shipped() / f"{name}.safetensors", Path(name) / MODEL, Path(name)]
    files = (path for path in candidates if path.suffix == ".safetensors")
    return next((path for path in files if path.is_file() or _has_card(path)), None)


def _has_card(path: Path) -> bool:
    """Whether a card speaks of these weights, which may lie in parts; a run's never do."""
    return path.name != MODEL and path.with_suffix(".json").is_file()


def ship(
    run: Path | str,
    name: str | None = None,
    dtype: str = "float16",
    folder: Path | None = None,
    tell: Callable[[str], Any] = print,
) -> Path:
    """Copy a finished run into the folder of shipped checkpoints, in files below :data:`LARGEST`.

    Args:
        run: the run's folder.
        name: of the checkpoint, by default the recipe's.
        dtype: "float16" or "float32" for the weights on disk.
        folder: another one than :func:`shipped`.
        tell: gets a sentence if a checkpoint of this name is replaced.

    Returns:
        the weights' file, whose name :func:`load` takes, also if it lies in parts.

    Raises:
        FileNotFoundError: if the run is not finished.
        ValueError: for another dtype, a name that is no plain file name, weights that are damaged
            or not finite, or too large for float16.
    """
    if dtype not in ("float16", "float32"):
        raise ValueError(f"dtype must be float16 or float32, got {dtype!r}")
    if name:
        check_plain_name("checkpoint", name)
    run = Path(run)
    source = run / MODEL if (run / MODEL).is_file() else find(run)
    card, tensors = read(source)
    small = {k: _converted(k, v, getattr(torch, dtype)) for k, v in tensors.items()}
    small |= {k: v for k, v in tensors.items() if k == parts.BETA}  # no weight, but a schedule
    target = (folder or shipped()) / f"{name or card.name}.safetensors"
    log_of_run = source.parent / LOG
    log = read_content(log_of_run, LARGEST_LOG) if log_of_run.exists() else b""
    # Metrics belong to the exact weights they were measured on, so they do not travel.
    card = replace(card, name=target.stem, dtype=dtype, metrics=[])
    if (old := target.with_suffix(".json")).is_file():
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(old.stat().st_mtime))
        tell(f"{target.stem} of {when} is replaced, and its measurements with it")
    write_model(small, card, target, log)
    return target


def _converted(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    small = tensor.to(dtype)
    if not bool(small.isfinite().all()):
        raise ValueError(f"{name} does not fit into {dtype}: ship with dtype float32")
    return small


def write_model(
    tensors: dict[str, Tensor], card: Card, path: Path, log: bytes | None = None
) -> Card:
    """Write weights to ``path`` and the card, with their SHA-256, beside them; returns the card.

    Args:
        tensors: the weights.
        card: what is known of them.
        path: a .safetensors file.
        log: of the run, if the checkpoint ships: weights and log then keep names of their own, in
            equal parts of at most :data:`LARGEST` bytes.

    A kill at any moment leaves the older checkpoint of this name or the new one, which the card
    decides; the files of the older one go once the new one is whole.
    """
    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    # One entry only: safetensors writes several in any order, and equal runs are equal to the bit.
    content = to_safetensors(tensors, {"digest": card.digest})
    count = 1 if log is None else -(-len(content) // LARGEST)
    card = replace(card, sha256=hashlib.sha256(content).hexdigest(), parts=count)
    files, size = part_files(path, card), -(-len(content) // count)
    kept = (
        {path, path.with_suffix(".jsonl")} if log is None else {*files, _log_of(path, card.sha256)}
    )
    with writing(path) as place:
        for i, file in enumerate(files):
            write_atomically(file, content[i * size : (i + 1) * size])
        if log is not None:
            write_atomically(_log_of(path, card.sha256), log)
        card.write(place)
        if log is None:
            name_plainly(path, card)
        _remove_older(path, kept)
    return card


def name_plainly(path: Path, card: Card) -> None:
    """Give weights of a run or a save, still named after their content, the name ``path``."""
    (part,) = part_files(path, card)
    if part.is_file():
        part.replace(path)


def _remove_older(path: Path, kept: set[Path]) -> None:
    """Remove the other files of a checkpoint's name: weights, parts and logs of older ones."""
    name, stem = re.escape(path.name), re.escape(path.stem)
    pattern = re.compile(
        rf"{name}(\.[0-9a-f]{{12}}\.part\d+of\d+)?|{stem}(\.[0-9a-f]{{12}})?\.jsonl"
    )
    for old in path.parent.iterdir():
        if pattern.fullmatch(old.name) and old not in kept:
            old.unlink()
