"""The list of all exercises for `book/lecturers.md`, in place of its line EXERCISES.

Stars come from the headings of the chapters, the sentence from what a right answer prints, so the
list cannot fall behind either. The library's modules are read as text: building the book does not
import them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from slides import prose_of
from sphinx.application import Sphinx

PAGE = "book/lecturers"
PLACE = "EXERCISES"
HEADING = re.compile(r"(?m)^### (★+) Exercise ([1-9A-Z]\d*\.\d+)")


def sentences(folder: Path) -> dict[str, str]:
    """Exercise → what a right answer prints, of all modules of ``ddpmlib/teaching/exercises``."""
    found = {}
    for path in folder.glob("ch*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef) and (key := _key(node)):
                found[key] = (ast.get_docstring(node) or "").split("\n")[0]
    return found


def _key(function: ast.FunctionDef) -> str | None:
    """The key in ``@exercise("1.2", …)``, None for another function."""
    for call in function.decorator_list:
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "exercise":
            return str(ast.literal_eval(call.args[0]))
    return None


def rows(root: Path) -> Iterator[str]:
    """One row of the table for each chapter with exercises."""
    known = sentences(root / "ddpmlib" / "teaching" / "exercises")
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        prose = prose_of(path)
        found = HEADING.findall(prose)
        title = re.search(r"(?m)^# (.+)$", prose)
        if found and title:
            items = "<br>".join(f"{stars} {key} {known[key]}" for stars, key in found)
            yield f"| [{title[1]}](../notebooks/{path.name}#exercises) | {items} |"


def fill(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the table into the page while it is read."""
    if docname == PAGE:
        table = "\n".join(["| chapter | exercises |", "|:--|:--|", *rows(Path(app.srcdir))])
        source[0] = re.sub(rf"(?m)^{PLACE}$", lambda _: table, source[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("source-read", fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
