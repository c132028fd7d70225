"""Fixtures of the tests that read the built book or open it in a browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from playwright.sync_api import Browser, sync_playwright

from tests.book import built


def pytest_itemcollected(item: pytest.Item) -> None:
    """What needs the built book or a browser is nothing for `make check`."""
    needs = set(getattr(item, "fixturenames", ()))
    if "browser" in needs:
        item.add_marker("browser")
    if needs & {"browser", "html"}:
        item.add_marker("slow")


@pytest.fixture(scope="session")
def html() -> Path:
    """The folder of the built book."""
    return built.build()


@pytest.fixture(scope="session")
def pages(html: Path) -> dict[str, BeautifulSoup]:
    """Every page of the book by its path."""
    paths = [path for path in sorted(html.rglob("*.html")) if "_static" not in path.parts]
    return {
        path.relative_to(html).as_posix(): built.parse(path.read_text("utf-8")) for path in paths
    }


# Of a module, not of the session: the loop of a running playwright is in the way of other tests.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium of this machine, for which no host name exists."""
    executable = next(filter(None, map(shutil.which, built.NAMES)), None)
    if executable is None:
        pytest.skip(f"no browser: none of {', '.join(built.NAMES)} is installed")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=built.FLAGS)
        try:
            if not writes(chromium):
                pytest.skip("no font is installed: in this browser texts have no width")
            yield chromium
        finally:
            chromium.close()


def writes(browser: Browser) -> bool:
    """Whether a text takes any room: without fonts it is there and cannot be seen."""
    page = browser.new_page()
    try:
        page.set_content("<span>text</span>")
        return bool(page.evaluate("document.querySelector('span').getBoundingClientRect().width"))
    finally:
        page.close()
