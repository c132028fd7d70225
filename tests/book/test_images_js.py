"""The network and the chains of the live digits, run by Node and held against PyTorch."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ddpmlib import zoo
from ddpmlib.denoiser import Denoiser
from ddpmlib.guidance import ClassifierFree
from ddpmlib.samplers import draw, sample, uniform_times
from ddpmlib.teaching import web_export
from ddpmlib.zoo import recipes
from scripts import live_digits

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="Node.js is not installed")

WEIGHTS = live_digits.FOLDER / "mnist_weights.js"
PROGRAM = """
const [folder, weights, expression] = process.argv.slice(1);
for (const name of ["diffusion.js", "unet.js", "images.js"]) require(folder + "/" + name);
require(weights);
const plain = (_, value) => ArrayBuffer.isView(value) ? Array.from(value) : value;
const given = JSON.parse(require("fs").readFileSync(0, "utf8"));
const answer = new Function("exported", ...Object.keys(given), "return " + expression);
console.log(JSON.stringify(answer(DiffusionWeights, ...Object.values(given)), plain));
"""
FORWARD = """(net => calls.map(([x, t, label]) =>
    net.forward(Float32Array.from(x), t, label)))(UNet.load(exported))"""
CHAIN = """(model => [...Images.chain({
    model, label, w, eta, times: Diffusion.uniformTimes(model.process.T, steps),
    generator: { normals: () => Float64Array.from(noises.shift()) },
})])(Images.denoiser(exported))"""


def js(weights: Path, expression: str, **given: Any) -> Any:
    """The value of a JavaScript expression over `exported` (the weights) and the given names."""
    command = [str(NODE), "-e", PROGRAM, str(live_digits.FOLDER), str(weights), expression]
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- one call of the network -------------------------------------------------------------------

# Everything that the shipped networks lack: colours, no patches, three levels, two blocks each,
# attention at the top, a predicted noise and a fixed variance, no classes, images that are oblong.
OTHER = {
    "net.channels": 3, "net.patch": 1, "net.width": 8, "net.mults": [1, 2, 3], "net.blocks": 2,
    "net.attention": [True, False, True], "net.groups": 4, "net.num_classes": 0,
    "predicts": "eps", "var_mix": 1.0, "schedule": "linear", "T": 200, "label_dropout": 0.0,
}  # fmt: skip


def other(folder: Path) -> Path:
    """A network of another shape, with random weights everywhere."""
    recipe = recipes.changed(recipes.RECIPES["digits"], OTHER)
    model, (_, card) = recipe.build(), zoo.load("digits", "cpu")
    for k, weight in enumerate(model.parameters()):
        weight.data = 0.15 * normal(*weight.shape, seed=k)
    card = dataclasses.replace(card, recipe=recipes.to_dict(recipe), image_shape=(3, 8, 12))
    web_export.write(model, card, folder / "weights.js")
    return folder / "weights.js"


def digits(folder: Path) -> Path:
    web_export.write(*zoo.load("digits", "cpu"), folder / "weights.js")
    return folder / "weights.js"


@pytest.mark.parametrize("kind", ["mnist", "digits", "other"])
@pytest.mark.slow
def test_the_network_is_that_of_pytorch(kind: str, tmp_path: Path) -> None:
    """To 1e-4 at every pixel, the largest difference over times, labels and images."""
    weights = {"mnist": lambda _: WEIGHTS, "digits": digits, "other": other}[kind](tmp_path)
    model, settings = web_export.read(weights)
    labels = [0, 9, -1] if model.conditional else [-1]
    calls = [
        (normal(1, *settings["image_shape"], seed=t + label), t, label)
        for t in (1, 2, 77, model.process.T - 1, model.process.T)
        for label in labels
    ]
    answers = js(weights, FORWARD, calls=[(x.flatten().tolist(), t, y) for x, t, y in calls])
    for (x, t, label), answer in zip(calls, answers, strict=True):
        y = _labels(model, label)
        expected = model.net(x, torch.tensor([t]), y).flatten()
        assert float(expected.std()) > 0.1  # there is something to compare
        assert float((torch.tensor(answer) - expected).abs().max()) < 1e-4, (t, label)


def test_no_class_is_the_null_label() -> None:
    model, _ = web_export.read(WEIGHTS)
    x = normal(1, 1, 28, 28)
    (answer,) = js(WEIGHTS, FORWARD, calls=[(x.flatten().tolist(), 300, -1)])
    none, seven = (model.net(x, tensor(300), y).flatten() for y in (None, tensor(7)))
    assert float((torch.tensor(answer) - none).abs().max()) < 1e-4
    assert float((torch.tensor(answer) - seven).abs().max()) > 0.1


def tensor(number: int) -> Tensor:
    return torch.tensor([number])


# ---- the chain ---------------------------------------------------------------------------------


def chain(weights: Path, model: Denoiser, shape: list[int], **how: Any) -> tuple[list[Any], Tensor]:
    """What JavaScript and what ddpmlib make of the same noise."""
    label, w, eta, steps = (how[k] for k in ("label", "w", "eta", "steps"))
    x = normal(1, *shape, seed=1)
    generator = torch.Generator().manual_seed(2)
    noises = [x.flatten().tolist(), *(normals(shape, generator) for _ in range(steps - 1))]
    states = [one for one in js(weights, CHAIN, noises=noises, **how) if one]
    guided = ClassifierFree(model, w) if w else model
    y = _labels(model, label)
    times, generator = uniform_times(model.process.T, steps), torch.Generator().manual_seed(2)
    drawn = draw(guided, model.process, x, times, eta=eta, y=y, generator=generator)
    return states, drawn.flatten()


def normals(shape: list[int], generator: torch.Generator) -> list[float]:
    return torch.randn(1, *shape, generator=generator).flatten().tolist()


@pytest.mark.parametrize(
    ("label", "w", "eta", "steps"),
    [(7, 0, 0, 10), (3, 1.5, 0, 8), (2, 0, 1, 10), (5, 2, 0.5, 6), (-1, 0, 1, 5), (1, -1, 1, 3)],
)
@pytest.mark.slow
def test_samples_are_those_of_ddpmlib(label: int, w: float, eta: float, steps: int) -> None:
    """DDIM, ancestral sampling with the learned variance, and between them; guided and not."""
    model, settings = web_export.read(WEIGHTS)
    how = {"label": label, "w": w, "eta": eta, "steps": steps}
    states, expected = chain(WEIGHTS, model, settings["image_shape"], **how)
    assert [one["t"] for one in states] == uniform_times(model.process.T, steps)
    assert float((torch.tensor(states[-1]["x"]) - expected).abs().max()) < 1e-4


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_fixed_variance_and_predicted_noise(eta: float, tmp_path: Path) -> None:
    weights = other(tmp_path)
    model, settings = web_export.read(weights)
    how = {"label": -1, "w": 0, "eta": eta, "steps": 7}
    states, expected = chain(weights, model, settings["image_shape"], **how)
    off = (torch.tensor(states[-1]["x"]) - expected).abs().max() / expected.abs().max()
    assert float(off) < 1e-5  # untrained, it wanders far: so in units of where it is


def test_predictions_along_the_chain_are_those_of_ddpmlib() -> None:
    model, settings = web_export.read(WEIGHTS)
    how = {"label": 4, "w": 0, "eta": 0, "steps": 4}
    found, _ = chain(WEIGHTS, model, settings["image_shape"], **how)
    x, times = normal(1, 1, 28, 28, seed=1), uniform_times(model.process.T, 4)
    expected = list(sample(model, model.process, x, times, eta=0, y=tensor(4)))
    for (before, after), one in zip(pairwise(expected), found[1:], strict=True):
        assert after.x0 is not None and (one["from"], one["t"]) == (before.t, after.t)
        eps = model.process.eps_from_x0(before.x, after.x0, before.t)
        for ours, theirs in ((one["x0"], after.x0), (one["eps"], eps), (one["x"], after.x)):
            assert float((torch.tensor(ours) - theirs.flatten()).abs().max()) < 1e-4
    assert found[-1]["x"] == pytest.approx(found[-1]["x0"], abs=1e-12)  # and no noise added


@pytest.mark.slow
def test_every_network_call_is_a_turn_of_its_own() -> None:
    """A guided step is two calls, with a turn for the page in between."""
    noises = [normal(784, seed=k).tolist() for k in range(4)]
    for w, turns in ((0, [1, 1, 1, 1]), (2, [1, 0, 1, 0, 1, 0, 1])):
        yielded = js(WEIGHTS, CHAIN, label=4, w=w, eta=1, steps=3, noises=noises)
        assert [int(one is not None) for one in yielded] == turns


def test_grey_levels() -> None:
    levels = js(WEIGHTS, "[Images.grey(x), Images.grey(x, 3)]", x=[-4, -1, 0, 1, 2])
    assert levels == [[0, 0, 128, 255, 255], [0, 85, 128, 170, 212]]


def _labels(model: Any, label: int) -> torch.Tensor | None:
    """The label as a batch of one; −1 is none."""
    if not model.conditional:
        return None
    y = torch.tensor([max(label, 0)])
    return model.without(y) if label < 0 else y
