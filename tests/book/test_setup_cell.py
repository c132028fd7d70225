"""The set-up cell finds the library: installed, in the clone around it, or fetched."""

from __future__ import annotations

import json
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
URL, _ = notebooks.repository()
NAME = URL.split("/")[-1]
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def run(cell: str, cwd: Path, before: str = HIDE, **env: str) -> subprocess.CompletedProcess[str]:
    """A fresh Python that runs the cell, and then says where it found the library."""
    code = f"{before}\n{cell}\nimport ddpmlib\nprint('found:', ddpmlib.__file__)"
    command = [sys.executable, "-I", "-c", code]  # as a kernel whose path holds nothing of ours
    return subprocess.run(
        command, cwd=cwd, capture_output=True, encoding="utf-8", env=os.environ | env
    )


def found(cell: str, cwd: Path, before: str = HIDE, **env: str) -> Path:
    """Where it found the library, having said nothing else."""
    done = run(cell, cwd, before, **env)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert done.stdout.startswith("found: ") and done.stdout.count("\n") == 1
    return Path(done.stdout.removeprefix("found: ").strip())


def refused(cell: str, cwd: Path, **env: str) -> str:
    """The sentence that the cell ends with, and nothing was imported."""
    done = run(cell, cwd, **env)
    assert done.returncode == 1 and not done.stdout, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("RuntimeError: "), done.stderr
    return last


@pytest.mark.slow
def test_an_installed_library_is_taken_as_it_is(tmp_path: Path) -> None:
    installed = f"import sys; sys.path.insert(0, {str(notebooks.ROOT)!r})"
    cell = notebooks.setup_cell()
    assert found(cell, tmp_path, installed) == notebooks.ROOT / "ddpmlib/__init__.py"


@pytest.mark.slow
@pytest.mark.parametrize("where", ["notebooks", "."])
def test_the_clone_around_the_notebook_is_found(where: str) -> None:
    cell = notebooks.setup_cell()
    assert found(cell, notebooks.ROOT / where) == notebooks.ROOT / "ddpmlib/__init__.py"


