"""The folder `ddpmlib` itself: short functions, short modules, no imports in a ring."""

from __future__ import annotations

import ast
import io
import statistics
import tokenize
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "ddpmlib"
FILES = sorted(PACKAGE.rglob("*.py"))
MOST_LINES, LONGEST, MEDIAN = 250, 60, 7


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def code_lines(text: str) -> set[int]:
    """Lines that hold code: neither blank, nor comments, nor docstrings."""
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    held = {
        line
        for token in tokens
        if token.type not in silent
        for line in range(token.start[0], token.end[0] + 1)
    }
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            held -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return held


def functions() -> dict[str, int]:
    """Lines of code of every function, its signature included."""
    found = {}
    for path in FILES:
        text = path.read_text("utf-8")
        held = code_lines(text)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = held & set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
                found[f"{name_of(path)}:{node.name}:{node.lineno}"] = len(lines)
    return found


def imports() -> dict[str, set[str]]:
    """Module → the modules of the library that it imports at its top, for type checkers too."""
    names = {name_of(path) for path in FILES}
    found: dict[str, set[str]] = {}
    for path in FILES:
        own, needs = name_of(path), set()
        pending = list(ast.parse(path.read_text("utf-8")).body)
        while pending:
            node = pending.pop()
            if isinstance(node, ast.If):
                pending += node.body
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ddpmlib"):
                deeper = {f"{node.module}.{alias.name}" for alias in node.names} & names
                needs |= deeper or {node.module}
        found[own] = needs - {own}
    return found


def ring(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a ring; empty if there is none."""
    done: set[str] = set()

    def visit(name: str, above: list[str]) -> list[str]:
        if name in above:
            return above[above.index(name) :]
        if name in done:
            return []
        for needed in sorted(graph.get(name, ())):
            if found := visit(needed, [*above, name]):
                return found
        done.add(name)
        return []

    return next((found for name in graph if (found := visit(name, []))), [])


def test_imports_never_run_in_a_ring() -> None:
    assert ring({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]
    graph = imports()
    assert "ddpmlib.process.ddpm" in graph["ddpmlib.process.indices"]
    assert ring(graph) == []


def test_packages_never_need_each_other_in_a_ring() -> None:
    """Neither do the rooms: who opens one finds what it needs below it."""
    rooms: dict[str, set[str]] = {}
    for name, needs in imports().items():
        if name.count(".") and not name.endswith("__main__"):
            own = name.split(".")[1]
            rooms.setdefault(own, set()).update(n.split(".")[1] for n in needs if n.count("."))
    assert ring({room: needs - {room} for room, needs in rooms.items()}) == []


def test_modules_are_short() -> None:
    sizes = {name_of(path): len(code_lines(path.read_text("utf-8"))) for path in FILES}
    assert {name: n for name, n in sizes.items() if n > MOST_LINES} == {}


def test_functions_fit_a_screen() -> None:
    sizes = functions()
    assert {name: n for name, n in sizes.items() if n > LONGEST} == {}
    assert statistics.median(sizes.values()) <= MEDIAN
