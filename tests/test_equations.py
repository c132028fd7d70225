"""`ddpmlib.equations`: numbers are read from source text, in the order of the book."""

from __future__ import annotations

from pathlib import Path

import pytest

from ddpmlib import equations
from ddpmlib.equations import equation

LIBRARY = '''
from ddpmlib.equations import equation
from ddpmlib import equations

@equation("1.10", "1.2")
def kernel(): ...

class Process:
    @property
    @equations.equation("2.1")
    def scale(self): ...

    @equation("1.2")
    def q_sample(self): ...

"""@equation("9.9") in a string is no mark."""
'''
TESTS = """
import pytest

@pytest.mark.equation("1.2")
@pytest.mark.parametrize("t", [1])
def test_kernel(t): ...

@pytest.mark.equation("1.10")
class TestMerge:
    @pytest.mark.equation("2.1")
    async def test_scale(self): ...
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for path, text in {"ddpmlib/process.py": LIBRARY, "tests/sub/test_process.py": TESTS}.items():
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(text, "utf-8")
    return tmp_path


def test_the_decorator_leaves_the_function_alone() -> None:
    def double(x: int) -> int:
        """Twice x."""
        return 2 * x

    marked = equation("1.4", "A.2")(double)
    assert marked is double and marked(2) == 4
    assert vars(marked) == {"__equations__": ("1.4", "A.2")}


@pytest.mark.parametrize("tag", ["1", "1.", "0.1", "01.4", "1.4.2", "(1.4)", ""])
def test_a_malformed_number_is_refused(tag: str) -> None:
    with pytest.raises(ValueError, match="should read chapter.number"):
        equation(tag)


def test_no_number_and_a_mark_above_property_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one number"):
        equation()
    with pytest.raises(ValueError, match="below @property"):
        equation("1.1")(property(lambda self: 0))  # type: ignore[type-var]


def test_implementations_in_the_order_of_the_book(repository: Path) -> None:
    found = equations.implementations(repository / "ddpmlib")
    assert list(found.items()) == [
        ("1.2", ["ddpmlib.process.Process.q_sample", "ddpmlib.process.kernel"]),
        ("1.10", ["ddpmlib.process.kernel"]),
        ("2.1", ["ddpmlib.process.Process.scale"]),
    ]


def test_tests_have_ids_that_pytest_understands(repository: Path) -> None:
    assert equations.tests(repository) == {
        "1.2": ["tests/sub/test_process.py::test_kernel"],
        "1.10": ["tests/sub/test_process.py::TestMerge"],
        "2.1": ["tests/sub/test_process.py::TestMerge::test_scale"],
    }


def test_places_name_file_and_line_of_the_def(repository: Path) -> None:
    places = equations.places(repository)
    assert places["ddpmlib.process.kernel"] == ("ddpmlib/process.py", 6)
    assert places["ddpmlib.process.Process.scale"] == ("ddpmlib/process.py", 11)
    assert places["tests/sub/test_process.py::test_kernel"] == ("tests/sub/test_process.py", 6)
    found = (equations.implementations(repository / "ddpmlib"), equations.tests(repository))
    assert set(places) == {name for marks in found for names in marks.values() for name in names}


def test_references_in_running_text() -> None:
    text = "As (1.4) says, by (1.5, 1.6) and (A.1–A.3), but f(1.7), x](1.8), (2020) and (0.5)."
    assert equations.references(text) == ["1.4", "1.5", "1.6", "A.1", "A.3"]


def test_no_tests_beside_an_installed_package(tmp_path: Path) -> None:
    assert equations.tests(tmp_path) == {}


@pytest.mark.parametrize(
    "mark", ["equation(tag)", "equation(1.4)", "equation()", "equation(t='1')"]
)
def test_a_number_that_cannot_be_read_from_text_is_refused(tmp_path: Path, mark: str) -> None:
    (tmp_path / "module.py").write_text(f"@{mark}\ndef f(): ...\n", "utf-8")
    with pytest.raises(ValueError, match="module.py, line 1"):
        equations.implementations(tmp_path)


@pytest.mark.parametrize("chapter", [1, "1", "01"])
def test_table(repository: Path, chapter: str | int) -> None:
    assert equations.table(chapter, repository).data == (
        "| equation | function | test |\n"
        "|:--|:--|:--|\n"
        "| (1.2) | `ddpmlib.process.Process.q_sample`<br>`ddpmlib.process.kernel` "
        "| `tests/sub/test_process.py::test_kernel` |\n"
        "| (1.10) | `ddpmlib.process.kernel` | `tests/sub/test_process.py::TestMerge` |"
    )


def test_table_says_what_is_missing(repository: Path) -> None:
    (repository / "tests/sub/test_process.py").unlink()
    assert equations.table(2, repository).data.endswith("`ddpmlib.process.Process.scale` | — |")
    with pytest.raises(ValueError, match="chapter '7'"):
        equations.table(7, repository)


def test_sorting_key_puts_ten_after_two_and_letters_last() -> None:
    tags = ["A.1", "10.1", "2.10", "2.2b", "2.2a", "2.2"]
    assert sorted(tags, key=equations.order) == ["2.2", "2.2a", "2.2b", "2.10", "10.1", "A.1"]
