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

from ddpmlib.files import (
    data_folder,
    from_safetensors,
    read_content,
    to_safetensors,
    write_atomically,
)
from ddpmlib.records import check_plain_name
from ddpmlib.training.machine import default_device
from ddpmlib.zoo.card import Card
from ddpmlib.zoo.log import LARGEST as LARGEST_LOG
from ddpmlib.zoo.recipes.kinds import from_dict

STATE, LOG, MODEL = "training.safetensors", "log.jsonl", "model.safetensors"
LARGEST = 8_000_000  # bytes of a file that ships
HEADER = 10_000  # bytes that the header of a file of weights may have, and as many for each of them
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # that weights may lie in


def shipped() -> Path:
    """Where shipped checkpoints lie."""
    return data_folder("checkpoints")


def names() -> list[str]:
    """Names of the shipped checkpoints."""
    return sorted(card.stem for card in shipped().glob("*.json"))


def load(name: str | Path, device: torch.device | str | None = None) -> tuple[Any, Card]:
    """A trained model, ready to use, and its card.

    Args:
        name: a shipped checkpoint ("mnist", see :func:`names`), a run's folder, or a weights' file.
        device: where to put it, by default a GPU if there is one.

    Returns:
        a :class:`~ddpmlib.denoiser.denoiser.Denoiser`, :class:`~ddpmlib.models.Classifier` or
        :class:`~ddpmlib.models.NoisyClassifier`, in evaluation mode and without gradients of its
        weights, and its :class:`Card`.

    Raises:
        FileNotFoundError: if there is no such checkpoint, or a part of it is missing.
        ValueError: if it is damaged, see :func:`read`.
    """
    card, tensors = read(find(name))
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

    Nothing in them is believed. The network of the card's recipe is built without memory, on the
    meta device; only files of about its size are read, and only weights of its names, shapes and
    kinds, all of them finite, are returned.

    Raises:
        FileNotFoundError: if the card or a part is missing.
        ValueError: if the recipe builds nothing; if the SHA-256 of the weights is not the card's;
            or if they are other weights than the recipe's, or were written with another recipe.
    """
    card = Card.read(path.with_suffix(".json"))
    needed = _needed(path, card)
    content = _joined(path, card, needed)
    found = hashlib.sha256(content).hexdigest()
    if found != card.sha256:
        what = f"{path} is damaged"
        if card.parts > 1:
            what = f"one of the {card.parts} parts of {what}, or belongs to other weights"
        raise ValueError(
            f"{what}: its SHA-256 is {found[:12]}..., the card says "
            f"{card.sha256[:12]}...; fetch it again, or train it again"
        )
    tensors, header = from_safetensors(content, path)
    if header.get("digest", card.digest) != card.digest:
        raise ValueError(
            f"{path} was written with another recipe, image_shape or num_classes than its card "
            "names; fetch the card again, or train the model again"
        )
    _check_weights(path, tensors, needed)
    return card, tensors


def _needed(path: Path, card: Card) -> dict[str, Tensor]:
    """The weights that a card's recipe needs, on the meta device: names, shapes and types alone."""
    try:
        with torch.device("meta"):
            return from_dict(card.recipe).build().state_dict()
    except (ValueError, TypeError, ArithmeticError, RuntimeError, MemoryError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"the recipe in the card of {path} builds nothing ({line})") from error


def _joined(path: Path, card: Card, needed: dict[str, Tensor]) -> bytes:
    """What the files of weights hold, unless they are larger than any weights of these shapes."""
    files = weights_files(path, card)
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing: fetch it again, or train the model again")
    size = sum(file.stat().st_size for file in files)
    most = HEADER + sum(HEADER + 8 * value.numel() for value in needed.values())
    if size > most:
        raise ValueError(
            f"{path} holds other weights than its card's recipe needs: {size:,} bytes, where "
            f"{most:,} are the most there can be"
        )
    return b"".join(file.read_bytes() for file in files)


def _check_weights(path: Path, tensors: dict[str, Tensor], needed: dict[str, Tensor]) -> None:
    """Whether these are the weights of a network, by name, shape and kind, and are finite."""
    if tensors.keys() != needed.keys():
        raise ValueError(f"{path} holds other weights than its card's recipe needs")
    for name, value in needed.items():
        found = tensors[name]
        same = found.dtype in FLOATS if value.is_floating_point() else found.dtype == value.dtype
        if found.shape != value.shape or not same:
            raise ValueError(
                f"{path} holds other weights than its card's recipe needs: {name} is "
                f"{tuple(found.shape)} {found.dtype}, not {tuple(value.shape)} {value.dtype}"
            )
        if found.is_floating_point() and not bool(found.isfinite().all()):
            raise ValueError(
                f"{path} is damaged: {name} is not finite; fetch it again, or train it again"
            )


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


def find(name: str | Path) -> Path:
    """The weights' file behind a shipped name, a run's folder or a path; it may lie in parts."""
    path = Path(name)
    candidates = [shipped() / f"{name}.safetensors", path / MODEL, path]
    for candidate in candidates:
        if candidate.suffix == ".safetensors" and (candidate.is_file() or _in_parts(candidate)):
            return candidate
    if (path / STATE).is_file():
        raise FileNotFoundError(
            f"the run in {path} is not finished: resume it with `ddpmlib train`"
        )
    raise FileNotFoundError(
        f"no checkpoint {str(name)!r}: give a folder of a finished run, a .safetensors file, or "
        f"one of {', '.join(names()) or '(none shipped)'}"
    )


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
    target = (folder or shipped()) / f"{name or card.name}.safetensors"
    write_atomically(target.with_suffix(".jsonl"), read_content(source.parent / LOG, LARGEST_LOG))
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
    # One entry only: safetensors writes several in any order, and equal runs are equal to the bit.
    content = to_safetensors(tensors, {"digest": card.digest})
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
