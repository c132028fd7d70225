"""Every numbered equation is pinned by a test, and every number that is used exists.

Numbers stand in the chapters' texts and the pages as ``\\tag{1.4}``, in the library as
``@equation("1.4")``, in the tests as ``@pytest.mark.equation("1.4")``, in prose, in docstrings and
in comments as "(1.4)".
"""

from __future__ import annotations

import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import jupytext
import pytest

from ddpmlib import equations
from scripts import notebooks

DISPLAY = re.compile(r"(?s)\$\$.*?\$\$|\\begin\{(\w+\*?)\}.*?\\end\{\1\}")
CODE = re.compile(r"(?ms)^ *(```+).*?^ *\1 *$|`[^`\n]*`")


def prose(path: Path) -> str:
    """The Markdown of a page or of a chapter's text."""
    if path.suffix == ".md":
        return path.read_text("utf-8")
    cells = jupytext.read(path, fmt=notebooks.PERCENT).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def tags(text: str) -> list[str]:
    """The numbers in order of appearance; what stands in code does not count."""
    return equations.TAG.findall(CODE.sub("", text))


def references(text: str) -> list[str]:
    """Every number that the running text refers to."""
    text = DISPLAY.sub("", CODE.sub("", text))
    return equations.references(re.sub(r"\$[^$\n]*\$", "", text))


def remarks(source: str) -> str:
    """The comments and strings of a Python text, docstrings among them; no code, no numbers."""
    kinds = {"COMMENT", "STRING", "FSTRING_MIDDLE"}  # the last since Python 3.12
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return "\n".join(one.string for one in tokens if tokenize.tok_name[one.type] in kinds)


# The checks, on plain lists, so that each can be shown a bad example


def numbering(chapter: str, found: list[str]) -> Iterator[str]:
    """1.1, 1.2, … in order of appearance, each once."""
    expected = [f"{chapter}.{i}" for i in range(1, len(found) + 1)]
    for is_, should in zip(found, expected, strict=True):
        if is_ != should:
            yield f"chapter {chapter}: \\tag{{{is_}}} stands where \\tag{{{should}}} is due"
            return


def unknown(used: Iterable[str], known: Iterable[str], where: str) -> list[str]:
    """Numbers that are used and exist nowhere."""
    return [f"{where}: there is no equation ({n})" for n in sorted(set(used) - set(known))]


def twice(found: Iterable[str]) -> list[str]:
    """Numbers that stand at more than one formula."""
    counts = Counter(found)
    return [f"equation ({n}) stands {k} times" for n, k in counts.items() if k > 1]


def untested(known: Iterable[str], tested: Iterable[str]) -> list[str]:
    """Equations without a test."""
    return [
        f'equation ({n}) has no test marked @pytest.mark.equation("{n}")'
        for n in sorted(set(known) - set(tested), key=equations.order)
    ]


def outside_display(text: str) -> list[str]:
    """Numbers that stand in no displayed formula, and would be printed as they are."""
    return tags(DISPLAY.sub("", text))


# The book


