"""`teaching.museum`: each bug is caught by the tests that it names, and by nothing but the bug."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ddpmlib
from ddpmlib import data, equations
from ddpmlib.teaching import museum
from ddpmlib.teaching.bugs import BUGS, Bug, Edit

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "notebooks" / "src" / "A_museum_of_bugs.py"


def complaints(name: str, bug: Bug, with_bug: dict[str, str], without: dict[str, str]) -> list[str]:
    """What is wrong with an entry, given how its tests ended."""
    found = []
    for test in (*bug.caught_by, *bug.passed_by):
        if without.get(test) != "passed":
            found.append(f"{test} fails without any bug: {without.get(test)}")
    for test in bug.caught_by:
        if not with_bug.get(test, "").startswith("call: "):
            found.append(f"{test} does not notice {name}: {with_bug.get(test)}")
    for test in bug.passed_by:
        if with_bug.get(test) != "passed":
            found.append(f"{test} notices {name} after all: {with_bug.get(test)}")
    return found


@pytest.fixture(scope="module")
def outcomes() -> dict[str, dict[str, str]]:
    """Bug ("" for none) -> test -> how it ended; all from one process, see tests/injection.py."""
    command = [sys.executable, str(ROOT / "tests" / "injection.py")]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("name", BUGS)
def test_the_bug_is_caught(name: str, outcomes: dict[str, dict[str, str]]) -> None:
    assert BUGS[name].caught_by
    assert complaints(name, BUGS[name], outcomes[name], outcomes[""]) == []


def test_the_museum_is_large_enough() -> None:
    assert len(BUGS) >= 10 and len({bug.edits for bug in BUGS.values()}) == len(BUGS)


def test_every_bug_hangs_on_the_page_and_nothing_else() -> None:
    text = PAGE.read_text("utf-8")
    assert sorted(re.findall(r'museum\.plaque\("(\w+)"\)', text)) == sorted(BUGS)
    assert set(re.findall(r'museum\.library\("(\w+)"\)', text)) == set(BUGS)


# ---- the harness can fail ------------------------------------------------------------------------

ENTRY = Bug((Edit("data", "a", "b"),), ("t::caught",), ("t::blind",))
HEALTHY = {"t::caught": "passed", "t::blind": "passed"}


def test_an_entry_that_holds_gives_no_complaint() -> None:
    assert complaints("x", ENTRY, {"t::caught": "call: no", "t::blind": "passed"}, HEALTHY) == []


@pytest.mark.parametrize(
    ("with_bug", "without"),
    [
        ({"t::caught": "passed", "t::blind": "passed"}, HEALTHY),  # the test sleeps
        ({"t::caught": "setup: no", "t::blind": "passed"}, HEALTHY),  # it could not even begin
        ({"t::blind": "passed"}, HEALTHY),  # there is no such test
        ({"t::caught": "call: no", "t::blind": "call: no"}, HEALTHY),  # the blind one sees
        ({"t::caught": "call: no", "t::blind": "passed"}, {**HEALTHY, "t::caught": "call: no"}),
        ({"t::caught": "call: no", "t::blind": "passed"}, {"t::caught": "passed"}),
    ],
)
def test_an_entry_that_does_not_hold_is_complained_of(with_bug, without) -> None:
    assert complaints("x", ENTRY, with_bug, without)


@pytest.mark.parametrize("right", ["no such line", "torch"])
def test_an_edit_that_fits_not_exactly_once_is_refused(monkeypatch, right: str) -> None:
    monkeypatch.setitem(BUGS, "misfit", Bug((Edit("process", right, "x"),), ("t",)))
    before = dict(sys.modules)
    with pytest.raises(ValueError, match="exactly once, and holds it"):
        museum.library("misfit")
    assert {n: m for n, m in sys.modules.items() if n.startswith("ddpmlib")} == {
        n: m for n, m in before.items() if n.startswith("ddpmlib")
    }


def test_an_unknown_bug_is_one_sentence() -> None:
    with pytest.raises(ValueError, match="the museum has no 'nonsense', but noise_after"):
        museum.library("nonsense")


# ---- a second library ----------------------------------------------------------------------------


def test_the_copy_has_the_bug_and_the_library_at_hand_has_not() -> None:
    source = equations.PACKAGE / "data" / "scale.py"
    before = source.read_bytes()
    wrong = museum.library("data_in_0_1")
    x = data.load("digits").x_train[:1]
    assert float(wrong.data.to_float(x).min()) == 0 and float(data.to_float(x).min()) == -1
    assert sys.modules["ddpmlib"] is ddpmlib and wrong is not ddpmlib
    assert sys.modules["ddpmlib.data"] is data is not wrong.data
    assert source.read_bytes() == before


def test_a_copy_without_a_bug_is_a_library_of_its_own() -> None:
    copy = museum.library()
    process = copy.process.DDPM(copy.process.schedules.cosine(10))
    assert isinstance(process, copy.DDPM) and not isinstance(process, ddpmlib.DDPM)


def test_within_the_injection_an_import_finds_the_copy() -> None:
    with museum.injected("clipping_forgotten") as wrong:
        from ddpmlib import data as found

        assert found is wrong.data is not data
    assert sys.modules["ddpmlib.data"] is data


# ---- plaques -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BUGS)
def test_a_plaque_shows_both_lines_and_links_existing_tests(name: str) -> None:
    text = museum.plaque(name).data
    pairs = re.findall(r"# right, in ddpmlib/[\w/]+\.py\n(.+)\n# wrong\n(.+)\n", text)
    for edit, (right, wrong) in zip(BUGS[name].edits, pairs, strict=True):
        source = (equations.PACKAGE / (edit.module.replace(".", "/") + ".py")).read_text("utf-8")
        assert right in source and right != wrong and wrong in edit(source)
    links = re.findall(r"\[`(tests/\w+\.py)::(\w+)`\]\(\S+/(tests/\w+\.py)\)", text)
    assert len(links) == len(BUGS[name].caught_by) + len(BUGS[name].passed_by)
    for path, test, target in links:
        assert path == target and f"def {test}(" in (ROOT / path).read_text("utf-8")
