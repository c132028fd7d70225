"""Files that are whole or not there: atomic writes, and safetensors without pickle."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from torch import Tensor


def write_safetensors(path: Path | str, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    """Write tensors and a string header, replacing ``path`` in one go."""
    from safetensors.torch import save

    write_atomically(path, save(tensors, metadata=header))


def read_safetensors(path: Path | str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header of a safetensors file; nothing in it is ever executed.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a whole safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            # Copies, because a tensor would otherwise stay a window onto the file on disk.
            tensors = {k: file.get_tensor(k).clone() for k in file.keys()}  # noqa: SIM118
            return tensors, dict(file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error})") from error


def write_atomically(path: Path | str, content: bytes) -> None:
    """Write beside ``path``, flush, rename: a killed write leaves the old file untouched.

    Raises:
        OSError: naming ``path``, for a full disk or a folder that takes no files.
    """
    path = Path(path)
    try:
        _write_beside_and_rename(path, content)
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path}: {error.strerror or error}") from error


def _write_beside_and_rename(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")  # one name, so a killed write is tidied by the next
    try:
        with open(part, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
