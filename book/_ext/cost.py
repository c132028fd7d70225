"""What a chapter costs to read and to run, under its title: counted and measured, not guessed.

The minutes are those of its words and displayed formulas up to the exercises, without what is
folded. The seconds lie in `data/costs.json`, where `make notebooks` puts them: of one CPU thread,
with the peak of memory, on the processor that is named; a faster or a slower machine differs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

COSTS = Path(__file__).resolve().parent.parent.parent / "data" / "costs.json"


WORDS_A_MINUTE, FORMULA = 180, 0.4  # of a text to be understood; minutes


def line(cost: dict[str, Any], minutes: float) -> str:
    """Two sentences: minutes of reading; seconds, processor, memory."""
    gigabytes = cost["MB"] * 2**20 / 1e9
    rounded = max(5, 5 * round(minutes / 5))
    return (
        f"About {rounded} minutes to read, exercises and folded parts apart. "
        f"Runs in {cost['seconds']:.0f} s of one CPU thread ({cost['processor']}) "
        f"with {gigabytes:.1f} GB of memory."
    )


def reading_minutes(doctree: nodes.document) -> float:
    """Of the words and formulas that stand open before the exercises."""
    words = formulas = 0
    for node in doctree.findall():
        if isinstance(node, nodes.title) and node.astext().strip() == "Exercises":
            break
        if isinstance(node, nodes.paragraph) and not _folded(node):
            words += len(node.astext().split())
        formulas += isinstance(node, nodes.math_block) and not _folded(node)
    return words / WORDS_A_MINUTE + formulas * FORMULA


def _folded(node: nodes.Node) -> bool:
    """Whether it lies in a dropdown, or among the outputs of a cell."""
    inside = node.parent
    while inside is not None:
        if {"sd-dropdown", "cell_output"} & set(inside.get("classes", [])):
            return True
        inside = inside.parent
    return False


def show(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Put the line below the first title of a chapter that has been measured."""
    cost = app.config.chapter_costs.get(docname.removeprefix("notebooks/"))
    title = next(doctree.findall(nodes.title), None)
    if cost is None or title is None:
        return
    said = line(cost, reading_minutes(doctree))
    shown = nodes.paragraph("", said, classes=["chapter-cost"])
    title.parent.insert(title.parent.index(title) + 1, shown)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx; new numbers make the pages new."""
    costs = json.loads(COSTS.read_text("utf-8")) if COSTS.exists() else {}
    app.add_config_value("chapter_costs", costs, "env")
    app.connect("doctree-resolved", show)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
