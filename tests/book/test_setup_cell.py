"""The set-up cell finds the library: installed, in the clone around it, or fetched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

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
    done = subprocess.run(command, cwd=cwd, capture_output=True, encoding="utf-8")
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout


@pytest.mark.slow
def test_an_installed_library_is_taken_as_it_is(tmp_path: Path) -> None:
    installed = f"import sys; sys.path.insert(0, {str(notebooks.ROOT)!r})"
    assert run(installed, tmp_path) == f"found: {notebooks.ROOT / 'ddpmlib/__init__.py'}\n"


@pytest.mark.slow
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


def elsewhere(folder: Path) -> Path:
    """The Python of an environment with all packages that are installed here, save ours.

    A path that a .pth file names is searched, but the .pth files in it, an editable `ddpmlib` among
    them, are not read.
    """
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python3.*/site-packages")
    (site / "preinstalled.pth").write_text(sysconfig.get_path("purelib") + "\n", "utf-8")
    return folder / "bin" / "python"


def installed(folder: Path) -> dict[str, int]:
    """Every file that Python could import, with its size."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


@pytest.mark.skipif(not (notebooks.ROOT / ".git").exists(), reason="not a clone: nothing to clone")
@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@pytest.mark.skipif(os.name == "nt", reason="an environment has other folders there")
@pytest.mark.slow
def test_the_first_chapter_runs_where_only_its_notebook_is(tmp_path: Path) -> None:
    """As in Colab: packages are there, the library and a clone are not; git fetches them."""
    python, content = elsewhere(tmp_path / "environment"), tmp_path / "content"
    content.mkdir()
    cells = notebooks.from_text(notebooks.chapters()[0]).cells
    chapter = content / "chapter.py"
    chapter.write_text("\n\n".join(c.source for c in cells if c.cell_type == "code"), "utf-8")
    before = installed(tmp_path / "environment")
    url, _ = notebooks.repository()
    env = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    settings = tmp_path / "gitconfig"  # whoever owns the clone, and whatever the user has set
    settings.write_text(
        f'[url "{notebooks.ROOT.as_uri()}"]\n\tinsteadOf = {url}\n[safe]\n\tdirectory = *\n',
        "utf-8",
    )
    env |= {"MPLBACKEND": "Agg", "GIT_CONFIG_GLOBAL": str(settings), "GIT_CONFIG_NOSYSTEM": "1"}
    find = [str(python), "-c", "import torch; print(torch.__file__); import ddpmlib"]
    blind = subprocess.run(find, cwd=content, env=env, capture_output=True, encoding="utf-8")
    assert blind.returncode and "No module named 'ddpmlib'" in blind.stderr, blind.stderr
    command = [str(python), str(chapter)]
    done = subprocess.run(command, cwd=content, env=env, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert "✓ 1.5" in done.stdout  # the check of its last exercise
    assert installed(tmp_path / "environment") == before
    assert (content / url.split("/")[-1] / "ddpmlib" / "__init__.py").is_file()
