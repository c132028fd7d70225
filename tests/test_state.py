"""`ddpmlib.training.state`: what is written is read back, an old format too, a newer one not."""

import itertools
import json
import os
import random
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
    assert found.keys() == {*tensors, "recent.total", "recent.count"}
    assert all(torch.equal(found[key], value) for key, value in tensors.items())
    assert float(found["recent.total"]) == 0 and int(found["recent.count"]) == 0
    assert [progress.step for progress in fit(resumed)] == [3]  # and AdamW takes a third step
    assert {float(v) for k, v in resumed.state_dict().items() if k.endswith(".step")} == {3}


@pytest.mark.parametrize("version", [2, 3])
def test_what_was_loaded_in_the_old_format_is_saved_in_the_new_one(tmp_path, version):
    by_hand(tmp_path / "s.safetensors", format=f"ddpmlib-training-{version}")
    resumed = trainer()
    resumed.load(tmp_path / "s.safetensors")
    before = {key: value.clone() for key, value in resumed.state_dict().items()}
    resumed.save(tmp_path / "s.safetensors")
    tensors, header = read_safetensors(tmp_path / "s.safetensors")
    assert header["format"] == "ddpmlib-training-4" and header["step"] == "2"
    assert tensors.keys() == before.keys()
    assert all(torch.equal(tensors[key], value) for key, value in before.items())


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        ("ddpmlib-training-5", "is of format 5, and this version of ddpmlib reads up to 4: update"),
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
    modules = {"model": other.model, "ema": other.ema, "recent": other.recent}
    state.restore(one.state_dict(), modules, other.optimiser)
    found, expected = other.state_dict(), one.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_the_header_holds_what_was_decided(tmp_path):
    path, decided = tmp_path / "s", {"settings": {"lr": 0.1}, "recipe": {"net": [1, 2]}}
    state.write(path, {"model.w": torch.ones(2)}, 7, decided | {"notes": [1, "two"]})
    found = state.read(path)
    assert found.step == 7 and found.tensors["model.w"].tolist() == [1, 1]
    assert found.said == decided | {"notes": [1, "two"]} and found.updates == {}
    state.check_same(path, found, decided, steps=7)
    # Who does not say, is not asked.
    state.check_same(path, found, {"settings": {"lr": 0.1}, "samples": 3}, steps=7)
    with pytest.raises(ValueError, match=r"trained with net = \[1, 2\], not \[1, 3\]"):
        state.check_same(path, found, decided | {"recipe": {"net": [1, 3]}}, steps=7)
    with pytest.raises(ValueError, match=r"damaged header \(step 7 is not in 0..6\)"):
        state.check_same(path, found, decided, steps=6)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_named(value):
    state.check_finite({"model.w": torch.ones(2), "model.n": torch.tensor(3)}, step=1)
    with pytest.raises(TrainingDiverged, match="model.w is not finite after step 1"):
        state.check_finite({"model.w": torch.tensor([1, value])}, step=1)


SHAPES = [(1, 2), (1,)]


def fits(tensors, step, frozen=(), **updates):
    one = trainer()
    modules = {"model": one.model, "ema": one.ema}
    found = state.State(tensors, step, {int(k[1:]): n for k, n in updates.items()}, {})
    state.check_fits("s", found, modules, SHAPES, frozen)


def test_each_moment_of_each_weight_is_demanded(tmp_path):
    tensors = by_hand(tmp_path / "s.safetensors")
    fits(tensors, 2)
    moments = [key for key in tensors if key.startswith("optimiser.")]
    assert len(moments) == 6
    for lost in moments:
        rest = {k: v for k, v in tensors.items() if k != lost}
        with pytest.raises(ValueError, match="s is damaged: the optimiser's moments"):
            fits(rest, 2)
    for weight in "01":  # all three of one weight
        rest = {k: v for k, v in tensors.items() if not k.startswith(f"optimiser.{weight}.")}
        with pytest.raises(ValueError, match="s is damaged: the optimiser's moments"):
            fits(rest, 2)
        fits(rest, 2, frozen=[int(weight)])  # it is not trained
        fits(rest, 2, **{f"w{weight}": 0})  # no batch has reached it
    fits(tensors, 2, frozen=[0])  # it was trained once
    none = {k: v for k, v in tensors.items() if not k.startswith("optimiser.")}
    fits(none, 0)  # before the first update there are none
    with pytest.raises(ValueError, match="s is damaged"):
        fits(none, 1)
    with pytest.raises(ValueError, match="s is damaged"):
        fits(tensors, 0)
    for i in ("2", "x"):
        extra = {f"optimiser.{i}.step": torch.tensor(1.0)}
        with pytest.raises(ValueError, match=rf"optimiser.{i}.step fits no weight here"):
            fits(tensors | extra, 2)


