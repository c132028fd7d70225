"""What a chapter costs to run, under its title: measured by `make notebooks`, not by hand.

The numbers lie in `data/costs.json`. They are seconds of one CPU thread and the peak of memory, on
the processor that is named; a faster or a slower machine differs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

COSTS = Path(__file__).resolve().parent.parent.parent / "data" / "costs.json"


def line(cost: dict[str, Any]) -> str:
    """One sentence: seconds, processor, memory."""
    gigabytes = cost["MB"] * 2**20 / 1e9
    return (
        f"Runs in {cost['seconds']:.0f} s of one CPU thread ({cost['processor']}) "
        f"with {gigabytes:.1f} GB of memory."
    )


def show(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Put the line below the first title of a chapter that has been measured."""
    cost = app.config.chapter_costs.get(docname.removeprefix("notebooks/"))
    title = next(doctree.findall(nodes.title), None)
    if cost is None or title is None:
        return
    shown = nodes.paragraph("", line(cost), classes=["chapter-cost"])
    title.parent.insert(title.parent.index(title) + 1, shown)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx; new numbers make the pages new."""
    costs = json.loads(COSTS.read_text("utf-8")) if COSTS.exists() else {}
    app.add_config_value("chapter_costs", costs, "env")
    app.connect("doctree-resolved", show)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
