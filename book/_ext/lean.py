"""What the theme brings and the book does not use is left out: 1.8 MB less for every page.

The theme draws a dozen icons and ships two thousand of them twice, as fonts and as a script of
1.5 MB that replaces the fonts. After the build the script is dropped, the fonts and their style
rules are cut down to the icons that occur, and the maps for the theme's developers go.
"""

from __future__ import annotations

import re
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTFont
from sphinx.application import Sphinx

SCRIPT = re.compile(r'\s*<script src="[^"]*scripts/fontawesome\.js[^"]*"[^>]*></script>')
CLASS = re.compile(r"\bfa-[a-z0-9-]+")
# `.fa-bars:before,.fa-navicon:before{content:"\f0c9"}`: the names of one icon and its place.
ICON = re.compile(r'((?:,?\.fa-[a-z0-9-]+::?before)+)\{content:"\\([0-9a-f]+) ?"\}')
PLACE = re.compile(r'"\\?([\ue000-\uf8ff]|[ef][0-9a-f]{3})"')
SOURCES = re.compile(
    r'url\(([^)]*)\.woff2\) format\("woff2"\),url\([^)]*\.ttf\) format\("truetype"\)'
)


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


def trim(app: Sphinx, error: Exception | None) -> None:
    """Cut the finished book down."""
    if error is not None or app.builder.format != "html":
        return
    folder = Path(app.outdir)
    static = folder / "_static"
    for path in folder.rglob("*.html"):
        path.write_text(SCRIPT.sub("", path.read_text("utf-8")), "utf-8")
    (static / "scripts" / "fontawesome.js").unlink(missing_ok=True)
    for path in static.rglob("*.map"):
        path.unlink()
    texts = [*folder.rglob("*.html"), *static.rglob("*.js")]
    names = {name for path in texts for name in CLASS.findall(path.read_text("utf-8"))}
    _trim_icons(static, names)


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
