"""The theme's pages, mended for keyboards and screen readers.

Some markup comes from templates of other packages, where no option reaches it: labels that hide the
words on a button, lists whose children are no list items, a side bar outside every landmark. After
the build each page is rewritten once. What depends on the size of the window is done by scripts:
`scrollable.js` lets the keyboard into boxes that scroll, `films.js` gives every film a button.
What is printed has a style sheet of its own, `print.css`.
"""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx

SIDE_BAR = '<div id="pst-primary-sidebar"'
REPAIRS = [
    # The words "Show code cell source" are the name; a label would hide them from speech.
    (re.compile(r' aria-label="Toggle hidden content"'), ""),
    (re.compile(r'(<button class="[^"]*search-button-field[^>]*?) aria-label="Search"'), r"\1"),
    (re.compile(r'(<i class="theme-switch [^>]*?)\s+title="[^"]*"'), r"\1"),
    # A bibliography has paragraphs, links back and labels: neither a list nor its items.
    (re.compile(r'<div role="list" class="citation-list">'), '<div class="citation-list">'),
    (re.compile(r'(<div class="citation"[^>]*?) role="doc-biblioentry"'), r"\1"),
    (re.compile(rf"{SIDE_BAR}(?! role)"), f'{SIDE_BAR} role="complementary" aria-label="Book"'),
    # The arrow that unfolds a part of the navigation is a picture without a name.
    (
        re.compile(r'(has-children"><a [^>]*>([^<]*)</a><details[^>]*><summary)>'),
        r'\1 aria-label="Pages of: \2">',
    ),
]


def repaired(html: str) -> str:
    """The page with every repair made; a repaired page stays as it is."""
    for pattern, replacement in REPAIRS:
        html = pattern.sub(replacement, html)
    return html


def rewrite(app: Sphinx, error: Exception | None) -> None:
    """Repair the pages that the build has written."""
    if error is not None or app.builder.format != "html":
        return
    for path in Path(app.outdir).rglob("*.html"):
        html = path.read_text("utf-8")
        mended = repaired(html)
        if mended != html:
            path.write_text(mended, "utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_js_file("scrollable.js", loading_method="defer")
    app.add_js_file("films.js", loading_method="defer")
    app.add_css_file("print.css", media="print")
    app.connect("build-finished", rewrite)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
