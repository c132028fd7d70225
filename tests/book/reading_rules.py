"""Rules for what is read: titles, headings, figures and their captions, links, length, width.

They join those of :mod:`tests.book.rules`: each takes a notebook and yields what is wrong with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from bs4 import BeautifulSoup
from nbformat import NotebookNode

from tests.book.rules import FENCE, Executed, lesson, rule, shown, tags

MOST_WORDS = 3500  # of a chapter, exercises and folded proofs apart
WIDTH, FOLDED_WIDTH = 76, 88
EMPTY_HEADINGS = {
    "the idea in a picture",
    "the derivation",
    "from scratch",
    "from scratch, then from the library",
    "train it here",
    "the same code at scale",
    "one knob turned",
    "results",
    "experiments",
}
# Images in words that readers of the first edition had to decode; the field has terms for them.
PRIVATE = re.compile(
    r"\b(beliefs?|dice|judges?|bills|currency|currencies|knobs?|what to see|humble|dear|honest"
    r"|bargains?|drowns?|riddles?|fog|curtains?)\b",
    re.IGNORECASE,
)
CAPTION = re.compile(r"\*\*Fig\. (?P<chapter>[1-9A-Z]\d*)\.(?P<number>[1-9]\d*)\.\*\* \S")
FIGURE = re.compile(r"\bFig\. ([1-9A-Z]\d*\.[1-9]\d*)")
CHAPTER = re.compile(r"\b(?:[Cc]hapters?|[Aa]ppendix|[Aa]ppendices) (?:\d+|[A-Z])\b")
LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\](?:\([^)]*\)|\{[^}]*\})?")
MATHS = re.compile(r"(?s)\$\$.*?\$\$|\\begin\{(align\*?)\}.*?\\end\{\1\}|\$[^$]*\$|`[^`]*`")
DROPDOWN = re.compile(r"(?ms)^(:{3,})\{dropdown\}.*?^\1 *$")


def number(chapter: Executed) -> str:
    """As readers say it: 3, 11, B."""
    return chapter.number.lstrip("0")


def running_text(cell: NotebookNode) -> str:
    """The text of a cell without code blocks, formulas and names set as code."""
    return MATHS.sub("", FENCE.sub("", cell.source))


@rule
def numbered_title(chapter: Executed) -> Iterator[str]:
    title = chapter.headings()[0][1]
    if not title.startswith(f"{number(chapter)}. "):
        yield f"the title {title!r} does not begin with {number(chapter)!r} and a dot"


@rule
def telling_headings(chapter: Executed) -> Iterator[str]:
    """A heading names its content; the same one in every chapter names nothing."""
    for _, title in chapter.headings():
        if title.lower().strip(" .:") in EMPTY_HEADINGS:
            yield f"the heading {title!r} could stand in any chapter"


@rule
def named_exercises(chapter: Executed) -> Iterator[str]:
    for _, title in chapter.headings():
        if "★" in title and not re.fullmatch(r"★{1,3} Exercise [1-9A-Z]\d*\.\d+: \S.*", title):
            yield f"the exercise {title!r} has no name: `### ★ Exercise 3.1: …`"


@rule
def plain_words(chapter: Executed) -> Iterator[str]:
    for cell in chapter.prose:
        for word in PRIVATE.findall(running_text(cell)):
            yield f"says {word!r} {shown(cell)}"


# ---- figures -------------------------------------------------------------------------------------


def has_figure(cell: NotebookNode) -> bool:
    """Whether a reader sees a picture below this cell."""
    if cell.cell_type != "code" or {"solution", "remove-output"} & set(tags(cell)):
        return False
    data = [output.get("data", {}) for output in cell.outputs]
    pages = [BeautifulSoup(str(d.get("text/html", "")), "html.parser") for d in data]
    drawn = any(page.find(["img", "svg", "canvas", "video"]) for page in pages)
    return drawn or any(kind.startswith("image/") for d in data for kind in d)


@rule
def figures_have_captions(chapter: Executed) -> Iterator[str]:
    """Right below the cell that draws: "**Fig. 7.2.** What to see.", counted from 1."""
    count, cells = 0, chapter.notebook.cells
    for i, cell in enumerate(cells):
        if not has_figure(cell):
            continue
        count += 1
        below = cells[i + 1].source if i + 1 < len(cells) else ""
        caption = CAPTION.match(below)
        if caption is None:
            yield f"no caption `**Fig. {number(chapter)}.{count}.** …` below {shown(cell)}"
        elif caption.groups() != (number(chapter), str(count)):
            yield f"the caption below {shown(cell)} should be Fig. {number(chapter)}.{count}"


@rule
def captions_have_figures(chapter: Executed) -> Iterator[str]:
    """No caption without its figure, and no reference to a figure that this chapter lacks."""
    cells = chapter.notebook.cells
    for i, cell in enumerate(cells):
        if CAPTION.match(cell.source) and not (i and has_figure(cells[i - 1])):
            yield f"a caption without a figure above it {shown(cell)}"
    known = {f"{number(chapter)}.{k + 1}" for k in range(sum(map(has_figure, cells)))}
    for cell in chapter.prose:
        for name in FIGURE.findall(cell.source):
            if name.split(".")[0] == number(chapter) and name not in known:
                yield f"there is no Fig. {name} {shown(cell)}"


# ---- links, length, width ------------------------------------------------------------------------


@rule
def chapters_are_links(chapter: Executed) -> Iterator[str]:
    """`[chapter 7](07_ddim.ipynb)`, so that a reader gets there."""
    for cell in chapter.prose:
        for bare in CHAPTER.findall(LINK.sub("", running_text(cell))):
            yield f"{bare!r} is no link {shown(cell)}"


@rule
@lesson
def short_enough(chapter: Executed) -> Iterator[str]:
    """What a first reader may skip is folded into a dropdown, or has a chapter of its own."""
    words = 0
    for cell in chapter.prose:
        if re.search(r"(?m)^## Exercises", cell.source):
            break
        words += len(re.findall(r"[^\W\d_]{2,}", DROPDOWN.sub("", running_text(cell))))
    if words > MOST_WORDS:
        yield f"{words} words of prose that are not folded, at most {MOST_WORDS}"


@rule
def narrow_code(chapter: Executed) -> Iterator[str]:
    """What a reader must read fits the column, solutions too; what else is folded may be wider."""
    for cell in chapter.code:
        solution = "solution" in tags(cell)
        folded = {"hide-input", "hide-cell", "remove-input"} & set(tags(cell)) and not solution
        most = FOLDED_WIDTH if folded else WIDTH
        for line in cell.source.split("\n"):
            if len(line) > most:
                yield f"{len(line)} columns, at most {most}: {line.strip()[:40]!r} {shown(cell)}"
