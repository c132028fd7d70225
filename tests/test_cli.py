"""`ddpmlib` from the command line: what a user does, and what a user does wrong."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import ddpmlib
from ddpmlib import data, evaluation, files, plots, training, zoo
from ddpmlib.cli import command, main, models
from ddpmlib.evaluation import features, metrics, statistics
from ddpmlib.zoo import checkpoints, recipes
from ddpmlib.zoo import runs as training_runs

ROOT = Path(__file__).resolve().parent.parent
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def cwd(tmp_path, monkeypatch):
    """An empty current folder with a space in its name."""
    folder = tmp_path / "my work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    folder = tmp_path / "shipped"
    monkeypatch.setattr(checkpoints, "shipped", lambda: folder)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Runs of three steps, to be copied."""
    folder = tmp_path_factory.mktemp("trained")
    for name in ("digits", "digits-classifier"):
        out = str(folder / name)
        assert main(["train", name, "--steps", "3", "--device", "cpu", "--out", out]) == 0
    return folder


@pytest.fixture
def runs(cwd, trained):
    """``runs/`` below the current folder."""
    for run in trained.iterdir():
        (cwd / "runs" / run.name).mkdir(parents=True)
        for path in run.iterdir():
            (cwd / "runs" / run.name / path.name).write_bytes(path.read_bytes())
    return cwd / "runs"


def status(words):
    """The exit status, whoever decides it."""
    try:
        return main(words)
    except SystemExit as stop:
        return stop.code


def said(capsys, words, code=2):
    """What stderr says to words that must fail: one sentence, no traceback."""
    capsys.readouterr()
    assert status(words) == code
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err
    *usage, sentence = err.strip().splitlines()
    assert re.match(r"ddpmlib( \w+)?: ", sentence), err
    assert all(line.startswith(("usage: ", " ")) for line in usage), err
    return sentence


# ---- train, sample, evaluate, ship, zoo --------------------------------------------------------


