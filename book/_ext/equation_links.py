"""Links between numbered equations, functions and tests, and from each number to what it names.

What stands where is read from the sources by `ddpmlib.equations`. Behind a displayed formula with
a number come small links: to the function in the API reference, to its source in the book, and to
the tests on the repository. In running text "(1.4)" becomes a link to the formula, "Fig. 1.4" one
to the figure whose caption begins so, and a name such as `ddpmlib.process.ddpm.DDPM` or a test's
id, where it stands as code, a link to what it names. A number twice, an equation without a test, or
a number that does not exist, is a warning: the build fails.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the library beside this book

from ddpmlib import equations

ROOT = equations.PACKAGE.parent
FIGURE = re.compile(rf"\bFig\.\s({equations.NUMBER.pattern})")
# Text in these is no running text: a number in it stays as it is.
CLOSED = (
    nodes.literal,
    nodes.literal_block,
    nodes.math,
    nodes.math_block,
    nodes.raw,
    nodes.reference,
    nodes.title,
)

logger = logging.getLogger(__name__)


def anchor(tag: str) -> str:
    """The id of a formula in its page: ``eq-1-4``."""
    return "eq-" + tag.replace(".", "-")


@cache
def _marks() -> tuple[dict[str, list[str]], dict[str, list[str]], dict[str, tuple[str, int]]]:
    """Functions, tests and places; all sources are read for them, once."""
    return equations.implementations(), equations.tests(ROOT), equations.places(ROOT)


# Reading: which number stands on which page


def collect(app: Sphinx, doctree: nodes.document) -> None:
    """Give each numbered formula its id, and remember the numbers of this page."""
    found = []
    for block in doctree.findall(nodes.math_block):
        tags = equations.TAG.findall(block.astext())
        block["ids"][:0] = [anchor(tag) for tag in tags]
        found += tags
    _tags(app.env)[app.env.docname] = found
    _figures(app.env)[app.env.docname] = _captions(doctree)


def _captions(doctree: nodes.document) -> list[str]:
    """The numbers of the captions of a page, whose paragraphs get an id and a class."""
    found = []
    for caption in doctree.findall(nodes.paragraph):
        number, bold = FIGURE.match(caption.astext()), caption.next_node(nodes.strong)
        if number and bold and FIGURE.match(bold.astext()):
            caption["ids"].append("fig-" + number[1].replace(".", "-"))
            caption["classes"].append("figure-caption")
            found.append(number[1])
    return found


def purge(app: Sphinx, env: BuildEnvironment, docname: str) -> None:
    """Forget a page that is read anew."""
    _tags(env).pop(docname, None)
    _figures(env).pop(docname, None)


def merge(app: Sphinx, env: BuildEnvironment, docnames: list[str], other: Any) -> None:
    """Take over what a process beside this one has read."""
    for own, theirs in ((_tags(env), _tags(other)), (_figures(env), _figures(other))):
        own.update({name: theirs[name] for name in docnames if name in theirs})


def _tags(env: Any) -> dict[str, list[str]]:
    if not hasattr(env, "equation_tags"):
        env.equation_tags = {}
    return env.equation_tags


def _figures(env: Any) -> dict[str, list[str]]:
    if not hasattr(env, "figure_numbers"):
        env.figure_numbers = {}
    return env.figure_numbers


def check(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn about numbers that stand twice, or that nothing in the library or the tests names."""
    pages = _pages(_tags(env), "equation (%s) stands twice")
    _pages(_figures(env), "Fig. %s stands twice")
    functions, tests, _ = _marks()
    for tag, docnames in pages.items():
        if tag not in tests:
            logger.warning("equation (%s) has no test", tag, location=docnames[0])
    for tag in [tag for tag in {**functions, **tests} if tag not in pages]:
        names = functions.get(tag, []) + tests.get(tag, [])
        logger.warning("%s: there is no equation (%s)", ", ".join(names), tag)


def _pages(numbers: dict[str, list[str]], twice: str) -> dict[str, list[str]]:
    """Number → the pages that hold it; a warning if there are two."""
    pages: dict[str, list[str]] = {}
    for docname, found in sorted(numbers.items()):
        for number in found:
            pages.setdefault(number, []).append(docname)
    for number, docnames in pages.items():
        if len(docnames) > 1:
            logger.warning(twice, number, location=docnames[1])
    return pages


# Writing


