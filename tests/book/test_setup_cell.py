"""The set-up cell finds the library: installed, in the clone around it, or fetched."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from scripts import notebooks

HIDE = "import importlib.util; importlib.util.find_spec = lambda name: None"
FAKE_GIT = """
import pathlib, subprocess
def run(command, check):
    print("git:", *command)
    package = pathlib.Path(command[-1]) / "ddpmlib"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "plots.py").write_text("def style(): pass")
subprocess.run = run
"""


def run(before: str, cwd: Path) -> str:
    """What a fresh Python prints that runs the cell, and where it found the library."""
    code = f"{before}\n{notebooks.setup_cell()}\nimport ddpmlib\nprint('found:', ddpmlib.__file__)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout


def test_an_installed_library_is_taken_as_it_is(tmp_path: Path) -> None:
    installed = f"import sys; sys.path.insert(0, {str(notebooks.ROOT)!r})"
    assert run(installed, tmp_path) == f"found: {notebooks.ROOT / 'ddpmlib/__init__.py'}\n"


def test_the_clone_around_the_notebook_is_found() -> None:
    found = run(HIDE, notebooks.ROOT / "notebooks")
    assert found == f"found: {notebooks.ROOT / 'ddpmlib/__init__.py'}\n"


def test_elsewhere_the_repository_is_cloned_once(tmp_path: Path) -> None:
    url, _ = notebooks.repository()
    clone = tmp_path.resolve() / url.split("/")[-1]
    found = f"found: {clone / 'ddpmlib/__init__.py'}\n"
    fetched = f"git: git clone --quiet --depth=1 {url} {clone}\n"
    assert run(HIDE + FAKE_GIT, tmp_path) == fetched + found
    assert run(HIDE + FAKE_GIT, tmp_path) == found
