"""The reference of the library, made of its docstrings.

A page in book/api/ asks for one module; `sphinx.ext.autodoc` reads it. Here stands what is our own:
what is implemented says which equations, private functions among them are shown too, bars in
formulas are no markup, and the overview tells each module's first sentence.
"""

from __future__ import annotations

import ast
import inspect
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the library beside this book

from ddpmlib import equations

PAGES = equations.PACKAGE.parent / "book" / "api"
LITERAL = re.compile(r"(``.*?``)", re.S)


def plain_bars(
    app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    """p(x_t|x_0) and \\|a − b\\| are formulas, and no substitutions of reStructuredText."""
    pieces = LITERAL.split("\n".join(lines))
    pieces[::2] = [piece.replace("|", r"\|") for piece in pieces[::2]]
    lines[:] = "".join(pieces).split("\n")


def add_equations(
    app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    """A last field with the numbers; `equation_links` turns them into links."""
    tags = marks(thing)
    if tags:
        while lines and not lines[-1].strip():
            lines.pop()
        follows_fields = any(re.match(r":[a-z]+", line) for line in lines)
        lines += [] if follows_fields else [""]
        lines += [f":Equations: {', '.join(f'({tag})' for tag in tags)}", ""]


def keep_marked(
    app: Sphinx, what: str, name: str, thing: object, skip: bool, options: object
) -> bool | None:
    """What implements an equation is never left out, private or not, but where it is asked to be.

    A package leaves out what its modules describe: described twice, its source would lead astray.
    """
    if name in (getattr(options, "exclude_members", None) or ()):
        return None
    return False if marks(thing) and inspect.isroutine(thing) else None


def marks(thing: object) -> tuple[str, ...]:
    """The numbers on a function, or on the function behind a property."""
    return getattr(getattr(thing, "fget", thing), "__equations__", ())


def forget_sources(app: Sphinx) -> None:
    """viewcode keeps the page of a module whose file is older, even if its anchors have changed."""
    shutil.rmtree(Path(app.outdir) / "_modules", ignore_errors=True)


class Modules(SphinxDirective):
    """``{modules}``: every module of the table of contents with its first sentence."""

    has_content = False

    def run(self) -> list[nodes.Node]:
        pages = self._pages()
        marked: dict[str, set[str]] = {module: set() for module in pages.values()}
        for tag, names in equations.implementations().items():
            for name in names:
                marked[owner(name, marked)].add(tag.split(".")[0])
        lines = []
        for page, module in pages.items():
            said = first_sentence(module) + self._chapters(marked[module])
            lines += [f"[`{module}`]({page}.md)", f": {said}", ""]
        holder = nodes.container()
        self.state.nested_parse(StringList(lines, source=self.env.docname), 0, holder)
        return holder.children

    def _pages(self) -> dict[str, str]:
        """Page → module, in the order of the table of contents."""
        toc = Path(self.env.srcdir) / "_toc.yml"
        self.env.note_dependency(str(toc))
        names = re.findall(r"file: book/api/(\w+)", toc.read_text("utf-8"))
        texts = {name: (PAGES / f"{name}.md").read_text("utf-8") for name in names}
        asked = {name: re.search(r"automodule:: (\S+)", text) for name, text in texts.items()}
        return {name: found[1] for name, found in asked.items() if found}

    def _chapters(self, numbers: set[str]) -> str:
        links = []
        stems = (number.zfill(2) if number.isdigit() else number for number in numbers)
        for stem in sorted(stems):
            path = next(name for name in self.env.found_docs if f"/{stem}_" in name)
            links.append(f"[{stem}](/{path})")
        many = "chapters" if len(links) > 1 else "chapter"
        return f" *Equations of {many} {', '.join(links)}.*" if links else ""


def owner(name: str, modules: Iterable[str]) -> str:
    """The module that a function belongs to; ``ddpmlib.models.unet`` comes before its package."""
    return max((one for one in modules if name.startswith(one + ".")), key=len)


def first_sentence(module: str) -> str:
    """The first line of a module's docstring, as Markdown; nothing is imported for it."""
    path = equations.PACKAGE.parent / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    said = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    line = said.split("\n", 1)[0].replace("``", "`")
    return re.sub(r":\w+:(`[^`]*`)", r"\1", line)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx; the numbers come behind the fields that napoleon makes."""
    app.add_css_file("api_reference.css")
    app.connect("builder-inited", forget_sources)
    app.connect("autodoc-process-docstring", plain_bars, priority=400)
    app.connect("autodoc-process-docstring", add_equations, priority=600)
    app.connect("autodoc-skip-member", keep_marked)
    app.add_directive("modules", Modules)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
