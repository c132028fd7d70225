"""`scripts/full_strength.py` at toy length: each step is done once, however often it is cut off."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ddpmlib import zoo
from ddpmlib.data import archives, sets
from ddpmlib.zoo import RECIPES, recipes, stretches
from scripts import full_strength

ROOT = Path(__file__).resolve().parent.parent
ONLY = ["mnist-classifier", "mnist"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder, and a data directory with a little of a set of the shape of MNIST."""
    rng = np.random.default_rng(0)
    found = {f"x_{part}": rng.integers(0, 256, (n, 28, 28), np.uint8)
             for part, n in (("train", 60), ("test", 30))}  # fmt: skip
    found |= {f"y_{k[2:]}": np.arange(len(x), dtype=np.uint8) % 10 for k, x in found.items()}
    np.savez(tmp_path / "mnist.npz", **found)
    monkeypatch.setenv("DDPMLIB_DATA", str(tmp_path))
    return tmp_path


def rehearse(monkeypatch, folder, *words, status=0):
    out = folder / "out"
    words = ["full_strength.py", "--out", str(out), "--dry-run", "--device", "cpu", *words]
    monkeypatch.setattr(sys, "argv", words)
    assert full_strength.main() == status
    return out / "dry-run"


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_a_rehearsal_trains_ships_and_measures_and_a_second_changes_nothing(
    folder, monkeypatch, capsys
):
    out = rehearse(monkeypatch, folder, "--only", *ONLY)
    plan = capsys.readouterr().out
    assert "mnist-classifier: 0.03 M weights" in plan and "mnist: 0.77 M weights" in plan
    assert "GFLOP an image" in plan and "optimiser" in plan
    assert {p.name for p in out.iterdir()} == {*ONLY, "checkpoints", "statistics"}
    card = zoo.load(out / "checkpoints" / "mnist.safetensors", "cpu")[1]
    classifier = zoo.read(out / "checkpoints" / "mnist-classifier.safetensors")[0]
    samples, pixels, copies, nll = card.metrics
    assert (samples["n"], samples["steps"], samples["extractor"]) == (16, 2, classifier.sha256[:12])
    assert pixels["features"] == "pixels" and copies["metric"] == "memorisation"
    assert nll["metric"] == "nll" and classifier.metrics[0]["n"] == 30
    statistics = json.loads((out / "statistics" / "mnist.json").read_text("utf-8"))
    assert statistics["classifier"] == classifier.sha256 and statistics["train"] == 60
    before = contents(out)
    rehearse(monkeypatch, folder, "--only", *ONLY)
    assert contents(out) == before


@pytest.mark.slow
def test_a_kill_at_any_stage_is_made_good_by_the_same_command(folder, monkeypatch):
    command = [sys.executable, "-m", "scripts.full_strength", "--out", str(folder / "out")]
    command += ["--dry-run", "--device", "cpu", "--only", *ONLY]
    out = folder / "out" / "dry-run"
    for path in ("mnist-classifier/training.safetensors", "checkpoints/mnist.json"):
        child = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            _kill_when_it_has_written(child, out / path)
        finally:
            child.kill()
            child.wait()
        assert child.returncode == -signal.SIGKILL
    rehearse(monkeypatch, folder, "--only", *ONLY)
    cards = [zoo.Card.read(path) for path in sorted((out / "checkpoints").glob("*.json"))]
    assert [len(card.metrics) for card in cards] == [1, 4]
    assert not [p for p in out.rglob("*") if p.suffix == ".part"]


def _kill_when_it_has_written(child, path):
    deadline = time.monotonic() + 600
    while not path.exists() and time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.002)
    assert path.exists(), "it was not written"
    child.send_signal(signal.SIGKILL)


def test_time_is_shared_out_among_the_jobs_that_are_wanted():
    jobs = list(full_strength._shared(["mnist", "fashion_mnist"], 30))
    assert [job.recipe for job, _ in jobs] == ["mnist", "fashion_mnist"]
    assert [minutes for _, minutes in jobs] == [12, 12]  # the rest is for measuring
    everything = list(full_strength._shared(None, 30))
    assert sum(minutes for _, minutes in everything) == pytest.approx(24)
    assert list(full_strength._shared([], 30)) == []


def test_a_run_that_goes_on_keeps_the_end_that_its_minutes_gave_it(folder, monkeypatch):
    """Word for word the same call: minutes are counted once."""
    asked = []

    def train(recipe, run, **how):
        asked.append((recipe.settings.steps, how["minutes"]))
        raise OSError("far enough")

    monkeypatch.setattr(full_strength.runs, "train", train)
    words = ["full_strength.py", "--out", str(folder), "--device", "cpu", "--minutes", "9"]
    monkeypatch.setattr(sys, "argv", [*words, "--only", "mnist"])
    assert full_strength.main() == 2
    recipe = recipes.changed(RECIPES["mnist"], {"settings.steps": 77})
    before = stretches.Recorded(recipe, None, None, (), 5)
    monkeypatch.setattr(full_strength, "recorded", lambda path: before)
    assert full_strength.main() == 2
    assert asked == [(RECIPES["mnist"].settings.steps, pytest.approx(7.2)), (77, None)]


def test_a_recipe_that_is_not_there_yet_is_skipped(monkeypatch, capsys):
    monkeypatch.delitem(RECIPES, "mnist")
    jobs = [job.recipe for job, _ in full_strength._shared(ONLY, 30)]
    assert jobs == ["mnist-classifier"]
    assert capsys.readouterr().out.startswith("mnist: skipped, this version")


def test_every_change_of_the_table_fits_its_recipe_and_its_command():
    for job in full_strength.JOBS:
        if job.recipe in RECIPES:
            recipe = recipes.changed(RECIPES[job.recipe], job.changes)
            assert recipe.name == job.recipe and job.share > 0
    command = full_strength._command(full_strength.Job("mnist", 1, {"settings.lr": 0.002}), True)
    assert command == "ddpmlib train mnist --compile --channels-last --set settings.lr=0.002"


def test_what_fails_is_one_sentence_and_the_others_have_their_time(folder, monkeypatch, capsys):
    monkeypatch.setattr(archives, "_download", lambda name: pytest.fail("must not download"))
    (folder / "fashion_mnist.npz").write_bytes(b"rubbish")
    words = ["--only", "fashion_mnist-classifier", "mnist-classifier"]
    out = rehearse(monkeypatch, folder, *words, status=2)
    failed = capsys.readouterr().err
    assert "fashion_mnist-classifier: " in failed and "not a readable archive" in failed
    assert [p.name for p in (out / "checkpoints").glob("*.json")] == ["mnist-classifier.json"]


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "soon"])
def test_no_time_is_refused_before_anything_is_read_or_written(folder, monkeypatch, minutes):
    monkeypatch.setattr(sets, "load", lambda name: pytest.fail("must not load"))
    with pytest.raises(SystemExit) as end:
        rehearse(monkeypatch, folder, "--minutes", minutes)
    assert end.value.code == 2 and not (folder / "out").exists()


def test_an_error_without_words_is_told_by_its_name(folder, monkeypatch, capsys):
    def out_of_words(*args):
        raise RuntimeError

    monkeypatch.setattr(full_strength, "_carry_out", out_of_words)
    rehearse(monkeypatch, folder, "--only", "mnist", status=2)
    assert capsys.readouterr().err == "mnist: RuntimeError\n"
