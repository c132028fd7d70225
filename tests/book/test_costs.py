"""What a chapter costs is measured on the text that is there, and within the budget."""

from __future__ import annotations

import pytest

from scripts import notebooks

CHAPTERS = notebooks.chapters()
COSTS = notebooks.costs()
LONGER = {
    "03_ddpm": 75,
    "04_elbo": 85,
    "06_iddpm": 65,
    "09_scoreboard": 88,
    "10_classifier_guidance": 97,
    "11_classifier_free": 112,
}
"""Seconds of chapters that were beyond the budget when they were last measured."""


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.name)
def test_the_cost_of_a_chapter_is_known_and_within_the_budget(chapter: notebooks.Chapter) -> None:
    command = f"run `make notebooks CHAPTER={chapter.name}`"
    assert chapter.name in COSTS, f"the cost of {chapter.name} was never measured, {command}"
    cost = COSTS[chapter.name]
    assert cost["text"] == chapter.digest, f"{chapter.name} has changed since, {command}"
    budget = LONGER.get(chapter.name, notebooks.BUDGET["seconds"])
    assert 0 < cost["seconds"] <= budget, f"{chapter.name} takes too long"
    assert 0 < cost["MB"] <= notebooks.BUDGET["MB"], f"{chapter.name} takes too much memory"
    assert cost["processor"].strip()


def test_costs_are_those_of_the_chapters() -> None:
    assert list(COSTS) == [chapter.name for chapter in CHAPTERS]
