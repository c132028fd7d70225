"""book/how_to_run.md: its commands are commands, and the loop with a tracker runs as it stands."""

import re
import shlex
import sys
import types
from pathlib import Path

import pytest

from ddpmlib import data, training, zoo
from ddpmlib.cli import command
from ddpmlib.zoo.recipes import changed, to_dict

PAGE = (Path(__file__).resolve().parent.parent / "book" / "how_to_run.md").read_text("utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)


LINES = [shlex.split(line, comments=True) for block in blocks("bash") for line in block.split("\n")]
COMMANDS = [words for words in LINES if words[:1] == ["ddpmlib"]]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_parses(words):
    assert command.parser().parse_args(words[1:]).run


def test_the_verbs_are_shown():
    assert {"train", "sample", "film", "zoo"} <= {words[1] for words in COMMANDS}


def test_the_loop_with_a_tracker_runs_as_it_stands(tmp_path, monkeypatch):
    """With a stand-in for the package, and a short run of a small net."""
    (code,) = blocks("python")
    assert len(code.strip().splitlines()) <= 12
    told, configs = [], []

    class Run:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            told.append("closed")

        def log(self, values, step):
            told.append((step, sorted(values)))
            assert all(isinstance(v, float) for v in values.values())

    def init(project, config):
        configs.append(config)
        return Run()

    fake = types.ModuleType("wandb")
    fake.init = init
    monkeypatch.setitem(sys.modules, "wandb", fake)
    short = changed(zoo.RECIPES["digits"], {"settings.steps": 101, "net.width": 8})
    monkeypatch.setitem(zoo.RECIPES, "digits", short)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "how_to_run.md", "exec"), {})
    assert told == [(50, ["loss", "lr"]), (100, ["loss", "lr"]), "closed"]
    assert configs == [to_dict(short)]
    assert (tmp_path / "runs/wandb/state.safetensors").is_file()
    how = ["wandb", "--n", "4", "--steps", "2", "--device", "cpu"]
    assert command.main(["sample", *how, "--label", "7"]) == 0 and Path("samples.png").is_file()
    assert command.main(["evaluate", *how, "--metric", "saturation"]) == 0
    assert zoo.Card.read(tmp_path / "runs/wandb/model.json").metrics[0]["n"] == 4


def test_the_loop_with_a_tracker_goes_on_as_the_page_says(tmp_path, monkeypatch):
    recipe = changed(zoo.RECIPES["digits"], {"settings.steps": 4, "net.width": 8})
    images = data.load("digits")

    def trainer():
        parts = recipe.build(), recipe.loss(), images.x_train, images.y_train
        return training.Trainer(*parts, recipe.settings, device="cpu")

    path = tmp_path / "runs/wandb/state.safetensors"
    for p in training.fit(trainer(), checkpoint=path, save_every=2):
        if p.step == 3:
            break
    again = trainer()
    again.load(path)
    assert [p.step for p in training.fit(again)] == [3, 4]
    assert 'trainer.load("runs/wandb/state.safetensors")' in PAGE
