"""The reference of the library: a page for every module, made of docstrings."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest

from ddpmlib import equations
from ddpmlib.equations import equation
from scripts import notebooks

PAGES = notebooks.ROOT / "book" / "api"
# The modules of a chapter's checks are no interface; nor is what `python -m ddpmlib` runs.
PRIVATE = re.compile(r"ddpmlib((\.\w+)*\.__main__|\.teaching\.exercises\.ch(\d\d|[A-Z]))?")


def modules() -> list[str]:
    """Every module of the library that a reader may import."""
    found = []
    for path in sorted(equations.PACKAGE.rglob("*.py")):
        parts = path.relative_to(equations.PACKAGE.parent).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        found += [] if PRIVATE.fullmatch(name) else [name]
    return found


def page(module: str) -> Path:
    return PAGES / (module.removeprefix("ddpmlib.").replace(".", "_") + ".md")


@pytest.fixture
def extension(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(notebooks.ROOT / "book" / "_ext"))
    return importlib.import_module("api_reference")


@pytest.mark.parametrize("module", modules())
def test_every_module_has_a_page_in_the_table_of_contents(module: str) -> None:
    where = f"{module}: write {page(module).relative_to(notebooks.ROOT)} and add it to _toc.yml"
    assert page(module).is_file(), where
    text = page(module).read_text("utf-8")
    assert text.startswith(f"# {module}\n") and f"automodule:: {module}\n" in text
    toc = (notebooks.ROOT / "_toc.yml").read_text("utf-8")
    assert f"- file: book/api/{page(module).stem}\n" in toc, where


def test_every_page_has_a_module() -> None:
    assert {path.stem for path in PAGES.glob("*.md")} == {
        "index", *(page(module).stem for module in modules())
    }  # fmt: skip


def test_bars_of_formulas_are_no_markup_and_code_stays(extension: ModuleType) -> None:
    lines = ["p(x_t|x_0) by |a − b|, as ``a | b``", "and ``long", "a|b`` too"]
    extension.plain_bars(None, "function", "f", None, None, lines)
    assert lines == [r"p(x_t\|x_0) by \|a − b\|, as ``a | b``", "and ``long", "a|b`` too"]


def test_the_numbers_are_the_last_field(extension: ModuleType) -> None:
    @equation("1.4", "2.1")
    def marked() -> None: ...

    plain, fields = ["What it does.", ""], ["What it does.", "", ":returns: a number", ""]
    for lines in (plain, fields):
        extension.add_equations(None, "function", "f", marked, None, lines)
    assert plain == ["What it does.", "", ":Equations: (1.4), (2.1)", ""]
    assert fields[2:] == [":returns: a number", ":Equations: (1.4), (2.1)", ""]
    untouched = ["What it does."]
    extension.add_equations(None, "function", "f", print, None, untouched)
    assert untouched == ["What it does."]


def test_a_property_is_known_by_the_function_behind_it(extension: ModuleType) -> None:
    class Holder:
        @property
        @equation("1.4")
        def total(self) -> int:
            return 1

    assert extension.marks(Holder.total) == ("1.4",)
    assert extension.marks(print) == ()


def test_private_functions_with_a_number_are_shown(extension: ModuleType) -> None:
    @equation("1.4")
    def _marked() -> None: ...

    assert extension.keep_marked(None, "module", "_marked", _marked, True, None) is False
    assert extension.keep_marked(None, "module", "_other", len, True, None) is None


@pytest.mark.parametrize("module", modules())
def test_the_first_line_of_a_module_is_a_sentence(extension: ModuleType, module: str) -> None:
    sentence = extension.first_sentence(module)
    assert sentence.endswith(".") and len(sentence.split()) >= 4
    assert "``" not in sentence and ":class:" not in sentence


def test_a_function_belongs_to_the_innermost_module(extension: ModuleType) -> None:
    known = ["ddpmlib.models", "ddpmlib.models.unet", "ddpmlib.process"]
    assert extension.owner("ddpmlib.models.unet.UNet", known) == "ddpmlib.models.unet"
    assert extension.owner("ddpmlib.process.ddpm.DDPM.step", known) == "ddpmlib.process"
