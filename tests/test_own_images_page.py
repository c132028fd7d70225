"""The page "Your own images": its commands and its Python on 200 pictures."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pictures import write_folder

pytest.importorskip("PIL.Image")
ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "book" / "own_images.md").read_text("utf-8")
FASTER = {"train": ["--steps", "3"], "sample": ["--n", "4", "--steps", "2"]}
FASTER["evaluate"] = ["--n", "40", "--steps", "2", "--draws", "20"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)


def commands() -> list[list[str]]:
    """The command lines of the page, with fewer updates and samples."""
    lines = [shlex.split(line, comments=True) for line in "".join(blocks("bash")).splitlines()]
    found = []
    for _, verb, *words in lines:
        text = re.sub(r"--minutes \d+", "", " ".join(words))
        found.append([verb, *text.split(), *FASTER[verb]])
    return found


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder with 200 pictures of 40×56 pixels in ``photos``."""
    folder = tmp_path_factory.mktemp("own")
    write_folder(folder / "photos", n=100, kinds=("cat", "dog"))
    return folder


def run(folder: Path, words: list[str]) -> str:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=env, capture_output=True, encoding="utf-8",
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_commands_of_the_page_run_on_200_pictures(photos):
    said = [run(photos, ["-m", "ddpmlib", *words]) for words in commands()]
    assert (
        "photos: 186 images to train on and 14 to test with, 64×64 pixels, RGB, 2 classes"
        in (said[0])
    )
    assert (photos / "samples.png").is_file()
    assert {p.suffix for p in (photos / "cats").iterdir()} == {".png", ".csv"}
    assert "class_agreement" in said[-1] and "frechet" in said[-1]
    for kind in ("", "-classifier"):
        assert (photos / "runs" / f"photos{kind}" / "model.json").is_file()


@pytest.mark.slow
def test_the_python_of_the_page_runs(photos):
    (code,) = blocks("python")
    code = code.replace('"settings.steps": 4000', '"settings.steps": 2')
    run(photos, ["-c", code.replace('samples("runs/by-hand", 20)', 'samples("runs/by-hand", 2)')])
    assert (photos / "by_hand.png").is_file()
