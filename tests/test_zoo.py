"""`ddpmlib.zoo`: from recipe to run to checkpoint, and no damaged or foreign weights on the way."""

import ast
import hashlib
import json
import os
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial, partialmethod
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ddpmlib import data, evaluation, files, locks, training, zoo
from ddpmlib.denoiser import Denoiser
from ddpmlib.files import read_safetensors
from ddpmlib.guidance import ClassifierGuidance
from ddpmlib.losses import objectives
from ddpmlib.models import (
    Classifier,
    ClassifierConfig,
    NoisyClassifier,
    NoisyClassifierConfig,
    UNetConfig,
)
from ddpmlib.process import DDPM
from ddpmlib.process.schedules import linear
from ddpmlib.training import Settings, TrainingDiverged, state
from ddpmlib.zoo import (
    ClassifierRecipe,
    DiffusionRecipe,
    NoisyClassifierRecipe,
    checkpoints,
    log,
    recipes,
    run_folder,
    runs,
    stretches,
)

ROOT = Path(__file__).resolve().parent.parent
NET = UNetConfig(width=8, mults=(1,), attention=(False,), heads=1, groups=4, num_classes=10)
TINY = DiffusionRecipe("tiny", "digits", NET, Settings(steps=10, batch_size=8, warmup=2, ema=0.5))
CLASSIFIER = ClassifierRecipe(
    "digits-classifier",
    "digits",
    ClassifierConfig(width=4, features=8),
    Settings(steps=40, batch_size=32, lr=1e-2, warmup=5, ema=0.5),
)


