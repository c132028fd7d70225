"""Weights for the pages: what is written can be read, is near the checkpoint, and is up to date."""

import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from ddpmlib import samplers, zoo
from ddpmlib.cli import main
from ddpmlib.models import UNet, UNetConfig
from ddpmlib.teaching import web_export
from ddpmlib.zoo import recipes

ROOT = Path(__file__).resolve().parent.parent
COMMITTED = ROOT / "book" / "_static" / "alive" / "mnist_weights.js"


def export_of(name, folder):
    path = folder / "weights.js"
    assert main(["export-web", name, "--out", str(path), "--device", "cpu"]) == 0
    return path


def error(capsys, words):
    capsys.readouterr()
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1
    return err


# ---- the file --------------------------------------------------------------------------------


def test_the_committed_script_is_that_of_the_shipped_checkpoint(tmp_path):
    same = export_of("mnist", tmp_path).read_bytes() == COMMITTED.read_bytes()
    assert same, (
        f"{COMMITTED.relative_to(ROOT)} is not of the shipped checkpoint: write it anew by "
        f"`ddpmlib export-web mnist --out {COMMITTED.relative_to(ROOT)}`"
    )


def test_it_is_one_statement_that_sets_one_global():
    text = COMMITTED.read_text("utf-8")
    comment, statement = text.split("\n", 1)
    assert comment.startswith("/*") and comment.endswith("*/")
    assert statement.startswith(web_export.BEGIN) and statement.endswith(web_export.END)
    json.loads(statement[len(web_export.BEGIN) : -len(web_export.END)])  # nothing but data


def test_it_is_small_enough_for_a_page():
    assert COMMITTED.stat().st_size < 0.9e6


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_what_is_written_can_be_read(name, tmp_path):
    model, card = zoo.load(name, "cpu")
    again, settings = web_export.read(export_of(name, tmp_path))
    assert settings["name"] == name and settings["sha256"] == card.sha256
    assert again.parameterization == model.parameterization and again.var_mix == model.var_mix
    assert torch.equal(again.process.alpha_bar, model.process.alpha_bar)
    assert again.net.config == model.net.config and not again.training
    theirs = again.state_dict()
    for key, ours in model.state_dict().items():
        levels = 4140 if ours.numel() <= 4096 else 45
        scale = ours.flatten(1).abs().amax(1) / levels if ours.ndim > 1 else torch.zeros(len(ours))
        off = (ours - theirs[key]).abs().reshape(len(ours), -1).amax(1)
        assert bool((off <= 0.501 * scale).all()), key  # float32 has seven digits


