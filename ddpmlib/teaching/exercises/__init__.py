"""Checks for the exercises of the book: ``exercises.check("1.2", answer)``.

To add one, write a small function in the module of the chapter,
``ddpmlib/teaching/exercises/ch01.py`` for chapter 1 (a new file is found by its name, nothing
has to be registered elsewhere)::

    from ddpmlib.teaching.exercises import exercise

    @exercise("1.1", hint="Which table is the running product of the alphas?")
    def _(answer: Any) -> None:
        \"\"\"The signal that is left after t steps.\"\"\"
        assert len(answer) == 3, "Give one number for each of the three steps."
        assert abs(answer[2] - 0.72) < 1e-9

The docstring is what a right answer prints: ``✓ 1.1 The signal that is left after t steps.`` The
hint is what a wrong one gets, after the message of the ``assert`` if it has one; neither may give
the solution away. An answer may be anything: a number, a tensor, a function that the check calls.
The modules of the chapters are imported at the first ``check``, so they may import torch and numpy.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Check = Callable[[Any], None]


@dataclass(frozen=True)
class Exercise:
    """One exercise: what is praised, what is hinted, and the function that asserts."""

    key: str
    hint: str
    title: str
    verify: Check


_exercises: dict[str, Exercise] = {}


def exercise(key: str, *, hint: str) -> Callable[[Check], Check]:
    """Register the decorated function as the check of exercise ``key``, such as "1.2".

    Raises:
        ValueError: the key is malformed or taken, the hint is empty, or the docstring is missing.
    """
    if not re.fullmatch(r"[1-9A-Z]\d*\.[1-9]\d*", key):
        raise ValueError(f'exercise key {key!r} should read chapter.number, such as "1.2"')
    if not hint.strip():
        raise ValueError(f"exercise {key} needs a hint: it is what a wrong answer gets")

    def register(verify: Check) -> Check:
        if key in _exercises:
            raise ValueError(f"exercise {key} is registered twice")
        title = (inspect.getdoc(verify) or "").split("\n")[0]
        if not title:
            raise ValueError(f"the check of exercise {key} needs a docstring: what was understood")
        _exercises[key] = Exercise(key, hint.strip(), title, verify)
        return verify

    return register


def check(key: str, answer: Any) -> None:
    """Print a ✓ line when ``answer`` solves exercise ``key``.

    Raises:
        AssertionError: the answer is wrong, missing (``None`` or ``...``, also inside a tuple or
            returned by a function), or raises when called. The message holds the hint, never the
            solution.
        ValueError: there is no such exercise; the message lists those there are.
    """
    found = _find(key)
    trouble = _trouble(found, answer)
    if trouble is not None:
        raise AssertionError(f"✗ {key} {trouble} Hint: {found.hint}".replace("  ", " "))
    print(f"✓ {key} {found.title}")


def keys() -> list[str]:
    """The keys of all exercises, in the order of the book."""
    for module in pkgutil.iter_modules(__path__):
        if re.fullmatch(r"ch\w+", module.name):
            importlib.import_module(f"{__name__}.{module.name}")
    return sorted(_exercises, key=lambda key: [(len(part), part) for part in key.split(".")])


def _find(key: str) -> Exercise:
    known = keys()
    if key not in _exercises:
        raise ValueError(f"no exercise {key!r}; there are: {', '.join(known) or 'none yet'}")
    return _exercises[key]


class _Unanswered(Exception):
    """The answer, or what it returned, is still the ``...`` of the skeleton."""


def _trouble(found: Exercise, answer: Any) -> str | None:
    """What is wrong with the answer, None when nothing is. Tracebacks stop here: they would show
    the solution that stands in the assertion."""
    try:
        found.verify(_filled_in(answer))
    except _Unanswered:
        return "No answer yet."
    except AssertionError as error:
        return f"Not yet. {error}".strip() if _own_words(error) else "Not yet."
    except Exception as error:
        return f"The answer raised {type(error).__name__}: {error}."
    return None


def _filled_in(answer: Any) -> Any:
    """The answer itself; functions in it complain when what they return was not filled in."""
    if answer is None or answer is ...:
        raise _Unanswered
    if isinstance(answer, tuple):
        return tuple(map(_filled_in, answer))
    if not inspect.isfunction(answer):
        return answer

    @functools.wraps(answer)
    def watched(*args: Any, **kwargs: Any) -> Any:
        return _filled_in(answer(*args, **kwargs))

    return watched


def _own_words(error: AssertionError) -> bool:
    """Whether an ``assert`` of the check itself speaks. A helper further down, such as
    ``torch.testing.assert_close``, would print the expected values."""
    frames = error.__traceback__
    return frames is not None and frames.tb_next is not None and frames.tb_next.tb_next is None
