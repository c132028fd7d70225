"""Measurements of an experiment: rows in ``data/results``.

A file ``NAME.json`` is a list of rows, each a flat record of one measured cell: which net, how it
was sampled, with how many samples, what came out, on which hardware.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ddpmlib.files import write_atomically
from ddpmlib.zoo import data_folder

Row = dict[str, Any]


def folder() -> Path:
    """Where results lie."""
    return data_folder("results")


def names() -> list[str]:
    """Names of the experiments that have rows."""
    return sorted(path.stem for path in folder().glob("*.json"))


def rows(name: str, *, missing_ok: bool = False, **where: Any) -> list[Row]:
    """The rows of an experiment, or those whose fields have the values given by ``where``.

    Raises:
        FileNotFoundError: if there is no such experiment and ``missing_ok`` is False.
    """
    path = folder() / f"{name}.json"
    if not path.is_file():
        if missing_ok:
            return []
        raise FileNotFoundError(
            f"there are no results {name!r}: there are {', '.join(names()) or 'none'}"
        )
    found: list[Row] = json.loads(path.read_text())
    return [row for row in found if all(row.get(k) == v for k, v in where.items())]


def add(name: str, row: Row) -> None:
    """Append a row to an experiment's file, which is replaced in one go."""
    path = folder() / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n ".join(json.dumps(r) for r in [*rows(name, missing_ok=True), row])
    write_atomically(path, f"[{lines}]\n".encode())
