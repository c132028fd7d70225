"""The formulas are right as they are printed: each is read from the page and held against numbers.

The numbers come from ``ddpmlib``, or from a way of computing them that is not the formula's own:
the modules of ``tests/book/printed`` give each printed name its value. So a slip on the page alone,
a sign or a bar, turns a test red, and :mod:`tests.book.mutations` makes such slips to prove it.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from ddpmlib import equations
from tests.book import latex
from tests.book.mutations import HARMLESS, slips
from tests.book.printed.common import FORMULAS
from tests.book.test_equations import CHAPTERS, CODE, DISPLAY, prose

for _module in sorted((Path(__file__).parent / "printed").glob("ch*.py")):
    import_module(f"tests.book.printed.{_module.stem}")

# Formulas that cannot be held against numbers: tag → why, in a few words.
UNREAD: dict[str, str] = {}

RED = (ArithmeticError, LookupError, TypeError, ValueError)  # Unreadable is a ValueError


def printed(text: str) -> dict[str, str]:
    """Number → displayed formula, as it stands in a chapter's text."""
    found: dict[str, str] = {}
    for match in DISPLAY.finditer(CODE.sub("", text)):
        numbers = equations.TAG.findall(match[0])
        assert len(numbers) < 2, f"one formula with the numbers {numbers}"
        found |= dict.fromkeys(numbers, match[0])
    return found


PRINTED = {tag: tex for chapter in CHAPTERS for tag, tex in printed(prose(chapter.text)).items()}


def wrong(tag: str, tex: str) -> list[str]:
    """What the formula claims and is not so, in any of its worlds."""
    formula = FORMULAS[tag]
    return [
        claim
        for scope in formula.scopes
        for claim in latex.wrong(tex, scope, formula.rtol, formula.near)
    ]


def is_red(tag: str, tex: str) -> bool:
    try:
        return bool(wrong(tag, tex))
    except RED:
        return True


def test_every_formula_is_read_or_has_a_reason_not_to_be() -> None:
    assert not set(FORMULAS) & set(UNREAD)
    assert set(FORMULAS) | set(UNREAD) == set(PRINTED)
    assert all(UNREAD.values())


@pytest.mark.parametrize("tag", sorted(FORMULAS, key=equations.order))
def test_a_formula_is_right_as_it_is_printed(tag: str) -> None:
    assert not wrong(tag, PRINTED[tag])


@pytest.mark.parametrize("tag", sorted(FORMULAS, key=equations.order))
def test_a_slip_in_the_print_is_seen(tag: str) -> None:
    """Every slip that :mod:`tests.book.mutations` makes, but for the harmless ones."""
    seen = {name: is_red(tag, tex) for name, tex in slips(PRINTED[tag])}
    assert sum(seen.values()) >= 2
    missed = {name for name, red in seen.items() if not red}
    assert missed == set(HARMLESS.get(tag, {}))


def test_harmless_slips_belong_to_formulas() -> None:
    assert set(HARMLESS) <= set(FORMULAS)
    assert all(reason for slips_ in HARMLESS.values() for reason in slips_.values())


def test_the_page_that_was_not_read_before_is_read_now() -> None:
    """(4.18) on the page alone: the limit, its digits, and what they are in bits."""
    tex = PRINTED["4.18"]
    for old, new in (("0.442", "0.443"), ("0.638", "0.637"), (r"1-\ln2", r"1+\ln2")):
        assert old in tex
        assert wrong("4.18", tex.replace(old, new))
