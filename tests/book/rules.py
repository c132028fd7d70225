"""The rules of BOOK.md for a chapter: each takes a notebook and yields what is wrong with it."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from itertools import pairwise, takewhile
from typing import Any

from bs4 import BeautifulSoup
from nbformat import NotebookNode

from scripts import notebooks

SIZE_LIMIT = 600_000  # bytes of a notebook
TAGS = {
    "setup",
    "solution",
    "hide-input",
    "hide-output",
    "hide-cell",
    "remove-input",
    "remove-output",
    "nbval-ignore-output",
    "nbval-skip",
}
SECTIONS = {
    "objectives": r"objectives",
    "what goes wrong": r"what goes wrong",
    "exercises": r"exercises",
    "recap": r"recap",
    "further reading": r"further reading",
}
PROOF = re.compile(r"\b(?:sp|sympy)\.(?:simplify|expand|solve|integrate|diff)\(")
FENCE = re.compile(r"(?ms)^ *(```+|~~~+).*?^ *\1 *$")
HEADING = re.compile(r"(?m)^(#{1,6}) +(.+?) *$")
ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,}\b")
MACHINE = re.compile(r"(?<![\w.])/(?:home|root|tmp|work|usr|opt|Users|content)/|site-packages")
EMBEDDED = re.compile(r"data:[a-z]+/[a-z0-9+.-]+;base64,[A-Za-z0-9+/=\s]+")
FOREIGN = re.compile(r"""!\[[^\]]*\]\(\s*<?(?:https?:)?//|<[^>]+\bsrc\s*=\s*["'](?:https?:)?//""")


@dataclass(frozen=True)
class Executed:
    """A chapter as it lies in the repository."""

    name: str
    notebook: NotebookNode
    size: int = 0

    @property
    def number(self) -> str:
        return self.name.split("_")[0]

    @property
    def appendix(self) -> bool:
        return notebooks.Chapter(self.name).appendix

    @property
    def code(self) -> list[NotebookNode]:
        return [cell for cell in self.notebook.cells if cell.cell_type == "code"]

    @property
    def prose(self) -> list[NotebookNode]:
        return [cell for cell in self.notebook.cells if cell.cell_type == "markdown"]

    def outputs(self) -> Iterator[tuple[NotebookNode, NotebookNode]]:
        """Every output with its cell."""
        for cell in self.code:
            for output in cell.outputs:
                yield cell, output

    def texts(self) -> Iterator[tuple[NotebookNode, str]]:
        """Every piece of text that an output shows, embedded pictures taken out."""
        for cell, output in self.outputs():
            pieces = [output.get("text", ""), *output.get("data", {}).values()]
            for piece in (piece for piece in pieces if isinstance(piece, str)):
                yield cell, EMBEDDED.sub("", piece)

    def headings(self) -> list[tuple[int, str]]:
        """Level and text of every heading, code blocks left out."""
        text = "\n\n".join(FENCE.sub("", cell.source) for cell in self.prose)
        return [(len(marks), title) for marks, title in HEADING.findall(text)]


Rule = Callable[[Executed], Iterator[str]]
RULES: dict[str, Rule] = {}


def rule(function: Rule) -> Rule:
    """Every chapter is held against every rule."""
    RULES[function.__name__] = function
    return function


def lesson(function: Rule) -> Rule:
    """A rule for chapters alone: an appendix teaches no lesson and sets no exercises."""

    @wraps(function)
    def unless_appendix(chapter: Executed) -> Iterator[str]:
        return iter(()) if chapter.appendix else function(chapter)

    return unless_appendix


def shown(cell: NotebookNode) -> str:
    """The first line of a cell, to find it by."""
    return f"[cell {cell.source.strip().split(chr(10))[0][:60]!r}]"


def tags(cell: NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", []))


# Code


@rule
def plain_python(chapter: Executed) -> Iterator[str]:
    """No magics and no shell commands: a cell also runs as a script."""
    for cell in chapter.code:
        try:
            ast.parse(cell.source)
        except SyntaxError as error:
            yield f"not plain Python: {error.msg} {shown(cell)}"


@rule
def no_trailing_semicolon(chapter: Executed) -> Iterator[str]:
    """`;` hides an output in Jupyter only; `_ =` says it in Python."""
    for cell in chapter.code:
        before = ""
        for token in _tokens(cell.source):
            if before == ";" and token.type in {tokenize.NEWLINE, tokenize.COMMENT, tokenize.NL}:
                yield f"line {token.start[0]} ends with `;`, write `_ = ...` {shown(cell)}"
            before = token.string


def _tokens(source: str) -> list[tokenize.TokenInfo]:
    try:
        return list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (tokenize.TokenError, SyntaxError):
        return []  # plain_python complains


@rule
def no_widgets(chapter: Executed) -> Iterator[str]:
    """What needs scripts from elsewhere, or hides what was printed."""
    for cell in chapter.code:
        for word in ("clear_output", "tqdm.notebook", "tqdm.auto", "ipywidgets", "pip install"):
            if word in cell.source:
                yield f"uses {word} {shown(cell)}"


@rule
def known_tags(chapter: Executed) -> Iterator[str]:
    """A misspelled tag does nothing."""
    for cell in chapter.notebook.cells:
        for tag in sorted(set(tags(cell)) - TAGS):
            yield f"unknown tag {tag!r} {shown(cell)}"


@rule
def finished(chapter: Executed) -> Iterator[str]:
    """Nothing of the skeleton is left."""
    for cell in chapter.notebook.cells:
        for word in re.findall(r"[Ww]rite here\b|\bTODO\b|\bFIXME\b|\bXXX\b", cell.source):
            yield f"unfinished: {word} {shown(cell)}"


# Outputs


@rule
def executed_in_order(chapter: Executed) -> Iterator[str]:
    """A cell without a count is never compared by nbval."""
    counts = [cell.execution_count for cell in chapter.code]
    if counts != list(range(1, len(counts) + 1)):
        yield f"cells were not executed once from top to bottom, counts are {counts}"


@rule
def no_errors(chapter: Executed) -> Iterator[str]:
    for cell, output in chapter.outputs():
        if output.output_type == "error":
            yield f"ends in {output.ename}: {output.evalue} {shown(cell)}"


@rule
def no_stderr(chapter: Executed) -> Iterator[str]:
    for cell, output in chapter.outputs():
        if output.output_type == "stream" and output.name == "stderr":
            yield f"writes to stderr: {output.text[:60]!r} {shown(cell)}"


@rule
def no_stray_values(chapter: Executed) -> Iterator[str]:
    """What the last line of a cell happens to return is no result: print it, or write `_ =`."""
    for cell, output in chapter.outputs():
        if output.output_type == "execute_result" and set(output.data) == {"text/plain"}:
            yield f"shows {output.data['text/plain'][:40]!r} {shown(cell)}"


@rule
def no_object_addresses(chapter: Executed) -> Iterator[str]:
    """They differ from run to run."""
    for cell, text in chapter.texts():
        for address in ADDRESS.findall(text):
            yield f"shows the address {address} {shown(cell)}"


@rule
def no_machine_paths(chapter: Executed) -> Iterator[str]:
    """The book speaks of no particular machine."""
    sources = [(cell, cell.source) for cell in chapter.notebook.cells]
    for cell, text in [*sources, *chapter.texts()]:
        for path in MACHINE.findall(text):
            yield f"names a path of one machine, {path} {shown(cell)}"


@rule
def nothing_foreign(chapter: Executed) -> Iterator[str]:
    """Pictures and scripts come from this repository."""
    sources = [(cell, cell.source) for cell in chapter.prose]
    for cell, text in [*sources, *chapter.texts()]:
        for start in FOREIGN.findall(text):
            yield f"loads from elsewhere: {start} {shown(cell)}"


@rule
def small(chapter: Executed) -> Iterator[str]:
    if chapter.size > SIZE_LIMIT:
        yield f"{chapter.size / 1000:.0f} kB, the limit is {SIZE_LIMIT / 1000:.0f} kB"


@rule
def stripped(chapter: Executed) -> Iterator[str]:
    """Nothing in the file that changes from run to run."""
    expected = {"kernelspec": notebooks.KERNEL, "language_info": {"name": "python"}}
    if chapter.notebook.metadata != expected:
        yield f"metadata {dict(chapter.notebook.metadata)}, run `make notebooks`"
    for cell in chapter.notebook.cells:
        for key in sorted(set(cell.metadata) - {"tags", "mystnb"}):
            yield f"metadata {key!r}, run `make notebooks` {shown(cell)}"


# Words for pictures


@rule
def figures_have_alt_text(chapter: Executed) -> Iterator[str]:
    """In the percent header: mystnb={"image": {"alt": "..."}}."""
    for cell, output in chapter.outputs():
        if any(kind.startswith("image/") for kind in output.get("data", {})):
            alt = _nested(cell.metadata, "mystnb", "image", "alt")
            if not _says_something(alt):
                yield f"its figure has no telling alt text ({alt!r}) {shown(cell)}"


def _nested(metadata: Any, *keys: str) -> Any:
    for key in keys:
        metadata = metadata.get(key, {}) if isinstance(metadata, dict) else {}
    return metadata or None


def _says_something(alt: Any) -> bool:
    return isinstance(alt, str) and len(alt.split()) >= 4


@rule
def html_pictures_have_alt_text(chapter: Executed) -> Iterator[str]:
    """Films and other HTML: alt for img, aria-label for svg, canvas and video."""
    for cell, output in chapter.outputs():
        soup = BeautifulSoup(str(output.get("data", {}).get("text/html", "")), "html.parser")
        for element in soup.find_all(["img", "svg", "canvas", "video"]):
            name = "alt" if element.name == "img" else "aria-label"
            if not _says_something(element.get(name)):
                yield f"<{element.name}> has no telling {name} {shown(cell)}"


@rule
def markdown_pictures_have_alt_text(chapter: Executed) -> Iterator[str]:
    for cell in chapter.prose:
        for alt in re.findall(r"!\[([^\]]*)\]\(", cell.source):
            if not _says_something(alt) and alt != "Open in Colab":
                yield f"a picture has no telling alt text ({alt!r}) {shown(cell)}"


# The shape of a chapter


@rule
def one_setup_cell(chapter: Executed) -> Iterator[str]:
    """The first code cell, the same everywhere; `--refresh` renews it."""
    marked = [cell for cell in chapter.code if "setup" in tags(cell)]
    if marked != chapter.code[:1]:
        yield "the first code cell, and no other, is tagged `setup`"
    for cell in marked:
        if cell.source.strip() != notebooks.setup_cell():
            yield "the set-up cell differs, run `python scripts/notebooks.py --refresh`"
        if "hide-input" not in tags(cell):
            yield "the set-up cell is not tagged `hide-input`"
        if cell.outputs:
            yield "the set-up cell prints something"


@rule
def colab_badge(chapter: Executed) -> Iterator[str]:
    """In the first cell, and every link to Colab leads to this chapter."""
    badge = notebooks.badge(chapter.name)
    if not chapter.prose or badge not in chapter.prose[0].source:
        yield f"the first cell lacks the badge {badge}"
    for cell in chapter.prose:
        for link in re.findall(r"https://colab\.research\.google\.com/[^)\s]+", cell.source):
            if f"({link})" not in badge:
                yield f"leads to {link} {shown(cell)}"


@rule
def headings_are_a_tree(chapter: Executed) -> Iterator[str]:
    """One title, at the top, and no level left out."""
    found = chapter.headings()
    if [level for level, _ in found].count(1) != 1 or found[0][0] != 1:
        yield f"needs one title (`# ...`) and it comes first, found {found[:3]}"
    for (above, _), (level, title) in pairwise(found):
        if level > above + 1:
            yield f"the heading {title!r} jumps from level {above} to {level}"


@rule
@lesson
def sections_are_complete(chapter: Executed) -> Iterator[str]:
    titles = [title.lower() for level, title in chapter.headings() if level == 2]
    for section, pattern in SECTIONS.items():
        if not any(re.search(pattern, title) for title in titles):
            yield f"no section (`## ...`) on {section}"


@rule
@lesson
def equation_table(chapter: Executed) -> Iterator[str]:
    call = re.compile(rf"""\btable\(\s*["']?0?{re.escape(chapter.number.lstrip("0"))}["']?\s*\)""")
    if not any(call.search(cell.source) for cell in chapter.code):
        yield f'no equation table: `equations.table("{chapter.number}")`'


@rule
@lesson
def folded_proof(chapter: Executed) -> Iterator[str]:
    """The key step of a derivation runs in sympy, with its code folded, before the exercises."""
    before = takewhile(lambda cell: "## Exercises" not in cell.source, chapter.notebook.cells)
    folded = (cell for cell in before if {"hide-input", "hide-cell"} & set(tags(cell)))
    if not any(PROOF.search(cell.source) and "assert " in cell.source for cell in folded):
        yield "no folded cell proves a step of the derivation with sympy and asserts it"


@rule
@lesson
def exercises_are_complete(chapter: Executed) -> Iterator[str]:
    """Stars, a hint, and a folded solution that is checked; three at least, easy to hard."""
    found = list(_exercises(chapter))
    if len(found) < 3:
        yield f"{len(found)} exercises (`### ★ ...`), three at least"
    for title, cells in found:
        if not re.search(r"(?<!★)★{1,3}(?!★)", title):
            yield f"exercise {title!r} has no stars, or too many"
        if not any("hint" in cell.source.lower() for cell in cells if cell.cell_type == "markdown"):
            yield f"exercise {title!r} has no hint"
        solutions = [cell for cell in cells if "solution" in tags(cell)]
        if not solutions or not re.search(r"\bcheck\(\s*[\"']", solutions[-1].source):
            yield f"exercise {title!r} has no cell tagged `solution` with `exercises.check(...)`"


@rule
def solutions_are_folded(chapter: Executed) -> Iterator[str]:
    for cell in chapter.code:
        if "solution" in tags(cell) and "hide-cell" not in tags(cell):
            yield f"a solution is not tagged `hide-cell` {shown(cell)}"


@rule
def checks_belong_to_the_chapter(chapter: Executed) -> Iterator[str]:
    for cell in chapter.code:
        for key in re.findall(r"\bexercises\.check\(\s*[\"']([^\"']+)", cell.source):
            if key.split(".")[0] != chapter.number.lstrip("0"):
                yield f"checks exercise {key} {shown(cell)}"


@rule
@lesson
def three_grades(chapter: Executed) -> Iterator[str]:
    """A derivation, some code, a project."""
    grades = {len(re.findall("★", title)) for title, _ in _exercises(chapter)}
    for missing in sorted({1, 2, 3} - grades):
        yield f"no exercise with {'★' * missing}"


@rule
def skeletons_are_checked(chapter: Executed) -> Iterator[str]:
    """Each exercise has an empty cell that ends with the check, commented out."""
    checked = set(re.findall(r"(?m)^exercises\.check\(\s*[\"']([^\"']+)", _solutions(chapter)))
    for key in sorted(checked ^ set(skeletons(chapter.notebook))):
        yield f'exercise {key} has no cell with `...` that ends in `# exercises.check("{key}", …)`'


def skeletons(notebook: NotebookNode) -> dict[str, str]:
    """The empty cells of the exercises, by key."""
    found = {}
    for cell in notebook.cells:
        last = cell.source.rstrip().rsplit("\n", 1)[-1]
        check = re.fullmatch(r'# exercises\.check\("([^"]+)", \w+\)', last)
        if check and cell.cell_type == "code" and "..." in cell.source:
            found[check[1]] = cell.source
    return found


def _solutions(chapter: Executed) -> str:
    return "\n".join(cell.source for cell in chapter.code if "solution" in tags(cell))


def _exercises(chapter: Executed) -> Iterator[tuple[str, list[NotebookNode]]]:
    """Title and cells of each exercise: the headings of level 3 under "Exercises"."""
    inside, title, cells = False, "", list[NotebookNode]()
    for cell in chapter.notebook.cells:
        for piece in _pieces(cell):
            heading = HEADING.match(piece.source) if piece.cell_type == "markdown" else None
            if heading and len(heading[1]) <= 3:
                if title:
                    yield title, cells
                inside = "exercises" in heading[2].lower() if len(heading[1]) == 2 else inside
                title, cells = (heading[2], []) if inside and len(heading[1]) == 3 else ("", [])
            cells.append(piece)
    if title:
        yield title, cells


def _pieces(cell: NotebookNode) -> list[NotebookNode]:
    """A cell of prose cut before each of its headings."""
    if cell.cell_type != "markdown":
        return [cell]
    parts = [part for part in re.split(r"(?m)^(?=#{1,6} )", cell.source) if part.strip()]
    return [NotebookNode({**cell, "source": part}) for part in parts]
