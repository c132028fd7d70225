"""`release.py pin`: what notebooks fetch is a commit that was tagged, or nothing changes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("bs4")
from scripts import release

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)  # whatever the user has set
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # set where a hook runs the tests
        monkeypatch.delenv(name, raising=False)
    (tmp_path / release.PIN).parent.mkdir(parents=True)
    (tmp_path / release.PIN).write_text('{"tag": "", "commit": ""}', "utf-8")
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.0"\n', "utf-8")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    return tmp_path


def git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=n", "-c", "user.email=e", *words]
    return subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout.strip()


@pytest.mark.parametrize("annotated", [[], ["--annotate", "-m", "a release"]])
def test_a_tag_is_pinned_by_the_commit_that_it_names(clone: Path, annotated: list[str]) -> None:
    first = git(clone, "rev-parse", "HEAD")
    git(clone, "tag", "v1.2.0", *annotated)
    git(clone, "commit", "--quiet", "--allow-empty", "-m", "later")
    assert release.pin("v1.2.0", clone) == first
    found = json.loads((clone / release.PIN).read_text("utf-8"))
    assert found == {"tag": "v1.2.0", "commit": first}


@pytest.mark.parametrize(
    ("tag", "sentence"),
    [
        ("v1.2.0", "there is no tag 'v1.2.0' here: make it first"),
        ("v1.3.0", "v1.3.0 is not the version that pyproject.toml has there"),
        ("--all", "there is no tag '--all'"),
    ],
)
def test_what_is_no_release_is_not_pinned(clone: Path, tag: str, sentence: str) -> None:
    git(clone, "tag", "v1.3.0")
    before = (clone / release.PIN).read_text("utf-8")
    with pytest.raises(release.Trouble, match=sentence):
        release.pin(tag, clone)
    assert (clone / release.PIN).read_text("utf-8") == before


def test_the_pin_of_this_repository_is_a_commit_or_nothing_yet() -> None:
    pin = json.loads((release.ROOT / release.PIN).read_text("utf-8"))
    assert set(pin) == {"tag", "commit"} and bool(pin["tag"]) == bool(pin["commit"])
    assert len(pin["commit"]) in (0, 40)