CHAPTERS = [chapter for chapter in notebooks.chapters() if chapter.text.exists()]
PAGES = sorted((notebooks.ROOT / "book").glob("*.md"))
ALL_TAGS = [tag for chapter in CHAPTERS for tag in tags(prose(chapter.text))]
# Files with bad examples
PLANTED = {"tests/test_equations.py", "tests/book/test_equations.py"}
PLANTED |= {"tests/book/test_equation_links.py"}
SOURCES = [
    path
    for folder in ("ddpmlib", "scripts", "book/_ext", "tests")
    for path in sorted((notebooks.ROOT / folder).rglob("*.py"))
    if path.relative_to(notebooks.ROOT).as_posix() not in PLANTED
]


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.name)
def test_numbers_run_in_order_of_appearance(chapter: notebooks.Chapter) -> None:
    found = tags(prose(chapter.text))
    assert found or chapter.appendix, f"{chapter.name} numbers no equation"
    assert not list(numbering(chapter.number.lstrip("0"), found))
    assert not outside_display(prose(chapter.text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_leave_the_numbers_to_the_chapters(page: Path) -> None:
    assert tags(prose(page)) == []


@pytest.mark.parametrize("path", [*PAGES, *(c.text for c in CHAPTERS)], ids=lambda path: path.stem)
def test_references_lead_somewhere(path: Path) -> None:
    assert not unknown(references(prose(path)), ALL_TAGS, path.name)


@pytest.mark.slow
def test_remarks_in_code_refer_to_equations_that_exist() -> None:
    for path in SOURCES:
        used = equations.references(remarks(path.read_text("utf-8")))
        assert not unknown(used, ALL_TAGS, path.name)


def test_no_number_stands_twice_in_the_book() -> None:
    assert not twice(ALL_TAGS)


@pytest.mark.slow
def test_every_equation_has_a_test() -> None:
    assert not untested(ALL_TAGS, equations.tests(notebooks.ROOT))


@pytest.mark.slow
def test_library_and_tests_name_existing_equations() -> None:
    for marked in (equations.implementations(), equations.tests(notebooks.ROOT)):
        wrong = {n: names for n, names in marked.items() if n not in ALL_TAGS}
        assert not wrong, f"there are no such equations: {wrong}"


# The checks can fail

PAGE = r"""
$$
x = 1 \tag{1.1}
$$
As (1.1) says, and (1.2, 1.3), $f(1.7)$ is g(1.8) or `(1.9)`; a number (0.5), a year (2020).

\begin{align}
x &= 2 \tag{1.2}
\end{align}

```
\tag{9.9} and (9.9)
```
"""


def test_tags_and_references_are_found() -> None:
    assert tags(PAGE) == ["1.1", "1.2"]
    assert references(PAGE) == ["1.1", "1.2", "1.3"]
    assert outside_display(PAGE) == []


def test_bad_examples_are_found() -> None:
    assert list(numbering("1", ["1.1", "1.3"]))
    assert list(numbering("1", ["1.1", "1.1"]))
    assert list(numbering("2", ["1.1"]))
    assert twice(["1.1", "2.1", "1.1"]) == ["equation (1.1) stands 2 times"]
    assert not twice(["1.1", "2.1"])
    assert unknown(["1.3"], ["1.1", "1.2"], "page")
    assert untested(["1.1", "1.2"], ["1.1"]) == [
        'equation (1.2) has no test marked @pytest.mark.equation("1.2")'
    ]
    assert outside_display(r"so $x = 1 \tag{1.1}$") == ["1.1"]


CODE_TEXT = '''
"""By (1.1), and not f(1.2)."""
half = g(1.3)  # see (1.4)
hint = "put that into (1.5)"
'''


def test_remarks_are_comments_and_strings_but_no_code() -> None:
    assert equations.references(remarks(CODE_TEXT)) == ["1.1", "1.4", "1.5"]


@pytest.mark.parametrize("planted", ['"""See (99.1)."""', "x = 1  # by (99.1)", 's = "(99.1)"'])
def test_a_dangling_remark_is_found(planted: str) -> None:
    assert unknown(equations.references(remarks(planted)), ALL_TAGS, "module.py")


def test_a_mark_without_equation_or_test_is_found(tmp_path: Path) -> None:
    """A whole repository in small: one function marked right, one without test, one in the void."""
    for path, text in {
        "ddpmlib/a.py": '@equation("1.1")\ndef f(): ...\n@equation("1.2", "1.9")\ndef g(): ...\n',
        "tests/test_a.py": '@pytest.mark.equation("1.1")\ndef test_f(): ...\n',
    }.items():
        (tmp_path / path).parent.mkdir()
        (tmp_path / path).write_text(text, "utf-8")
    functions, pinned = equations.implementations(tmp_path / "ddpmlib"), equations.tests(tmp_path)
    assert untested(["1.1", "1.2"], pinned) == [
        'equation (1.2) has no test marked @pytest.mark.equation("1.2")'
    ]
    assert unknown(functions, ["1.1", "1.2"], "a.py") == ["a.py: there is no equation (1.9)"]