def test_rounding_changes_samples_little():
    model, _ = zoo.load("mnist", "cpu")
    again, _ = web_export.read(COMMITTED)
    x = torch.randn(10, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    y, times = torch.arange(10), samplers.uniform_times(model.process.T, 5)
    ours, theirs = (
        samplers.draw(one, model.process, x, times, eta=0, y=y) for one in (model, again)
    )
    assert 0 < float((ours - theirs).square().mean().sqrt()) < 0.05  # images span 2


# ---- rounding --------------------------------------------------------------------------------


def test_levels_reach_their_ends_and_zero_rows_stay_zero():
    matrix = torch.tensor([[45.0, -45.0, 3.4], [0, 0, 0], [-1e-30, 4e-31, 0]])
    scale, levels = web_export.rounded(matrix)
    assert levels.dtype == torch.int16
    assert levels.tolist()[0] == [45, -45, 3] and levels.tolist()[1] == [0, 0, 0]
    assert float(scale[0]) == 1 and float(scale[1]) == 0
    assert levels.tolist()[2][:2] == [-45, 18]


def test_rounding_is_the_nearest_level():
    matrix = torch.randn(20, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    scale, levels = web_export.rounded(matrix)
    off = (matrix - scale[:, None, None, None] * levels).abs().flatten(1).amax(1)
    assert levels.shape == matrix.shape and bool((off <= scale * 0.50001).all())
    finer, _ = web_export.rounded(matrix, letters=2)
    assert torch.allclose(finer, scale * 45 / 4140)


# ---- what goes wrong -------------------------------------------------------------------------


def test_a_classifier_cannot_draw(tmp_path, capsys):
    words = ["export-web", "mnist-classifier", "--out", str(tmp_path / "weights.js")]
    assert "mnist-classifier is a classifier" in error(capsys, words)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="is a classifier: only a denoiser can draw"):
        web_export.export(*zoo.load("mnist-classifier", "cpu"))


def test_a_layer_that_the_pages_cannot_run_is_named():
    model, card = zoo.load("digits", "cpu")
    model.net.mid[0].norm1 = nn.InstanceNorm2d(32)
    with pytest.raises(ValueError, match=r"digits has a layer mid\.0\.norm1 of kind Instance"):
        web_export.export(model, card)


def test_another_network_is_named():
    class Wider(UNet):
        pass

    model, card = zoo.load("digits", "cpu")
    model.net = Wider(UNetConfig())
    with pytest.raises(ValueError, match="digits is a Wider: the pages can run a UNet only"):
        web_export.export(model, card)


@pytest.mark.parametrize("name", ["weights.json", "weights", "."])
def test_the_file_must_be_a_script(name, tmp_path, capsys):
    said = error(capsys, ["export-web", "digits", "--out", str(tmp_path / name)])
    assert "--out names the script to write, for example weights.js" in said


def test_an_unknown_model_is_said(capsys):
    assert "no checkpoint 'mnits'" in error(capsys, ["export-web", "mnits"])


@pytest.mark.parametrize("text", ["", "var x = 1;", web_export.BEGIN + '{"config": {}};\n'])
def test_reading_something_else_is_an_error(text, tmp_path):
    path = tmp_path / "weights.js"
    path.write_text(text, "utf-8")
    with pytest.raises(ValueError, match="is not a script that `ddpmlib export-web` wrote"):
        web_export.read(path)


def test_a_cut_file_is_an_error(tmp_path):
    path = tmp_path / "weights.js"
    path.write_text(COMMITTED.read_text("utf-8")[:-20_000], "utf-8")
    with pytest.raises(ValueError, match="is not a script"):
        web_export.read(path)


def test_every_setting_of_a_recipe_comes_back(tmp_path):
    """Also those that the shipped checkpoints do not have: a fixed variance, predicted noise."""
    recipe = recipes.changed(
        recipes.RECIPES["digits"],
        {"schedule": "linear", "T": 50, "predicts": "eps", "var_mix": 1.0, "net.num_classes": 0},
    )
    _, card = zoo.load("digits", "cpu")
    card = dataclasses.replace(card, recipe=recipes.to_dict(recipe))
    model = recipe.build().requires_grad_(False)
    web_export.write(model, card, tmp_path / "weights.js")
    again, settings = web_export.read(tmp_path / "weights.js")
    assert (settings["schedule"], settings["T"], settings["predicts"]) == ("linear", 50, "eps")
    assert again.var_mix == 1.0 and again.process.T == 50 and not again.conditional


# ---- a card that was made to do harm ---------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["*/alert(1)/*", "*/\nalert(1)//", "</script><script>alert(1)//", "a\u2028b", "`"],
)
def test_whatever_the_card_says_the_script_sets_one_global_and_does_nothing_else(name):
    """The name of a card that was read is a plain one; this card was made in Python."""
    model, card = zoo.load("digits", "cpu")
    text = web_export.export(model, dataclasses.replace(card, name=name, sha256=name))
    comment, statement, end = text.split("\n")
    assert comment.count("*/") == 1 and comment.endswith("*/") and end == ""
    assert statement.startswith(web_export.BEGIN) and "</" not in text and text.isascii()
    found = json.loads(statement[len(web_export.BEGIN) : -1])
    assert found["name"] == found["sha256"] == name


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_written(value):
    model, card = zoo.load("digits", "cpu")
    model.net.inp.weight[0, 0, 0, 0] = value
    with pytest.raises(ValueError, match=r"digits draws nothing: .* inp\.weight are not finite"):
        web_export.export(model, card)


def test_a_script_that_is_no_file_is_not_waited_for(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no script"):
        web_export.read(tmp_path / "weights.js")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "weights.js")
        with pytest.raises(FileNotFoundError, match="there is no script"):
            web_export.read(tmp_path / "weights.js")
