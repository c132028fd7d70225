"""`teaching.exercises`: a right answer is praised, a wrong one gets the hint, never the solution.

PYTEST_DONT_REWRITE: the checks below must fail with plain messages, as they do in a notebook.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from ddpmlib.teaching import exercises
from ddpmlib.teaching.exercises import check, exercise


@pytest.fixture(autouse=True)
def throwaway() -> Iterator[None]:
    """Exercise 999.1, which wants the number 42."""
    exercises.keys()
    before = dict(exercises._exercises)

    @exercise("999.1", hint="Ask a mouse.")
    def _(answer: object) -> None:
        """The great question is answered.

        Only the first line is printed.
        """
        assert isinstance(answer, int), "A whole number is wanted."
        assert answer // 1 == 42

    @exercise("999.10", hint="Double it.")
    def _(answer: object) -> None:
        """A function is called."""
        assert answer(3) == 6  # type: ignore[operator]

    @exercise("999.2", hint="Count again.")
    def _(answer: object) -> None:
        """Arrays are compared by a helper."""
        np.testing.assert_array_equal(answer, [4, 2])  # type: ignore[arg-type]

    yield
    exercises._exercises.clear()
    exercises._exercises.update(before)


def test_a_right_answer_prints_one_tick(capsys: pytest.CaptureFixture[str]) -> None:
    check("999.1", 42)
    assert capsys.readouterr().out == "✓ 999.1 The great question is answered.\n"


@pytest.mark.parametrize("answer", [None, ...])
def test_a_skeleton_gets_the_hint(answer: object) -> None:
    with pytest.raises(AssertionError, match="No answer yet. Hint: Ask a mouse."):
        check("999.1", answer)


def test_a_wrong_answer_gets_the_hint_and_not_the_solution() -> None:
    with pytest.raises(AssertionError, match="Not yet.*Hint: Ask a mouse.") as failure:
        check("999.1", 41)
    assert "42" not in str(failure.value)
    assert failure.value.__cause__ is None and failure.value.__context__ is None


def test_the_expected_values_of_a_helper_stay_hidden() -> None:
    with pytest.raises(AssertionError) as failure:
        check("999.2", [4, 1])
    assert str(failure.value) == "✗ 999.2 Not yet. Hint: Count again."


def test_a_message_in_the_check_comes_before_the_hint() -> None:
    with pytest.raises(AssertionError, match="A whole number is wanted. Hint: Ask a mouse."):
        check("999.1", "forty-two")


def test_an_answer_that_raises_says_what_it_raised() -> None:
    with pytest.raises(AssertionError, match="raised ZeroDivisionError: .* Hint: Double it."):
        check("999.10", lambda x: x / 0)
    check("999.10", lambda x: 2 * x)


def test_an_unknown_key_lists_the_known_ones_in_the_order_of_the_book() -> None:
    with pytest.raises(
        ValueError, match=r"no exercise '999\.3'; there are: .*999\.1, 999\.2, 999\.10"
    ):
        check("999.3", 42)


def test_registration_is_checked() -> None:
    with pytest.raises(ValueError, match="should read chapter.number"):
        exercise("one", hint="x")
    with pytest.raises(ValueError, match="needs a hint"):
        exercise("999.3", hint=" ")
    with pytest.raises(ValueError, match="registered twice"):
        exercise("999.1", hint="x")(lambda answer: None)
    with pytest.raises(ValueError, match="needs a docstring"):
        exercise("999.3", hint="x")(lambda answer: None)


@pytest.mark.slow
def test_a_mention_of_exercises_does_not_import_torch() -> None:
    package = "ddpmlib.teaching.exercises"
    code = f"import sys, {package}; sys.exit('{package}.ch01' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
