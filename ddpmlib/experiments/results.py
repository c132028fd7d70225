"""The measurements behind the scoreboard: rows in ``data/results``, and tables made of them.

A file ``NAME.json`` is a list of rows, each a flat record of one measured cell: which net, how it
was sampled, with how many samples, what came out, on which hardware.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ddpmlib.files import data_folder, write_atomically
from ddpmlib.locks import locked

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
    found: list[Row] = json.loads(path.read_text("utf-8"))
    return [row for row in found if all(row.get(k) == v for k, v in where.items())]


def add(name: str, row: Row) -> None:
    """Append a row to the file, which is replaced in one go; several may do so at once."""
    path = folder() / f"{name}.json"
    lock = path.with_name(f".{path.name}.lock")
    with locked(lock, f"{path} is being written", "try again", wait=60):
        lines = ",\n ".join(json.dumps(r) for r in [*rows(name, missing_ok=True), row])
        write_atomically(path, f"[{lines}]\n".encode())


def pivot(found: Iterable[Row], index: str, column: str, value: str) -> dict[Any, dict[Any, Any]]:
    """index → column → value, in the order of the rows; a later row of the same cell wins."""
    table: dict[Any, dict[Any, Any]] = {}
    for row in found:
        table.setdefault(row[index], {})[row[column]] = row.get(value)
    return table


def markdown(header: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; the first column is flushed left, the others right."""
    text = ["| " + " | ".join(header) + " |", "|:--|" + "--:|" * (len(header) - 1)]
    return "\n".join(text + ["| " + " | ".join(str(v) for v in line) + " |" for line in lines])
