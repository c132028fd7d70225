"""Files that are whole or not there: atomic writes, and JSON and safetensors without pickle.

Nothing that is read is believed: a pipe is not waited for, a size is checked before the memory is
taken, and whatever else is wrong ends in one sentence.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from ddpmlib import locks

PACKAGE = Path(__file__).resolve().parent
LARGEST_TEXT = 2**26  # bytes of a card, a log, a table of results; ours have thousands
DEEPEST = 50  # levels of a JSON file; ours have six


def data_folder(kind: str) -> Path:
    """Where what the project made lies: inside an installed package, else in the clone's ``data``.

    Args:
        kind: "checkpoints", "statistics" or "results".
    """
    inside = PACKAGE / kind
    return inside if inside.is_dir() else PACKAGE.parent / "data" / kind


def read_content(path: Path | str, most: int = LARGEST_TEXT) -> bytes:
    """All bytes of a file.

    Raises:
        FileNotFoundError: if there is no such file; a pipe or a device is none.
        ValueError: if it has more than ``most`` bytes.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if (size := path.stat().st_size) > most:
        raise ValueError(f"{path} has {size:,} bytes, where {most:,} are the most there can be")
    return path.read_bytes()


def read_json(path: Path | str) -> Any:
    """What a JSON file holds.

    Raises:
        FileNotFoundError, ValueError: as :func:`read_content`.
        ValueError: if it is no JSON in UTF-8, or lists and objects lie more than :data:`DEEPEST`
            levels deep in each other, which Python's own recursion does not survive everywhere.
    """
    content = read_content(path)
    try:
        value = json.loads(content.decode("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON file ({error})") from error
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply") from error
    level = [value]
    for _ in range(DEEPEST):
        level = [inner for outer in level for inner in _inside(outer)]
    if level:
        raise ValueError(f"{path} is nested too deeply")
    return value


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


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
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:  # maps the file and compares its size with the header, before anything is read
        with safe_open(path, framework="pt"):
            pass
    except (SafetensorError, OSError, MemoryError) as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error})") from error
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
    except (SafetensorError, KeyError, TypeError, RuntimeError, OverflowError) as error:
        # The last four: a type or a shape that the library knows and PyTorch does not.
        raise ValueError(f"{path} is not a whole safetensors file ({error})") from error
    length = int.from_bytes(content[:8], "little")  # of the JSON before the numbers
    return tensors, json.loads(content[8 : 8 + length]).get("__metadata__", {})


def write_atomically(path: Path | str, content: bytes) -> None:
    """Write beside ``path``, flush, rename: a killed write leaves the old file untouched.

    Raises:
        OSError: naming ``path``, for a full disk or a folder that takes no files.
    """
    with _naming(path), replacing(path) as file:
        file.write(content)


def append(path: Path | str, content: bytes) -> None:
    """Write at the end of a file; when this returns, the content is on the disk.

    A kill may leave a part of it. Whoever reads such a file leaves a half line at its end out.

    Raises:
        OSError: naming ``path``, for a full disk or a folder that takes no files.
    """
    with _naming(path), open(path, "ab") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def check_writable(folder: Path) -> None:
    """Whether a folder takes files, asked before a long work.

    Raises:
        OSError: naming the folder, if it takes none.
    """
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        why = error.strerror or error
        raise OSError(error.errno, f"cannot write into {folder}: {why}") from error


@contextmanager
def _naming(path: Path | str) -> Iterator[None]:
    """What the system says of a failed write, with the name of the file that was to be written."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def replacing(path: Path | str) -> Iterator[BinaryIO]:
    """A file to write to, which gets the name ``path`` once the block has ended, and only then.

    For what is written piece by piece; :func:`write_atomically` writes what lies ready. Any number
    of processes and threads may do so at once: each has a half file of its own, the last one to end
    wins, and nobody ever reads half of one. What a killed writer left in the folder goes with the
    next process that writes there, see :mod:`ddpmlib.locks`.

    Args:
        path: may exist, and is then replaced in one go; its folder is made if needed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    locks.tidy(Path(os.path.abspath(path.parent)))
    part, descriptor = locks.new_part(path)
    try:
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if locks.HELD_BY_SYSTEM:  # while it is held, so that nobody tidies it up
                os.replace(part, path)
        if not locks.HELD_BY_SYSTEM:  # Windows renames no open file
            os.replace(part, path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
