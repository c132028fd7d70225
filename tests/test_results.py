"""Rows of measurements: written whole, read back, filtered, tabulated."""

import json

import pytest

from ddpmlib.experiments import results


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "folder", lambda: tmp_path / "results")
    return tmp_path / "results"


def test_rows_come_back_in_the_order_they_were_added(folder):
    first, second = {"run": "a", "frechet": 1.5}, {"run": "b", "curve": [{"t": 1}]}
    results.add("one", first)
    results.add("one", second)
    assert results.rows("one") == [first, second]
    assert results.names() == ["one"]
    assert json.loads((folder / "one.json").read_text("utf-8")) == [first, second]


def test_rows_are_filtered_by_their_fields(folder):
    for run, steps in (("a", 5), ("a", 10), ("b", 5)):
        results.add("one", {"run": run, "steps": steps})
    assert results.rows("one", run="a", steps=5) == [{"run": "a", "steps": 5}]
    assert len(results.rows("one", steps=5)) == 2


def test_a_missing_experiment_is_named_or_empty(folder):
    results.add("there", {})
    with pytest.raises(FileNotFoundError, match="no results 'gone': there are there"):
        results.rows("gone")
    assert results.rows("gone", missing_ok=True) == []


def test_a_failed_write_keeps_what_was_there(folder, monkeypatch):
    results.add("one", {"run": "a"})
    with pytest.raises(TypeError):
        results.add("one", {"run": object()})
    assert results.rows("one") == [{"run": "a"}]
    assert [path.name for path in folder.iterdir()] == ["one.json"]


def test_pivot_keeps_the_order_and_the_latest_cell():
    found = [
        {"steps": 10, "method": "x", "value": 1},
        {"steps": 5, "method": "x", "value": 2},
        {"steps": 10, "method": "y", "value": 3},
        {"steps": 10, "method": "x", "value": 4},
    ]
    assert results.pivot(found, "steps", "method", "value") == {10: {"x": 4, "y": 3}, 5: {"x": 2}}
    assert list(results.pivot(found, "steps", "method", "value")) == [10, 5]


def test_markdown_is_a_table_with_numbers_to_the_right():
    text = results.markdown(("net", "FID"), [("a", 1.5), ("b", 2)])
    assert text.splitlines() == ["| net | FID |", "|:--|--:|", "| a | 1.5 |", "| b | 2 |"]
