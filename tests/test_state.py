"""`ddpmlib.training.state`: what is written is read back, an old format too, a newer one not."""

import json
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ddpmlib.files import read_safetensors
from ddpmlib.training import Settings, Trainer, TrainingDiverged, fit, state

SETTINGS = Settings(steps=3, batch_size=5, lr=0.1, warmup=0, ema=0.5, seed=4)


def loss(model, x, y, generator):
    return (model(x) ** 2).mean()


def trainer(**options):
    torch.manual_seed(0)
    x = torch.randn(10, 2, generator=torch.Generator().manual_seed(1))
    return Trainer(nn.Linear(2, 1), loss, x, None, SETTINGS, device="cpu", **options)


def by_hand(path, **changes):
    """A state as version 0.1.0 wrote it, after two updates, every number chosen here."""
    weight, bias = torch.tensor([[1.0, -2.0]]), torch.tensor([0.5])
    tensors = {"model.weight": weight, "model.bias": bias}
    tensors |= {"ema.module.weight": 2 * weight, "ema.module.bias": 2 * bias}
    for i, value in enumerate((weight, bias)):
        tensors[f"optimiser.{i}.step"] = torch.tensor(2.0)
        tensors[f"optimiser.{i}.exp_avg"] = 3 * value
        tensors[f"optimiser.{i}.exp_avg_sq"] = 4 * value**2
    header = {"format": "ddpmlib-training-2", "step": "2", "samples": "10"}
    header |= {"settings": json.dumps(asdict(SETTINGS)), "recipe": json.dumps({"kind": "line"})}
    save_file(tensors, path, metadata=header | changes)
    return tensors


def test_a_state_of_the_old_format_goes_on(tmp_path):
    tensors = by_hand(tmp_path / "old.safetensors")
    resumed = trainer(recipe={"kind": "line"})
    resumed.load(tmp_path / "old.safetensors")
    assert resumed.step == 2
    found = resumed.state_dict()
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[key], value) for key, value in tensors.items())
    assert [progress.step for progress in fit(resumed)] == [3]  # and AdamW takes a third step
    assert {float(v) for k, v in resumed.state_dict().items() if k.endswith(".step")} == {3}


def test_what_was_loaded_in_the_old_format_is_saved_in_the_new_one(tmp_path):
    by_hand(tmp_path / "s.safetensors")
    resumed = trainer()
    resumed.load(tmp_path / "s.safetensors")
    before = {key: value.clone() for key, value in resumed.state_dict().items()}
    resumed.save(tmp_path / "s.safetensors")
    tensors, header = read_safetensors(tmp_path / "s.safetensors")
    assert header["format"] == "ddpmlib-training-3" and header["step"] == "2"
    assert tensors.keys() == before.keys()
    assert all(torch.equal(tensors[key], value) for key, value in before.items())


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        ("ddpmlib-training-4", "is of format 4, and this version of ddpmlib reads up to 3: update"),
        ("ddpmlib-training-10", "format 10, "),
        ("ddpmlib-training-1", "not a training state of this library"),
        ("ddpmlib-training-", "not a training state"),
        ("ddpmlib-training", "not a training state"),
        ("other-3", "not a training state"),
    ],
)
def test_other_formats_are_refused_and_change_nothing(tmp_path, found, sentence):
    by_hand(tmp_path / "s.safetensors", format=found)
    fresh = trainer()
    before = {key: value.clone() for key, value in fresh.state_dict().items()}
    with pytest.raises(ValueError, match=sentence) as caught:
        fresh.load(tmp_path / "s.safetensors")
    assert "\n" not in str(caught.value) and "s.safetensors" in str(caught.value)
    assert fresh.step == 0 and all(torch.equal(fresh.state_dict()[k], v) for k, v in before.items())


def test_tensors_make_the_round_trip_into_other_modules():
    one, other = trainer(), trainer()
    one.update()
    assert not torch.equal(one.model.weight, other.model.weight)
    state.restore(one.state_dict(), {"model": other.model, "ema": other.ema}, other.optimiser)
    found, expected = other.state_dict(), one.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_the_header_holds_what_was_decided(tmp_path):
    decided = {"settings": {"lr": 0.1}, "recipe": {"net": [1, 2]}}
    state.write(tmp_path / "s", {"model.w": torch.ones(2)}, 7, decided)
    tensors, step = state.read(tmp_path / "s", decided, steps=7)
    assert step == 7 and tensors["model.w"].tolist() == [1, 1]
    state.read(tmp_path / "s", {"settings": {"lr": 0.1}}, steps=7)  # who does not say, is not asked
    with pytest.raises(ValueError, match=r"trained with net = \[1, 2\], not \[1, 3\]"):
        state.read(tmp_path / "s", decided | {"recipe": {"net": [1, 3]}}, steps=7)
    with pytest.raises(ValueError, match=r"damaged header \(step 7 is not in 0..6\)"):
        state.read(tmp_path / "s", decided, steps=6)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_named(value):
    state.check_finite({"model.w": torch.ones(2), "model.n": torch.tensor(3)}, step=1)
    with pytest.raises(TrainingDiverged, match="model.w is not finite after step 1"):
        state.check_finite({"model.w": torch.tensor([1, value])}, step=1)


def test_moments_of_some_weights_alone_are_refused(tmp_path):
    tensors = by_hand(tmp_path / "s.safetensors")
    one = trainer()
    modules, shapes = {"model": one.model, "ema": one.ema}, [(1, 2), (1,)]
    state.check_fits("s", tensors, 2, modules, shapes)
    for lost in ("optimiser.0.step", "optimiser.1.exp_avg_sq"):
        rest = {k: v for k, v in tensors.items() if k != lost}
        with pytest.raises(ValueError, match="s is damaged: the optimiser's moments"):
            state.check_fits("s", rest, 2, modules, shapes)
    none = {k: v for k, v in tensors.items() if not k.startswith("optimiser.")}
    state.check_fits("s", none, 0, modules, shapes)  # before the first update there are none
    with pytest.raises(ValueError, match="s is damaged"):
        state.check_fits("s", none, 1, modules, shapes)
    for i in ("2", "x"):
        extra = {f"optimiser.{i}.step": torch.tensor(1.0)}
        with pytest.raises(ValueError, match=rf"optimiser.{i}.step fits no weight here"):
            state.check_fits("s", tensors | extra, 2, modules, shapes)
