"""Which function implements which numbered equation of the book, and which test pins it.

A function says so with a decorator, a test with a marker, both with the number that stands in the
chapter's ``\\tag{1.4}``::

    @equation("1.4")
    def q_sample(self, x0, t, eps): ...

    @pytest.mark.equation("1.4")
    def test_kernel_has_the_right_moments(): ...

The lists below are read from the source text (``ast``), so nothing has to be imported or run, and
the order of a table never depends on the order of imports. Only the standard library is needed.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from IPython.display import Markdown

PACKAGE = Path(__file__).resolve().parent
NUMBER = re.compile(r"[1-9A-Z]\d*\.[1-9]\d*[a-z]?")
TAG = re.compile(r"\\tag\*?\{([^}]*)\}")
# "(1.4)", "(1.4, 1.5)" and "(1.4) and (1.5)", but neither f(1.4) nor a decimal in a formula.
REFERENCE = re.compile(rf"(?<![\w)\]}}])\(({NUMBER.pattern}(?:(?:, | and |–){NUMBER.pattern})*)\)")
HOLD_STATEMENTS = (ast.stmt, ast.excepthandler, ast.match_case)

F = TypeVar("F", bound=Callable[..., Any])


def equation(*tags: str) -> Callable[[F], F]:
    """Mark a function or class as the implementation of the numbered equations ``tags``.

    The function comes back unchanged, with ``__equations__`` set to the numbers. Under a
    ``@property`` the mark stands below, next to the ``def``.

    Raises:
        ValueError: a tag does not read ``chapter.number``, such as "1.4".
    """
    if not tags:
        raise ValueError('equation() needs at least one number, as in @equation("1.4")')
    for tag in tags:
        if not isinstance(tag, str) or not NUMBER.fullmatch(tag):
            raise ValueError(f'equation number {tag!r} should read chapter.number, such as "1.4"')

    def mark(function: F) -> F:
        if isinstance(function, property | staticmethod | classmethod):
            name = type(function).__name__
            raise ValueError(f"put @equation below @{name}, directly above the def")
        function.__equations__ = tags  # type: ignore[attr-defined]
        return function

    return mark


def implementations(package: Path | None = None) -> dict[str, list[str]]:
    """Equation number → sorted dotted names of what is marked ``@equation`` in the library.

    ``package`` is the package folder to read, ``ddpmlib`` itself by default. Keys are in the
    order of the book.
    """
    package = PACKAGE if package is None else Path(package)
    found: dict[str, list[str]] = {}
    for path in _sources(package):
        for names, _, call in _marks(path, "equation"):
            for tag in _tags(call, path):
                found.setdefault(tag, []).append(_dotted(path, package, names))
    return _in_order(found)


def tests(root: Path | None = None) -> dict[str, list[str]]:
    """Equation number → sorted ids of the tests marked ``@pytest.mark.equation``.

    ``root`` is the repository; by default the one that holds this package. An installed package
    has no tests beside it: the answer is then empty. Ids read ``tests/test_process.py::test_x``.
    """
    root = _repository() if root is None else Path(root)
    if root is None or not (root / "tests").is_dir():
        return {}
    found: dict[str, list[str]] = {}
    for path in _sources(root / "tests"):
        for names, _, call in _marks(path, "mark.equation"):
            for tag in _tags(call, path):
                found.setdefault(tag, []).append(_test_id(path, root, names))
    return _in_order(found)


def places(root: Path | None = None) -> dict[str, tuple[str, int]]:
    """Every marked function and test, named as above → its file in the repository and its line.

    ``root`` is as in :func:`tests`; without a repository there are no places.
    """
    root = _repository() if root is None else Path(root)
    if root is None:
        return {}
    found = {}
    for path in _sources(root / PACKAGE.name):
        for names, line, _ in _marks(path, "equation"):
            found[_dotted(path, root / PACKAGE.name, names)] = path, line
    for path in _sources(root / "tests"):
        for names, line, _ in _marks(path, "mark.equation"):
            found[_test_id(path, root, names)] = path, line
    return {name: (path.relative_to(root).as_posix(), line) for name, (path, line) in found.items()}


def references(text: str) -> list[str]:
    """Every number that a running text refers to, in order: "(1.4)" and "(1.5, 1.6)"."""
    groups = REFERENCE.findall(text)
    return [number for group in groups for number in NUMBER.findall(group)]


def table(chapter: str | int, root: Path | None = None) -> Markdown:
    """The table that closes a chapter: equation → function → test, as Markdown.

    ``chapter`` is the number, as ``1``, ``"1"`` or ``"01"``; ``root`` is as in :func:`tests`.

    Raises:
        ValueError: no equation of that chapter is marked anywhere.
    """
    from IPython.display import Markdown

    number = str(chapter).lstrip("0")
    package = None if root is None else Path(root) / PACKAGE.name
    functions, pinned = implementations(package), tests(root)
    numbers = [tag for tag in sorted({*functions, *pinned}, key=order) if _chapter(tag) == number]
    if not numbers:
        raise ValueError(f"no function or test is marked with an equation of chapter {number!r}")
    rows = ["| equation | function | test |", "|:--|:--|:--|"]
    for tag in numbers:
        rows.append(f"| ({tag}) | {_cell(functions.get(tag))} | {_cell(pinned.get(tag))} |")
    return Markdown("\n".join(rows))


def order(tag: str) -> tuple[bool, int, str, int, str]:
    """Sorting key: 1.2 before 1.10, chapters 1, 2, … before appendices A, B, …"""
    chapter, number = tag.split(".")
    digits = number.rstrip("abcdefghijklmnopqrstuvwxyz")
    lettered = not chapter.isdigit()
    return lettered, 0 if lettered else int(chapter), chapter, int(digits), number[len(digits) :]


def _chapter(tag: str) -> str:
    return tag.split(".")[0]


def _cell(names: list[str] | None) -> str:
    return "<br>".join(f"`{name}`" for name in names) if names else "—"


def _in_order(found: dict[str, list[str]]) -> dict[str, list[str]]:
    return {tag: sorted(set(found[tag])) for tag in sorted(found, key=order)}


def _sources(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*.py")) if "__pycache__" not in path.parts]


def _repository() -> Path | None:
    """The checkout around this package; None when the package is installed without one."""
    root = PACKAGE.parent
    return root if (root / "pyproject.toml").is_file() and (root / "tests").is_dir() else None


def _dotted(path: Path, package: Path, names: list[str]) -> str:
    module = path.relative_to(package.parent).with_suffix("").parts
    return ".".join([*(part for part in module if part != "__init__"), *names])


def _test_id(path: Path, root: Path, names: list[str]) -> str:
    return "::".join([path.relative_to(root).as_posix(), *names])


def _marks(path: Path, ending: str) -> Iterator[tuple[list[str], int, ast.Call]]:
    """Every decorator call whose dotted name ends so, with names and line of what it decorates."""
    text = path.read_text("utf-8")
    if "equation(" not in text:
        return  # parsing takes long, and most files have no mark
    pending: list[tuple[ast.AST, list[str]]] = [(ast.parse(text), [])]
    while pending:
        node, names = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names = [*names, node.name]
            for call in node.decorator_list:
                if isinstance(call, ast.Call) and _ends(ast.unparse(call.func), ending):
                    yield names, node.lineno, call
        inside = ast.iter_child_nodes(node)
        pending += [(child, names) for child in inside if isinstance(child, HOLD_STATEMENTS)]


def _ends(dotted: str, ending: str) -> bool:
    return dotted == ending or dotted.endswith("." + ending)


def _tags(call: ast.Call, path: Path) -> list[str]:
    """The literal numbers in ``equation("1.4", "1.5")``; anything else cannot be read from text."""
    where = f"{path.name}, line {call.lineno}"
    if call.keywords or not call.args:
        raise ValueError(f'{where}: write the equation numbers as strings: equation("1.4")')
    tags = []
    for argument in call.args:
        value = argument.value if isinstance(argument, ast.Constant) else None
        if not isinstance(value, str) or not NUMBER.fullmatch(value):
            raise ValueError(f'{where}: {ast.unparse(argument)} is no equation number like "1.4"')
        tags.append(value)
    return tags
