"""The built book to take along, and the release that its notebooks fetch.

    python scripts/release.py offline     dist/ddpm-book-offline.zip
    python scripts/release.py pdf         dist/pdf/NN_name.pdf for each page, dist/ddpm-book.pdf
    python scripts/release.py pin v0.1.0  the set-up cells fetch this tag, and no other commit

The first two read `_build/html`, so build the book first. The PDFs are printed by a Chromium of
this machine; `book/_static/print.css` says how they look.

A notebook cannot name the commit that it is part of: tag a commit first, pin it, and commit the
notebooks after that.
"""

from __future__ import annotations

import argparse
import json
import posixpath
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bs4 import BeautifulSoup, Tag

ROOT = Path(__file__).resolve().parent.parent
HTML = ROOT / "_build" / "html"
DIST = ROOT / "dist"
PIN = Path("scripts/templates/release.json")
OFFLINE = "ddpm-book-offline"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
README = """Diffusion models, from the formula to the picture

Open index.html in a browser. Nothing is installed, and no network is needed.
"""
# A zip remembers when each file was made; with one date for all, the same book is the same zip.
DATE = (1980, 1, 1, 0, 0, 0)
FOOTER = """<div style="font: 8pt sans-serif; width: 100%; text-align: center; color: #444">
<span class="pageNumber"></span></div>"""


class Trouble(Exception):
    """One sentence for the person at the keyboard."""


def built(html: Path) -> Path:
    """The folder of the built book.

    Raises:
        Trouble: there is none.
    """
    if not (html / "index.html").is_file():
        raise Trouble(f"there is no built book in {html}: run `make book` first")
    return html


def pack(html: Path, path: Path) -> Path:
    """Write the book as one zip with one folder in it, named as the zip."""
    from ddpmlib.files import replacing

    html, top = built(html), path.stem
    with (
        replacing(path) as whole,
        zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
    ):
        archive.writestr(zipfile.ZipInfo(f"{top}/README.txt", DATE), README)
        for file in sorted(html.rglob("*")):
            name = file.relative_to(html).as_posix()
            if file.is_file() and not name.startswith((".", "_sources/")):
                entry = zipfile.ZipInfo(f"{top}/{name}", DATE)
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, file.read_bytes())
    return path


# Paper


def contents(root: Path = ROOT) -> list[str]:
    """The pages to print, in the order of the table of contents.

    The reference of the library and the index are for looking up and following links: they stay on
    the screen.
    """
    listed = re.findall(r"(?:file|root): (\S+)", (root / "_toc.yml").read_text("utf-8"))
    return [name for name in listed if not name.startswith(("book/api/", "genindex"))]


def bound(html: Path, names: Sequence[str]) -> str:
    """One page with the articles of all others, links between them turned into links inside.

    It lies in the folder of the book itself; anchors are made unique by the name of their page.
    """
    first = BeautifulSoup((html / f"{names[0]}.html").read_text("utf-8"), "html.parser")
    _relocate(first.head, names[0], names)
    articles = []
    for name in names:
        soup = BeautifulSoup((html / f"{name}.html").read_text("utf-8"), "html.parser")
        article = soup.find("article")
        assert isinstance(article, Tag), f"{name} has no article"
        for element in article.find_all(id=True):
            element["id"] = _anchor(name, str(element["id"]))
        _relocate(article, name, names)
        inside = article.decode_contents()
        articles.append(f'<section class="printed-page" id="{_anchor(name)}">{inside}</section>')
    body = f'<article class="bd-article">{"".join(articles)}</article>'
    return f'<!DOCTYPE html><html lang="en" data-theme="light">{first.head}<body>{body}</body>'


def _anchor(name: str, fragment: str = "") -> str:
    return f"{name}--{fragment}".replace("/", "-")


