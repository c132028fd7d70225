"""The glossary: read as Sphinx reads it, true to its form, and found in the chapters."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import terms

from scripts import notebooks
from tests.book.reading_rules import MATHS, PRIVATE
from tests.book.rules import FENCE
from tests.book.test_equations import prose

PAGE = (notebooks.ROOT / f"{terms.PAGE}.md").read_text("utf-8")
GLOSSARY = terms.Glossary(PAGE)
CHAPTERS = {c.name: prose(c.text) for c in notebooks.chapters() if c.text.exists()}
PAGES = [notebooks.ROOT / "README.md", *sorted((notebooks.ROOT / "book").glob("*.md"))]
LINKED = re.compile(r"\]\(\.\./notebooks/(\w+)\.ipynb\)")


def test_the_glossary_has_a_fair_size_and_is_sorted() -> None:
    names = [name for term in GLOSSARY.terms for name in term.names]
    assert 40 <= len(GLOSSARY.terms) <= 70 and len(set(map(str.lower, names))) == len(names)
    first = [term.names[0].lower().replace("é", "e").replace("-", " ") for term in GLOSSARY.terms]
    assert first == sorted(first)


@pytest.mark.parametrize("term", GLOSSARY.terms, ids=lambda term: term.names[0])
def test_an_entry_says_something_and_leads_to_its_chapters(term: terms.Term) -> None:
    assert 5 <= len(term.first_sentence.split()) <= 45 and term.first_sentence.endswith(".")
    assert not re.search(r"[$\\`\[]", term.first_sentence)  # a tooltip shows it as it is
    chapters = LINKED.findall(term.definition)
    assert chapters and set(chapters) <= set(CHAPTERS)
    used = {found for name in chapters for _, found in GLOSSARY.mentions(CHAPTERS[name])}
    assert term in used, f"none of {chapters} uses the word"


SMALL = """# Glossary

```{glossary}
Score
  The gradient of the log-density. It is `score` in [chapter 10](../notebooks/10_x.ipynb).

Inception Score
IS
  The exponential of a divergence.

FiLM
  Scale and shift.
```
"""


def test_entries_are_read() -> None:
    score, inception, _ = terms.Glossary(SMALL).terms
    assert score.first_sentence == "The gradient of the log-density."
    assert inception.names == ("Inception Score", "IS")


def test_longest_names_win_plurals_count_and_capitals_matter() -> None:
    text = (
        "Scores, the score, an Inception\nScore, its IS; a film with FiLM; scoreboard, underscore."
    )
    found = [(m[0], term.names[0]) for m, term in terms.Glossary(SMALL).mentions(text)]
    assert found == [
        ("Scores", "Score"),
        ("score", "Score"),
        ("Inception\nScore", "Inception Score"),
        ("IS", "Inception Score"),
        ("FiLM", "FiLM"),
    ]


def test_a_page_without_a_glossary_has_no_terms() -> None:
    assert list(terms.Glossary("# Nothing").mentions("score")) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_use_the_words_of_the_field(page: Path) -> None:
    """As :func:`tests.book.reading_rules.plain_words` asks of the chapters."""
    text = MATHS.sub("", FENCE.sub("", page.read_text("utf-8")))
    assert not PRIVATE.findall(text)


def test_private_words_are_found_and_their_relatives_are_not() -> None:
    assert PRIVATE.findall("Its belief is dear: two dice, one judge.") == [
        "belief",
        "dear",
        "dice",
        "judge",
    ]
    assert not PRIVATE.findall("Dearborn, judgement, honesty, foggy")