def test_train_then_sample_without_naming_anything(cwd, capsys):
    assert main(["train", "digits", "--steps", "3", "--save-every", "2", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("runs/digits: ") and "weights, loss " in out
    assert {p.name for p in Path("runs/digits").iterdir()} == {
        "training.safetensors",
        "log.jsonl",
        "model.safetensors",
        "model.json",
    }
    card = zoo.Card.read(Path("runs/digits/model.json"))
    assert card.recipe["settings"]["steps"] == 3
    assert main(["sample", "--n", "11", "--steps", "2", "--device", "cpu"]) == 0
    assert capsys.readouterr().out == "samples.png: 11 samples of digits, 2 steps, eta 0\n"
    with Image.open("samples.png") as image:
        assert image.format == "PNG" and image.width >= 600  # ten columns, two rows
        assert image.size[0] / image.size[1] == (10 * 9 - 1) / (2 * 9 - 1)


def test_overrides_reach_the_recipe_and_the_card_says_how_to_repeat_it(cwd):
    words = ["train", "digits-classifier", "--steps", "2", "--batch-size", "5", "--lr", "0.01"]
    words += ["--seed", "7", "--device", "cpu", "--no-bf16"]
    assert main([*words, "--out", "a folder/b", "--resume"]) == 0
    card = zoo.Card.read(Path("a folder/b/model.json"))
    found = {k: card.recipe["settings"][k] for k in ("steps", "batch_size", "lr", "seed")}
    assert found == {"steps": 2, "batch_size": 5, "lr": 0.01, "seed": 7}
    assert card.training["command"] == "ddpmlib " + " ".join(words)
    assert main([*words, "--out=c"]) == 0
    assert zoo.Card.read(Path("c/model.json")).training == card.training | {
        "seconds": zoo.Card.read(Path("c/model.json")).training["seconds"]
    }
    assert (
        Path("c/model.safetensors").read_bytes()
        == Path("a folder/b/model.safetensors").read_bytes()
    )


@pytest.mark.parametrize("minutes", [["--minutes", "0.0001"], ["--minutes=0.0001"]])
def test_minutes_become_the_steps_that_repeat_the_run(cwd, minutes, capsys):
    words = ["train", "digits-classifier", "--set", "net.width=4"]
    assert main([*words, *minutes, "--out", "a"]) == 0
    assert "digits-classifier: 0.0001 minutes are" in capsys.readouterr().out
    command = zoo.Card.read(Path("a/model.json")).training["command"]
    assert re.fullmatch(r"ddpmlib train digits-classifier --set net.width=4 --steps \d+", command)
    assert main([*command.split()[1:], "--out", "b"]) == 0
    assert Path("a/model.safetensors").read_bytes() == Path("b/model.safetensors").read_bytes()


def test_set_reaches_every_field_and_the_card_says_how_to_repeat_it(cwd):
    words = ["train", "digits", "--steps", "2", "--device", "cpu", "--out", "r", "--set"]
    words += ["schedule=linear", "T=30", "var_mix=null", "objective=vlb", "times=importance"]
    words += ["net.width=8", "settings.ema=0.5", "name=other"]
    assert main(words) == 0
    card = zoo.Card.read(Path("r/model.json"))
    fields = ("schedule", "T", "var_mix", "objective", "times", "name")
    expected = ["linear", 30, None, "vlb", "importance", "other"]
    assert [card.recipe[k] for k in fields] == expected and card.name == "other"
    assert card.recipe["net"]["width"] == 8
    assert card.recipe["settings"]["ema"] == 0.5 and card.recipe["settings"]["steps"] == 2
    command = "ddpmlib " + " ".join(words)
    assert card.training["command"] == command.replace("--out r ", "")
    denoiser, _ = zoo.load("r", "cpu")
    assert denoiser.var_mix is None and denoiser.process.T == 30
    again = [*words[:1], "digits", *words[2:], "label_dropout=0.2", "net.mults=[1,2]"]
    assert "--resume" not in again
    assert status([*again, "--resume"]) == 2  # the run there has another recipe


def test_resume_goes_on_and_a_finished_run_is_left_alone(runs, capsys):
    before = (runs / "digits/model.json").read_bytes()
    (runs / "digits/log.jsonl").unlink()
    words = ["train", "digits", "--steps", "3", "--device", "cpu", "--resume"]
    assert main(words) == 0
    assert (runs / "digits/model.json").read_bytes() == before
    (runs / "digits/model.json").unlink()
    assert main(words) == 0  # exported again, and the last line of the log is in the state
    assert re.search(r"loss 0\.\d+", capsys.readouterr().out.splitlines()[-1])
    assert zoo.load(runs / "digits", "cpu")[1].loss == json.loads(before)["loss"]


def begun(words, monkeypatch, at=2, signum=signal.SIGTERM):
    """Train, and be asked to end in the middle of an update."""
    real, calls = training.Trainer.update, []

    def update(trainer):
        calls.append(trainer.step)
        if len(calls) == at:
            os.kill(os.getpid(), signum)
        return real(trainer)

    # Whoever runs the tests in the background has SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(training.Trainer, "update", update)
            return main(words)
    finally:
        signal.signal(signal.SIGINT, before)


QUICK = ["--batch-size", "5", "--lr", "0.01", "--seed", "7", "--set", "net.width=4"]
HOW = ["--accumulate", "5", "--bf16", "--channels-last", "--save-every", "7", "--device", "cpu"]


@pytest.mark.parametrize("again", ["digits-classifier --resume", "--resume --out runs/r"])
def test_resume_alone_goes_on_with_the_recorded_options(cwd, monkeypatch, capsys, again):
    words = ["train", "digits-classifier", "--steps", "5", *QUICK, *HOW]
    assert main([*words, "--out", "straight"]) == 0
    out = [] if "--out" not in again else ["--out", "runs/r"]
    assert begun([*words, *out], monkeypatch, at=3) == 143
    assert capsys.readouterr().err.splitlines()[-1] == (
        "ddpmlib: ended by SIGTERM; update 3 is saved, and `--resume` goes on"
    )
    assert main(["train", *again.split()]) == 0
    folder = Path(out[1] if out else "runs/digits-classifier")
    found, straight = (zoo.Card.read(f / "model.json") for f in (folder, Path("straight")))
    assert found.recipe == straight.recipe and found.loss == straight.loss
    assert found.training | {"seconds": 0} == straight.training | {"seconds": 0}
    assert found.training["command"] == "ddpmlib " + " ".join(words)
    weights = [(f / "model.safetensors").read_bytes() for f in (folder, Path("straight"))]
    assert weights[0] == weights[1]


def test_a_run_of_some_minutes_goes_on_by_resume_alone(cwd, monkeypatch, capsys):
    monkeypatch.setattr(training_runs, "updates_within", lambda *_: 6)
    words = ["train", "digits-classifier", "--minutes", "3", *QUICK]
    assert begun(words, monkeypatch, signum=signal.SIGINT) == 130
    monkeypatch.setattr(training_runs, "updates_within", lambda *_: 1 / 0)
    assert main(["train", "digits-classifier", "--resume"]) == 0
    card = zoo.Card.read(Path("runs/digits-classifier/model.json"))
    assert card.recipe["settings"]["steps"] == 6
    rest = " ".join(QUICK)
    assert card.training["command"] == f"ddpmlib train digits-classifier {rest} --steps 6"


def test_a_finished_run_is_extended_and_its_card_says_both(cwd, capsys):
    words = ["train", "digits-classifier", *QUICK]
    assert main([*words, "--steps", "3"]) == 0
    first = (Path("runs/digits-classifier/model.safetensors")).read_bytes()
    capsys.readouterr()
    more = ["train", "digits-classifier", "--resume", "--steps", "8"]
    assert main(more) == 0
    said = capsys.readouterr().out.splitlines()[0]
    settings = zoo.Card.read(Path("runs/digits-classifier/model.json")).recipe["settings"]
    then, now = (training.Settings(**settings | {"steps": n}).lr_at(3) for n in (3, 8))
    assert said == (
        "digits-classifier: 8 updates instead of 3; the schedule of the learning rate is stretched "
        f"to the new end, so after 3 updates it is {now:.3g}, and not {then:.3g}"
    )
    card = zoo.Card.read(Path("runs/digits-classifier/model.json"))
    assert [(s["since"], s["steps"]) for s in card.training["stretches"]] == [(0, 3), (3, 8)]
    started = " ".join([*words, "--steps", "3"])
    both = f"ddpmlib {started} && ddpmlib train digits-classifier --steps 8 --resume"
    assert card.training["command"] == both
    assert card.training["images_seen"] == 8 * 5
    log = zoo.read_log("runs/digits-classifier/log.jsonl")
    assert log["step"] == [3, 8] and log["lr"][1] == training.Settings(**settings).lr_at(7)
    assert Path("runs/digits-classifier/model.safetensors").read_bytes() != first
    before = Path("runs/digits-classifier/model.json").read_bytes()
    assert main(["train", "digits-classifier", "--resume"]) == 0  # finished, with 8 and not with 3
    assert Path("runs/digits-classifier/model.json").read_bytes() == before


def test_other_switches_that_change_no_mathematics_are_recorded(cwd, monkeypatch):
    words = ["train", "digits-classifier", "--steps", "5", *QUICK]
    assert begun(words, monkeypatch) == 143
    again = ["train", "digits-classifier", "--resume", "--accumulate", "5", "--channels-last"]
    assert main(again) == 0
    first, second = zoo.Card.read(Path("runs/digits-classifier/model.json")).training["stretches"]
    assert (first["since"], first["accumulate"], first["channels_last"]) == (0, 1, False)
    assert (second["since"], second["accumulate"], second["channels_last"]) == (2, 5, True)
    assert second["command"] == "ddpmlib train digits-classifier --accumulate 5 --channels-last"


def test_a_second_run_in_the_same_folder_is_told_who_is_there(cwd, capsys, monkeypatch):
    words = ["train", "digits-classifier", "--steps", "4", *QUICK]
    real, calls = training.Trainer.update, []

    def update(trainer):
        calls.append(1)
        if len(calls) == 2:
            assert main([*words, "--resume"]) == 2
        return real(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(training.Trainer, "update", update)
        assert main(words) == 0
    err = capsys.readouterr().err
    sentence = next(line for line in err.splitlines() if line.startswith("ddpmlib: "))
    assert re.fullmatch(
        rf"ddpmlib: runs/digits-classifier is being trained by process {os.getpid()} on \S+ since "
        r"[\d: -]+: wait for it, or give another folder by --out",
        sentence,
    )
    assert zoo.load("runs/digits-classifier", "cpu")[1].recipe["settings"]["steps"] == 4
    assert not Path("runs/digits-classifier/.lock").exists()


@pytest.mark.parametrize("name", ["digits", "runs/digits", "runs/digits/model.safetensors"])
def test_sample_takes_a_name_a_folder_or_a_file(runs, name):
    words = ["sample", name, "--n", "1", "--steps", "1", "--device", "cpu"]
    assert main([*words, "--out", "new folder/one.PNG"]) == 0
    with Image.open("new folder/one.PNG") as image:
        assert image.size == (600, 600)


def test_the_own_finished_run_comes_before_a_shipped_one(runs, shipped):
    (runs / "digits").rename(runs / "other")
    assert main(["ship", "runs/other"]) == 0
    assert models.own_run_or("digits") == "digits"  # the shipped one
    (runs / "digits").mkdir()
    assert models.own_run_or("digits") == "digits"  # nothing is finished there
    assert models.own_run_or("other") == Path("runs/other")


def test_without_a_name_the_newest_finished_denoiser_is_taken(runs):
    (runs / "digits").rename(runs / "old")
    newer = runs / "newer"
    newer.mkdir()
    for path in (runs / "old").iterdir():
        (newer / path.name).write_bytes(path.read_bytes())
    (runs / "unfinished").mkdir()
    os.utime(runs / "old/model.safetensors", (1, 1))
    os.utime(runs / "newer/model.safetensors", (2, 2))
    args = command.parser().parse_args(["sample"])
    assert models.model_of(args) == Path("runs/newer/model.safetensors")
    os.utime(runs / "old/model.safetensors", (3, 3))
    assert models.model_of(args) == Path("runs/old/model.safetensors")


def test_seed_eta_and_steps_decide_the_picture(runs):
    def drawn(*words):
        common = ["sample", "digits", "--n", "3", "--steps", "2", "--device", "cpu"]
        assert main([*common, *words]) == 0
        return Path("samples.png").read_bytes()

    plain = drawn()
    assert drawn() == plain == drawn("--sampling-steps", "2", "--eta", "0", "--seed", "0")
    for other in (["--seed", "1"], ["--eta", "1"], ["--steps", "3"]):
        assert drawn(*other) != plain, other


def test_every_option_of_guidance_reaches_the_picture(cwd):
    def drawn(*words):
        common = ["sample", "digits", "--n", "3", "--steps", "4", "--device", "cpu"]
        assert main([*common, *words]) == 0
        return Path("samples.png").read_bytes()

    classifier = ["--classifier", "digits-noisy-classifier", "--strength"]
    ways = (
        [], ["--w", "2"], ["--w", "2", "--interval", "300", "600"], ["--unconditional"],
        ["--w", "2", "--threshold", "0.5"], [*classifier, "2"], [*classifier, "4"],
        [*classifier, "4", "--unconditional"], ["--w", "2", "--clip"],
    )  # fmt: skip
    assert len({drawn(*way) for way in ways}) == len(ways)
    assert drawn("--w", "0") == drawn()


def test_a_noisy_classifier_and_its_clean_twin_from_the_command_line(cwd, shipped, capsys):
    words = ["train", "digits-noisy-classifier", "--steps", "2", "--device", "cpu", "--set"]
    words += ["net.width=8", "T=20"]
    assert main(words) == 0
    assert main([*words, "noisy=false", "name=twin", "--out", "runs/twin"]) == 0
    cards = [
        zoo.Card.read(Path(f"runs/{n}/model.json")) for n in ("digits-noisy-classifier", "twin")
    ]
    assert [c.recipe["noisy"] for c in cards] == [True, False]
    assert cards[0].sha256 != cards[1].sha256
    assert main(["ship", "runs/twin"]) == 0 and main(["evaluate", "twin", "--device", "cpu"]) == 0
    assert "test accuracy under noise" in capsys.readouterr().out
    sentence = said(capsys, ["sample", "digits-noisy-classifier", "--device", "cpu"])
    assert re.search("digits-noisy-classifier is a classifier: it .* draws none", sentence)


def test_labels_are_passed_on(runs, monkeypatch):
    asked, real = [], evaluation.sample_batches
    monkeypatch.setattr(
        evaluation,
        "sample_batches",
        lambda d, s, y, *a, **k: asked.append(y) or real(d, s, y, *a, **k),
    )
    words = ["sample", "digits", "--n", "2", "--steps", "1", "--device", "cpu"]
    for more in (["--label", "0"], ["--label", "9"], ["--n", "12"]):
        assert main([*words, *more]) == 0
    assert [y.tolist() for y in asked] == [[0, 0], [9, 9], [*range(10), 0, 1]]


def test_a_class_may_be_given_by_its_name(cwd, monkeypatch):
    """Shipped weights whose card says fashion_mnist: there class 9 is the ankle boot."""
    asked, real = [], evaluation.sample_batches
    monkeypatch.setattr(
        evaluation,
        "sample_batches",
        lambda d, s, y, *a, **k: asked.append(y) or real(d, s, y, *a, **k),
    )
    words = ["sample", "fashion_mnist", "--n", "2", "--steps", "1", "--device", "cpu", "--label"]
    for label in ("ankle boot", "T-shirt", "3"):
        assert main([*words, label]) == 0
    assert [y.tolist() for y in asked] == [[9, 9], [0, 0], [3, 3]]


def test_samples_as_single_pictures_and_as_an_array_are_those_of_the_grid(runs, capsys):
    words = ["sample", "digits", "--n", "12", "--steps", "2", "--device", "cpu", "--out"]
    for out in ("grid.png", "folder/", "no suffix", "array.npz"):
        assert main([*words, out]) == 0
        assert capsys.readouterr().out == f"{out}: 12 samples of digits, 2 steps, eta 0\n"
    found = np.load("array.npz")
    assert found["arr_0"].shape == (12, 8, 8, 3) and found["arr_1"].tolist() == [*range(10), 0, 1]
    sheet = plots.sheet(torch.from_numpy(found["arr_0"]).permute(0, 3, 1, 2))
    with Image.open("grid.png") as image:
        zoom = image.width // sheet.shape[1]
        assert np.array_equal(np.asarray(image)[::zoom, ::zoom], sheet)
    for folder in ("folder", "no suffix"):
        files = sorted(path.name for path in Path(folder).iterdir())
        assert files == [*(f"{i:06d}.png" for i in range(12)), "labels.csv"]
        with Image.open(f"{folder}/000011.png") as image:
            assert image.mode == "L"
            assert np.array_equal(np.asarray(image), found["arr_0"][11, ..., 0])


def test_a_run_that_is_not_finished_is_sampled_and_said_to_be(runs, capsys):
    for name in ("model.safetensors", "model.json"):
        (runs / "digits" / name).unlink()
    words = ["--n", "1", "--steps", "1", "--device", "cpu"]
    assert main(["sample", "runs/digits", *words]) == 0
    sentence = "the run in runs/digits is not finished: .* averaged weights after 3 of 3 updates\n"
    assert re.match(sentence + "samples.png: 1 samples of digits", capsys.readouterr().out)
    assert main(["sample", "digits", *words]) == 0
    assert "runs/digits is not finished, and digits is the shipped" in capsys.readouterr().out
    for verb in ("evaluate", "ship"):
        assert "not finished: resume" in said(capsys, [verb, "runs/digits"])


@pytest.mark.parametrize("out", [[], ["--out", "a film.webp"]])
@pytest.mark.slow
def test_grids_while_training_and_the_film_of_them(cwd, capsys, out):
    words = ["train", "digits", "--steps", "5", "--device", "cpu", "--set", "net.width=8"]
    assert main([*words, "--sample-every", "2"]) == 0
    grids = sorted(path.name for path in Path("runs/digits/samples").iterdir())
    assert grids == ["000002.png", "000004.png", "000005.png"]
    capsys.readouterr()
    assert main(["film", "digits", *out]) == 0
    path = out[1] if out else "runs/digits/film.gif"
    assert capsys.readouterr().out == f"{path}: 3 grids, after 2 to 5 updates\n"
    with Image.open(path) as film:
        assert film.n_frames == 3


def test_ship_evaluate_and_zoo(runs, shipped, capsys):
    assert main(["ship", "runs/digits-classifier"]) == 0
    assert capsys.readouterr().out.strip() == str(shipped / "digits-classifier.safetensors")
    assert main(["ship", "runs/digits", "--name", "three-steps", "--dtype", "float32"]) == 0
    assert main(["evaluate", "digits-classifier", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "test accuracy" in out and "is replaced" not in out
    words = ["evaluate", "three-steps", "--n", "70", "--steps", "2", "--device", "cpu"]
    words += ["--features", "classifier"]
    assert main([*words, "--draws", "20"]) == 0
    out = capsys.readouterr().out
    for key in ("class_agreement", "frechet_floor", "inception_score", "kid", "precision"):
        assert re.search(rf"^{key} +-?\d", out, flags=re.MULTILINE), key
    assert main(["zoo"]) == 0
    out = capsys.readouterr().out
    assert "digits, mnist" in out and "checkpoints: digits-classifier, three-steps" in out
    assert main(["zoo", "three-steps"]) == 0
    assert capsys.readouterr().out == (shipped / "three-steps.json").read_text("utf-8")
    assert len(zoo.Card.read(shipped / "three-steps.json").metrics) == 2  # and memorisation
    chosen = ["--metric", "nll", "agreement", "--spacing", "quadratic", "--bf16"]
    assert main([*words, "--nll-draws", "2", *chosen]) == 0
    out = capsys.readouterr().out
    assert "bits_per_dim" in out and "standard_error" in out and "frechet" not in out
    _, _, samples, nll = zoo.Card.read(shipped / "three-steps.json").metrics
    assert (samples["spacing"], samples["bf16"], nll["metric"]) == ("quadratic", True, "nll")


def test_ship_says_what_it_replaces(runs, shipped, capsys):
    assert main(["ship", "runs/digits-classifier"]) == 0
    day = time.mktime((2026, 3, 4, 5, 6, 0, 0, 0, -1))
    os.utime(shipped / "digits-classifier.json", (day, day))
    capsys.readouterr()
    assert main(["ship", "runs/digits-classifier", "--name", "other"]) == 0
    assert capsys.readouterr().out == f"{shipped / 'other.safetensors'}\n"
    assert main(["ship", "runs/digits-classifier"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "digits-classifier of 2026-03-04 05:06 is replaced, and its measurements with it",
        str(shipped / "digits-classifier.safetensors"),
    ]


def test_statistics_are_written_where_evaluate_looks_for_them(runs, shipped, capsys, monkeypatch):
    assert main(["ship", "runs/digits-classifier"]) == 0
    monkeypatch.setattr(files, "PACKAGE", shipped.parent / "package")
    capsys.readouterr()
    assert main(["statistics", "digits", "--device", "cpu"]) == 0
    path = shipped.parent / "data" / "statistics" / "digits.safetensors"
    expected = f"{path}: 1,442 training and 355 test images\n"
    assert capsys.readouterr().out == expected and path.is_file()
    classifier, _ = zoo.load("digits-classifier", "cpu")
    assert statistics.statistics("digits", classifier).train.n == 1442


def test_zoo_without_any_checkpoint(cwd, shipped, capsys):
    assert main(["zoo"]) == 0
    assert capsys.readouterr().out.endswith("checkpoints: none\n")


def test_what_is_no_card_is_not_shown_as_one(cwd, capsys):
    Path("own.safetensors").write_bytes(b"weights")
    for text in ("[]", "3", "", '{"name": "own"}'):
        Path("own.json").write_text(text, "utf-8")
        assert main(["zoo", "own.safetensors"]) == 2
        said = capsys.readouterr()
        assert said.out == "" and "own.json is not a checkpoint card" in said.err


def test_threads_are_set(cwd, shipped):
    before = torch.get_num_threads()
    try:
        assert main(["zoo", "--threads", "3"]) == 0
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


# ---- what a user does wrong --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ("train digit", r"unknown recipe 'digit': did you mean 'digits'\?.*mnist"),
        ("train xyz", "unknown recipe 'xyz': choose one of digits, mnist"),
        ("train digits --steps 0", "steps must be positive and finite, got 0"),
        ("train digits --steps many", "invalid int value: 'many'"),
        ("train digits --minutes 0", "--minutes: must be a positive number of minutes, got '0'"),
        ("train digits --minutes soon", "--minutes: must be a positive number of minutes"),
        ("train digits --minutes nan", "--minutes: must be a positive number of minutes"),
        ("train digits --minutes 1 --steps 5", "--steps: not allowed with argument --minutes"),
        ("train digits --lr nan", "lr must be positive and finite, got nan"),
        ("train digits --lr=-1", "lr must be positive"),
        ("train digits --batch-size 5000", r"batch_size must lie in 1..1442 .*got 5000"),
        ("train digits --seed=-1", "--seed: must be a whole number 0..2"),
        ("train digits --set T", "--set takes FIELD=VALUE, for example T=500, got 'T'"),
        ("train digits --set =5", "--set takes FIELD=VALUE"),
        ("train digits --set", "--set: expected at least one argument"),
        ("train digits --set depth=5", "kind 'diffusion' has no field 'depth' to set"),
        ("train digits --set T=many", "T must be a whole number, got 'many'"),
        ("train digits --set settings.lr=null", "settings.lr must be a number, got None"),
        ("train digits --set net.mults=1,2", "net.mults must be a list of whole numbers"),
        ("train digits --set var_mix=null", "needs the objective hybrid or vlb"),
        ("train digits --set schedule=cosin", "schedule must be one of linear, cosine"),
        ("train digits-classifier --set T=5", "kind 'classifier' has no field 'T' to set"),
        ("train digits --save-every 0", "--save-every: must be a whole number 1.*, got '0'"),
        ("train digits --device tpu", "no device 'tpu' here: try cpu"),
        ("train digits --threads 99999999", "--threads: must be at most 1024, got '99999999'"),
        ("train digits --threads none", "--threads: must be a whole number 1..2"),
        ("train digits --size 8", "--size is for your own images: give --images too"),
        ("train digits --grey", "--grey is for your own images"),
        ("train digits --images pictures", "--images replaces the recipe 'digits': give --recipe"),
        ("train --images pictures", "there is no folder pictures"),
        ("train --images pictures --size 3", "--size: must be a number of pixels 4..1024, or heig"),
        ("train --images pictures --size 9x9x9", "--size: must be a number of pixels"),
        ("train --images pictures --grey --rgb", "--rgb: not allowed with argument --grey"),
        ("train --images pictures --kind gan", "invalid choice: 'gan'"),
        ("train --images pictures --recipe minst", "unknown recipe 'minst': did you mean 'mnist'"),
        ("train --images pictures --recipe digits --kind classifier", "is of kind diffusion, not"),
        ("train --images pictures --name digits", "digits is a data set of this library"),
        ("train --images pictures --name a/b", "plain file name, got 'a/b'"),
        ("train", "train what. Name a recipe, for example `ddpmlib train digits`, give your own"),
        ("train --resume", "train what. Name a recipe"),
        ("train --resume --out nowhere", "there is no run in nowhere to go on with"),
        ("", "required: VERB"),
        ("tarin digits", "invalid choice: 'tarin'"),
        ("sample", r"no finished run in runs/: run `ddpmlib train digits` first"),
        ("sample nothing", "no checkpoint 'nothing': give a folder of a finished run"),
        ("sample --n 0", "--n/--samples: must be a whole number 1..2"),
        ("sample --seed 99999999999999999999", "--seed: must be a whole number"),
        ("film", "required: RUN"),
        ("film digits", "no grids in digits/samples: train with --sample-every"),
        ("evaluate", "no finished run"),
        ("evaluate digits --metric fid mse", "metrics must be among .*, got 'mse'"),
        ("evaluate digits --spacing log", "invalid choice: 'log'"),
        ("evaluate digits --features vgg", "no checkpoint 'vgg'"),
        ("evaluate digits --nll-draws 0", "--nll-draws: must be a whole number"),
        ("statistics", "required: data"),
        ("statistics digit", "unknown data set 'digit'"),
        ("statistics digits", "no checkpoint 'digits-classifier'"),
        ("statistics digits --features inception", "digits is grey"),
        ("ship nowhere", "no checkpoint 'nowhere'"),
        ("ship nowhere --dtype int8", "invalid choice: 'int8'"),
        ("zoo nothing", "no checkpoint 'nothing'"),
    ],
)
def test_in_an_empty_folder(cwd, shipped, capsys, words, match):
    assert re.search(match, said(capsys, words.split()))
    assert list(cwd.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ("train digits", "runs/digits already holds a run: go on with it by --resume"),
        ("sample digits --label 10", "a class of digits is one of 0, 1, .*, 9; got '10'"),
        ("sample digits --label=-1", "a class of digits is one of 0, 1, .*; got '-1'"),
        ("sample digits --label one", "a class of digits is one of 0, 1, .*; got 'one'"),
        ("sample digits --out grid.jpg", r"grid \(samples.png\), a folder .* got grid.jpg"),
        ("sample digits --out runs/digits", "runs/digits already holds something"),
        ("film digits", "no grids in runs/digits/samples: train with --sample-every"),
        ("train digits-classifier --out new --sample-every 1", "a classifier draws no samples"),
        ("train digits --resume --steps 2", "runs/digits has 3 updates behind it: --steps must be"),
        ("train digits --resume --seed 1", "trained with seed = 0, not 1: resume with the same"),
        ("train digits --resume --set T=9", "trained with T = 1000, not 9: resume with the same"),
        ("train --resume --out runs/digits --lr 1", "trained with lr = 0.005, not 1.0"),
        ("train --resume --out runs/digits --init digits-classifier", "no checkpoint 'digits-cl"),
        ("train mnist --out runs/digits --resume", "holds a run of digits, not of mnist: give an"),
        ("sample digits --steps 1001", r"steps must lie in 1..T = 1..1000, got 1001"),
        ("sample digits --eta 2 --steps 2", r"eta .* got 2"),
        ("sample digits --eta nan --steps 2", r"eta .* got nan"),
        ("sample digits --strength 1", "both its name and a strength"),
        ("sample digits --w nan", "finite"),
        ("sample digits --w 1 --unconditional", "needs the class"),
        ("sample digits --w 1 --interval 9 3", "interval of guided times must lie in"),
        ("sample digits --unconditional --label 3", "leave one of them out"),
        ("sample digits --interval 3 9", "needs guidance"),
        ("sample digits --threshold 2", "share of pixels"),
        ("evaluate digits --classifier x --strength 1", "no checkpoint"),
        ("sample digits-classifier", "digits-classifier is a classifier: it .* draws none"),
        ("evaluate digits --n 1", "at least 2"),
        ("evaluate digits-classifier --metric fid", "is measured by its accuracy alone"),
        (
            "evaluate digits --n 5 --steps 2 --features classifier",
            "no checkpoint 'digits-classifier'",
        ),
        ("ship runs/digits --name a/b", "plain file name, got 'a/b'"),
    ],
)
def test_beside_finished_runs(runs, shipped, capsys, words, match):
    before = {p: p.read_bytes() for p in runs.rglob("*") if p.is_file()}
    assert re.search(match, said(capsys, words.split()))
    assert {p: p.read_bytes() for p in runs.rglob("*") if p.is_file()} == before
    assert not Path("samples.png").exists()


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "no card", "card cut", "card []"])
def test_a_damaged_checkpoint(runs, capsys, damage):
    weights, card = runs / "digits/model.safetensors", runs / "digits/model.json"
    content = weights.read_bytes()
    if damage == "no card":
        card.unlink()
    elif damage.startswith("card"):
        card.write_text("[]" if "[]" in damage else card.read_text("utf-8")[:-40], "utf-8")
    else:
        flipped = content[:-1] + bytes([content[-1] ^ 1])
        weights.write_bytes({"flipped": flipped, "cut": content[:-1], "empty": b""}[damage])
    sentence = said(capsys, ["sample", "--n", "1", "--steps", "1", "--device", "cpu"])
    assert re.search("is damaged: its SHA-256|no card|not a checkpoint card", sentence)


@pytest.mark.parametrize("content", [b"", b"rubbish", None])
def test_a_damaged_state_is_neither_resumed_nor_overwritten(runs, capsys, content):
    state = runs / "digits/training.safetensors"
    content = state.read_bytes()[:-10] if content is None else content
    state.write_bytes(content)
    sentence = said(capsys, ["train", "digits", "--steps", "3", "--resume", "--device", "cpu"])
    assert "training.safetensors is not a whole safetensors file" in sentence
    assert state.read_bytes() == content


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_the_run_can_go_on(cwd, capsys, monkeypatch):
    words = ["train", "digits", "--steps", "5", "--save-every", "2", "--device", "cpu"]
    writes, fsync = [], os.fsync

    def full(descriptor):
        writes.append(descriptor)
        if len(writes) > 3:  # the first state, the log and another state fit
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        sentence = said(capsys, words)
    assert "cannot write runs/digits/training.safetensors: No space left" in sentence
    assert files.read_safetensors("runs/digits/training.safetensors")[1]["step"] == "2"
    assert not list(Path("runs/digits").glob(".*"))
    assert main([*words, "--resume"]) == 0


def test_out_below_a_file_or_onto_a_folder(runs, capsys):
    Path("file").write_text("mine", "utf-8")
    words = ["train", "digits", "--steps", "2", "--device", "cpu", "--out"]
    assert "file is a file" in said(capsys, [*words, "file"])
    assert "cannot write into file/run: Not a directory" in said(capsys, [*words, "file/run"])
    assert Path("file").read_text("utf-8") == "mine"
    sample = ["sample", "--n", "1", "--steps", "1", "--device", "cpu", "--out"]
    assert "file already holds something" in said(capsys, [*sample, "file"])
    for out in ("file/grid.png", "file/samples.npz", "file/folder"):
        assert f"cannot write {out}" in said(capsys, [*sample, out])


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write all")
def test_a_folder_that_takes_no_files(runs, cwd, capsys):
    cwd.chmod(0o500)
    try:
        sentence = said(capsys, ["sample", "--n", "1", "--steps", "1", "--device", "cpu"])
        assert "samples.png" in sentence
        words = ["train", "digits", "--steps", "2", "--device", "cpu", "--out", "new"]
        assert "cannot write into new: Permission denied" in said(capsys, words)
    finally:
        cwd.chmod(0o700)


def test_no_network_is_one_sentence(cwd, capsys, monkeypatch):
    datasets = pytest.importorskip("torchvision.datasets")

    def offline(*args, **options):
        raise OSError("Network is unreachable")

    monkeypatch.setenv("DDPMLIB_DATA", str(cwd))
    monkeypatch.setattr(datasets, "MNIST", offline)
    sentence = said(capsys, ["train", "mnist", "--steps", "2", "--device", "cpu"])
    assert "Network is unreachable" in sentence and "DDPMLIB_DATA" in sentence
    assert list(cwd.iterdir()) == []


def test_a_long_message_is_cut_to_its_first_line(cwd, capsys, monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("\nthe reason\n\npages\nof details")

    monkeypatch.setattr("ddpmlib.zoo.runs.train", fail)
    assert said(capsys, ["train", "digits"]) == "ddpmlib: the reason"


def test_a_bug_keeps_its_traceback(cwd, monkeypatch):
    monkeypatch.setattr(zoo, "names", lambda: {}["name"])
    with pytest.raises(KeyError):
        main(["zoo"])


@pytest.mark.parametrize(("words", "resumable"), [("train digits", True), ("sample", False)])
def test_interruption(runs, capsys, monkeypatch, words, resumable):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("ddpmlib.zoo.runs.train", interrupt)
    monkeypatch.setattr(evaluation, "sample_batches", interrupt)
    assert main(words.split()) == 130
    err = capsys.readouterr().err
    assert "interrupted" in err and ("--resume" in err) == resumable


# ---- help --------------------------------------------------------------------------------------


def test_help_has_examples_that_parse(capsys):
    assert status(["--help"]) == 0
    lines = [
        line.split("  ")[0].split()
        for line in map(str.strip, capsys.readouterr().out.splitlines())
        if line.startswith("ddpmlib ")
    ]
    assert len(lines) >= 5
    for words in lines:
        command.parser().parse_args(words[1:])


def test_version(capsys):
    assert status(["--version"]) == 0
    assert capsys.readouterr().out == f"ddpmlib {ddpmlib.__version__}\n"


@pytest.mark.parametrize(
    "verb", ["train", "sample", "film", "evaluate", "statistics", "ship", "zoo"]
)
def test_help_explains_every_option(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert status([verb, "--help"]) == 0
    assert verb in capsys.readouterr().out
    verbs = command.parser()._subparsers._group_actions[0].choices
    unexplained = [a.dest for a in verbs[verb]._actions if not a.help and a.option_strings]
    assert unexplained == []


# ---- as a process ------------------------------------------------------------------------------


@pytest.mark.slow
def test_python_m_ddpmlib(cwd):
    command = [sys.executable, "-m", "ddpmlib", "train", "digit"]
    done = subprocess.run(command, env=ENV, cwd=cwd, capture_output=True, encoding="utf-8")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("ddpmlib: unknown recipe 'digit'")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
@pytest.mark.slow
def test_ctrl_c_leaves_a_run_that_can_be_resumed(cwd):
    words = ["train", "digits", "--steps", "40", "--save-every", "1", "--device", "cpu"]
    process = subprocess.Popen(
        [sys.executable, "-m", "ddpmlib", *words],
        env=ENV,
        cwd=cwd,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        # Whoever runs the tests in the background has SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    state = Path("runs/digits/training.safetensors")
    limit = time.monotonic() + 600
    while not state.exists() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 130, err
    step = int(files.read_safetensors(state)[1]["step"])
    assert f"interrupted; update {step} is saved, and `--resume` goes on" in err
    assert "Traceback" not in err
    assert 1 <= step < 40 and not Path("runs/digits/model.safetensors").exists()
    words[words.index("--save-every") + 1] = "40"
    assert main([*words, "--resume"]) == 0
    assert zoo.load("runs/digits", "cpu")[1].loss[-1][0] == 40


# ---- from one end to the other -----------------------------------------------------------------


@pytest.mark.slow
def test_trained_digits_are_recognised(cwd):
    """A fraction of the recipe's budget is already far better than chance (one in ten)."""
    recipe = recipes.RECIPES["digits"]
    quick = replace(recipe.settings, steps=160, batch_size=48, warmup=20, ema=0.9)
    classifier = ROOT / "data" / "checkpoints" / "digits-classifier.safetensors"
    if not classifier.with_suffix(".json").exists():
        pytest.skip("the classifier of digits is not in data/checkpoints")
    training_runs.train(replace(recipe, settings=quick), "run", device="cpu")
    assert main(["sample", "run", "--n", "100", "--steps", "10", "--device", "cpu"]) == 0
    with Image.open("samples.png") as image:
        zoom = image.width // 89
        pixels = torch.tensor(list(image.convert("L").tobytes()), dtype=torch.uint8)
    pixels = pixels.reshape(89 * zoom, 89 * zoom)[zoom // 2 :: zoom, zoom // 2 :: zoom]
    tiles = torch.nn.functional.pad(pixels, (0, 1, 0, 1)).reshape(10, 9, 10, 9)[:, :8, :, :8]
    x = tiles.transpose(1, 2).reshape(100, 1, 8, 8)
    classifier, _ = zoo.load(classifier, "cpu")
    _, logits = features.extract(classifier, data.to_float(x))
    agreement = metrics.class_agreement(logits, torch.arange(100) % 10)
    assert agreement > 0.5, agreement