def _relocate(tree: Any, name: str, names: Sequence[str]) -> None:
    """Write the addresses of a page as they read from the folder of the book.

    A link to a page that is not bound loses its address: on paper it would lead nowhere.
    """
    folder = posixpath.dirname(name)
    for attribute in ("src", "href"):
        for element in tree.find_all(attrs={attribute: True}):
            address = urlsplit(str(element[attribute]))
            if address.scheme or address.netloc:
                continue
            path = posixpath.normpath(posixpath.join(folder, address.path))
            page = path.removesuffix(".html") if address.path else name
            if page in names:
                element[attribute] = f"#{_anchor(page, address.fragment)}"
            elif element.name == "a":
                del element[attribute]
            elif address.path:
                element[attribute] = path


@contextmanager
def browser() -> Iterator[Any]:
    """A Chromium that is installed here.

    Raises:
        Trouble: there is none.
    """
    from playwright.sync_api import sync_playwright

    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        raise Trouble(f"printing needs a browser: none of {', '.join(BROWSERS)} is installed")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def print_page(chromium: Any, page: Path, pdf: Path) -> Path:
    """Print one page of the disk, formulas rendered, with page numbers and bookmarks."""
    pdf.parent.mkdir(parents=True, exist_ok=True)
    context = chromium.new_context(offline=True, color_scheme="light", reduced_motion="reduce")
    tab = context.new_page()
    tab.set_default_timeout(300_000)
    tab.goto(page.resolve().as_uri(), wait_until="load")
    tab.evaluate("window.MathJax?.startup?.promise")
    tab.evaluate("document.fonts.ready.then(() => null)")
    tab.pdf(
        path=pdf,
        prefer_css_page_size=True,
        print_background=True,
        display_header_footer=True,
        header_template="<span></span>",
        footer_template=FOOTER,
        outline=True,
        tagged=True,
    )
    context.close()
    return pdf


def print_book(html: Path, dist: Path) -> Iterator[Path]:
    """Print each page by itself, then all of them as one document; yields what was written."""
    html, names = built(html), contents()
    whole = html / "printed.html"
    whole.write_text(bound(html, names), "utf-8")
    try:
        with browser() as chromium:
            for name in names:
                pdf = dist / "pdf" / f"{name.split('/')[-1]}.pdf"
                yield print_page(chromium, html / f"{name}.html", pdf)
            yield print_page(chromium, whole, dist / "ddpm-book.pdf")
    finally:
        whole.unlink()


# The release that notebooks fetch


def pin(tag: str, root: Path = ROOT) -> str:
    """Write a tag and its commit to where the set-up cells have them from; returns the commit.

    Raises:
        Trouble: there is no such tag, or it holds another version of the library than it says.
    """
    commit = _git(root, "rev-parse", "--verify", "--quiet", f"refs/tags/{tag}^{{commit}}")
    if not commit:
        raise Trouble(f"there is no tag {tag!r} here: make it first, `git tag {tag}`")
    project = _git(root, "show", f"{commit}:pyproject.toml")
    if f'version = "{tag.removeprefix("v")}"' not in project.splitlines():
        raise Trouble(f"{tag} is not the version that pyproject.toml has there")
    text = json.dumps({"tag": tag, "commit": commit}, indent=1)
    (root / PIN).write_text(text + "\n", "utf-8")
    return commit


def _git(root: Path, *words: str) -> str:
    """What git answers; nothing where it fails."""
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, encoding="utf-8")
    return done.stdout.strip() if done.returncode == 0 else ""


# The command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 when all went well."""
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=kind)
    parser.add_argument("what", choices=["offline", "pdf", "pin"])
    parser.add_argument("tag", nargs="?", help="for pin: of the commit that notebooks fetch")
    options = parser.parse_args(arguments)
    if (options.what == "pin") != bool(options.tag):
        parser.error("pin takes a tag, and nothing else does")
    try:
        if options.what == "pin":
            print(f"{options.tag} is {pin(options.tag)}: now renew the set-up cells,")
            print("python scripts/notebooks.py --refresh")
            return 0
        pdf = options.what == "pdf"
        for path in print_book(HTML, DIST) if pdf else [pack(HTML, DIST / f"{OFFLINE}.zip")]:
            print(f"{path.relative_to(ROOT)}  {path.stat().st_size / 1e6:.1f} MB")
    except Trouble as trouble:
        print(trouble, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
