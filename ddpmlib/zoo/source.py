"""Where a run's own images lie: a small file in its folder, which does not ship with the card."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from ddpmlib.data import Dataset, Source, own
from ddpmlib.files import write_atomically
from ddpmlib.records import typed

SOURCE = "data.json"


def write_source(folder: Path, source: Source) -> None:
    """Note in a run's folder where its images were read from, replacing an older note."""
    write_atomically(folder / SOURCE, (json.dumps(asdict(source), indent=1) + "\n").encode())


def images_again(folder: Path, name: str) -> Dataset:
    """The images of a run, read again from where they lay.

    Raises:
        FileNotFoundError: if the folder does not say where that was, or nothing lies there.
        ValueError: if they can no longer be read so.
    """
    source = read_source(folder)
    try:
        return own.again(source, name)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}, where the images of {folder} lay: give --images (images= in Python) to say "
            "where they lie now"
        ) from error


def read_source(folder: Path) -> Source:
    """Where the images of a run were read from.

    Raises:
        FileNotFoundError: if the folder does not say.
        ValueError: if the file is damaged.
    """
    path = folder / SOURCE
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} does not say where its images lie: give --images (images= in Python)"
        )
    try:
        source = typed(Source, json.loads(path.read_text("utf-8")))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): give --images") from error
    if len(source.size) != 2 or min(source.size) < 1:
        raise ValueError(f"{path} is damaged (size = {source.size}): give --images")
    return source
