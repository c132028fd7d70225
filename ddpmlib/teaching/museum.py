"""Real mistakes of diffusion code, each as the line that makes it, and a library that makes it.

>>> from ddpmlib import museum
>>> wrong = museum.library("guidance_sign")  # ddpmlib once more, with one line changed
>>> wrong.guidance.ClassifierFree is not museum.library().guidance.ClassifierFree
True

The library that the reader has imported stays as it is. The page "A museum of bugs" draws its
pictures with such copies, and ``tests/test_museum.py`` puts every mistake in place and demands that
the tests named here fail with it, and pass without.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pkgutil import walk_packages
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any

from ddpmlib import equations
from ddpmlib.teaching.bugs import BUGS, Edit

if TYPE_CHECKING:
    from IPython.display import Markdown


PACKAGE = __name__.split(".")[0]
TESTS_ONLINE = "https://github.com/ddpm-book/ddpm-book/blob/main"


# ---- a second library --------------------------------------------------------------------------


class _Editing(SourceFileLoader):
    """Loads one module with its edits; the file and its compiled twin stay as they are."""

    def __init__(self, name: str, path: str, edits: Sequence[Edit]) -> None:
        super().__init__(name, path)
        self.edits = edits

    def get_code(self, fullname: str) -> CodeType:
        source = self.get_source(fullname) or ""
        for edit in self.edits:
            source = edit(source)
        return compile(source, self.path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    def __init__(self, edits: Sequence[Edit]) -> None:
        self.edits = edits

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        edits = [edit for edit in self.edits if f"{PACKAGE}.{edit.module}" == name]
        spec = PathFinder.find_spec(name, path) if edits else None
        if spec is not None and spec.origin is not None:
            spec.loader = _Editing(name, spec.origin, edits)
        return spec


@contextmanager
def injected(name: str | None) -> Iterator[ModuleType]:
    """Within it ``import ddpmlib`` means a fresh copy with the bug; afterwards all is as before.

    Args:
        name: one of :data:`BUGS`; None for a copy without any.

    Raises:
        ValueError: for another name, or if the lines to be changed are not there exactly once.
    """
    if name is not None and name not in BUGS:
        raise ValueError(f"the museum has no {name!r}, but {', '.join(BUGS)}")
    kept = _taken_out()
    finder = _Finder(BUGS[name].edits if name else ())
    sys.meta_path.insert(0, finder)
    try:
        package = importlib.import_module(PACKAGE)
        for module in walk_packages(package.__path__, f"{PACKAGE}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
        yield package
    finally:
        sys.meta_path.remove(finder)
        _taken_out()
        sys.modules.update(kept)


def _taken_out() -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name.split(".")[0] == PACKAGE]
    return {name: sys.modules.pop(name) for name in names}


def library(name: str | None = None) -> ModuleType:
    """A copy of this library with the bug, all its modules imported; see :func:`injected`.

    Nothing is shared with the library that made it: take networks, processes and samplers from
    the same copy.
    """
    with injected(name) as package:
        return package


# ---- what stands beside a picture --------------------------------------------------------------


def plaque(name: str) -> Markdown:
    """Right and wrong lines, the tests that fail, and those that notice nothing, for a notebook."""
    from IPython.display import Markdown

    bug = BUGS[name]
    lines = ["```python"]
    for edit in bug.edits:
        right, wrong = _lines(edit)
        lines += [f"# right, in {PACKAGE}/{_file_of(edit)}", right, "# wrong", wrong]
    lines += ["```", ""]
    lines += [f"- ✗ caught by {_link(test)}" for test in bug.caught_by]
    lines += [f"- ✓ passes all the same: {_link(test)}" for test in bug.passed_by]
    return Markdown("\n".join(lines))


def _lines(edit: Edit) -> tuple[str, str]:
    """The whole lines of the module that the edit touches, before and after."""
    source = (equations.PACKAGE / _file_of(edit)).read_text("utf-8")
    first = len(edit.right) - len(edit.right.lstrip("\n"))  # the line break before it is no line
    at = source.index(edit.right)
    start = source.rfind("\n", 0, at + first) + 1
    end = source.index("\n", at + len(edit.right))
    grown = len(edit.wrong) - len(edit.right)
    return source[start:end].strip(), edit(source)[start : end + grown].strip()


def _file_of(edit: Edit) -> str:
    return edit.module.replace(".", "/") + ".py"


def _link(test: str) -> str:
    path, _, name = test.partition("::")
    return f"[`{path}::{name.partition('[')[0]}`]({TESTS_ONLINE}/{path})"
