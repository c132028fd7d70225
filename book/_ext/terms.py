"""The words of the glossary, wherever they occur.

In the chapters the first mention of each word becomes a link to `book/glossary.md` and an entry of
the index, and so does every heading that has the word in it; the chapters' texts need no mark-up.
Prose pages write ``{term}`score` `` where they want a link. Every such link carries the first
sentence of the definition as its tooltip: no script, and nothing to load.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

PAGE = "book/glossary"
# Where an everyday word has another meaning than that of its entry.
ELSEWHERE = {
    "notebooks/02_reverse": {"Prior"},  # of Bayes' rule
    "notebooks/04_elbo": {"Floor"},  # of a variance
    "notebooks/08_metrics": {"Score", "Kernel", "Prediction"},  # points; inner product; of a bias
    "notebooks/09_scoreboard": {"Score"},
}
BLOCK = re.compile(r"(?ms)^```\{glossary\}\n(.*?)^```$")


@dataclass(frozen=True)
class Term:
    """One entry: its names, the first of which stands in the index, and what it means."""

    names: tuple[str, ...]
    definition: str

    @cached_property
    def first_sentence(self) -> str:
        """For the tooltip, without mark-up."""
        plain = re.sub(r"\[[^]]*\]\([^)]*\)|`", "", self.definition)
        return re.split(r"(?<=\.)\s", plain.strip(), maxsplit=1)[0]


class Glossary:
    """All terms, and where they occur in a text.

    Args:
        markdown: a page with one glossary block: names at the margin, definitions indented, a blank
            line between entries.
    """

    def __init__(self, markdown: str) -> None:
        block = BLOCK.search(markdown)
        entries = block[1].strip().split("\n\n") if block else []
        self.terms = [_term(entry) for entry in entries]
        self._of = {name: term for term in self.terms for name in term.names}
        longest_first = sorted(self._of, key=len, reverse=True)
        self._pattern = re.compile(
            rf"(?<![\w-])(?:{'|'.join(map(_pattern, longest_first))})s?(?!\w)"
            if entries
            else r"(?!)"
        )

    def mentions(self, text: str) -> Iterator[tuple[re.Match[str], Term]]:
        """Where terms stand in the text: longest names first, plurals too."""
        for found in self._pattern.finditer(text):
            yield found, self._of[next(n for n in self._names(found[0]) if n in self._of)]

    def _names(self, shown: str) -> Iterator[str]:
        plain = " ".join(shown.split())
        for word in (plain, plain.removesuffix("s")):
            yield word
            yield word[0].swapcase() + word[1:]


def _term(entry: str) -> Term:
    names = re.findall(r"(?m)^\S.*$", entry)
    definition = " ".join(re.findall(r"(?m)^\s+(\S.*)$", entry))
    return Term(tuple(names), definition)


def _pattern(name: str) -> str:
    """The name with a small or a large first letter; the rest is exact, so FiLM is no film.

    A line of the source may end between two words.
    """
    rest = r"\s+".join(re.escape(part) for part in name[1:].split(" "))
    return f"[{name[0].lower()}{name[0].upper()}]{rest}"


def glossary(app: Sphinx) -> Glossary:
    """The glossary of this book."""
    return Glossary((Path(app.srcdir) / f"{PAGE}.md").read_text("utf-8"))


class Mentions(SphinxTransform):
    """Link first mentions in a chapter, and enter them and the headings in the index."""

    default_priority = 690  # before the index is collected

    def apply(self, **options: Any) -> None:
        if not self.env.docname.startswith("notebooks/"):
            return
        words = glossary(self.app)
        self.place = _place(self.env.docname)
        other = ELSEWHERE.get(self.env.docname, set())
        self.seen = {term for term in words.terms if term.names[0] in other}
        entered = set(self._headings(words))
        for text in list(self.document.findall(nodes.Text)):
            if isinstance(text.parent, nodes.paragraph):
                self._link(text, words, entered)

    def _headings(self, words: Glossary) -> Iterator[tuple[Term, nodes.section]]:
        for section in list(self.document.findall(nodes.section)):
            found = {term for _, term in words.mentions(section[0].astext())} - self.seen
            for term in sorted(found, key=lambda term: term.names):
                section.insert(1, self._entry(term, section["ids"][0]))
                yield term, section

    def _link(
        self, text: nodes.Text, words: Glossary, entered: set[tuple[Term, nodes.section]]
    ) -> None:
        """Cut the text at its first mentions."""
        pieces, end = list[nodes.Node](), 0
        for found, term in words.mentions(str(text)):
            if term in self.seen:
                continue
            self.seen.add(term)
            pieces.append(nodes.Text(text[end : found.start()]))
            if not any((term, above) in entered for above in _sections(text)):
                pieces += self._mark(term)
            pieces.append(self._reference(found[0], term))
            end = found.end()
        if pieces:
            text.parent.replace(text, [*pieces, nodes.Text(text[end:])])

    def _mark(self, term: Term) -> list[nodes.Node]:
        name = f"index-{self.env.new_serialno('index')}"
        target = nodes.target("", "", ids=[name])
        self.document.note_explicit_target(target)
        return [self._entry(term, name), target]

    def _entry(self, term: Term, where: str) -> addnodes.index:
        return addnodes.index(
            entries=[("single", f"{term.names[0]}; {self.place}", where, "", None)]
        )

    def _reference(self, shown: str, term: Term) -> addnodes.pending_xref:
        inner = nodes.inline(shown, shown, classes=["xref", "std", "std-term"])
        return addnodes.pending_xref(
            shown,
            inner,
            refdomain="std",
            reftype="term",
            reftarget=term.names[0],
            refdoc=self.env.docname,
            refexplicit=True,
            refwarn=True,
        )


def _sections(node: nodes.Node) -> Iterator[nodes.section]:
    """The sections around a node."""
    while node := node.parent:
        if isinstance(node, nodes.section):
            yield node


def _place(docname: str) -> str:
    number = docname.split("/")[-1].split("_")[0]
    return f"{'chapter' if number.isdigit() else 'appendix'} {number}"


def tooltips(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Give every link to a term the first sentence of its definition."""
    sentence = {
        name.lower(): term.first_sentence for term in glossary(app).terms for name in term.names
    }
    ids = {
        label: sentence[name.lower()]
        for (kind, name), (_, label) in app.env.domains["std"].objects.items()  # type: ignore[attr-defined]
        if kind == "term" and name.lower() in sentence
    }
    for link in doctree.findall(nodes.reference):
        page, _, label = link.get("refuri", "").partition("#")
        if page.endswith("glossary.html") and label in ids:
            link["reftitle"] = ids[label]
            link["classes"].append("term")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_transform(Mentions)
    app.connect("doctree-resolved", tooltips)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
