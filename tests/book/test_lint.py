"""Every chapter keeps the rules of the book, and every rule can be broken."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from scripts import notebooks
from tests.book import reading_rules  # noqa: F401  they join RULES
from tests.book.rules import RULES, Executed

CHAPTERS = notebooks.chapters()
PROOF = "import sympy as sp\nassert sp.expand((a + b) ** 2 - a**2 - 2 * a * b - b**2) == 0"
ALT = "A noisy ring becomes a clean one"


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.name)
@pytest.mark.parametrize("rule", RULES)
def test_chapter(chapter: notebooks.Chapter, rule: str) -> None:
    assert chapter.ipynb.exists(), f"{chapter.name} was never executed, run `make notebooks`"
    notebook = nbformat.read(chapter.ipynb, as_version=4)
    executed = Executed(chapter.name, notebook, chapter.ipynb.stat().st_size)
    complaints = list(RULES[rule](executed))
    assert not complaints, f"{chapter.name}: {rule}\n" + "\n".join(complaints)


def test_there_are_chapters_and_each_is_in_the_table_of_contents() -> None:
    toc = (notebooks.ROOT / "_toc.yml").read_text("utf-8")
    listed = re.findall(r"file: notebooks/(\S+)", toc)
    assert listed == [chapter.name for chapter in CHAPTERS] != []


# A chapter that keeps all rules, to be broken one rule at a time


def code(source: str, *outputs: object, tags: tuple[str, ...] = (), alt: str = "") -> object:
    cell = new_code_cell(source, outputs=list(outputs))
    if tags:
        cell.metadata["tags"] = list(tags)
    if alt:
        cell.metadata["mystnb"] = {"image": {"alt": alt}}
    return cell


def said(text: str, name: str = "stdout") -> object:
    return new_output("stream", name=name, text=text)


def displayed(kind: str, data: str) -> object:
    return new_output("display_data", data={kind: data})


def exercise(stars: str, number: int) -> list[object]:
    title = f"### {stars} Exercise 1.{number}: Count"
    question = new_markdown_cell(f"{title}\nHow many?\n\nHint: two.")
    skeleton = code(f'answer = ...\n\n# exercises.check("1.{number}", answer)')
    solution = code(f'exercises.check("1.{number}", 2)', tags=("hide-cell", "solution"))
    return [question, skeleton, solution]


def good() -> Executed:
    """The smallest chapter without a complaint."""
    opening = f"# 1. Forward\n\n{notebooks.badge('01_forward')}\n\n```\n### no heading\n```"
    cells = [
        new_markdown_cell(opening),
        code(notebooks.setup_cell(), tags=("setup", "hide-input")),
        new_markdown_cell("## Objectives\n\n### Detail"),
        code("draw()", displayed("image/png", "iVBO"), alt=ALT),
        new_markdown_cell("**Fig. 1.1.** A ring becomes clean; see [chapter 2](02_reverse.ipynb)."),
        code("film()", displayed("text/html", f'<img alt="{ALT}" src="data:image/png;base64,i">')),
        new_markdown_cell("**Fig. 1.2.** The same as a film.\n\nCompare it with Fig. 1.1."),
        code('print("a;")', said("a;\n")),
        code(PROOF, tags=("hide-input",)),
        new_markdown_cell("## What goes wrong"),
        new_markdown_cell("## Exercises"),
        *exercise("★", 1),
        *exercise("★★", 2),
        *exercise("★★★", 3),
        new_markdown_cell("## Recap"),
        code('equations.table("01")'),
        new_markdown_cell("## Further reading"),
    ]
    count = 0
    for cell in cells:
        if cell.cell_type == "code":
            count += 1
            cell.execution_count = count
    metadata = {"kernelspec": notebooks.KERNEL, "language_info": {"name": "python"}}
    return Executed("01_forward", new_notebook(cells=cells, metadata=metadata), 1000)


def with_last(cell: object) -> Executed:
    """The good chapter with one more cell."""
    chapter = good()
    if cell.cell_type == "code":  # type: ignore[attr-defined]
        cell.execution_count = len(chapter.code) + 1  # type: ignore[attr-defined]
    chapter.notebook.cells.append(cell)
    return chapter


def edited(old: str, new: str) -> Executed:
    """The good chapter with one text replaced wherever it stands."""
    chapter = good()
    for cell in chapter.notebook.cells:
        cell.source = cell.source.replace(old, new)
    return chapter


def with_metadata(cell: int, **metadata: object) -> Executed:
    """The good chapter with other metadata on one cell."""
    chapter = good()
    chapter.notebook.cells[cell].metadata = nbformat.from_dict(metadata)
    return chapter


def counted(first: int | None) -> Executed:
    chapter = good()
    chapter.code[0].execution_count = first
    return chapter


ERROR = new_output("error", ename="ValueError", evalue="no", traceback=[])
STRAY = new_output("execute_result", data={"text/plain": "[None]"}, execution_count=1)
BAD = [
    ("plain_python", with_last(code("!ls"))),
    ("plain_python", with_last(code("%matplotlib inline"))),
    ("no_trailing_semicolon", with_last(code("plot();"))),
    ("no_trailing_semicolon", with_last(code("plot(); # quiet\nx = 1"))),
    ("no_widgets", with_last(code("clear_output()"))),
    ("no_widgets", with_last(code("from tqdm.auto import tqdm"))),
    ("known_tags", with_metadata(5, tags=["hide_input"])),
    ("known_tags", with_metadata(2, tags=["seutp"])),
    ("finished", with_last(new_markdown_cell("Write here: the idea"))),
    ("executed_in_order", counted(None)),
    ("executed_in_order", counted(2)),
    ("no_errors", with_last(code("fail()", ERROR))),
    ("no_stderr", with_last(code("warn()", said("UserWarning", "stderr")))),
    ("no_stray_values", with_last(code("ax.set(xlim=1)", STRAY))),
    ("no_object_addresses", with_last(code("x", said("<Net object at 0x7f3a5c0b2d90>")))),
    ("no_object_addresses", with_last(code("x", displayed("text/plain", "at 0x7f3a5c0b2d90")))),
    ("no_machine_paths", with_last(code("x", said("/home/me/book/a.py")))),
    ("no_machine_paths", with_last(code("open('/tmp/x')"))),
    ("nothing_foreign", with_last(new_markdown_cell(f"![{ALT}](https://x.org/a.png)"))),
    ("nothing_foreign", with_last(code("x", displayed("text/html", "<script src='//x.org/a'>")))),
    ("small", Executed("01_forward", good().notebook, 600_001)),
    ("stripped", with_metadata(5, execution={"iopub.execute_input": "12:00"})),
    ("stripped", with_metadata(2, collapsed=True)),
    ("figures_have_alt_text", with_last(code("x", displayed("image/png", "iVBO")))),
    ("figures_have_alt_text", with_last(code("x", displayed("image/svg+xml", "<svg/>"), alt="it"))),
    ("html_pictures_have_alt_text", with_last(code("x", displayed("text/html", "<img src=a>")))),
    ("html_pictures_have_alt_text", with_last(code("x", displayed("text/html", "<video/>")))),
    ("markdown_pictures_have_alt_text", with_last(new_markdown_cell("![](a.png)"))),
    ("one_setup_cell", edited("plots.style()", "plots.style( )")),
    ("one_setup_cell", with_last(code(notebooks.setup_cell(), tags=("setup", "hide-input")))),
    ("one_setup_cell", with_metadata(1, tags=["setup"])),
    ("one_setup_cell", with_metadata(1, tags=["hide-input"])),
    ("colab_badge", edited("/01_forward.ipynb", "/02_reverse.ipynb")),
    ("colab_badge", edited("[![Open in Colab]", "[Open in Colab]")),
    ("headings_are_a_tree", with_last(new_markdown_cell("# Another title"))),
    ("headings_are_a_tree", with_last(new_markdown_cell("#### Too deep"))),
    ("headings_are_a_tree", edited("# 1. Forward", "## 1. Forward")),
    ("sections_are_complete", edited("## Recap", "## Summary")),
    ("sections_are_complete", edited("## What goes wrong", "### What goes wrong")),
    ("equation_table", edited('table("01")', 'table("02")')),
    ("folded_proof", edited("sp.expand", "abs")),
    ("folded_proof", edited("assert sp", "print(sp")),
    ("folded_proof", edited("## Objectives", "## Exercises")),
    ("exercises_are_complete", edited("### ★★ Exercise", "#### ★★ Exercise")),
    ("exercises_are_complete", edited("### ★★ Exercise", "### Exercise")),
    ("exercises_are_complete", edited("### ★★★ Exercise", "### ★★★★ Exercise")),
    ("exercises_are_complete", edited("Hint: two.", "")),
    ("exercises_are_complete", edited("exercises.check", "print")),
    ("three_grades", edited("### ★★★ Exercise", "### ★★ Exercise")),
    ("skeletons_are_checked", edited("answer = ...", "answer = 2")),
    ("skeletons_are_checked", edited('# exercises.check("1.2", answer)', "# yours")),
    ("solutions_are_folded", with_last(code("x", tags=("solution",)))),
    ("checks_belong_to_the_chapter", with_last(code('exercises.check("2.1", 0)'))),
    ("numbered_title", edited("# 1. Forward", "# Forward")),
    ("numbered_title", edited("# 1. Forward", "# 2. Forward")),
    ("telling_headings", with_last(new_markdown_cell("## The derivation"))),
    ("named_exercises", edited("Exercise 1.2: Count", "Exercise 1.2")),
    ("plain_words", with_last(new_markdown_cell("*What to see:* one knob."))),
    ("figures_have_captions", edited("**Fig. 1.1.** ", "")),
    ("figures_have_captions", edited("**Fig. 1.2.**", "**Fig. 1.3.**")),
    ("figures_have_captions", edited("**Fig. 1.2.**", "**Fig. 2.2.**")),
    ("captions_have_figures", with_last(new_markdown_cell("**Fig. 1.3.** Nothing."))),
    ("captions_have_figures", with_last(new_markdown_cell("See Fig. 1.7."))),
    ("chapters_are_links", with_last(new_markdown_cell("As in chapter 3."))),
    ("chapters_are_links", with_last(new_markdown_cell("As in [this](a.md) and chapters 3 to 5."))),
    ("short_enough", edited("## What goes wrong", "## What goes wrong\n\n" + "word " * 3501)),
    ("narrow_code", with_last(code("x = 1  # " + "y" * 68))),
    ("narrow_code", with_last(code("x = 1  # " + "y" * 80, tags=("hide-input",)))),
    ("narrow_code", with_last(code("x = 1  # " + "y" * 68, tags=("hide-cell", "solution")))),
]


@pytest.mark.parametrize("rule", RULES)
def test_the_good_chapter_keeps_every_rule(rule: str) -> None:
    assert list(RULES[rule](good())) == []


@pytest.mark.parametrize(("rule", "chapter"), BAD, ids=[name for name, _ in BAD])
def test_a_bad_chapter_breaks_the_rule(rule: str, chapter: Executed) -> None:
    assert list(RULES[rule](chapter))


def appendix(name: str = "A_tables") -> Executed:
    """The good chapter without what makes it a lesson, under the name of an appendix."""
    chapter = edited(notebooks.badge("01_forward"), notebooks.badge(name))
    cells = chapter.notebook.cells[:8]
    for cell in cells:
        cell.source = cell.source.replace("# 1.", "# A.").replace("Fig. 1.", "Fig. A.")
    metadata = chapter.notebook.metadata
    return Executed(name, new_notebook(cells=cells, metadata=metadata), 1000)


@pytest.mark.parametrize("rule", RULES)
def test_an_appendix_is_no_lesson_and_keeps_every_other_rule(rule: str) -> None:
    assert list(RULES[rule](appendix())) == []


def test_what_is_folded_or_comes_after_the_exercises_has_no_limit() -> None:
    words = "word " * 3501
    folded = edited(
        "## What goes wrong", f"## What goes wrong\n\n:::{{dropdown}} Proof\n{words}\n:::"
    )
    for chapter in (folded, edited("## Recap", f"## Recap\n\n{words}")):
        assert list(RULES["short_enough"](chapter)) == []


@pytest.mark.parametrize("rule", ["sections_are_complete", "equation_table"])
def test_a_chapter_is_a_lesson(rule: str) -> None:
    assert list(RULES[rule](appendix("12_tables")))


def test_every_rule_has_a_bad_chapter() -> None:
    assert {name for name, _ in BAD} == set(RULES)


# The address of the repository stands in _config.yml; whoever repeats it repeats it exactly

REPEATED = re.compile(
    r"(?:github\.com[/:]|colab\.research\.google\.com/github/|mybinder\.org/v2/gh/"
    r"|raw\.githubusercontent\.com/)([\w.-]+)/([\w.-]+)"
)


def other_addresses(text: str, slug: str) -> list[str]:
    """The addresses in a text that mean this repository and spell it otherwise."""
    owner, name = slug.lower().split("/")
    found = [(o, n.removesuffix(".git").rstrip(".")) for o, n in REPEATED.findall(text)]
    ours = [(o, n) for o, n in found if o.lower() == owner or n.lower() in {name, "ddpmlib"}]
    return sorted({f"{o}/{n}" for o, n in ours} - {slug})


def pages_with_addresses() -> list[Path]:
    """All texts of the repository that people write."""
    patterns = ["*.md", "*.toml", "*.yml", "*.cff", "Makefile", ".github/**/*.yml", "book/*.md"]
    patterns += ["notebooks/*.ipynb", "notebooks/src/*.py", "ddpmlib/**/*.py", "scripts/**/*.py"]
    return sorted({path for pattern in patterns for path in notebooks.ROOT.glob(pattern)})


def test_one_address() -> None:
    slug = notebooks.repository()[0].removeprefix("https://github.com/")
    paths = pages_with_addresses()
    assert {"README.md", "pyproject.toml"} <= {path.name for path in paths}
    wrong = {path.name: other_addresses(path.read_text("utf-8"), slug) for path in paths}
    assert not {name: found for name, found in wrong.items() if found}


@pytest.mark.parametrize(
    "text",
    [
        "https://github.com/ddpm-book/ddpm_book",
        "git clone git@github.com:someone/ddpm-book.git",
        "https://colab.research.google.com/github/fork/ddpm-book/blob/main/a.ipynb",
        "https://github.com/DDPM-book/ddpm-book.",
    ],
)
def test_another_address_is_found(text: str) -> None:
    assert other_addresses(text, "ddpm-book/ddpm-book")


def test_the_address_and_foreign_repositories_are_no_finding() -> None:
    text = "https://github.com/ddpm-book/ddpm-book.git and https://github.com/mathjax/MathJax"
    assert other_addresses(text, "ddpm-book/ddpm-book") == []


def test_metadata_files_name_the_repository() -> None:
    url, branch = notebooks.repository()
    for name in ("pyproject.toml", "CITATION.cff", "book/how_to_run.md"):
        assert url in (notebooks.ROOT / name).read_text("utf-8"), f"{name} does not name {url}"
    assert re.fullmatch(r"https://github\.com/[\w-]+/[\w.-]+", url) and branch
