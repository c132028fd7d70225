"""What the theme brings and the book does not use is left out: 2 MB less for every page.

The theme draws a dozen icons and ships two thousand of them twice, as fonts and as a script of
1.5 MB that replaces the fonts. After the build the script is dropped, the fonts and their style
rules are cut down to the icons that occur, and the maps for the theme's developers go. So do style
rules for parts that no page has, such as forms and carousels, and, in code, the marks around names
and punctuation, which have the colour of all other code. Figures are stored with a palette of 256
colours, in less than half of the bytes, unless the change could be seen.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tinycss2
from fontTools import subset
from fontTools.ttLib import TTFont
from PIL import Image
from sphinx.application import Sphinx

SCRIPT = re.compile(r'\s*<script src="[^"]*scripts/fontawesome\.js[^"]*"[^>]*></script>')
CLASS = re.compile(r"\bfa-[a-z0-9-]+")
# `.fa-bars:before,.fa-navicon:before{content:"\f0c9"}`: the names of one icon and its place.
ICON = re.compile(r'((?:,?\.fa-[a-z0-9-]+::?before)+)\{content:"\\([0-9a-f]+) ?"\}')
PLACE = re.compile(r'"\\?([\ue000-\uf8ff]|[ef][0-9a-f]{3})"')
SOURCES = re.compile(
    r'url\(([^)]*)\.woff2\) format\("woff2"\),url\([^)]*\.ttf\) format\("truetype"\)'
)
# The sheets of the theme and of Sphinx, mostly about parts which the book does not have.
SHEETS = ("styles/*.css", "sphinx-design.min.css", "mystnb.*.css", "basic.css", "proof.css")
HTML_CLASS = re.compile(r'\bclass="([^"]*)"')
WORD = re.compile(r"[A-Za-z_][\w-]*")
PLAIN_CODE = re.compile(r'<span class="(?:n|p)">([^<]*)</span>')
VISIBLE = 0.5  # grey levels of 255, on average over a figure


# Icons


def used_rules(css: str, names: set[str]) -> str:
    """The style sheet without the rules of icons that no page names."""
    return ICON.sub(lambda rule: rule[0] if names & set(CLASS.findall(rule[1])) else "", css)


def places(css: str) -> set[int]:
    """The code points of all icons that a style sheet can draw."""
    return {ord(p) if len(p) == 1 else int(p, 16) for p in PLACE.findall(css)}


def cut(font: Path, wanted: set[int]) -> None:
    """Write NAME.woff with the wanted glyphs beside NAME.ttf, and remove the whole fonts."""
    whole = TTFont(font)
    options = subset.Options(flavor="woff", notdef_outline=True)
    small = subset.Subsetter(options)
    small.populate(unicodes=wanted)
    small.subset(whole)
    subset.save_font(whole, str(font.with_suffix(".woff")), options)
    font.unlink()
    font.with_suffix(".woff2").unlink()


# Style rules


class Classes:
    """The classes that an element of the book can have: from its pages, or given by a script.

    Args:
        pages: the text of every page.
        scripts: the text of every script; any word in it may be a class, and a script may also
            make one up from a beginning, such as ``bs-tooltip-``, and an end.
    """

    def __init__(self, pages: list[str], scripts: list[str]) -> None:
        found = [classes for page in pages for classes in HTML_CLASS.findall(page)]
        self.given = {name for classes in found for name in classes.split()}
        self.words = {word for script in scripts for word in WORD.findall(script)}

    def __contains__(self, name: str) -> bool:
        beginning, _, _ = name.rpartition("-")
        made_up = "-" in beginning and beginning in self.words
        return made_up or name in self.given or name in self.words

    def match(self, selector: list[Any]) -> bool:
        """Whether every class that the selector asks for occurs; what stands in brackets may."""
        asked = (b.value for a, b in pairwise(selector) if a == "." and b.type == "ident")
        return all(name in self for name in asked)


def trimmed(css: str, classes: Classes) -> str:
    """The style sheet without the rules that no element of the book can match."""
    return "".join(_kept(tinycss2.parse_stylesheet(css, skip_whitespace=True), classes))


def _kept(rules: list[Any], classes: Classes) -> Iterator[str]:
    for rule in rules:
        if rule.type == "qualified-rule":
            found = [one for one in _selectors(rule.prelude) if classes.match(one)]
            if found:
                selectors = ",".join(tinycss2.serialize(one).strip() for one in found)
                yield f"{selectors}{{{tinycss2.serialize(rule.content).strip()}}}"
        elif rule.type == "at-rule" and rule.lower_at_keyword in ("media", "supports"):
            inner = tinycss2.parse_rule_list(rule.content, skip_whitespace=True)
            body = "".join(_kept(inner, classes))
            if body:
                yield f"@{rule.at_keyword}{tinycss2.serialize(rule.prelude)}{{{body}}}"
        else:
            yield rule.serialize()


def _selectors(prelude: list[Any]) -> Iterator[list[Any]]:
    """The parts between the commas."""
    selector: list[Any] = []
    for token in prelude:
        if token == ",":
            yield selector
            selector = []
        else:
            selector.append(token)
    yield selector


# Figures


def with_palette(picture: bytes) -> bytes:
    """A PNG with at most 256 colours; the same bytes if that saves nothing or could be seen."""
    whole = Image.open(io.BytesIO(picture))
    if whole.mode == "P" or whole.convert("RGBA").getextrema()[3] != (255, 255):
        return picture
    plain = whole.convert("RGB")
    few = plain.quantize(256, Image.Quantize.MEDIANCUT, kmeans=2, dither=Image.Dither.NONE)
    change = np.asarray(few.convert("RGB"), int) - np.asarray(plain, int)
    buffer = io.BytesIO()
    few.save(buffer, "PNG", optimize=True)
    small = buffer.getvalue()
    return small if np.abs(change).mean() <= VISIBLE and len(small) < len(picture) else picture


# All of it


def trim(app: Sphinx, error: Exception | None) -> None:
    """Cut the finished book down."""
    if error is not None or app.builder.format != "html":
        return
    folder = Path(app.outdir)
    static = folder / "_static"
    for path in folder.rglob("*.html"):
        page = SCRIPT.sub("", path.read_text("utf-8"))
        path.write_text(PLAIN_CODE.sub(r"\1", page), "utf-8")
    (static / "scripts" / "fontawesome.js").unlink(missing_ok=True)
    for path in static.rglob("*.map"):
        path.unlink()
    pages = [path.read_text("utf-8") for path in folder.rglob("*.html")]
    scripts = [path.read_text("utf-8") for path in static.rglob("*.js")]
    _trim_icons(static, {name for text in pages + scripts for name in CLASS.findall(text)})
    classes = Classes(pages, scripts)
    for sheet in (path for name in SHEETS for path in static.glob(name)):
        sheet.write_text(trimmed(sheet.read_text("utf-8"), classes), "utf-8")
    for path in folder.glob("_images/*.png"):
        path.write_bytes(with_palette(path.read_bytes()))


def _trim_icons(static: Path, names: set[str]) -> None:
    sheets = [*(static / "styles").glob("*.css"), static / "book.css"]
    for sheet in sheets:
        css = used_rules(sheet.read_text("utf-8"), names)
        sheet.write_text(SOURCES.sub(r'url(\1.woff) format("woff")', css), "utf-8")
    wanted = {place for sheet in sheets for place in places(sheet.read_text("utf-8"))}
    for font in static.rglob("vendor/fontawesome/webfonts/*.ttf"):
        cut(font, wanted)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("build-finished", trim)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
