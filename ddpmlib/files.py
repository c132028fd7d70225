"""Files that are whole or not there: atomic writes, and safetensors without pickle."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from torch import Tensor

PACKAGE = Path(__file__).resolve().parent


def data_folder(kind: str) -> Path:
    """Where what the project made lies: inside an installed package, else in the clone's ``data``.

    Args:
        kind: "checkpoints", "statistics" or "results".
    """
    inside = PACKAGE / kind
    return inside if inside.is_dir() else PACKAGE.parent / "data" / kind


def write_safetensors(path: Path | str, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    """Write tensors and a string header, replacing ``path`` in one go."""
    write_atomically(path, to_safetensors(tensors, header))


def to_safetensors(tensors: dict[str, Tensor], header: dict[str, str]) -> bytes:
    """The content of a safetensors file.

    Tensors that share memory, as tied weights do, are each written out in full: reading them back
    into a model that ties them ties them again.
    """
    from safetensors.torch import save

    return save(_apart(tensors), metadata=header)


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same values, none of which share memory: safetensors refuses those that do."""
    found, seen = {}, set()
    for name, value in tensors.items():
        place = (value.device, value.untyped_storage().data_ptr())
        found[name] = value.clone() if place in seen else value
        seen.add(place)
    return found


def read_safetensors(path: Path | str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header of a safetensors file; nothing in it is ever executed.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a whole safetensors file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    return from_safetensors(Path(path).read_bytes(), path)


def from_safetensors(content: bytes, path: Path | str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The way back from :func:`to_safetensors`.

    Args:
        content: of a file, or of its parts joined.
        path: what a message calls it.

    Raises:
        ValueError: if it is not the content of a whole safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(content)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error})") from error
    length = int.from_bytes(content[:8], "little")  # of the JSON before the numbers
    return tensors, json.loads(content[8 : 8 + length]).get("__metadata__", {})


def write_atomically(path: Path | str, content: bytes) -> None:
    """Write beside ``path``, flush, rename: a killed write leaves the old file untouched.

    Raises:
        OSError: naming ``path``, for a full disk or a folder that takes no files.
    """
    try:
        with replacing(path) as file:
            file.write(content)
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def replacing(path: Path | str, writer: str = "") -> Iterator[BinaryIO]:
    """A file to write to, which gets the name ``path`` once the block has ended, and only then.

    For what is written piece by piece; :func:`write_atomically` writes what lies ready.

    Args:
        path: may exist, and is then replaced in one go; its folder is made if needed.
        writer: of several who may write the same path at once, which one this is. Without it there
            is one name for the half file, so that the next write tidies up after a killed one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{writer}.part" if writer else f".{path.name}.part")
    try:
        with open(part, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