def test_the_updates_of_each_weight_are_those_of_the_header(tmp_path):
    tensors = by_hand(tmp_path / "s.safetensors")
    for step in (1, 3):
        with pytest.raises(
            ValueError, match=f"weight 0 was moved 2 times and should have been {step}"
        ):
            fits(tensors, step)
    late = tensors | {"optimiser.1.step": torch.tensor(1.0)}
    with pytest.raises(ValueError, match="weight 1 was moved 1 times and should have been 2"):
        fits(late, 2)
    fits(late, 2, w1=1)  # a batch has not reached it


def test_a_tensor_of_nobody_is_refused(tmp_path):
    tensors = by_hand(tmp_path / "s.safetensors")
    with pytest.raises(ValueError, match="belongs to another network: here is no colour"):
        fits(tensors | {"colour": torch.ones(1)}, 2)


class Sometimes(nn.Module):
    """One weight of three is reached by each batch, one by the first alone, and one by none."""

    def __init__(self):
        super().__init__()
        self.always, self.once, self.never = (nn.Linear(2, 1, bias=False) for _ in range(3))
        self.frozen = nn.Linear(2, 1).requires_grad_(False)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.always(x) + (self.once(x) if self.calls == 1 else 0) + self.frozen(x)


def test_a_network_whose_weights_are_not_all_reached_goes_on(tmp_path):
    x = torch.randn(10, 2, generator=torch.Generator().manual_seed(1))

    def fresh():
        torch.manual_seed(0)
        return Trainer(Sometimes(), loss, x, None, SETTINGS, device="cpu")

    one, other = fresh(), fresh()
    one.update()
    one.update()
    one.save(tmp_path / "s.safetensors")
    found = state.read(tmp_path / "s.safetensors")
    assert found.step == 2 and found.updates == {1: 1, 2: 0, 3: 0, 4: 0}
    other.load(tmp_path / "s.safetensors")
    assert other.step == 2
    assert all(torch.equal(other.state_dict()[k], v) for k, v in one.state_dict().items())


# ---- damage --------------------------------------------------------------------------------------


def saved(path):
    one = trainer(recipe={"kind": "line"})
    one.update()
    one.update()
    one.save(path)
    return one


@pytest.mark.slow
def test_every_bit_of_a_state_counts(tmp_path):
    """Each bit of the file is turned, one after the other: none is overlooked."""
    path = tmp_path / "s.safetensors"
    state.write(path, {"model.w": torch.tensor([1.0, -2.0])}, 7, {"lr": 0.1}, {0: 5})
    content = path.read_bytes()
    state.read(path)
    for i in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[i // 8] ^= 1 << i % 8
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="s.safetensors"):
            state.read(path)


DAMAGED = int(os.environ.get("DDPMLIB_DAMAGED_STATES", "64"))


def damages(content, tensors, header):
    """Kind of damage → what a file then holds: bytes, or tensors and header."""
    keys = sorted(tensors)
    some = random.Random(0)
    while True:
        flipped = bytearray(content)
        flipped[some.randrange(len(content))] ^= 1 << some.randrange(8)
        yield "a bit", bytes(flipped)
        yield "an end", content[: some.randrange(len(content))]
        first, second = some.sample(keys, 2)
        yield "a tensor fewer", ({k: v for k, v in tensors.items() if k != first}, header)
        key = some.choice(sorted(header))
        yield "a header", (tensors, header | {key: header[key] + some.choice(["0", " ", "}"])})
        yield "no header", (tensors, {k: v for k, v in header.items() if k != key})
        more = {f"model.{some.random()}": tensors[first].clone()}
        yield "a tensor more", (tensors | more, header)
        if not torch.equal(tensors[first], tensors[second]):
            swapped = {first: tensors[second], second: tensors[first]}
            yield "swapped", (tensors | swapped, header)
        yield "a number", (tensors | {first: tensors[first] + some.choice([-1, 1])}, header)


def test_damaged_states_are_all_refused_and_change_nothing(tmp_path):
    path = tmp_path / "s.safetensors"
    whole = saved(path)
    content, (tensors, header) = path.read_bytes(), read_safetensors(path)
    kinds, fresh = set(), trainer(recipe={"kind": "line"})
    before = {k: v.clone() for k, v in fresh.state_dict().items()}
    for kind, damage in itertools.islice(damages(content, tensors, header), DAMAGED):
        kinds.add(kind)
        if isinstance(damage, bytes):
            path.write_bytes(damage)
        else:
            save_file(damage[0], path, metadata=damage[1])
        with pytest.raises(ValueError, match="s.safetensors") as caught:
            fresh.load(path)
        assert "\n" not in str(caught.value), kind
    assert len(kinds) == 8 and fresh.step == 0
    assert all(torch.equal(fresh.state_dict()[k], v) for k, v in before.items())
    path.write_bytes(content)
    fresh.load(path)
    assert all(torch.equal(fresh.state_dict()[k], v) for k, v in whole.state_dict().items())