def link(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Add all links to a page that is about to be written."""
    if app.builder.format == "html":
        page = Page(app, docname)
        for block in list(doctree.findall(nodes.math_block)):
            page.add_row(block)
        for text in [one for one in doctree.findall(nodes.Text) if _runs(one)]:
            page.link_numbers(text)
        for text in [one for one in doctree.findall(nodes.Text) if _runs(one)]:
            page.link_figures(text)
        for literal in [one for one in doctree.findall(nodes.literal) if _runs(one)]:
            page.link_name(literal)


def _runs(node: nodes.Node) -> bool:
    """Whether a piece of text is running text, not inside of code, a formula or another link."""
    parent = node.parent
    while parent is not None:
        if isinstance(parent, CLOSED):
            return False
        parent = parent.parent
    return True


class Page:
    """One page, and the addresses of everything as they read from there."""

    def __init__(self, app: Sphinx, docname: str) -> None:
        self.app, self.docname = app, docname
        self.objects = app.env.get_domain("py").objects  # type: ignore[attr-defined]
        self.home = {tag: name for name, tags in _tags(app.env).items() for tag in tags}
        self.figures = {n: name for name, found in _figures(app.env).items() for n in found}
        self.functions, self.tests, self.places = _marks()

    def address(self, docname: str, fragment: str) -> str:
        """Where an anchor of the book lies, seen from this page."""
        if docname == self.docname:
            return f"#{fragment}"
        return f"{self.app.builder.get_relative_uri(self.docname, docname)}#{fragment}"

    def api(self, name: str) -> str | None:
        """Where a name of the library is described; None for any other name."""
        entry = self.objects.get(name) or self.objects.get(f"{equations.PACKAGE.name}.{name}")
        return None if entry is None else self.address(entry.docname, entry.node_id)

    def listing(self, name: str) -> str:
        """Where the source of a marked function stands in the book, by sphinx.ext.viewcode."""
        module = self.places[name][0].removesuffix(".py").removesuffix("/__init__")
        outermost = name.removeprefix(module.replace("/", ".") + ".").split(".")[0]
        return self.address(f"_modules/{module}", outermost)  # not each property has a place

    def source(self, name: str) -> str:
        """Where a marked function or test stands on the repository, line and all."""
        options = self.app.config.html_theme_options
        path, line = self.places[name]
        branch = options["repository_branch"]
        return f"{options['repository_url'].rstrip('/')}/blob/{branch}/{path}#L{line}"

    def add_row(self, block: nodes.math_block) -> None:
        """The small links below a formula, a row for each of its numbers."""
        index = block.parent.index(block) + 1
        for tag in reversed(equations.TAG.findall(block.astext())):
            links = [*self._functions(tag), *self._tests(tag)]
            if links:
                row = f'<div class="equation-links">{" ".join(links)}</div>'
                block.parent.insert(index, nodes.raw("", row, format="html"))

    def _functions(self, tag: str) -> Iterator[str]:
        for name in self.functions.get(tag, []):
            short = _short(name)
            said = f"{short}: the code of equation {tag}, {name}"
            address = self.api(name)
            if address is None:
                logger.warning("%s has no entry in the reference", name, location=self.docname)
            else:
                yield _a(address, f"<code>{escape(short)}</code>", said)
            yield _a(self.listing(name), "source", f"source of {name}")

    def _tests(self, tag: str) -> Iterator[str]:
        for number, name in enumerate(self.tests.get(tag, []), 1):
            shown = "test" if number == 1 else str(number)
            said = f"test {number} of equation {tag}: {_in_words(name)}"
            yield _a(self.source(name), shown, said)

    def link_numbers(self, text: nodes.Text) -> None:
        """Turn "(1.4)" and each number of "(1.4, 1.5)" in a text into links."""
        said, new, end = text.astext(), list[nodes.Node](), 0
        for group in equations.REFERENCE.finditer(said):
            alone = equations.NUMBER.fullmatch(group[1])
            for number in [alone] if alone else equations.NUMBER.finditer(group[1]):
                start, stop = (number.start() + group.start(1), number.end() + group.start(1))
                start, stop = (start - 1, stop + 1) if alone else (start, stop)
                new += [nodes.Text(said[end:start]), self._number(number[0], said[start:stop])]
                end = stop
        if new:
            text.parent.replace(text, [*new, nodes.Text(said[end:])])

    def _number(self, tag: str, shown: str) -> nodes.Node:
        if tag not in self.home:
            logger.warning("there is no equation (%s)", tag, location=self.docname)
            return nodes.Text(shown)
        address = self.address(self.home[tag], anchor(tag))
        classes = ["equation-reference"]
        return nodes.reference(shown, shown, internal=True, refuri=address, classes=classes)

    def link_figures(self, text: nodes.Text) -> None:
        """Turn "Fig. 1.4" into a link, but not where the caption itself begins."""
        said, new, end = text.astext(), list[nodes.Node](), 0
        if isinstance(text.parent, nodes.strong):
            return
        for found in FIGURE.finditer(said):
            new += [nodes.Text(said[end : found.start()]), self._figure(found[1], found[0])]
            end = found.end()
        if new:
            text.parent.replace(text, [*new, nodes.Text(said[end:])])

    def _figure(self, number: str, shown: str) -> nodes.Node:
        if number not in self.figures:
            logger.warning("there is no Fig. %s", number, location=self.docname)
            return nodes.Text(shown)
        address = self.address(self.figures[number], "fig-" + number.replace(".", "-"))
        return nodes.reference(shown, shown, internal=True, refuri=address)

    def link_name(self, literal: nodes.literal) -> None:
        """Turn the name of a function or of a test, set as code, into a link."""
        name = literal.astext()
        address = self.source(name) if "::" in name and name in self.places else self.api(name)
        if address is not None:
            reference = nodes.reference("", "", refuri=address, internal="::" not in name)
            literal.replace_self(reference)
            reference += literal


def _short(name: str) -> str:
    """``DDPM.q_sample`` of ``ddpmlib.process.ddpm.DDPM.q_sample``: what a reader would call it."""
    *rest, last = [part for part in name.split(".") if part not in ("forward", "__call__")]
    return f"{rest[-1]}.{last}" if rest[-1][:1].isupper() else last


def _in_words(name: str) -> str:
    return name.split("::")[-1].removeprefix("test_").replace("_", " ")


def _a(address: str, shown: str, said: str) -> str:
    said = escape(said)
    return f'<a href="{escape(address)}" title="{said}" aria-label="{said}">{shown}</a>'


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_css_file("equation_links.css")
    app.connect("doctree-read", collect)
    app.connect("env-purge-doc", purge)
    app.connect("env-merge-info", merge)
    app.connect("env-check-consistency", check)
    app.connect("doctree-resolved", link)
    return {"parallel_read_safe": True, "parallel_write_safe": True, "env_version": 2}
