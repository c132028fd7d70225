"""The page "Your own images": its commands and its Python on 200 pictures, its table of rows."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ddpmlib import data
from ddpmlib.experiments import own_images, results
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


# ---- what to expect ------------------------------------------------------------------------------

FOUND = {(row["images"], row["updates"]): row for row in results.rows("own_images")}


def test_the_table_is_made_of_the_rows() -> None:
    assert own_images.table() in PAGE
    assert {row["n"] for row in FOUND.values()} == {2000}
    assert {(row["steps"], row["eta"]) for row in FOUND.values()} == {(20, 1.0)}


def test_what_the_page_says_of_the_table() -> None:
    copying, learning = FOUND[100, 2000], FOUND[10_000, 2000]
    assert copying["class_agreement"] > 0.9 and copying["nearest_is_own"] == pytest.approx(
        0.98, abs=5e-3
    )
    assert copying["recall"] == pytest.approx(0.14, abs=5e-3) and learning["recall"] > 0.4
    assert abs(copying["frechet"] - learning["frechet"]) < 0.15 * learning["frechet"]
    error = (0.25 / 2000) ** 0.5  # of a share of one half
    assert 2 * error < FOUND[1000, 2000]["nearest_is_own"] - 0.5 < 0.05
    for updates in (500, 2000):
        assert abs(FOUND[10_000, updates]["nearest_is_own"] - 0.5) < 2 * error
    assert abs(FOUND[1000, 500]["nearest_is_own"] - 0.5) < 2 * error
    assert learning["frechet"] < FOUND[10_000, 500]["frechet"] / 2
    assert learning["recall"] > 2 * FOUND[10_000, 500]["recall"]


def test_whose_nearest_image_is_a_training_image() -> None:
    generator = torch.Generator().manual_seed(0)
    own, others = torch.randint(0, 256, (2, 50, 1, 4, 4), generator=generator, dtype=torch.uint8)
    near = data.to_float(own) + 0.01
    assert own_images.nearest_is_own(near, own, others) == 1.0
    assert own_images.nearest_is_own(near, others, own) == 0.0
    new = torch.rand(2000, 1, 4, 4, generator=generator) * 2 - 1
    assert abs(own_images.nearest_is_own(new, own, others) - 0.5) < 0.1
