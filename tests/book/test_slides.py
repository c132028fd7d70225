"""The page "Common misprints": every box of every chapter is on it, and in its list."""

from __future__ import annotations

import re

import pytest
import slides

from scripts import notebooks
from tests.book.test_equations import prose

PAGE = (notebooks.ROOT / f"{slides.PAGE}.md").read_text("utf-8")
CHAPTERS = [chapter for chapter in notebooks.chapters() if chapter.text.exists()]
LISTED = set(re.findall(r"\{box\}`([^`]+)`", PAGE))


def names(boxes: list[slides.Box]) -> set[str]:
    return {f"{box.chapter} {box.n}" for box in boxes}


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.name)
def test_the_list_names_every_box_of_the_chapter(chapter: notebooks.Chapter) -> None:
    """Write a row (or a sentence) with {box}`NN_name n` for a new box; drop it with the box."""
    boxes = slides.boxes_of(chapter.name, prose(chapter.text))
    assert names(boxes) == {name for name in LISTED if name.split()[0] == chapter.name}


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.name)
def test_no_box_escapes_the_pattern(chapter: notebooks.Chapter) -> None:
    """A box is an admonition with ``:class: warning`` and nothing nested; others are not found."""
    mentions = re.findall(rf"(?m)^:+\{{\w+\}} *{slides.TITLE}", prose(chapter.text))
    assert len(mentions) == len(slides.boxes_of(chapter.name, prose(chapter.text)))


def test_the_page_has_one_place_for_the_boxes() -> None:
    assert re.findall(rf"(?m)^{slides.PLACE}$", PAGE) == [slides.PLACE]


def test_all_boxes_are_collected_word_for_word() -> None:
    page = slides.collected(notebooks.ROOT)
    boxes = [box for _, _, found in slides.chapters(notebooks.ROOT) for box in found]
    assert len(boxes) >= 15 and page.count(":::{admonition}") == len(boxes)
    for box in boxes:
        assert slides.from_here(box.text, box.chapter).strip() in page
        assert f"{{box}}`{box.chapter} {box.n}`" in page


CHAPTER = """# Title

:::{admonition} Common misprint: a bar
:class: warning
See [here](#there), [there](08_metrics.ipynb) and [far](https://example.org/x).
:::

:::{admonition} Other
:class: note
Nothing.
:::

:::{admonition} Common misprint
:class: warning
Two.
:::
"""


def test_boxes_are_found_and_counted() -> None:
    first, second = slides.boxes_of("01_forward", CHAPTER)
    assert (first.n, first.title) == (1, "Common misprint: a bar")
    assert (second.n, second.text) == (2, "Two.\n")
    assert slides.boxes_of("02_reverse", "no boxes") == []


def test_links_start_from_the_page() -> None:
    text = slides.from_here(slides.boxes_of("01_forward", CHAPTER)[0].text, "01_forward")
    assert "[here](../notebooks/01_forward.ipynb#there)" in text
    assert "[there](../notebooks/08_metrics.ipynb)" in text
    assert "[far](https://example.org/x)" in text
