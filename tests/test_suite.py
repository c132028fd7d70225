"""`make test` runs everything; `make check` all but what is marked; README counts what skips."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAKEFILE = (ROOT / "Makefile").read_text()


def recipe(target: str) -> str:
    """The commands of a target of the Makefile."""
    found = re.search(rf"^{target}:.*##.*\n((?:\t.*\n)+)", MAKEFILE, flags=re.MULTILINE)
    assert found, f"the Makefile has no target {target}"
    return found[1]


def test_nothing_is_left_out_of_make_test():
    assert "--nbval" in recipe("test")
    always = re.search(r"^addopts = (.*)$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    options = recipe("test").partition("-m pytest")[2] + always[1]
    assert not re.search(r"-m\b|-k\b|--ignore|--deselect", options)


def test_make_check_leaves_out_what_is_marked_slow_and_names_what_should_be():
    options = recipe("check").partition("-m pytest")[2]
    assert "-m 'not slow'" in options and "--nbval" not in options
    assert "--durations=" in options and "--durations-min=2" in options


def test_what_needs_the_built_book_is_left_out_of_make_check(request):
    """Whatever of the suite was collected in this run."""
    for item in request.session.items:
        if {"html", "browser"} & set(getattr(item, "fixturenames", ())):
            assert item.get_closest_marker("slow"), item.nodeid


@pytest.mark.slow
def test_readme_says_how_many_tests_need_a_browser():
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "browser"]
    done = subprocess.run([*command, "tests/book"], cwd=ROOT, capture_output=True, text=True)
    counted = re.search(r"^(\d+)/\d+ tests collected", done.stdout, flags=re.MULTILINE)
    assert counted, done.stdout + done.stderr
    assert f"{counted[1]} tests that open" in (ROOT / "README.md").read_text()
