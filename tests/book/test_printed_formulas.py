"""The formulas are right as they are printed: each is read from the page and held against numbers."""

from __future__ import annotations

import pytest

from ddpmlib import equations
from tests.book import latex
from tests.book.printed import ch01
from tests.book.printed.common import FORMULAS
from tests.book.test_equations import CHAPTERS, CODE, DISPLAY, prose

CH = [ch01]


def printed() -> dict[str, str]:
    """Number → displayed formula, as it stands in the chapters' texts."""
    found = {}
    for chapter in CHAPTERS:
        for match in DISPLAY.finditer(CODE.sub("", prose(chapter.text))):
            numbers = equations.TAG.findall(match[0])
            assert len(numbers) < 2, f"one formula with the numbers {numbers}"
            found |= dict.fromkeys(numbers, match[0])
    return found


PRINTED = printed()


@pytest.mark.parametrize("tag", FORMULAS)
def test_a_formula_is_right_as_it_is_printed(tag: str) -> None:
    formula = FORMULAS[tag]
    for scope in formula.scopes:
        assert not latex.wrong(PRINTED[tag], scope, formula.rtol, formula.near)