GUIDE = NoisyClassifierRecipe(
    "guide",
    "digits",
    NoisyClassifierConfig(width=8, mults=(1,), attention=(False,), heads=1, groups=4),
    Settings(steps=3, batch_size=8, warmup=2, ema=0.5),
    schedule="linear",
    T=40,
    reach=1,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run; tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("runs") / "a tiny run"
    runs.train(TINY, folder, device="cpu", save_every=4, log_every=3, command="make tiny")
    return folder


@pytest.fixture
def copied(finished, tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in finished.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    folder = tmp_path / "shipped here"
    monkeypatch.setattr(checkpoints, "shipped", lambda: folder)
    return folder


def interrupted(monkeypatch, at, error=KeyboardInterrupt):
    """Training stops with an error after update number ``at``, as by Ctrl-C."""

    def fit(trainer, **options):
        for progress in training.fit(trainer, **options):
            yield progress
            if progress.step == at:
                raise error

    monkeypatch.setattr(runs, "fit", fit)


def weights(path):
    return read_safetensors(path)[0]


def files_of(path):
    return zoo.weights_files(path, zoo.Card.read(path.with_suffix(".json")))


def same(a, b):
    assert a.keys() == b.keys()
    assert [k for k in a if not torch.equal(a[k], b[k])] == []
    return True


# ---- a run -------------------------------------------------------------------------------------


def test_a_run_leaves_four_files_and_a_truthful_card(finished):
    names = {zoo.STATE, zoo.LOG, zoo.MODEL, "model.json"}
    assert {p.name for p in finished.iterdir()} == names
    card = zoo.Card.read(finished / "model.json")
    tensors = weights(finished / zoo.MODEL)
    assert card.name == "tiny" and recipes.from_dict(card.recipe) == TINY
    assert card.sha256 == hashlib.sha256((finished / zoo.MODEL).read_bytes()).hexdigest()
    assert card.parameters == sum(v.numel() for v in tensors.values())
    assert {v.dtype for v in tensors.values()} == {torch.float32} and card.dtype == "float32"
    assert card.image_shape == (1, 8, 8) and card.num_classes == 10 and card.metrics == []
    how = card.training
    assert how["command"] == "make tiny" and how["images_seen"] == 80 and how["seconds"] >= 0
    assert how["device"] == "cpu" and how["bf16"] is False and how["compile"] is False
    assert how["torch"] == torch.__version__ and "thread" in how["hardware"]
    log = zoo.read_log(finished / zoo.LOG)
    assert card.loss == [[s, round(v, 6)] for s, v in zip(log["step"], log["loss"], strict=True)]


def test_the_checkpoint_holds_the_averaged_weights(finished):
    state, model = weights(finished / zoo.STATE), weights(finished / zoo.MODEL)
    averaged = {
        k.removeprefix("ema.module."): v for k, v in state.items() if k.startswith("ema.module.")
    }
    assert same(averaged, model)
    assert any(not torch.equal(v, state[f"model.{k}"]) for k, v in model.items())


def test_the_log_has_the_mean_loss_of_each_stretch(finished, tmp_path, monkeypatch):
    losses = []

    def fit(trainer, **options):
        for progress in training.fit(trainer, **options):
            losses.append(float(progress.loss))
            yield progress

    monkeypatch.setattr(runs, "fit", fit)
    runs.train(TINY, tmp_path / "r", device="cpu", log_every=3)
    log = zoo.read_log(tmp_path / "r" / zoo.LOG)
    assert log["step"] == [3, 6, 9, 10]
    means = [sum(losses[i:j]) / (j - i) for i, j in ((0, 3), (3, 6), (6, 9), (9, 10))]
    assert log["loss"] == pytest.approx(means, rel=1e-5)
    assert log["lr"] == [TINY.settings.lr_at(step - 1) for step in log["step"]]
    assert log["seconds"] == sorted(log["seconds"]) and min(log["images_per_s"]) > 0
    assert same(weights(tmp_path / "r" / zoo.MODEL), weights(finished / zoo.MODEL))


def test_a_run_of_some_minutes_is_the_run_of_its_steps(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runs, "updates_within", lambda trainer, seconds, *_: int(seconds))
    options = {"device": "cpu", "save_every": 4, "log_every": 3, "command": "make tiny"}
    with monkeypatch.context() as patch:
        interrupted(patch, 7)
        with pytest.raises(KeyboardInterrupt):
            runs.train(TINY, tmp_path / "r", minutes=10 / 60, **options)
    assert "tiny: 0.166667 minutes are 10 updates" in capsys.readouterr().out
    card = runs.train(recorded_of(tmp_path / "r"), tmp_path / "r", resume=True, **options)
    assert card.recipe["settings"]["steps"] == 10
    assert card.training["command"] == "make tiny --steps 10"
    assert same(weights(tmp_path / "r" / zoo.MODEL), weights(finished / zoo.MODEL))


def recorded_of(folder):
    return stretches.recorded(folder / zoo.STATE).recipe


@pytest.mark.parametrize(("at", "saved"), [(7, 4), (None, 10)])
def test_a_run_goes_on_for_some_minutes_from_where_it_stands(
    tmp_path, monkeypatch, capsys, at, saved
):
    """Interrupted or finished: six more updates than are saved, with the rates of so long a run."""
    folder, options = tmp_path / "r", {"device": "cpu", "save_every": 4, "log_every": 1}
    with monkeypatch.context() as patch:
        interrupted(patch, at)
        with pytest.raises(KeyboardInterrupt) if at else nullcontext():
            runs.train(TINY, folder, command="make tiny", **options)
    monkeypatch.setattr(runs, "updates_within", lambda trainer, seconds, *_: int(seconds))
    card = runs.train(TINY, folder, minutes=6 / 60, resume=True, command="more", **options)
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"tiny: 0.1 minutes are 6 updates after the {saved} that are done"
    end = saved + 6
    if end != 10:
        assert out[1].startswith(f"tiny: {end} updates instead of 10; the schedule")
        assert card.training["command"] == f"make tiny && more --steps {end} --resume"
    assert card.recipe["settings"]["steps"] == end and rows_of(folder)[-1]["step"] == end
    settings = replace(TINY.settings, steps=end)
    new = [row for row in rows_of(folder) if row["step"] > saved]
    assert [row["lr"] for row in new] == [settings.lr_at(row["step"] - 1) for row in new]


def test_processes_that_are_started_again_count_no_minutes_twice(tmp_path, monkeypatch):
    folder, options = tmp_path / "r", {"device": "cpu", "save_every": 4, "minutes": 10 / 60}
    with monkeypatch.context() as patch:
        patch.setattr(runs, "updates_within", lambda *_: 10)
        interrupted(patch, 7)
        with pytest.raises(KeyboardInterrupt):
            runs.train(TINY, folder, **options)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    monkeypatch.setattr(runs, "updates_within", lambda *_: 1 / 0)
    assert runs.train(TINY, folder, **options).recipe["settings"]["steps"] == 10


@pytest.mark.parametrize(
    ("each", "sentence"),
    [(60, "about 12 minutes to go"), (6, "about 1 minute to go"), (4, ""), (7200, "1,440 minutes")],
)
def test_the_minutes_to_come_are_said_after_the_first_updates(
    tmp_path, monkeypatch, capsys, each, sentence
):
    now, update = [0.0], training.Trainer.update

    def slow(trainer):
        now[0] += each
        return update(trainer)

    monkeypatch.setattr(training.Trainer, "update", slow)
    monkeypatch.setattr(training.time_budget.time, "perf_counter", lambda: now[0])
    recipe = replace(TINY, settings=replace(TINY.settings, steps=20))
    runs.train(recipe, tmp_path / "r", device="cpu", sample_every=20)
    out = capsys.readouterr().out
    assert out.count("\n") == bool(sentence) and sentence in out


def test_the_time_is_taken_where_the_run_lies_and_leaves_no_trace(tmp_path, finished):
    card = runs.train(TINY, tmp_path / "r", minutes=1e-4, device="cpu", save_every=4)
    assert {p.name for p in (tmp_path / "r").iterdir()} == {p.name for p in finished.iterdir()}
    assert 1 <= card.recipe["settings"]["steps"] < 100


@pytest.mark.parametrize("at", [2, 4, 7, 10])
def test_an_interrupted_run_resumes_to_the_same_bits(finished, tmp_path, monkeypatch, at):
    folder = tmp_path / "r"
    with monkeypatch.context() as patch:
        interrupted(patch, at)
        with pytest.raises(KeyboardInterrupt):
            runs.train(TINY, folder, device="cpu", save_every=4, log_every=3)
    assert not (folder / zoo.MODEL).exists()
    torch.rand(9)
    runs.train(TINY, folder, resume=True, device="cpu", save_every=4, log_every=3)
    assert same(weights(finished / zoo.STATE), weights(folder / zoo.STATE))
    assert same(weights(finished / zoo.MODEL), weights(folder / zoo.MODEL))


def test_the_log_goes_on_where_the_saved_state_stands(tmp_path, monkeypatch):
    folder = tmp_path / "r"
    with monkeypatch.context() as patch:
        interrupted(patch, 9)
        with pytest.raises(KeyboardInterrupt):
            runs.train(TINY, folder, device="cpu", save_every=5, log_every=2)
    lines = (folder / zoo.LOG).read_text("utf-8").splitlines(keepends=True)
    assert [json.loads(line)["step"] for line in lines] == [2, 4, 6, 8]
    (folder / zoo.LOG).write_text("".join(lines) + '{"step": 9, "lo', "utf-8")  # cut by a kill
    assert zoo.read_log(folder / zoo.LOG)["step"] == [2, 4, 6, 8]
    card = runs.train(TINY, folder, resume=True, device="cpu", save_every=5, log_every=2)
    rows = (folder / zoo.LOG).read_text("utf-8").splitlines(keepends=True)
    assert [json.loads(line)["step"] for line in rows] == [2, 4, 6, 8, 10]
    assert rows[:2] == lines[:2]  # what the saved state knew of is kept, the rest is done again
    log = zoo.read_log(folder / zoo.LOG)
    assert log["seconds"] == sorted(log["seconds"])
    assert [step for step, _ in card.loss] == log["step"]


def rows_of(folder):
    lines = (folder / zoo.LOG).read_text("utf-8").splitlines()
    return [{k: row[k] for k in ("step", "loss", "lr")} for row in map(json.loads, lines)]


@pytest.mark.parametrize("at", range(1, 11))
@pytest.mark.parametrize("save_every", [2, 3])
def test_the_lines_after_a_resume_are_those_of_a_run_without_one(
    finished, tmp_path, monkeypatch, at, save_every
):
    """Lines are due at 3, 6, 9, 10: the mean over an interrupted stretch is exact."""
    folder = tmp_path / "r"
    with monkeypatch.context() as patch:
        interrupted(patch, at)
        with pytest.raises(KeyboardInterrupt):
            runs.train(TINY, folder, device="cpu", save_every=save_every, log_every=3)
    runs.train(TINY, folder, resume=True, device="cpu")
    assert rows_of(folder) == rows_of(finished)
    assert zoo.Card.read(folder / "model.json").loss == zoo.Card.read(finished / "model.json").loss


@pytest.mark.parametrize("lost", [1, 2, 3, 4])
def test_a_kill_between_a_state_and_its_line_loses_no_line(finished, tmp_path, monkeypatch, lost):
    folder, calls = tmp_path / "r", []

    def dying(path, content):
        calls.append(content)
        if len(calls) == lost:
            (folder / zoo.LOG).write_bytes(path.read_bytes() + content[:20])
            raise KeyboardInterrupt
        files.append(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(zoo.log, "append", dying)
        with pytest.raises(KeyboardInterrupt):
            runs.train(TINY, folder, device="cpu", save_every=3, log_every=3)
    step = int(read_safetensors(folder / zoo.STATE)[1]["step"])
    assert step == (3, 6, 9, 10)[lost - 1] and len(rows_lines(folder)) == lost - 1
    card = runs.train(TINY, folder, resume=True, device="cpu")
    assert rows_of(folder) == rows_of(finished)
    assert card.loss == zoo.Card.read(finished / "model.json").loss
    speeds = zoo.read_log(folder / zoo.LOG)["images_per_s"]
    assert len(speeds) == 4 and min(speeds) >= 0


def rows_lines(folder):
    return [line for line in (folder / zoo.LOG).read_text("utf-8").splitlines() if line[-1] == "}"]


def test_a_run_is_extended_from_python_and_the_rate_follows_the_new_schedule(copied):
    longer = replace(TINY, settings=replace(TINY.settings, steps=16))
    card = runs.train(longer, copied, resume=True, device="cpu", command="make it longer")
    assert card.recipe["settings"]["steps"] == 16
    assert card.training["command"] == "make tiny && make it longer --resume"
    log = rows_of(copied)
    assert [row["step"] for row in log] == [3, 6, 9, 10, 12, 15, 16]  # every third, as before
    assert [row["lr"] for row in log[4:]] == [longer.settings.lr_at(n - 1) for n in (12, 15, 16)]
    assert [step for step, _ in card.loss] == [row["step"] for row in log]


def test_the_mean_loss_of_an_extended_run_counts_no_update_twice(copied, monkeypatch):
    """The last state still holds the losses of its own line, which the log has already."""
    losses = []

    def fit(trainer, **options):
        for progress in training.fit(trainer, **options):
            losses.append(float(progress.loss))
            yield progress

    monkeypatch.setattr(runs, "fit", fit)
    longer = replace(TINY, settings=replace(TINY.settings, steps=12))
    runs.train(longer, copied, resume=True, device="cpu")
    assert rows_of(copied)[-1]["loss"] == pytest.approx(sum(losses) / 2, rel=1e-6)


@pytest.mark.parametrize("at", [11, 13])
def test_a_run_that_is_extended_and_interrupted_goes_on_to_its_new_end(copied, monkeypatch, at):
    longer = replace(TINY, settings=replace(TINY.settings, steps=14))
    with monkeypatch.context() as patch:
        interrupted(patch, at)
        with pytest.raises(KeyboardInterrupt):
            runs.train(longer, copied, resume=True, device="cpu")
    # The model there is that of ten updates, and no reason to stop.
    assert zoo.Card.read(copied / "model.json").recipe["settings"]["steps"] == 10
    card = runs.train(longer, copied, resume=True, device="cpu")
    assert card.recipe["settings"]["steps"] == 14 and len(card.training["stretches"]) == 2


def test_an_unfinished_run_can_be_made_shorter_too_but_not_than_it_is(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupted(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            runs.train(TINY, tmp_path, device="cpu", save_every=5, log_every=3)
    of = {n: replace(TINY, settings=replace(TINY.settings, steps=n)) for n in (4, 5)}
    with pytest.raises(ValueError, match="has 5 updates behind it: --steps must be at least that"):
        runs.train(of[4], tmp_path, resume=True, device="cpu")
    card = runs.train(of[5], tmp_path, resume=True, device="cpu")
    assert card.loss[-1][0] == 5 and card.recipe["settings"]["steps"] == 5
    assert runs.train(of[5], tmp_path, resume=True, device="cpu") == card


def test_a_run_that_an_older_version_began_goes_on(finished, tmp_path, monkeypatch):
    """Its state has no digest, does not say how it is carried out, and knows no recent losses."""
    folder = tmp_path / "r"
    with monkeypatch.context() as patch:
        interrupted(patch, 6)
        with pytest.raises(KeyboardInterrupt):
            runs.train(TINY, folder, device="cpu", save_every=3, log_every=3)
    tensors, header = read_safetensors(folder / zoo.STATE)
    kept = {k: v for k, v in header.items() if k not in ("sha256", "stretches")}
    tensors = {k: v for k, v in tensors.items() if not k.startswith("recent.")}
    save_file(tensors, folder / zoo.STATE, metadata=kept | {"format": "ddpmlib-training-3"})
    card = runs.train(TINY, folder, resume=True, device="cpu", log_every=3, command="go on")
    assert rows_of(folder) == rows_of(finished) and card.training["command"] == "go on"
    assert same(weights(finished / zoo.MODEL), weights(folder / zoo.MODEL))


def test_a_state_that_does_not_say_of_which_run_is_refused(copied):
    tensors, header = read_safetensors(copied / zoo.STATE)
    for change in ({"recipe": "3"}, {"recipe": "{}"}, {"stretches": "[3]"}, {"stretches": "7"}):
        words = {k: v for k, v in (header | change).items() if k != "sha256"}
        words["sha256"] = training.state.digest(tensors, words)
        save_file(tensors, copied / zoo.STATE, metadata=words)
        with pytest.raises(ValueError, match="training.safetensors does not say which run it is o"):
            runs.train(TINY, copied, resume=True, device="cpu")


def test_a_folder_that_somebody_trains_in_is_left_alone(copied, tmp_path):
    before = {p.name: p.read_bytes() for p in copied.iterdir()}
    sentence = f"copy is being trained by process {os.getpid()} on"
    lock = locks.locked(copied / run_folder.LOCK, "x", "wait")
    with lock, pytest.raises(locks.Held, match=sentence):
        runs.train(TINY, copied, resume=True, device="cpu")
    assert {p.name: p.read_bytes() for p in copied.iterdir()} == before
    (copied / run_folder.LOCK).write_text(
        '{"pid": 1, "host": "gone", "since": "long ago"}', "utf-8"
    )
    runs.train(TINY, copied, resume=True, device="cpu")  # nobody holds it
    assert {p.name: p.read_bytes() for p in copied.iterdir()} == before


def test_a_folder_in_which_another_run_has_been_meanwhile_is_left_alone(tmp_path, monkeypatch):
    """Between the look at the folder and its lock another run began and was killed."""
    real = runs.Trainer

    def late(*words, **options):
        if not (tmp_path / "r").exists():
            (tmp_path / "r").mkdir()
            (tmp_path / "r" / zoo.STATE).write_bytes(b"its state")
        return real(*words, **options)

    monkeypatch.setattr(runs, "Trainer", late)
    with pytest.raises(ValueError, match="has changed since this run was prepared: try again"):
        runs.train(TINY, tmp_path / "r", device="cpu")
    assert (tmp_path / "r" / zoo.STATE).read_bytes() == b"its state"


def test_training_further_starts_from_the_weights_of_a_checkpoint(finished, tmp_path):
    model = TINY.build()
    sha256 = zoo.start_from(model, finished)
    assert sha256 == zoo.read(finished / zoo.MODEL)[0].sha256
    assert same(model.state_dict(), weights(finished / zoo.MODEL))
    further = replace(TINY, settings=replace(TINY.settings, steps=1, lr=1e-30, ema=0.0))
    card = runs.train(further, tmp_path / "further", device="cpu", init=finished)
    assert sha256 in card.training["init"]
    found, start = weights(tmp_path / "further" / zoo.MODEL), weights(finished / zoo.MODEL)
    assert all(torch.allclose(found[k], start[k]) for k in start)
    assert "init" not in zoo.read(finished / zoo.MODEL)[0].training


def test_a_learned_variance_starts_in_the_middle_with_the_old_mean(finished):
    learned = replace(TINY, var_mix=None, objective="hybrid").build()
    zoo.start_from(learned, finished)
    plain, _ = zoo.load(finished, "cpu")
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([3, 7])
    with torch.no_grad():
        old, new = plain(x, 500, y), learned.eval()(x, 500, y)
    assert torch.allclose(new.x0, old.x0, atol=1e-6)
    assert torch.equal(new.var_mix, torch.full_like(x, 0.5))


def test_the_start_of_another_network_is_refused(finished):
    for net in (replace(NET, width=16), replace(NET, blocks=2), replace(NET, num_classes=0)):
        model = replace(TINY, net=net).build()
        before = {k: v.clone() for k, v in model.state_dict().items()}
        with pytest.raises(ValueError, match="belongs to another network"):
            zoo.start_from(model, finished)
        assert same(model.state_dict(), before)


def write_other_start(folder):
    folder.mkdir()
    torch.manual_seed(9)
    card = zoo.Card("other", recipes.to_dict(TINY), "", 1, "float32", (1, 8, 8), 10, {})
    zoo.write_model(TINY.build().state_dict(), card, folder / zoo.MODEL)
    return folder


def test_a_run_resumes_from_the_start_it_had(finished, tmp_path, monkeypatch):
    interrupted(monkeypatch, 5)
    with pytest.raises(KeyboardInterrupt):
        runs.train(TINY, tmp_path, device="cpu", init=finished, save_every=1)
    monkeypatch.undo()
    other = write_other_start(tmp_path / "other")
    with pytest.raises(ValueError, match="was trained with init"):
        runs.train(TINY, tmp_path, device="cpu", resume=True, init=other)
    card = runs.train(TINY, tmp_path, device="cpu", resume=True)  # from the one that it had
    sha256 = zoo.read(finished / zoo.MODEL)[0].sha256
    assert card.training["init"] == f"{finished} ({sha256})"


@pytest.mark.parametrize(
    ("recipe", "changes", "sentence"),
    [
        (TINY, {"net.num_classes": 5}, "digits has 10 classes, the net 5"),
        (TINY, {"net.channels": 3}, "digits has 1 channels, the net 3"),
        (TINY, {"net.patch": 3}, "8 × 8 pixels, .* multiples of 3"),
        (CLASSIFIER, {"net.num_classes": 3}, "digits has 10 classes, the net 3"),
        (CLASSIFIER, {"reach": 8}, "reach = 8 shifts images of side 8 out of sight"),
    ],
)
def test_a_net_that_does_not_fit_the_data_leaves_nothing_behind(
    tmp_path, recipe, changes, sentence
):
    folder = tmp_path / "run"
    with pytest.raises(ValueError, match=sentence):
        runs.train(recipes.changed(recipe, changes), folder, device="cpu")
    assert not folder.exists()


def test_a_log_of_rubbish_does_not_stop_a_resume(tmp_path, monkeypatch):
    folder = tmp_path / "r"
    with monkeypatch.context() as patch:
        interrupted(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            runs.train(TINY, folder, device="cpu", save_every=4)
    (folder / zoo.LOG).write_bytes(b"\0\0\xff\n12\n[]\nnull\n{}\n")
    runs.train(TINY, folder, resume=True, device="cpu")
    assert zoo.read_log(folder / zoo.LOG)["step"] == [10]


def test_an_empty_and_a_missing_log(tmp_path):
    (tmp_path / "log.jsonl").write_text("", "utf-8")
    assert zoo.read_log(tmp_path / "log.jsonl") == {}
    with pytest.raises(FileNotFoundError, match="no log"):
        zoo.read_log(tmp_path / "other.jsonl")


def test_a_run_is_never_overwritten_by_accident(copied):
    before = {p.name: p.read_bytes() for p in copied.iterdir()}
    with pytest.raises(FileExistsError, match="already holds a run: go on with it by --resume"):
        runs.train(TINY, copied, device="cpu")
    (copied / zoo.STATE).unlink()
    for resume in (False, True):
        with pytest.raises(FileExistsError, match="holds a trained model but no training.safe"):
            runs.train(TINY, copied, resume=resume, device="cpu")
    after = {p.name: p.read_bytes() for p in copied.iterdir()}
    assert after == {k: v for k, v in before.items() if k != zoo.STATE}


def test_resume_with_another_recipe_leaves_the_run_as_it_was(copied):
    before = {p.name: p.read_bytes() for p in copied.iterdir()}
    for other, match in (
        (replace(TINY, predicts="eps"), "predicts = v, not eps"),
        (replace(TINY, schedule="linear"), "schedule = cosine, not linear"),
        (replace(TINY, label_dropout=0.2), "label_dropout = 0.1, not 0.2"),
        (replace(TINY, settings=replace(TINY.settings, lr=1.0)), "lr = 0.001, not 1.0"),
        (replace(TINY, settings=replace(TINY.settings, steps=9)), "has 10 updates behind it"),
        (CLASSIFIER, "batch_size = 8, not 32"),
    ):
        with pytest.raises(ValueError, match=match):
            runs.train(other, copied, resume=True, device="cpu")
    assert {p.name: p.read_bytes() for p in copied.iterdir()} == before


def test_resuming_a_finished_run_keeps_its_card_and_measurements(copied):
    card = zoo.Card.read(copied / "model.json")
    card.metrics.append({"metric": "samples", "n": 2})
    card.write(copied / "model.json")
    before = {p.name: p.read_bytes() for p in copied.iterdir()}
    again = runs.train(TINY, copied, resume=True, device="cpu", command="another")
    assert again.metrics == [{"metric": "samples", "n": 2}]
    assert again.training["command"] == "make tiny"
    assert {p.name: p.read_bytes() for p in copied.iterdir()} == before


@pytest.mark.parametrize("lost", ["model.json", "model.safetensors", "half"])
def test_a_half_export_is_done_again(copied, finished, lost):
    if lost == "half":  # killed between the weights and their card
        (copied / zoo.MODEL).write_bytes(b"other")
    else:
        (copied / lost).unlink()
    runs.train(TINY, copied, resume=True, device="cpu")
    zoo.load(copied, "cpu")
    assert same(weights(copied / zoo.MODEL), weights(finished / zoo.MODEL))


def test_diverging_leaves_the_last_good_state(tmp_path, monkeypatch):
    folder, calls = tmp_path / "r", []

    def diverging(model, x, y, generator):
        calls.append(1)
        loss = objectives.diffusion_loss(model, x, y, generator)
        return loss * float("nan") if len(calls) > 6 else loss

    with monkeypatch.context() as patch:
        patch.setattr(DiffusionRecipe, "loss", lambda self: diverging)
        with pytest.raises(TrainingDiverged, match="last good state is kept in"):
            runs.train(TINY, folder, device="cpu", save_every=4)
    assert read_safetensors(folder / zoo.STATE)[1]["step"] == "4"
    assert not (folder / zoo.MODEL).exists()


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("mine", "utf-8")
    with pytest.raises(NotADirectoryError, match="needs a folder, and .*file is a file"):
        runs.train(TINY, tmp_path / "file", device="cpu")
    assert (tmp_path / "file").read_text("utf-8") == "mine"


def test_a_network_without_classes_is_trained_loaded_and_sampled(tmp_path):
    recipe = replace(
        TINY, net=replace(NET, num_classes=0), settings=replace(TINY.settings, steps=2)
    )
    card = runs.train(recipe, tmp_path / "r", device="cpu")
    assert card.num_classes == 0 and evaluation.classes_in_turn(card, 3) is None
    denoiser, _ = zoo.load(tmp_path / "r", "cpu")
    x0 = evaluation.generate(denoiser, (1, 8, 8), None, evaluation.Sampling(steps=2), n=3)
    assert x0.shape == (3, 1, 8, 8)


# ---- images of one's own ------------------------------------------------------------------------


def own_images(classes=("left", "right"), side=4):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (24, 1, side, side), generator=generator, dtype=torch.uint8)
    y = torch.arange(24) % len(classes) if classes else None
    parts = (x[:16], None, x[16:], None) if y is None else (x[:16], y[:16], x[16:], y[16:])
    return data.Dataset("mine", *parts, classes)


@pytest.mark.parametrize("classes", [("left", "right"), ()])
def test_a_recipe_is_carried_out_on_images_of_ones_own(tmp_path, classes):
    recipe = replace(TINY, net=replace(NET, num_classes=len(classes)))
    mine = own_images(classes)
    card = runs.train(recipe, tmp_path / "r", dataset=mine, device="cpu")
    assert card.image_shape == (1, 4, 4) and card.num_classes == len(classes)
    assert card.recipe["data"] == "mine" and recipe.data == "digits"
    tensors = weights(tmp_path / "r" / zoo.MODEL)
    # The same by the trainer alone: these images, and no others, were trained on.
    twin = training.Trainer(
        recipe.build(), recipe.loss(), mine.x_train, mine.y_train, recipe.settings, device="cpu"
    )
    assert [progress.step for progress in training.fit(twin)][-1] == 10
    assert same(tensors, dict(twin.averaged.state_dict()))


def test_images_that_do_not_fit_leave_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match="mine has 2 classes, the net 10"):
        runs.train(TINY, tmp_path / "r", dataset=own_images(), device="cpu")
    with pytest.raises(ValueError, match="unknown data set 'mine': choose one of digits, mnist"):
        runs.train(replace(TINY, data="mine"), tmp_path / "r", device="cpu")
    assert not (tmp_path / "r").exists()


def test_a_run_on_other_images_is_not_resumed(tmp_path, monkeypatch):
    recipe = replace(TINY, net=replace(NET, num_classes=2))
    with monkeypatch.context() as patch:
        interrupted(patch, 4)
        with pytest.raises(KeyboardInterrupt):
            runs.train(recipe, tmp_path, dataset=own_images(), device="cpu", save_every=1)
    other = replace(own_images(), name="yours")
    with pytest.raises(ValueError, match="was trained with data = mine, not yours"):
        runs.train(recipe, tmp_path, dataset=other, resume=True, device="cpu")
    runs.train(recipe, tmp_path, dataset=own_images(), resume=True, device="cpu")


# ---- formats -----------------------------------------------------------------------------------

OLD_CARD = """{
 "name": "old", "recipe": {"kind": "classifier"}, "sha256": "@SHA256@", "parameters": 3,
 "dtype": "float16", "image_shape": [1, 8, 8], "num_classes": 10,
 "training": {"seconds": 1.5}, "loss": [[50, 0.25]], "metrics": [{"n": 2}], "parts": 1
}""".replace("@SHA256@", "0" * 64)


def test_a_card_of_the_old_format_is_read_and_written_in_the_new_one(tmp_path):
    (tmp_path / "old.json").write_text(OLD_CARD)
    card = zoo.Card.read(tmp_path / "old.json")
    assert card == zoo.Card(
        "old", {"kind": "classifier"}, "0" * 64, 3, "float16", (1, 8, 8), 10, {"seconds": 1.5},
        [[50, 0.25]], [{"n": 2}], 1,
    )  # fmt: skip
    card.write(tmp_path / "new.json")
    found = json.loads((tmp_path / "new.json").read_text())
    assert found == {"format": 3, "digest": card.digest} | json.loads(OLD_CARD)
    assert next(iter(found)) == "format"
    assert zoo.Card.read(tmp_path / "new.json") == card


@pytest.mark.parametrize(
    ("version", "sentence"),
    [
        (4, "card of format 4, and this version of ddpmlib reads up to 3: update it"),
        (0, r"not a checkpoint card \(format = 0\)"),
        (True, r"not a checkpoint card \(format = True\)"),
        ("2", r"not a checkpoint card \(format = '2'\)"),
        (None, r"not a checkpoint card \(format = None\)"),
    ],
)
def test_a_card_of_another_format_is_refused(tmp_path, version, sentence):
    content = {"format": version} | json.loads(OLD_CARD) | {"a field to come": 1}
    (tmp_path / "card.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=sentence) as caught:
        zoo.Card.read(tmp_path / "card.json")
    assert "\n" not in str(caught.value) and "card.json" in str(caught.value)


@pytest.mark.parametrize("content", ["[]", "null", "3", "[[1, 2, 3]]", "{", "\xff"])
def test_what_is_no_json_object_is_no_card(tmp_path, content):
    (tmp_path / "card.json").write_text(content)
    with pytest.raises(ValueError, match="is not a checkpoint card"):
        zoo.Card.read(tmp_path / "card.json")


# ---- shipping and loading ----------------------------------------------------------------------


def test_ship_and_load_by_name_folder_and_file(finished, shipped):
    path = zoo.ship(finished)
    assert path == shipped / "tiny.safetensors"
    assert zoo.names() == ["tiny"]
    for name in ("tiny", path, str(path), finished, str(finished), finished / zoo.MODEL):
        model, card = zoo.load(name, "cpu")
        assert isinstance(model, Denoiser) and card.name == "tiny"
        assert not model.training
        assert not any(p.requires_grad for p in model.parameters())
        assert {p.dtype for p in model.parameters()} == {torch.float32}
    card = zoo.Card.read(shipped / "tiny.json")
    original = zoo.Card.read(finished / "model.json")
    assert card.dtype == "float16" and card.training == original.training
    assert card.loss == original.loss and card.parameters == original.parameters


def test_shipping_as_float16_costs_little_and_as_float32_nothing(finished, shipped):
    paths = zoo.ship(finished, "half"), zoo.ship(finished, "full", "float32")
    half, full = (zoo.read(path)[1] for path in paths)
    exact = weights(finished / zoo.MODEL)
    assert same(exact, full)
    for name, value in exact.items():
        assert half[name].dtype == torch.float16
        error = (half[name].float() - value).abs()
        assert bool((error <= value.abs() * 2**-11 + 2**-24).all())
    sizes = [files_of(path)[0].stat().st_size for path in paths]
    assert sizes[0] < 0.6 * sizes[1]
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    a, b = (zoo.load(n, "cpu")[0](x, 500, torch.arange(4)).x0 for n in ("half", "full"))
    assert float((a - b).abs().max()) < 5e-3


def test_shipped_models_load_on_the_bits_of_their_file(finished, shipped):
    zoo.ship(finished)
    model, _ = zoo.load("tiny", "cpu")
    half = weights(files_of(shipped / "tiny.safetensors")[0])
    assert same({k: v.float() for k, v in half.items()}, dict(model.state_dict()))


def test_measurements_do_not_travel_to_other_bits(copied, shipped):
    card = zoo.Card.read(copied / "model.json")
    card.metrics.append({"metric": "samples", "n": 2})
    card.write(copied / "model.json")
    zoo.ship(copied, "other-name")
    assert zoo.Card.read(shipped / "other-name.json").metrics == []
    assert zoo.load("other-name", "cpu")[1].name == "other-name"


@pytest.mark.parametrize("where", [0, 9, 0.5, -1])
def test_one_flipped_bit_is_noticed(copied, shipped, where):
    path = zoo.ship(copied)
    (file,) = files_of(path)
    content = bytearray(file.read_bytes())
    i = int(len(content) * where) if 0 < where < 1 else where
    content[i] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged: its SHA-256 is .* the card says") as caught:
        zoo.load("tiny", "cpu")
    assert str(path) in str(caught.value)


def test_damaged_weights_are_not_shipped(copied, shipped):
    content = bytearray((copied / zoo.MODEL).read_bytes())
    content[-1] ^= 1
    (copied / zoo.MODEL).write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        zoo.ship(copied)
    assert not shipped.exists()


def test_a_run_called_like_a_shipped_checkpoint_is_the_one_that_is_shipped(
    copied, shipped, monkeypatch
):
    zoo.ship(copied)  # float16
    monkeypatch.chdir(copied.parent)
    copied.rename("tiny")
    zoo.ship("tiny", dtype="float32")
    assert same(zoo.read(shipped / "tiny.safetensors")[1], weights(Path("tiny") / zoo.MODEL))


@pytest.mark.parametrize("name", ["../out", "a/b", ".hidden", ""])
def test_a_checkpoint_name_is_a_plain_file_name(finished, shipped, name):
    if name == "":
        assert zoo.ship(finished, name).stem == "tiny"  # as without a name
        return
    with pytest.raises(ValueError, match="plain file name"):
        zoo.ship(finished, name)
    assert not shipped.exists()


def test_ship_refuses_other_types_and_what_does_not_fit_them(copied, shipped):
    with pytest.raises(ValueError, match="float16 or float32, got 'int8'"):
        zoo.ship(copied, dtype="int8")
    tensors = weights(copied / zoo.MODEL)
    next(iter(tensors.values())).fill_(1e6)  # float16 ends at 65504
    save_file(tensors, copied / zoo.MODEL)
    digest = hashlib.sha256((copied / zoo.MODEL).read_bytes()).hexdigest()
    replace(zoo.Card.read(copied / "model.json"), sha256=digest).write(copied / "model.json")
    with pytest.raises(ValueError, match="does not fit into torch.float16: ship with dtype"):
        zoo.ship(copied)
    zoo.load(zoo.ship(copied, dtype="float32"), "cpu")


def test_an_unfinished_run_says_what_to_do(tmp_path, monkeypatch, shipped):
    folder = tmp_path / "r"
    with monkeypatch.context() as patch:
        interrupted(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            runs.train(TINY, folder, device="cpu", save_every=4)
    for use in (zoo.ship, evaluation.evaluate, zoo.find):
        with pytest.raises(FileNotFoundError, match="not finished: resume it with `ddpmlib train`"):
            use(folder)


@pytest.mark.parametrize("recipe", [TINY, GUIDE], ids=["denoiser", "noisy classifier"])
def test_a_run_that_is_not_finished_is_loaded_with_its_averaged_weights(
    tmp_path, monkeypatch, recipe
):
    folder, recipe = tmp_path / "r", replace(recipe, settings=replace(recipe.settings, steps=9))
    with monkeypatch.context() as patch:
        interrupted(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            runs.train(recipe, folder, device="cpu", save_every=4)
    with pytest.warns(
        zoo.UnfinishedRun, match="r is not finished: .* after 4 of 9 updates"
    ) as seen:
        model, card = zoo.load(folder, "cpu")
    assert seen[0].filename == __file__
    state = weights(folder / zoo.STATE)
    averaged = {
        k.removeprefix("ema.module."): v for k, v in state.items() if k.startswith("ema.module.")
    }
    assert same(averaged, model.state_dict()) and not model.training
    assert recipes.from_dict(card.recipe) == recipe and card.name == recipe.name
    assert card.image_shape == (1, 8, 8) and card.num_classes == 10
    classes = list("0123456789")
    assert card.training == {"step": 4, "steps": 9, "classes": classes}
    assert card.parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("recipe", None), ("recipe", "[]"), ("recipe", "{}"), ("shape", None), ("shape", "[8, 8]"),
        ("shape", "[1, 8, -8]"), ("shape", "3"), ("shape", "{}"),
    ],
)  # fmt: skip
def test_a_state_that_does_not_say_what_it_trains_is_not_loaded(copied, key, value):
    (copied / zoo.MODEL).unlink()
    tensors, header = read_safetensors(copied / zoo.STATE)
    header |= {key: value, "sha256": None, "format": f"{state.NAME}-3"}  # which had no digest
    header = {k: v for k, v in header.items() if v is not None}
    files.write_safetensors(copied / zoo.STATE, tensors, header)
    with pytest.raises(ValueError, match="does not say which model it trains"):
        zoo.load(copied, "cpu")


def test_a_state_with_other_weights_than_its_recipe_needs_is_not_loaded(copied):
    (copied / zoo.MODEL).unlink()
    found = state.read(copied / zoo.STATE)
    said = {k: v for k, v in found.said.items() if k not in ("format", "step")}
    said["recipe"]["net"]["width"] = 16
    state.write(copied / zoo.STATE, found.tensors, found.step, said)
    with pytest.raises(ValueError, match="other weights than its card's recipe needs"):
        zoo.load(copied, "cpu")


def test_an_unknown_name_says_what_there_is(finished, shipped):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint 'minst': .*\(none shipped\)"):
        zoo.load("minst")
    zoo.ship(finished)
    with pytest.raises(FileNotFoundError, match="or one of tiny"):
        zoo.load("minst")


def test_weights_of_another_recipe_are_refused(copied):
    card = zoo.Card.read(copied / "model.json")
    card.recipe["net"]["width"] = 16
    save_file(weights(copied / zoo.MODEL), copied / zoo.MODEL)  # by a program without digests
    digest = hashlib.sha256((copied / zoo.MODEL).read_bytes()).hexdigest()
    replace(card, sha256=digest).write(copied / "model.json")
    with pytest.raises(ValueError, match="other weights than its card's recipe needs"):
        zoo.load(copied, "cpu")


def test_shipped_is_inside_an_installed_package_else_in_the_clone(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PACKAGE", tmp_path / "ddpmlib")
    assert zoo.shipped() == tmp_path / "data" / "checkpoints"
    (tmp_path / "ddpmlib" / "checkpoints").mkdir(parents=True)
    assert zoo.shipped() == tmp_path / "ddpmlib" / "checkpoints"


# ---- weights in parts --------------------------------------------------------------------------


@pytest.fixture
def in_parts(copied, shipped, monkeypatch):
    """The tiny run, shipped in five parts; returns the path that stands for them."""
    (one,) = files_of(zoo.ship(copied, "whole"))
    whole = one.stat().st_size
    monkeypatch.setattr(checkpoints, "LARGEST", -(-whole // 5))
    return zoo.ship(copied)


def parts_of(path):
    return sorted(path.parent.glob(f"{path.name}.*"))


def test_large_weights_ship_in_parts_and_load_joined(in_parts, shipped):
    parts, card = parts_of(in_parts), zoo.Card.read(shipped / "tiny.json")
    digest = card.sha256[:12]
    assert [p.name for p in parts] == [f"tiny.safetensors.{digest}.part{i}of5" for i in range(1, 6)]
    assert card.parts == 5 and not in_parts.exists()
    assert all(0 < p.stat().st_size <= checkpoints.LARGEST for p in parts)
    content = b"".join(p.read_bytes() for p in parts)
    assert hashlib.sha256(content).hexdigest() == card.sha256
    whole, _ = zoo.load("whole", "cpu")
    for name in ("tiny", in_parts, str(in_parts)):
        model, found = zoo.load(name, "cpu")
        assert found == card and same(model.state_dict(), whole.state_dict())
    assert zoo.names() == ["tiny", "whole"]


def test_more_than_nine_parts_are_joined_in_order(copied, shipped, monkeypatch):
    monkeypatch.setattr(checkpoints, "LARGEST", 700)
    path = zoo.ship(copied)
    assert zoo.Card.read(path.with_suffix(".json")).parts > 10
    zoo.load("tiny", "cpu")


def test_small_weights_ship_in_one_file_that_says_whose_they_are(copied, shipped):
    path = zoo.ship(copied)
    card = zoo.Card.read(path.with_suffix(".json"))
    digest = card.sha256[:12]
    names = {"tiny.json", f"tiny.{digest}.jsonl", f"tiny.safetensors.{digest}.part1of1"}
    assert card.parts == 1 and {p.name for p in shipped.iterdir()} == names
    assert zoo.log_file(path, card).read_bytes() == (copied / zoo.LOG).read_bytes()
    parts_of(path)[0].unlink()
    with pytest.raises(FileNotFoundError, match="tiny.safetensors.*part1of1 is missing: fetch it"):
        zoo.load("tiny", "cpu")


def older(finished, folder):
    """A checkpoint as older versions shipped it: weights and log have plain names."""
    folder.mkdir(exist_ok=True)
    card, tensors = zoo.read(finished / zoo.MODEL)
    tensors = {k: v.half() for k, v in tensors.items()}
    card = replace(card, name="tiny", dtype="float16")
    zoo.write_model(tensors, card, folder / "tiny.safetensors")
    (folder / "tiny.jsonl").write_bytes((finished / zoo.LOG).read_bytes())
    return folder / "tiny.safetensors"


def test_what_older_versions_shipped_still_loads_until_it_is_shipped_again(
    finished, copied, shipped
):
    path = older(finished, shipped)
    card = zoo.load("tiny", "cpu")[1]
    assert card.dtype == "float16" and zoo.log_file(path, card) == shipped / "tiny.jsonl"
    zoo.ship(copied, dtype="float32")
    assert not path.exists() and not (shipped / "tiny.jsonl").exists()
    assert len(list(shipped.iterdir())) == 3 and zoo.load("tiny", "cpu")[1].dtype == "float32"


def test_a_reader_who_comes_while_it_is_shipped_gets_the_new_weights(
    in_parts, copied, shipped, monkeypatch
):
    """Between its look at the card and at the weights a newer checkpoint takes the place."""
    real, calls = zoo.weights.weights_files, []

    def late(path, card):
        calls.append(card)
        found = real(path, card)
        if len(calls) == 1:
            zoo.ship(copied, "tiny", "float32")
        return found

    monkeypatch.setattr(zoo.weights, "weights_files", late)
    card, tensors = zoo.read(in_parts)
    assert card.dtype == "float32" and len(calls) > 1
    assert same(tensors, weights(copied / zoo.MODEL))


def test_a_checkpoint_in_parts_is_trained_further_measured_and_shipped_again(
    in_parts, shipped, monkeypatch
):
    model = TINY.build()
    assert zoo.start_from(model, "tiny") == zoo.Card.read(in_parts.with_suffix(".json")).sha256
    assert same(model.state_dict(), zoo.load("tiny", "cpu")[0].state_dict())
    evaluation.evaluate("tiny", metrics=["nll"], n=2, nll_draws=1, device="cpu")
    assert zoo.load("tiny", "cpu")[1].metrics[0]["metric"] == "nll"


@pytest.mark.parametrize("part", [0, 2, 4])
def test_a_missing_part_is_named(in_parts, part):
    lost = parts_of(in_parts)[part]
    lost.unlink()
    with pytest.raises(FileNotFoundError, match="is missing: fetch it again, or train") as caught:
        zoo.load("tiny", "cpu")
    assert str(lost) in str(caught.value)


@pytest.mark.parametrize("damage", ["flipped", "cut", "swapped", "foreign"])
def test_a_part_that_is_damaged_or_anothers_is_noticed(in_parts, damage):
    first, second, *_ = parts_of(in_parts)
    content = second.read_bytes()
    if damage == "swapped":
        second.write_bytes(first.read_bytes())
        first.write_bytes(content)
    else:
        flipped, foreign = bytes([content[0] ^ 1]) + content[1:], b"other weights"
        second.write_bytes({"flipped": flipped, "cut": content[:-1], "foreign": foreign}[damage])
    match = "one of the 5 parts of .*tiny.safetensors is damaged, or belongs to other weights: its"
    with pytest.raises(ValueError, match=match):
        zoo.load("tiny", "cpu")


@pytest.mark.parametrize("largest", [700, 4_000, 10**9])
def test_a_newer_checkpoint_takes_the_older_ones_files_away(
    in_parts, copied, finished, shipped, monkeypatch, largest
):
    """Other weights in fewer parts, in more, or in one file; and back again."""
    before = parts_of(in_parts)
    stray = shipped / ".tiny.safetensors.0123456789ab.part1of2.01234567.part"
    stray.write_bytes(b"of a killed write")
    locks.tidy.cache_clear()  # as in another process
    (whole,) = files_of(shipped / "whole.safetensors")
    neighbour = whole.read_bytes()
    monkeypatch.setattr(checkpoints, "LARGEST", largest)
    zoo.ship(copied, "tiny", "float32")
    card = zoo.Card.read(shipped / "tiny.json")
    files = zoo.weights_files(in_parts, card)
    assert sorted(p for p in shipped.iterdir() if "tiny.safetensors" in p.name) == sorted(files)
    assert not set(before) & set(files)
    assert same(zoo.load("tiny", "cpu")[0].state_dict(), weights(finished / zoo.MODEL))
    assert whole.read_bytes() == neighbour
    monkeypatch.setattr(checkpoints, "LARGEST", 5_000)
    zoo.ship(copied)
    assert parts_of(in_parts) and not in_parts.exists()


def everything_of(path):
    """What a reader gets: weights, card and log."""
    card, tensors = zoo.read(path)
    return card, tensors, zoo.log_file(path, card).read_bytes()


@pytest.mark.parametrize("before", ["parts", "plain"])
@pytest.mark.parametrize("killed_at", range(12))
def test_a_ship_killed_at_any_moment_leaves_the_old_or_the_new(
    finished, copied, shipped, monkeypatch, killed_at, before
):
    """The card comes last; until then all that a reader gets is the old, to the last line."""
    if before == "plain":
        path = older(finished, shipped)
    else:
        monkeypatch.setattr(checkpoints, "LARGEST", 4_000)
        path = zoo.ship(copied)
    monkeypatch.setattr(checkpoints, "LARGEST", 9_000)
    (copied / zoo.LOG).write_bytes((copied / zoo.LOG).read_bytes().replace(b"3", b"4"))
    old, done = everything_of(path), []

    def dying(real, *words):
        if len(done) == killed_at:
            raise KeyboardInterrupt
        done.append(str(words[0]))
        return real(*words)

    with monkeypatch.context() as patch:
        for module in (checkpoints, zoo.card):
            patch.setattr(module, "write_atomically", partial(dying, files.write_atomically))
        patch.setattr(Path, "unlink", partialmethod(dying_unlink, dying, Path.unlink))
        killed = False
        try:
            zoo.ship(copied, "tiny", "float32")
        except KeyboardInterrupt:
            killed = True
    has_new_card = any(name.endswith(".json") for name in done)
    new = everything_of(path)
    assert killed or has_new_card
    if not has_new_card:
        assert new[0] == old[0] and same(new[1], old[1]) and new[2] == old[2]
    else:
        assert new[0].dtype == "float32" and new[0].sha256 != old[0].sha256
        assert same(new[1], weights(copied / zoo.MODEL))
        assert new[2] == (copied / zoo.LOG).read_bytes() != old[2]
    zoo.ship(copied, "tiny", "float32")
    card = zoo.Card.read(shipped / "tiny.json")
    kept = {*zoo.weights_files(path, card), zoo.log_file(path, card), shipped / "tiny.json"}
    assert set(shipped.iterdir()) == kept


@pytest.mark.parametrize("killed_at", range(3))
def test_a_longer_run_killed_while_it_exports_keeps_its_shorter_model_and_then_ends(
    copied, monkeypatch, killed_at
):
    """Weights, card, and last the plain name; the run goes on from whichever was left."""
    longer = replace(TINY, settings=replace(TINY.settings, steps=12))
    old, done = zoo.read(copied / zoo.MODEL), []

    def dying(real, path, *words):
        if str(path).startswith(str(copied / "model")):
            if len(done) == killed_at:
                raise KeyboardInterrupt
            done.append(path)
        return real(path, *words)

    with monkeypatch.context() as patch:
        for module in (checkpoints, zoo.card):
            patch.setattr(module, "write_atomically", partial(dying, files.write_atomically))
        patch.setattr(Path, "replace", lambda p, to: dying(Path.rename, p, to))
        with pytest.raises(KeyboardInterrupt):
            runs.train(longer, copied, resume=True, device="cpu")
    found = zoo.read(copied / zoo.MODEL)
    if killed_at < 2:
        assert found[0] == old[0] and same(found[1], old[1])
    else:
        assert found[0].recipe["settings"]["steps"] == 12
    card = runs.train(longer, copied, resume=True, device="cpu")
    assert same(weights(copied / zoo.MODEL), zoo.read(copied / zoo.MODEL)[1])
    assert hashlib.sha256((copied / zoo.MODEL).read_bytes()).hexdigest() == card.sha256
    assert {p.name for p in copied.iterdir()} == {zoo.STATE, zoo.LOG, zoo.MODEL, "model.json"}


def dying_unlink(path, dying, real, **options):
    if ".tiny" in str(path):  # half files and locks, of which the system takes care
        return real(path, **options)
    return dying(real, path)


@pytest.mark.parametrize("parts", [0, -3, "5", 10**9])
def test_a_card_with_another_number_of_parts_is_refused(in_parts, parts):
    card = in_parts.with_suffix(".json")
    card.write_text(json.dumps(json.loads(card.read_text("utf-8")) | {"parts": parts}), "utf-8")
    with pytest.raises(ValueError, match="tiny.json is not a checkpoint card .parts"):
        zoo.load("tiny", "cpu")


def test_ship_into_another_folder(copied, shipped, tmp_path):
    path = zoo.ship(copied, folder=tmp_path / "elsewhere")
    assert path == tmp_path / "elsewhere" / "tiny.safetensors" and not shipped.exists()
    assert zoo.load(path, "cpu")[1].name == "tiny"


# ---- cards -------------------------------------------------------------------------------------


def test_a_card_reads_back_as_it_was_written(finished, tmp_path):
    card = zoo.Card.read(finished / "model.json")
    card.write(tmp_path / "card.json")
    assert zoo.Card.read(tmp_path / "card.json") == card


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "{}", '{"image_shape": [1, 8, 8]}', '{"image_shape": 3}']
)
def test_what_is_not_a_card_is_refused(copied, text):
    (copied / "model.json").write_text(text, "utf-8")
    with pytest.raises(ValueError, match="model.json is not a checkpoint card"):
        zoo.load(copied)


@pytest.mark.parametrize(
    "change",
    [{"image_shape": v} for v in ("abc", [1, "a", 8], [1.5, 8, 8], [-1, 8, 8], [])]
    + [{"num_classes": v} for v in ("x", None, -1)]
    + [{"parameters": "x"}, {"dtype": 3}, {"loss": 3}],
)
def test_a_card_with_values_of_another_kind_is_refused(copied, change):
    values = json.loads((copied / "model.json").read_text("utf-8"))
    (copied / "model.json").write_text(json.dumps(values | change), "utf-8")
    with pytest.raises(
        ValueError, match=f"model.json is not a checkpoint card .{next(iter(change))}"
    ):
        zoo.load(copied)


def test_a_card_with_an_unknown_field_or_none_at_all_is_refused(copied):
    values = asdict(zoo.Card.read(copied / "model.json"))
    (copied / "model.json").write_text(json.dumps(values | {"colour": "red"}), "utf-8")
    with pytest.raises(ValueError, match="colour"):
        zoo.load(copied)
    (copied / "model.json").unlink()
    with pytest.raises(FileNotFoundError, match="no card .*model.json"):
        zoo.load(copied)


def test_thinned_curves_keep_their_mean_and_their_end():
    pairs = [(k, float(k % 7)) for k in range(1, 1001)]
    thin = log.thinned(pairs)
    assert len(thin) == 200 and thin[-1][0] == 1000
    assert thin[0] == (5, 3.0)  # the mean of 1, 2, 3, 4, 5
    assert log.thinned(pairs[:200]) == pairs[:200] and log.thinned([]) == []


def test_the_commit_is_only_that_of_the_clone_itself(tmp_path, monkeypatch):
    import shutil
    import subprocess

    if not shutil.which("git"):
        pytest.skip("git is not installed")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)  # whatever the user has set
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # set where a hook runs the tests
        monkeypatch.delenv(name, raising=False)

    def git(*words):
        identity = ["-c", "user.name=n", "-c", "user.email=e"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *words], check=True)

    package = tmp_path / "ddpmlib"
    (package / "zoo").mkdir(parents=True)
    (package / "zoo" / "runs.py").write_text("", "utf-8")
    monkeypatch.setattr(runs, "PACKAGE", package)
    assert runs._commit() is None
    git("init", "-q")
    (tmp_path / "mine.txt").write_text("", "utf-8")
    git("add", "mine.txt")
    git("commit", "-qm", "somebody else's repository")
    assert runs._commit() is None
    git("add", ".")
    git("commit", "-qm", "the clone")
    assert len(runs._commit()) == 40
    (package / "zoo" / "runs.py").write_text("changed", "utf-8")
    assert runs._commit().endswith(" with changes")


# ---- nothing is ever unpickled -----------------------------------------------------------------


def test_no_module_can_unpickle_anything():
    files = sorted((ROOT / "ddpmlib").rglob("*.py"))
    assert len(files) > 10
    found = [f"{p.name}: {what}" for p in files for what in unpicklers(p.read_text("utf-8"))]
    assert found == []


def unpicklers(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] + [getattr(node, "module", None) or ""]
            for name in names:
                if name.split(".")[0] in {"pickle", "dill", "joblib", "shelve", "cloudpickle"}:
                    yield name
            if getattr(node, "module", None) == "torch" and {"load", "save"} & set(names):
                yield "torch.load"
        if isinstance(node, ast.Attribute) and ast.unparse(node) in {
            "torch.load",
            "torch.save",
            "torch.hub",
        }:
            yield ast.unparse(node)
        asked = isinstance(node, ast.keyword) and node.arg == "allow_pickle"
        if asked and ast.unparse(node.value) != "False":
            yield "allow_pickle"


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from torch import load", "torch.load('x')", "np.load(f, allow_pickle=True)"],
)
def test_the_search_for_unpickling_finds_it(source):
    assert list(unpicklers(source))


# ---- a classifier that guides ------------------------------------------------------------------


def test_a_noisy_classifier_is_trained_shipped_loaded_and_measured(tmp_path, shipped):
    card = runs.train(GUIDE, tmp_path / "run", device="cpu")
    assert card.num_classes == 10 and recipes.from_dict(card.recipe) == GUIDE
    path = zoo.ship(tmp_path / "run")
    assert path == shipped / "guide.safetensors"
    model, card = zoo.load("guide", "cpu")
    assert isinstance(model, NoisyClassifier) and not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert torch.equal(model.process.alpha_bar, DDPM(linear(40)).alpha_bar)
    (entry,) = evaluation.evaluate("guide", device="cpu")
    assert zoo.Card.read(path.with_suffix(".json")).metrics == [entry]
    again = evaluation.accuracy_under_noise(model, data.load("digits"))
    assert entry["at_times"] == again["at_times"] and entry["metric"].endswith("under noise")
    with pytest.raises(ValueError, match="guide is a classifier: it is measured by its accuracy"):
        evaluation.evaluate("guide", metrics=["fid"], device="cpu")
    evaluation.evaluate("guide", evaluation.Sampling(seed=1), device="cpu")
    assert len(zoo.Card.read(path.with_suffix(".json")).metrics) == 2


def test_a_loaded_classifier_guides_a_denoiser_of_its_noise_and_no_other(tmp_path):
    runs.train(GUIDE, tmp_path / "run", device="cpu")
    model, _ = zoo.load(tmp_path / "run", "cpu")
    denoiser = replace(TINY, schedule="linear", T=40).build().eval()
    x, y = torch.randn(4, 1, 8, 8), torch.arange(4)
    with torch.no_grad():
        guided = ClassifierGuidance(denoiser, model, 2.0)(x, 20, y).x0
        assert float((guided - denoiser(x, 20, y).x0).abs().max()) > 0
    with pytest.raises(ValueError, match="both must see the same x_t"):
        ClassifierGuidance(TINY.build(), model)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"net.mults": [1] * 5, "net.attention": [False] * 5}, "8 × 8 pixels.* multiples of 16"),
        ({"reach": 8}, "reach = 8 shifts images of side 8 out of sight"),
        ({"net.num_classes": 7}, "digits has 10 classes, the net 7"),
        ({"net.channels": 3}, "digits has 1 channels, the net 3"),
    ],
)
def test_a_noisy_classifier_that_does_not_fit_its_data_is_refused(tmp_path, change, match):
    with pytest.raises(ValueError, match=match):
        runs.train(recipes.changed(GUIDE, change), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_classifier_without_a_process_is_not_measured_under_noise():
    with pytest.raises(ValueError, match="knows no process"):
        evaluation.accuracy_under_noise(NoisyClassifier(GUIDE.net), data.load("digits"))


# ---- what the project ships --------------------------------------------------------------------

CARDS = sorted((ROOT / "data" / "checkpoints").glob("*.json"))
CHECKPOINTS = [path.with_suffix(".safetensors") for path in CARDS]


@pytest.mark.parametrize("path", CARDS, ids=lambda p: p.stem)
def test_every_shipped_card_is_of_the_newest_format_and_keeps_its_digits(path, tmp_path):
    zoo.Card.read(path).write(tmp_path / "again.json")
    found, before = (json.loads(p.read_text()) for p in (tmp_path / "again.json", path))
    assert before["format"] == 3 and found == {"parts": 1} | before


@pytest.mark.parametrize("path", CHECKPOINTS, ids=lambda p: p.stem)
def test_the_weights_that_ship_know_the_recipe_that_they_were_written_with(path, tmp_path):
    """An older card, which has no digest, cannot give them another one."""
    card = zoo.Card.read(path.with_suffix(".json"))
    content = b"".join(p.read_bytes() for p in zoo.weights_files(path, card))
    assert files.from_safetensors(content, path)[1] == {"digest": card.digest}
    for part in zoo.weights_files(path, card):
        (tmp_path / part.name).symlink_to(part)
    old = json.loads(path.with_suffix(".json").read_text())
    old |= {"format": 2, "recipe": old["recipe"] | {"name": "another"}}
    del old["digest"]
    (tmp_path / f"{path.stem}.json").write_text(json.dumps(old))
    with pytest.raises(ValueError, match="was written with another recipe"):
        zoo.load(tmp_path / path.name, "cpu")


@pytest.mark.parametrize("path", CHECKPOINTS, ids=lambda p: p.stem)
def test_measurements_and_statistics_name_the_classifier_that_ships(path):
    card = zoo.Card.read(path.with_suffix(".json"))
    known = {c.stem: zoo.Card.read(c).sha256 for c in CARDS}
    for entry in card.metrics:
        if entry.get("features") in known:
            assert entry["extractor"] == known[entry["features"]][:12]
    if path.stem == f"{card.recipe['data']}-classifier":
        name = f"{card.recipe['data']}.json"
        made = json.loads((ROOT / "data" / "statistics" / name).read_text("utf-8"))
        assert made["classifier"] == card.sha256


def test_every_shipped_file_belongs_to_a_checkpoint():
    known = set(CARDS)
    for path in CHECKPOINTS:
        card = zoo.Card.read(path.with_suffix(".json"))
        known |= {*zoo.weights_files(path, card), zoo.log_file(path, card)}
    assert set((ROOT / "data" / "checkpoints").iterdir()) == known


def test_what_ships_fits_the_repository():
    sizes = {p: p.stat().st_size for p in (ROOT / "data").rglob("*") if p.is_file()}
    assert max(sizes.values()) <= checkpoints.LARGEST and sum(sizes.values()) < 60e6


@pytest.mark.parametrize("path", CHECKPOINTS, ids=lambda p: p.stem)
def test_every_shipped_checkpoint_loads_and_its_card_is_truthful(path):
    model, card = zoo.load(path.stem, "cpu")
    assert card.name == path.stem
    recipe = recipes.from_dict(card.recipe)
    kinds = {DiffusionRecipe: Denoiser, NoisyClassifierRecipe: NoisyClassifier}
    assert isinstance(model, kinds.get(type(recipe), Classifier))
    assert card.parameters == sum(p.numel() for p in model.parameters())
    tensors = zoo.read(path)[1].values()
    assert {str(v.dtype) for v in tensors if v.is_floating_point()} == {f"torch.{card.dtype}"}
    assert all(bool(v.isfinite().all()) for v in tensors)
    how, settings = card.training, recipe.settings
    assert how["images_seen"] == settings.steps * settings.batch_size
    assert how["seconds"] > 0 and how["hardware"] and how["torch"]
    assert how["command"].startswith("ddpmlib train ")
    assert card.loss[-1][0] == settings.steps and card.loss[-1][1] < card.loss[0][1]


@pytest.mark.parametrize("path", CHECKPOINTS, ids=lambda p: p.stem)
def test_every_shipped_checkpoint_has_its_log_and_measurements(path):
    card = zoo.Card.read(path.with_suffix(".json"))
    log = zoo.read_log(zoo.log_file(path, card))
    assert log["step"] == sorted(set(log["step"])) and log["step"][-1] == card.loss[-1][0]
    assert card.metrics, "measure it: ddpmlib evaluate NAME"
    assert all(m["n"] >= 2 and m["hardware"] for m in card.metrics)
    # A command that can be repeated names no folder of the machine it ran on.
    assert not [w for w in card.training["command"].split() if w.startswith(("/", "~"))]


@pytest.mark.parametrize("path", CHECKPOINTS, ids=lambda p: p.stem)
def test_every_shipped_model_does_its_work(path):
    model, card = zoo.load(path.stem, "cpu")
    if isinstance(model, Classifier):
        if card.recipe["data"] != "digits":
            pytest.skip("its data set is not embedded")
        images = data.load("digits")
        right = model(data.to_float(images.x_test)).argmax(1) == images.y_test
        assert float(right.float().mean()) > 0.95
    elif isinstance(model, NoisyClassifier):
        if card.recipe["data"] != "digits":
            pytest.skip("its data set is not embedded")
        found = evaluation.accuracy_under_noise(model, data.load("digits"))["at_times"]
        assert found[0] > 0.9 and found[5] > 0.5 and found[-1] < 0.2
    else:
        y = evaluation.classes_in_turn(card, 4)
        x0 = evaluation.generate(model, card.image_shape, y, evaluation.Sampling(steps=2))
        assert x0.shape == (4, *card.image_shape) and bool(x0.isfinite().all())
        assert float(x0.mean()) < 0 < float(x0.max())  # bright strokes on a dark ground
