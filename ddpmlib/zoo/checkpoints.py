"""The zoo: checkpoints with their cards, loaded ready to use, shipped from finished runs.

A checkpoint is a file of weights, a card (JSON) with its SHA-256 beside it, and the log of the run
that made it. The shipped ones lie in ``data/checkpoints``; weights that are too large for one file
there lie in parts, which are joined when they are read. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ddpmlib.files import data_folder, from_safetensors, to_safetensors, write_atomically
from ddpmlib.training.machine import default_device
from ddpmlib.zoo import parts
from ddpmlib.zoo.card import Card
from ddpmlib.zoo.recipes.kinds import from_dict
from ddpmlib.zoo.unfinished import so_far

STATE, LOG, MODEL = "training.safetensors", "log.jsonl", "model.safetensors"
LARGEST = 8_000_000  # bytes of a file that ships


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
        ValueError: if the file is damaged: its SHA-256 is not the card's; or if a constructor is
            missing, or given where none is needed.
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
    try:
        model = from_dict(card.recipe).build()
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"the recipe in the card of {path} builds nothing ({error})") from error
    floats = {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
    try:
        model.load_state_dict(floats)
    except RuntimeError as error:
        raise ValueError(f"{path} holds other weights than its card's recipe needs") from error
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


def read(path: Path) -> tuple[Card, dict[str, Tensor]]:
    """The card and the weights behind a path that :func:`find` found, joined and verified.

    Raises:
        FileNotFoundError: if the card or a part is missing.
        ValueError: if the SHA-256 of the weights is not the card's.
    """
    card = Card.read(path.with_suffix(".json"))
    content = b"".join(map(_content, weights_files(path, card)))
    found = hashlib.sha256(content).hexdigest()
    if found != card.sha256:
        what = f"{path} is damaged"
        if card.parts > 1:
            what = f"one of the {card.parts} parts of {what}, or belongs to other weights"
        raise ValueError(
            f"{what}: its SHA-256 is {found[:12]}..., the card says "
            f"{card.sha256[:12]}...; fetch it again, or train it again"
        )
    return card, from_safetensors(content, path)[0]


def weights_files(path: Path, card: Card) -> list[Path]:
    """The files that hold the weights: ``path`` itself, or its parts in order.

    A part's name tells whose it is: ``mnist.safetensors.0123456789ab.part1of2`` belongs to the
    weights whose SHA-256 begins like that. So new parts never replace old ones, and the card, which
    is replaced in one go, decides which are meant.
    """
    if card.parts == 1:
        return [path]
    stem, n = f"{path.name}.{card.sha256[:12]}", card.parts
    return [path.with_name(f"{stem}.part{i}of{n}") for i in range(1, n + 1)]


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: fetch it again, or train the model again")
    return path.read_bytes()


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
    return next((path for path in files if path.is_file() or _in_parts(path)), None)


def _in_parts(path: Path) -> bool:
    card = path.with_suffix(".json")
    return card.is_file() and Card.read(card).parts > 1


def ship(
    run: Path | str,
    name: str | None = None,
    dtype: str = "float16",
    folder: Path | None = None,
) -> Path:
    """Copy a finished run into the folder of shipped checkpoints, in files below :data:`LARGEST`.

    Args:
        run: the run's folder.
        name: of the checkpoint, by default the recipe's.
        dtype: "float16" or "float32" for the weights on disk.
        folder: another one than :func:`shipped`.

    Returns:
        the weights' file, whose name :func:`load` takes, also if it lies in parts.

    Raises:
        FileNotFoundError: if the run is not finished.
        ValueError: for another dtype, a name that is no plain file name, damaged weights, or
            weights too large for float16.
    """
    if dtype not in ("float16", "float32"):
        raise ValueError(f"dtype must be float16 or float32, got {dtype!r}")
    if name is not None and (Path(name).name != name or name.startswith(".")):
        raise ValueError(f"a checkpoint's name is a plain file name, got {name!r}")
    run = Path(run)
    source = run / MODEL if (run / MODEL).is_file() else find(run)
    card, tensors = read(source)
    small = {k: _converted(k, v, getattr(torch, dtype)) for k, v in tensors.items()}
    small |= {k: v for k, v in tensors.items() if k == parts.BETA}  # no weight, but a schedule
    target = (folder or shipped()) / f"{name or card.name}.safetensors"
    write_atomically(target.with_suffix(".jsonl"), (source.parent / LOG).read_bytes())
    # Metrics belong to the exact weights they were measured on, so they do not travel.
    card = replace(card, name=target.stem, dtype=dtype, metrics=[])
    write_model(small, card, target, LARGEST)
    return target


def _converted(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    small = tensor.to(dtype)
    if not bool(small.isfinite().all()):
        raise ValueError(f"{name} does not fit into {dtype}: ship with dtype float32")
    return small


def write_model(
    tensors: dict[str, Tensor], card: Card, path: Path, largest: int | None = None
) -> Card:
    """Write weights to ``path`` and the card, with their SHA-256, beside them; returns the card.

    Args:
        tensors: the weights.
        card: what is known of them.
        path: a .safetensors file.
        largest: bytes; a larger file is cut into equal parts, and those of an older checkpoint of
            this name go once the new one is whole.
    """
    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    content = to_safetensors(tensors, {"name": card.name})
    parts = -(-len(content) // largest) if largest else 1
    card = replace(card, sha256=hashlib.sha256(content).hexdigest(), parts=parts)
    files, size = weights_files(path, card), -(-len(content) // parts)
    for i, file in enumerate(files):
        write_atomically(file, content[i * size : (i + 1) * size])
    card.write(path.with_suffix(".json"))
    for old in _weights_of_name(path):
        if old not in files:
            old.unlink()
    return card


def _weights_of_name(path: Path) -> list[Path]:
    """All files of a checkpoint's name, older parts and what a killed write left among them."""
    pattern = re.compile(rf"\.?{re.escape(path.name)}(\.[0-9a-f]{{12}}\.part\d+of\d+)?(\.part)?")
    return [p for p in path.parent.iterdir() if pattern.fullmatch(p.name)]
