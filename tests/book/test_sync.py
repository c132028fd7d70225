"""Each committed notebook equals its text."""

from __future__ import annotations

import nbformat
import pytest

from scripts import notebooks


@pytest.mark.parametrize("chapter", notebooks.chapters(), ids=lambda chapter: chapter.name)
def test_text_and_notebook_are_the_same(chapter: notebooks.Chapter) -> None:
    assert notebooks.in_sync(chapter), f"{chapter.name}: they differ; run `make notebooks`"


@pytest.mark.parametrize("chapter", notebooks.chapters(), ids=lambda chapter: chapter.name)
def test_cell_ids_are_the_ones_that_make_notebooks_gives(chapter: notebooks.Chapter) -> None:
    written = nbformat.read(chapter.ipynb, as_version=4).cells
    expected = [cell.id for cell in notebooks.from_text(chapter).cells]
    assert [cell.id for cell in written] == expected, "run `make notebooks`"
