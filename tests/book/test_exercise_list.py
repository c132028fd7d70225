"""The lecturers' list of exercises: all there are, with their stars."""

from __future__ import annotations

import re

import exercise_list

from ddpmlib.teaching import exercises
from scripts import notebooks


def test_sentences_are_those_that_the_checks_print() -> None:
    found = exercise_list.sentences(notebooks.ROOT / "ddpmlib" / "teaching" / "exercises")
    keys = exercises.keys()
    assert found == {key: exercises._exercises[key].title for key in keys}


def test_every_exercise_is_listed_once() -> None:
    table = "\n".join(exercise_list.rows(notebooks.ROOT))
    assert sorted(re.findall(r"★+ (\S+) ", table)) == sorted(exercises.keys())


def test_the_page_has_a_place_for_the_list() -> None:
    page = (notebooks.ROOT / f"{exercise_list.PAGE}.md").read_text("utf-8")
    assert re.findall(rf"(?m)^{exercise_list.PLACE}$", page) == [exercise_list.PLACE]


def test_the_page_says_how_an_answer_is_checked() -> None:
    page = (notebooks.ROOT / f"{exercise_list.PAGE}.md").read_text("utf-8")
    (code,) = re.findall(r"(?ms)^```python\n(.*?)^```$", page)
    (call,) = re.findall(r'exercises\.check\("([\d.]+)", answer\)', code)
    assert call in set(exercises.keys())
    exec(code.partition("\n\n")[0], {})  # the import
