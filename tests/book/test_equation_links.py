"""The links between formulas, functions and tests: a small book is built, right and with faults."""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from bs4 import BeautifulSoup
from sphinx.application import Sphinx

from scripts import notebooks

EXTENSIONS = notebooks.ROOT / "book" / "_ext"
FUNCTION, TEST = "ddpmlib.process.DDPM.q_sample", "tests/test_process.py::test_it"
MARKS = (
    {"1.1": [FUNCTION]},
    {"1.1": [TEST], "1.2": [TEST, "tests/test_process.py::test_more"]},
    {
        FUNCTION: ("ddpmlib/process.py", 7),
        TEST: ("tests/test_process.py", 8),
        "tests/test_process.py::test_more": ("tests/test_process.py", 9),
    },
)
FORMULAS = r"""# Formulas

$$
x = 1 \tag{1.1}
$$

\begin{align}
y &= 2 \tag{1.2}
\end{align}
"""
WORDS = """# Words

By (1.1), and (1.1, 1.2): the last two. Not `(1.1)`, not $f(1.1)$, not f(1.1), not [(1.1)](a.md).
The code is `ddpmlib.process.DDPM.q_sample` or `process.DDPM.q_sample`, its test
`tests/test_process.py::test_it`; `nothing.of.ours` is left alone.

```python
x = 1  # (1.1)
```

```{eval-rst}
.. py:method:: ddpmlib.process.DDPM.q_sample

   Jump, see (1.1).
```
"""


@pytest.fixture
def extension(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The extension, reading invented marks in place of the library's."""
    monkeypatch.syspath_prepend(str(EXTENSIONS))
    module = importlib.import_module("equation_links")
    monkeypatch.setattr(module, "_marks", lambda: MARKS)
    yield module
    sys.modules.pop("equation_links")


def build(folder: Path, **pages: str) -> str:
    """Build a book of Markdown pages into ``folder/html``, and return the warnings."""
    texts = {"a": FORMULAS, "b": WORDS, **pages}
    toctree = "```{toctree}\n" + "\n".join(texts) + "\n```\n"
    for name, text in {**texts, "index": f"# Book\n\n{toctree}"}.items():
        (folder / f"{name}.md").write_text(text, "utf-8")
    warnings = io.StringIO()
    settings = {
        "extensions": ["myst_parser", "equation_links"],
        "myst_enable_extensions": ["amsmath", "dollarmath"],
        "html_theme": "sphinx_book_theme",
        "html_theme_options": {
            "repository_url": "https://github.com/us/book",
            "repository_branch": "main",
        },
    }
    out = str(folder / "html")
    app = Sphinx(
        str(folder), None, out, str(folder / "trees"), "html", settings, io.StringIO(), warnings
    )
    app.build()
    # A second build in one process finds Sphinx's own nodes registered, and says so.
    lines = warnings.getvalue().splitlines(keepends=True)
    return "".join(line for line in lines if "is already registered" not in line)


def page(folder: Path, name: str) -> BeautifulSoup:
    text = (folder / "html" / f"{name}.html").read_text("utf-8")
    return BeautifulSoup(text, "html.parser").find("article")


@pytest.mark.usefixtures("extension")
@pytest.mark.slow
def test_formulas_lead_to_functions_and_tests_and_words_lead_to_formulas(tmp_path: Path) -> None:
    assert build(tmp_path) == ""
    formulas, words = page(tmp_path, "a"), page(tmp_path, "b")
    rows = formulas.find_all(class_="equation-links")
    assert [row.find_previous(class_="math")["id"] for row in rows] == ["eq-1-1", "eq-1-2"]
    shown = [[(a.get_text(), a["href"]) for a in row.find_all("a")] for row in rows]
    blob = "https://github.com/us/book/blob/main/"
    assert shown == [
        [
            ("DDPM.q_sample", f"b.html#{FUNCTION}"),
            ("source", "_modules/ddpmlib/process.html#DDPM"),
            ("test", f"{blob}tests/test_process.py#L8"),
        ],
        [
            ("test", f"{blob}tests/test_process.py#L8"),
            ("2", f"{blob}tests/test_process.py#L9"),
        ],
    ]
    for link in formulas.select(".equation-links a"):  # the name that is read aloud has the words
        assert link.get_text() in link["aria-label"] and len(link["aria-label"].split()) >= 3

    links = [(a.get_text(), a["href"]) for a in words.select("a.equation-reference")]
    assert links == [
        ("(1.1)", "a.html#eq-1-1"),
        ("1.1", "a.html#eq-1-1"),
        ("1.2", "a.html#eq-1-2"),
        ("(1.1)", "a.html#eq-1-1"),  # in the docstring
    ]
    names = {a.get_text(): a["href"] for a in words.find_all("a") if a.find("code")}
    assert names == {
        FUNCTION: f"#{FUNCTION}",
        "process.DDPM.q_sample": f"#{FUNCTION}",
        TEST: f"{blob}tests/test_process.py#L8",
    }
    assert words.get_text().count("(1.1)") == 7 and "(1.1, 1.2)" in words.get_text()


CAPTION = "# C\n\n**Fig. 1.1.** Two dots, as in Fig. 1.1.\n"


@pytest.mark.usefixtures("extension")
@pytest.mark.slow
def test_a_figure_is_found_by_its_number(tmp_path: Path) -> None:
    words = f"{WORDS}\nLook at Fig. 1.1 of `Fig. 1.1`.\n"
    assert build(tmp_path, b=words, c=CAPTION) == ""
    caption = page(tmp_path, "c").find(class_="figure-caption")
    assert caption["id"] == "fig-1-1"
    assert [a["href"] for a in caption.find_all("a")] == ["#fig-1-1"]  # the number itself is bold
    links = [a for a in page(tmp_path, "b").find_all("a") if a.get_text() == "Fig. 1.1"]
    assert [a["href"] for a in links] == ["c.html#fig-1-1"]


@pytest.mark.usefixtures("extension")
@pytest.mark.parametrize(
    ("pages", "complaint"),
    [
        ({"c": CAPTION, "d": CAPTION}, "Fig. 1.1 stands twice"),
        ({"c": "# C\n\nSee Fig. 1.2.\n"}, "there is no Fig. 1.2"),
        ({"c": FORMULAS.replace("1.1", "2.1")}, "equation (1.2) stands twice"),
        ({"c": "# C\n\n$$\nz \\tag{1.3}\n$$\n"}, "equation (1.3) has no test"),
        ({"c": "# C\n\nSee (1.7).\n"}, "there is no equation (1.7)"),
        ({"a": FORMULAS.replace(r"\tag{1.2}", "")}, "test_more: there is no equation (1.2)"),
        ({"b": "# Words\n"}, f"{FUNCTION} has no entry in the reference"),
    ],
)
def test_a_planted_fault_stops_the_build(
    tmp_path: Path, pages: dict[str, str], complaint: str
) -> None:
    """Every warning does: the book is built with -W."""
    assert complaint in build(tmp_path, **pages)
