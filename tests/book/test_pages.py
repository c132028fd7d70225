"""Every page of the built book in a browser, visited once for all that is asked of it.

The pages are dealt out to classes, which the workers of `make test` share. One more class of the
kind is one more share; nothing else has to be said.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from playwright.sync_api import Browser

from tests.book import looking
from tests.book.built import Visit
from tests.book.looking import is_redirect, look, real_pages

Findings = dict[str, dict[str, list[str]]]  # by page, by what was looked for


class EveryPage:
    """The tests of a share of the pages."""

    def test_renders_offline(self, findings: Findings) -> None:
        assert wrong(findings, "incomplete") == []

    def test_sticks_out_nowhere_on_a_phone(self, findings: Findings) -> None:
        assert wrong(findings, "sticking out") == []

    def test_has_no_serious_barrier(self, findings: Findings) -> None:
        assert wrong(findings, "barriers") == []


class TestFirstShare(EveryPage):
    pass


class TestSecondShare(EveryPage):
    pass


class TestThirdShare(EveryPage):
    pass


class TestFourthShare(EveryPage):
    pass


SHARES = EveryPage.__subclasses__()


def share(one: type[EveryPage], pages: dict[str, BeautifulSoup]) -> list[str]:
    """Pages dealt out in turns: the chapters, which take long, stand side by side."""
    return real_pages(pages)[SHARES.index(one) :: len(SHARES)]


@pytest.fixture(scope="class")
def findings(
    request: pytest.FixtureRequest, browser: Browser, html: Path, pages: dict[str, BeautifulSoup]
) -> Findings:
    """What is wrong with the pages of the share whose test asks."""
    return {name: look(browser, html / name) for name in share(request.cls, pages)}


def wrong(findings: Findings, kind: str) -> list[str]:
    assert findings
    return [f"{name}: {one}" for name, found in findings.items() for one in found[kind]]


def test_every_page_is_in_one_share(pages: dict[str, BeautifulSoup]) -> None:
    dealt = [name for one in SHARES for name in share(one, pages)]
    assert sorted(dealt) == sorted(real_pages(pages)) and len(set(dealt)) == len(dealt) > 50
    sources = {name for name in pages if name.startswith("_modules/")} - set(dealt)
    left = set(pages) - set(dealt) - sources
    assert left and all(is_redirect(pages[name]) for name in left)


# ---- the tests can fail --------------------------------------------------------------------------

PIXEL = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
DARK = "@media (prefers-color-scheme: dark) { body { background: #000; color: #222 } }"
THIN = "body { background: #fff; color: #ddd }"
LONG = "<mjx-math style='display: inline-block; width: 900px'>x</mjx-math>"
FORMULA = f"<mjx-container>{LONG}</mjx-container>"
FAULTS = {
    "network": ("incomplete", "elsewhere", '<script src="https://example.org/x.js"></script>'),
    "picture": ("incomplete", "without pixels", '<img alt="a" src="https://example.org/x.png">'),
    "lost far below": (
        "incomplete",
        "without pixels",
        '<img alt="a" src="x.png" loading="lazy" style="display: block; margin-top: 9000px">',
    ),
    "script": ("incomplete", "planted", "<script>throw new Error('planted')</script>"),
    "script after loading": (
        "incomplete",
        "planted",
        "<script>addEventListener('load', () => console.error('planted'))</script>",
    ),
    "icon": ("incomplete", "icon", '<i class="fas fa-gone"></i>'),
    "formula": ("incomplete", "0 of 1 formulas", '<span class="math">x</span>'),
    "wide": ("sticking out", "400 wide", '<div style="width: 400px">wide</div>'),
    "wide picture": ("sticking out", "500 wide", f'<img alt="a" src="{PIXEL}" width="500">'),
    "width of the first window": (
        "sticking out",
        "1181 wide",
        "<div id=a>wide</div><script>a.style.width = innerWidth - 99 + 'px'</script>",
    ),
    "no words": ("barriers", "image-alt", f'<img src="{PIXEL}">'),
    "no name": ("barriers", "button-name", "<button></button>"),
    "light": ("barriers", "color-contrast", f"<style>{THIN}</style>"),
    "dark": ("barriers", "dark: color-contrast", f"<style>{DARK}</style>"),
    # found by its width, though the formula is emptied before
    "formula that scrolls": (
        "barriers",
        "scrollable-region",
        f'<div style="overflow-x: scroll; width: 200px">Words {FORMULA}</div>',
    ),
}


def page(folder: Path, body: str = "") -> Path:
    """A page without a fault but that of its body."""
    path = folder / "page.html"
    path.write_text(
        f"<!DOCTYPE html><html lang=en><title>x</title><style>body {{ margin: 0 }}</style>"
        f"<main class=bd-article><h1>Words</h1>{body}</main></html>"
    )
    return path


def test_a_good_page_has_no_fault(browser: Browser, tmp_path: Path) -> None:
    assert not any(look(browser, page(tmp_path)).values())


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found(browser: Browser, tmp_path: Path, name: str) -> None:
    kind, words, body = FAULTS[name]
    found = look(browser, page(tmp_path, body))
    assert any(words in one for one in found[kind])
    assert not any(found[other] for other in found if other != kind)


def test_too_many_bytes_are_found(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looking, "LOAD_LIMIT", 100)
    assert look(browser, page(tmp_path))["incomplete"] == ["loads 0.00 MB"]


@pytest.mark.parametrize(
    ("formula", "words"),
    [
        (r"\(x_t\)", []),
        (r"\(x_t + \unknown\)", [r"formula with an error: \unknown"]),
        (r"\(x^2^3\)", ["formula with an error"]),
    ],
)
def test_a_formula_that_mathjax_does_not_understand_is_found(
    browser: Browser, html: Path, tmp_path: Path, formula: str, words: list[str]
) -> None:
    folder = (html / "_static" / "mathjax").as_uri()
    chapter = (html / "notebooks" / "01_forward.html").read_text("utf-8")
    (settings,) = re.findall(r"<script>window\.MathJax = .*?</script>", chapter)
    script = f'{settings}<script defer src="{folder}/startup.js"></script>'
    body = f'{script}<span class="math notranslate nohighlight">{formula}</span>'
    found = look(browser, page(tmp_path, body))["incomplete"]
    assert len(found) == len(words) and all(map(str.startswith, found, words))


LAYOUT = """() => [...document.querySelectorAll('.bd-article *')]
    .filter(e => !e.parentElement.closest('mjx-container'))
    .map(e => Math.round(e.getBoundingClientRect().bottom))"""


def test_where_formulas_are_emptied_nothing_moves(browser: Browser, html: Path) -> None:
    with Visit(browser, html / "notebooks" / "01_forward.html") as visit:
        elements = "document.querySelectorAll('mjx-math *').length"
        before, count = visit.page.evaluate(LAYOUT), visit.page.evaluate(elements)
        visit.page.evaluate(looking.BOXES)
        assert count > 1000 and visit.page.evaluate(elements) == 0
        assert visit.page.evaluate(LAYOUT) == before
        visit.page.evaluate(looking.FORMULAS)
        assert visit.page.evaluate(elements) == count and visit.page.evaluate(LAYOUT) == before


def test_barriers_are_found_in_both_schemes(browser: Browser, tmp_path: Path) -> None:
    path = page(tmp_path, f'<style>{DARK}</style><img src="{PIXEL}">')
    found = [barrier.split(":")[0] for barrier in look(browser, path)["barriers"]]
    assert found == ["image-alt", "dark"]
