"""The boxes "Common misprint" of all chapters on one page, each written once, in its chapter.

`book/mind_the_slide.md` holds the line BOXES; the boxes come in its place, as they stand in the
notebooks. In its text ``{box}`01_forward 1` `` links to the first box of that chapter; when there
is none the build warns, which is an error. `tests/book/test_slides.py` says when a box has no link.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

PAGE = "book/mind_the_slide"
PLACE = "BOXES"
TITLE = "Common misprint"
BOX = re.compile(rf"(?ms)^:::\{{admonition\}} ({TITLE}[^\n]*)\n:class: (\w+)\n(.*?)^:::$")
LINK = re.compile(r"\]\(([^)\s:]+)\)")


@dataclass(frozen=True)
class Box:
    """One box: the n-th of its chapter, counted from 1."""

    chapter: str
    n: int
    title: str
    text: str


def anchor(n: int) -> str:
    """The id of the n-th box on the page of its chapter."""
    return f"mind-the-slide-{n}"


def boxes_of(chapter: str, markdown: str) -> list[Box]:
    """The boxes in the prose of a chapter, in order."""
    found = BOX.findall(markdown)
    return [Box(chapter, n, title, text) for n, (title, _, text) in enumerate(found, start=1)]


def prose_of(notebook: Path) -> str:
    """The Markdown of an executed chapter."""
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def chapters(root: Path) -> Iterator[tuple[str, str, list[Box]]]:
    """Name, title and boxes of every chapter that has any."""
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        prose = prose_of(path)
        if found := boxes_of(path.stem, prose):
            yield path.stem, re.search(r"(?m)^# (.+)$", prose)[1], found  # type: ignore[index]


def from_here(text: str, chapter: str) -> str:
    """Links that start in a chapter's folder, so that they start on the page."""

    def moved(link: re.Match[str]) -> str:
        target = f"{chapter}.ipynb{link[1]}" if link[1].startswith("#") else link[1]
        return f"](../notebooks/{target})"

    return LINK.sub(moved, text)


def collected(root: Path) -> str:
    """All boxes as the Markdown of one page, chapter by chapter."""
    parts = []
    for name, title, found in chapters(root):
        parts.append(f"### [{title}](../notebooks/{name}.ipynb)")
        for box in found:
            text = from_here(box.text, name).rstrip()
            head = f":::{{admonition}} {box.title}\n:class: warning"
            parts.append(f"{head}\n{text}\n\nIn its place: {{box}}`{name} {box.n}`.\n:::")
    return "\n\n".join(parts)


def fill(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the boxes into the page while it is read."""
    if docname == PAGE:
        root = Path(app.srcdir)
        source[0] = re.sub(rf"(?m)^{PLACE}$", lambda _: collected(root), source[0])


class Anchors(SphinxTransform):
    """Give the boxes of a chapter their ids."""

    default_priority = 700

    def apply(self, **options: Any) -> None:
        if self.env.docname.startswith("notebooks/"):
            for n, box in enumerate(filter(_is_box, self.document.findall(nodes.admonition)), 1):
                box["ids"].append(anchor(n))


def _is_box(node: nodes.admonition) -> bool:
    return isinstance(node[0], nodes.title) and bool(re.match(TITLE, node[0].astext()))


def box_role(
    name: str, rawtext: str, text: str, lineno: int, inliner: Any, *_: object, **__: object
) -> tuple[Sequence[nodes.Node], Sequence[nodes.system_message]]:
    """``{box}`01_forward 1` ``: a link to that box in its chapter."""
    env = inliner.document.settings.env
    chapter, _, n = text.partition(" ")
    path = Path(env.app.srcdir) / "notebooks" / f"{chapter}.ipynb"
    known = boxes_of(chapter, prose_of(path)) if path.exists() else []
    if not n.isdigit() or not 1 <= int(n) <= len(known):
        return [], [inliner.reporter.error(f"there is no box {text!r}", line=lineno)]
    page = env.app.builder.get_relative_uri(env.docname, f"notebooks/{chapter}")
    shown = f"chapter {chapter.split('_')[0].lstrip('0')}"
    return [nodes.reference(rawtext, shown, refuri=f"{page}#{anchor(int(n))}", internal=True)], []


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("source-read", fill)
    app.add_transform(Anchors)
    app.add_role("box", box_role)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