# ---- fetched -------------------------------------------------------------------------------------


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e"]
    command = ["git", "-C", str(folder), *identity, *words]
    return subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout.strip()


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small repository in place of the public address, tagged v9."""
    folder = tmp_path / "published"
    small_library(folder / "ddpmlib")
    settings = tmp_path / "gitconfig"
    settings.write_text(f'[url "{folder.as_uri()}"]\n\tinsteadOf = {URL}\n', "utf-8")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # set where a hook runs the tests
        monkeypatch.delenv(name, raising=False)
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "first")
    git(folder, "tag", "v9")
    return folder


def small_library(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "plots.py").write_text("def style(): pass\n", "utf-8")


def pinned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tag: str, commit: str) -> str:
    """The set-up cell of a release."""
    templates = tmp_path / "templates"
    templates.mkdir()
    shutil.copy(notebooks.TEMPLATES / "setup.py", templates)
    release = json.dumps({"tag": tag, "commit": commit})
    (templates / "release.json").write_text(release, "utf-8")
    monkeypatch.setattr(notebooks, "TEMPLATES", templates)
    return notebooks.setup_cell()


@needs_git
def test_elsewhere_the_newest_is_fetched_once_before_the_first_release(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = tmp_path / "content"
    content.mkdir()
    cell = pinned(monkeypatch, tmp_path, "", "")
    assert found(cell, content) == content / NAME / "ddpmlib/__init__.py"
    shutil.rmtree(published)
    assert found(cell, content) == content / NAME / "ddpmlib/__init__.py"  # now without a network


@needs_git
def test_a_release_is_fetched_by_its_tag_and_checked_by_its_commit(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = git(published, "rev-parse", "HEAD")
    cell = pinned(monkeypatch, tmp_path, "v9", first)
    (published / "ddpmlib" / "plots.py").write_text("raise SystemExit('newer')", "utf-8")
    git(published, "commit", "--quiet", "-a", "-m", "later")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    assert found(cell, tmp_path / "one") == tmp_path / "one" / NAME / "ddpmlib/__init__.py"
    assert found(cell, tmp_path / "one").is_file()
    git(published, "tag", "--force", "v9")  # somebody moves the tag
    said = refused(cell, tmp_path / "two")
    assert f"{NAME} is not v9 of {URL}, commit {first}, and was not imported: delete" in said
    assert "not imported" in refused(cell, tmp_path / "two")  # nor is it the next time
    (tmp_path / "two" / NAME / "ddpmlib" / "plots.py").write_text("raise SystemExit('x')", "utf-8")
    assert "not imported" in refused(cell, tmp_path / "two")


@needs_git
def test_an_address_that_does_not_answer_is_a_sentence(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = pinned(monkeypatch, tmp_path, "v9", "0" * 40)
    (tmp_path / "content").mkdir()
    shutil.rmtree(published)
    said = refused(cell, tmp_path / "content")
    assert f"git cannot fetch it from {URL} (" in said and "): check the network, or" in said
    assert list((tmp_path / "content").iterdir()) == []
    assert "start this notebook in a clone" in refused(
        cell, tmp_path / "content", PATH=""
    )  # no git


@needs_git
@pytest.mark.parametrize("project", ["", "[project]\nname = 'other'\n"])
@pytest.mark.parametrize("below", ["notebooks", "x", "a/b/c"])
def test_a_ddpmlib_in_a_folder_above_that_is_not_ours_is_never_imported(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str, project: str
) -> None:
    """As anyone may leave it in a folder that all can write to."""
    cell = pinned(monkeypatch, tmp_path, "v9", git(published, "rev-parse", "HEAD"))
    planted, here = tmp_path / "tmp", tmp_path / "tmp" / below
    small_library(planted / "ddpmlib")
    (planted / "ddpmlib" / "__init__.py").write_text("raise SystemExit('owned')", "utf-8")
    if project:
        (planted / "pyproject.toml").write_text(project, "utf-8")
    here.mkdir(parents=True, exist_ok=True)
    assert found(cell, here) == here / NAME / "ddpmlib/__init__.py"


@needs_git
def test_an_empty_folder_of_the_same_name_is_no_library(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python takes any folder for a package without content."""
    cell = pinned(monkeypatch, tmp_path, "v9", git(published, "rev-parse", "HEAD"))
    (tmp_path / "content" / "ddpmlib").mkdir(parents=True)
    empty = f"import sys; sys.path.insert(0, {str(tmp_path / 'content')!r})"
    spec = (
        "import importlib.util, types; "
        "importlib.util.find_spec = lambda name: types.SimpleNamespace(origin=None)"
    )
    content = tmp_path / "content"
    assert found(cell, content, f"{empty}; {spec}") == content / NAME / "ddpmlib/__init__.py"


# ---- as in Colab ---------------------------------------------------------------------------------


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
@needs_git
@pytest.mark.skipif(os.name == "nt", reason="an environment has other folders there")
@pytest.mark.slow
def test_the_first_chapter_runs_where_only_its_notebook_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in Colab: packages are there, the library and a clone are not; git fetches them."""
    python, content = elsewhere(tmp_path / "environment"), tmp_path / "content"
    content.mkdir()
    cells = notebooks.from_text(notebooks.chapters()[0]).cells
    (setup,) = [cell for cell in cells if "setup" in cell.metadata.get("tags", ())]
    setup.source = pinned(monkeypatch, tmp_path, "", "")  # the library of this clone, not a release
    chapter = content / "chapter.py"
    chapter.write_text("\n\n".join(c.source for c in cells if c.cell_type == "code"), "utf-8")
    before = installed(tmp_path / "environment")
    env = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    settings = tmp_path / "gitconfig"  # whoever owns the clone, and whatever the user has set
    settings.write_text(
        f'[url "{notebooks.ROOT.as_uri()}"]\n\tinsteadOf = {URL}\n[safe]\n\tdirectory = *\n',
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
    assert (content / NAME / "ddpmlib" / "__init__.py").is_file()
