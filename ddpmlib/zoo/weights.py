"""The weights of a checkpoint, in one file or in parts, read without believing any of it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from ddpmlib.files import from_safetensors
from ddpmlib.zoo import parts
from ddpmlib.zoo.card import Card
from ddpmlib.zoo.recipes.kinds import from_dict

HEADER = 10_000  # bytes that the header of a file of weights may have, and as many for each of them
OTHER_BYTES = 2**26  # of tables, buffers and header, where no recipe says how many there are
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # that weights may lie in


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
    needed, files = _needed(path, card), weights_files(path, card)
    try:
        content = _verified(path, files, card, needed)
    except (FileNotFoundError, ValueError):
        now = Card.read(path.with_suffix(".json"))
        if now.sha256 == card.sha256 and weights_files(path, now) == files:
            raise
        return read(path)  # a newer checkpoint of this name has just taken their place
    tensors, header = from_safetensors(content, path)
    if header.get("digest", card.digest) != card.digest:
        raise ValueError(
            f"{path} was written with another recipe, image_shape or num_classes than its card "
            "names; fetch the card again, or train the model again"
        )
    check_weights(path, tensors, needed)
    return card, tensors


def _verified(path: Path, files: list[Path], card: Card, needed: dict[str, Tensor] | None) -> bytes:
    """What the files of weights hold, if it has the SHA-256 that the card says."""
    content = _joined(path, files, card, needed)
    found = hashlib.sha256(content).hexdigest()
    if found != card.sha256:
        what = f"{path} is damaged"
        if card.parts > 1:
            what = f"one of the {card.parts} parts of {what}, or belongs to other weights"
        raise ValueError(
            f"{what}: its SHA-256 is {found[:12]}..., the card says "
            f"{card.sha256[:12]}...; fetch it again, or train it again"
        )
    return content


def _needed(path: Path, card: Card) -> dict[str, Tensor] | None:
    """The weights that a card's recipe needs, on the meta device: names, shapes and types alone.

    None for what was saved without a recipe: who rebuilds that compares, see :mod:`~.parts`.
    """
    if card.recipe.get("kind") == parts.KIND:
        return None
    try:
        with torch.device("meta"):
            return from_dict(card.recipe).build().state_dict()
    except (ValueError, TypeError, ArithmeticError, RuntimeError, MemoryError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"the recipe in the card of {path} builds nothing ({line})") from error


def _joined(path: Path, files: list[Path], card: Card, needed: dict[str, Tensor] | None) -> bytes:
    """What the files of weights hold, unless they are larger than any weights of these shapes."""
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing: fetch it again, or train the model again")
    size = sum(file.stat().st_size for file in files)
    if needed is None:
        most = OTHER_BYTES + 8 * card.parameters
    else:
        most = HEADER + sum(HEADER + 8 * value.numel() for value in needed.values())
    if size > most:
        raise ValueError(
            f"{path} holds other weights than its card's recipe needs: {size:,} bytes, where "
            f"{most:,} are the most there can be"
        )
    return b"".join(file.read_bytes() for file in files)


def check_weights(path: Path, tensors: dict[str, Tensor], needed: dict[str, Tensor] | None) -> None:
    """Whether these are the weights of a network, by name, shape and kind, and are finite.

    Args:
        path: what a message calls them.
        tensors: what was read.
        needed: the weights of the network, on the meta device; None if nobody knows them yet.

    Raises:
        ValueError: if not.
    """
    if needed is not None:
        _check_fit(path, tensors, needed)
    for name, found in tensors.items():
        if not found.is_floating_point():
            continue
        # A network of a user's own may have a mask of infinities among its buffers.
        wrong = found.isnan() if needed is None else ~found.isfinite()
        if bool(wrong.any()):
            raise ValueError(
                f"{path} is damaged: {name} is not finite; fetch it again, or train it again"
            )


def _check_fit(path: Path, tensors: dict[str, Tensor], needed: dict[str, Tensor]) -> None:
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


def weights_files(path: Path, card: Card) -> list[Path]:
    """The files that hold the weights: parts in order, be it one alone, or ``path`` itself.

    A part's name tells whose it is: ``mnist.safetensors.0123456789ab.part1of2`` belongs to the
    weights whose SHA-256 begins like that. ``path`` itself are the weights of a run or of a save,
    once they are whole, and those that an older version shipped in one file.
    """
    parts = part_files(path, card)
    return [path] if len(parts) == 1 and path.is_file() and not parts[0].is_file() else parts


def part_files(path: Path, card: Card) -> list[Path]:
    """Files for the weights of a card, in parts, whether they are there or not."""
    stem, n = f"{path.name}.{card.sha256[:12]}", card.parts
    return [path.with_name(f"{stem}.part{i}of{n}") for i in range(1, n + 1)]
