"""The built book loads nothing from anywhere else, and its search works from the disk.

Jupyter Book always brings `sphinx_thebe`, whose script fetches a live-code client from a content
delivery network. This extension unplugs it, and warns (the build then fails, for warnings are
errors) when a page would load any other script or style sheet from outside. After the build the
texts of the pages are gathered in one script, which the search page reads excerpts from where it
cannot fetch the pages themselves.
"""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util import logging

UNPLUGGED = "sphinx_thebe"
ARTICLE = re.compile(r"(?s)<article\b.*?</article>")
NO_TEXT = re.compile(r"(?s)<(script|style|math|svg)\b.*?</\1>|<[^>]+>")
MOST = 30_000  # characters of a page; excerpts from beyond are not shown

logger = logging.getLogger(__name__)


def unplug(app: Sphinx, config: object) -> None:
    """Take the handlers of the unwanted extension off every event."""
    for listeners in app.events.listeners.values():
        listeners[:] = [one for one in listeners if not _unwanted(one.handler)]


def _unwanted(handler: object) -> bool:
    return getattr(handler, "__module__", "").split(".")[0] == UNPLUGGED


def check_assets(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: object
) -> None:
    """Drop the style sheet that was registered before, name every asset from outside."""
    for kind in ("script_files", "css_files"):
        assets = [one for one in context.get(kind, []) if "sphinx-thebe" not in _address(one)]
        context[kind] = assets
        for address in filter(lambda one: "//" in one, map(_address, assets)):
            logger.warning("offline: %s would load %s", pagename, address)


def search_script(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: object
) -> None:
    """The search page alone reads the texts."""
    if pagename == "search":
        app.add_js_file("search_excerpts.js", loading_method="")


def write_texts(app: Sphinx, exception: Exception | None) -> None:
    """What the pages say, by name, without formulas and markup."""
    if exception is None and app.builder.format == "html":
        out = Path(app.outdir)
        texts = {name: page_text(out / f"{name}.html") for name in sorted(app.env.found_docs)}
        script = f"window.SEARCH_TEXTS = {json.dumps(texts, ensure_ascii=False)};\n"
        (out / "_static" / "search_texts.js").write_text(script, "utf-8")


def page_text(path: Path) -> str:
    """The running text of the article of a built page."""
    found = ARTICLE.search(path.read_text("utf-8")) if path.is_file() else None
    text = html.unescape(NO_TEXT.sub(" ", found[0])) if found else ""
    return " ".join(text.split())[:MOST]


def _address(asset: object) -> str:
    return str(getattr(asset, "filename", asset) or "")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx, after everything else."""
    app.connect("config-inited", unplug, priority=999)
    app.connect("html-page-context", search_script)
    app.connect("html-page-context", check_assets, priority=999)
    app.connect("build-finished", write_texts, priority=999)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
