"""CONTRIBUTING.md: its pages of code run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TEXT = (Path(__file__).resolve().parent.parent / "CONTRIBUTING.md").read_text("utf-8")
SECTIONS = {
    title: re.findall(r"```python\n(.*?)```", body, re.DOTALL)
    for title, body in re.findall(r"^## (.*)\n((?:(?!^## ).*\n)*)", TEXT, re.MULTILINE)
}
PAGES = ("Add a sampler", "Add a process", "Add a network", "Add a data set")


@pytest.mark.parametrize("title", PAGES)
def test_the_code_of_the_page_runs(title: str) -> None:
    (code,) = SECTIONS[title]
    assert "assert " in code  # it says what came out
    exec(compile(code, f"CONTRIBUTING.md, {title}", "exec"), {"__name__": "page"})


def test_every_code_of_the_text_is_run() -> None:
    assert {title for title, codes in SECTIONS.items() if codes} == set(PAGES)
