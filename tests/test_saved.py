"""`zoo.save` and `zoo.load` of any model: nothing is unpickled, no code comes from a file."""

import doctest
import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from ddpmlib import data, files, zoo
from ddpmlib.denoiser import (
    EPS,
    SCORE,
    VELOCITY,
    X0,
    Denoiser,
    V,
    edm_output,
    flow_matching_velocity,
)
from ddpmlib.evaluation import evaluate
from ddpmlib.guidance import ClassifierFree
from ddpmlib.losses import diffusion_loss
from ddpmlib.models import (
    MLP,
    Classifier,
    ClassifierConfig,
    NoisyClassifier,
    NoisyClassifierConfig,
    UNet,
    UNetConfig,
)
from ddpmlib.process import (
    DDPM,
    EDM,
    VDM,
    VE,
    VP,
    FlowMatching,
    Interpolated,
    Process,
    RectifiedFlow,
    SubVP,
    ZeroBased,
    schedules,
)
from ddpmlib.training import Settings, Trainer, fit
from ddpmlib.zoo import checkpoints, saved

RATES = torch.rand(30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
CHAIN = DDPM(torch.cat([torch.zeros(1), RATES * 0.3 + 1e-4]))
PROCESSES = [
    CHAIN,
    DDPM(torch.tensor([0.0, 0.3, 1.0])),
    Interpolated(CHAIN),
    ZeroBased(CHAIN),
    VP(),
    VP(0.05, 19.999999999999996),
    SubVP(0.0, 17.3),
    VE(1 / 3, 49.7),
    EDM(),
    EDM(end=79),
    RectifiedFlow(),
    FlowMatching(0.1),
    VDM(),
]
PREDICTS = [EPS, X0, V, SCORE, VELOCITY, flow_matching_velocity(0.3), edm_output(2 / 3)]


class Foreign(nn.Module):
    """A class-conditional network of somebody else, with the two members of the protocol."""

    def __init__(self, width, classes):
        super().__init__()
        self.classes = classes
        self.label = nn.Embedding(classes + 1, width)
        self.inp, self.out = nn.Linear(3, width), nn.Linear(width, 2)

    conditional = True

    def without(self, y):
        return torch.full_like(y, self.classes)

    def forward(self, x, t, y=None):
        y = torch.full_like(t, self.classes) if y is None else y
        h = self.inp(torch.cat([x, t[:, None] / 30], 1)) + self.label(y)
        return self.out(nn.functional.silu(h))


class Tied(nn.Module):
    """The way in and the way out share one matrix."""

    def __init__(self, bias):
        super().__init__()
        self.inp, self.out = nn.Linear(2, 2, bias), nn.Linear(2, 2, bias)
        self.out.weight = self.inp.weight

    def forward(self, x, t):
        return self.out(nn.functional.silu(self.inp(x)))


def perceptron(process=CHAIN, predicts=EPS, var_mix=0.0, depth=1, **options):
    torch.manual_seed(1)
    net = MLP(dim=2, width=8, depth=depth, outputs=2 if var_mix is None else 1, **options)
    return Denoiser(net, process, predicts, var_mix)


def there_and_back(model, folder, **options):
    build = options.get("build")
    card = zoo.save(model, folder / "m.safetensors", **({"shape": (2,)} | options))
    found, again = zoo.load(folder / "m.safetensors", "cpu", build=build)
    assert again == replace(card, loss=again.loss, metrics=again.metrics)
    return found, card


def same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    assert a.keys() == b.keys()
    assert all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)
    return True


# ---- round trips ---------------------------------------------------------------------------------


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: type(process).__name__)
def test_every_process_makes_the_round_trip_to_the_bit(process, tmp_path):
    found, _ = there_and_back(perceptron(process), tmp_path)
    assert type(found.process) is type(process) and found.process == process
    if isinstance(process, DDPM):
        assert torch.equal(found.process.beta, process.beta)


@pytest.mark.parametrize("predicts", PREDICTS, ids=lambda p: p.name)
@pytest.mark.parametrize("var_mix", [0.0, 1.0, 1 / 3, None])
def test_every_parameterization_makes_the_round_trip(predicts, var_mix, tmp_path):
    model = perceptron(VP(), predicts, var_mix)
    found, card = there_and_back(model, tmp_path)
    assert found.parameterization == predicts and found.var_mix == var_mix
    assert same_weights(found, model)
    x, t = torch.randn(5, 2), torch.rand(5) * 0.9 + 0.1
    assert torch.equal(found(x, t).x0, model(x, t).x0)
    assert card.dtype == "float32" and card.image_shape == (2,)


NETS = {
    "unet": UNet(
        UNetConfig(channels=2, width=8, mults=(1, 2), attention=(False, True), heads=2, patch=2,
                   groups=4, num_classes=3, dropout=0.1, conditioning="add"), 2
    ),
    "mlp": MLP(dim=3, width=6, depth=2, num_classes=4, outputs=2),
    "classifier": Classifier(ClassifierConfig(channels=2, num_classes=5, width=4, features=6)),
    "noisy": NoisyClassifier(
        NoisyClassifierConfig(width=8, mults=(1,), attention=(False,), heads=1, groups=4), CHAIN
    ),
    "noisy without a process": NoisyClassifier(
        NoisyClassifierConfig(width=8, mults=(1,), attention=(False,), heads=1, groups=4)
    ),
}  # fmt: skip


@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_each_of_our_networks_makes_the_round_trip(net, tmp_path):
    found, card = there_and_back(net, tmp_path, shape=(2, 8, 8))
    assert type(found) is type(net) and same_weights(found, net)
    assert getattr(found, "config", None) == getattr(net, "config", None)
    if isinstance(net, NoisyClassifier):
        assert found.process == net.process
    assert card.parameters == sum(p.numel() for p in net.parameters())
    classes = net.embed.num_classes if isinstance(net, MLP) else net.config.num_classes
    assert card.num_classes == classes
    assert not found.training and not any(p.requires_grad for p in found.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_weights_keep_their_dtype(dtype, tmp_path):
    model = perceptron().to(dtype)
    model.net.out.float()  # and so do those of another
    found, card = there_and_back(model, tmp_path)
    assert same_weights(found, model)
    assert card.dtype == ", ".join(sorted({"float32", str(dtype).removeprefix("torch.")}))


@pytest.mark.parametrize("killed_at", range(5))
@pytest.mark.parametrize("name", ["m.safetensors", "folder"])
def test_a_save_killed_at_any_moment_leaves_the_old_or_the_new(
    tmp_path, monkeypatch, killed_at, name
):
    path, old, new = tmp_path / name, perceptron(), perceptron(EDM(), edm_output(0.25))
    nn.init.normal_(new.net.out.weight)
    older = zoo.save(old, path, shape=[2])
    done = []

    def dying(real, file, *words):
        if len(done) == killed_at:
            raise KeyboardInterrupt
        done.append(file)
        return real(file, *words)

    with monkeypatch.context() as patch:
        for module in (checkpoints, zoo.card):
            patch.setattr(module, "write_atomically", partial(dying, files.write_atomically))
        patch.setattr(Path, "replace", lambda p, to: dying(Path.rename, p, to))
        try:
            zoo.save(new, path, shape=[2])
        except KeyboardInterrupt:
            assert killed_at < 3
    found, card = zoo.load(path, "cpu")
    assert same_weights(found, old if killed_at < 2 else new)
    assert (card.sha256 == older.sha256) == (killed_at < 2)
    zoo.save(new, path, shape=[2])
    kept = {zoo.MODEL, "model.json"} if name == "folder" else {"m.safetensors", "m.json"}
    assert {p.name for p in (path if name == "folder" else tmp_path).iterdir()} == kept


def test_a_reader_who_comes_while_it_is_saved_gets_the_new_model(tmp_path, monkeypatch):
    """Between its look at the card and at the weights a newer model takes the place."""
    old, new = perceptron(), perceptron(depth=2)
    zoo.save(old, tmp_path, shape=[2])
    real, calls = zoo.weights.weights_files, []

    def late(path, card):
        calls.append(card)
        found = real(path, card)
        if len(calls) == 1:
            zoo.save(new, tmp_path, shape=[2])
        return found

    monkeypatch.setattr(zoo.weights, "weights_files", late)
    assert same_weights(zoo.load(tmp_path, "cpu")[0], new)


def test_a_save_leaves_what_lies_beside_it(tmp_path):
    """A log or a table of the same stem, and another model's files."""
    others = {"m.jsonl": b"mine", "m.csv": b"1", "n.safetensors.0123456789ab.part1of1": b"n"}
    for name, content in others.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "m.safetensors.0123456789ab.part1of1").write_bytes(b"of a killed save")
    zoo.save(perceptron(), tmp_path / "m.safetensors", shape=[2])
    assert {p.name for p in tmp_path.iterdir()} == {*others, "m.safetensors", "m.json"}
    assert all((tmp_path / name).read_bytes() == content for name, content in others.items())


def test_a_folder_takes_a_model_and_its_name(tmp_path):
    card = zoo.save(perceptron(num_classes=3), tmp_path / "mine", shape=[2], training={"by": "me"})
    assert {p.name for p in (tmp_path / "mine").iterdir()} == {"model.safetensors", "model.json"}
    assert card.name == card.recipe["name"] == "mine" and card.training == {"by": "me"}
    assert zoo.load(tmp_path / "mine", "cpu")[1].num_classes == 3


def test_the_card_says_everything_in_plain_json(tmp_path):
    zoo.save(perceptron(EDM(), edm_output(0.25)), tmp_path / "m.safetensors", shape=[2])

    def no_constant(name):
        raise AssertionError(f"{name} is no JSON")

    text = (tmp_path / "m.json").read_text("utf-8")
    recipe = json.loads(text, parse_constant=no_constant)["recipe"]
    assert recipe["kind"] == "saved" and recipe["net"]["name"] == "MLP"
    assert recipe["process"] == {"name": "EDM", "end": 80.0}
    assert recipe["predicts"] == {"name": "EDM output", "sigma_data": 0.25}


@pytest.mark.slow
def test_a_saved_model_is_measured_on_the_data_it_names(tmp_path):
    model, card = zoo.load("digits-classifier", "cpu")
    path = tmp_path / "mine.safetensors"
    zoo.save(model, path, shape=card.image_shape, data="digits")
    (entry,) = evaluate(path, device="cpu")
    assert entry["metric"] == "test accuracy" and entry["value"] > 0.9
    assert zoo.Card.read(path.with_suffix(".json")).metrics == [entry]


def test_the_example_of_the_module_runs():
    found = doctest.testmod(saved)
    assert found.attempted and not found.failed


def test_loading_draws_no_random_numbers(tmp_path):
    zoo.save(perceptron(), tmp_path, shape=[2])
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    zoo.load(tmp_path, "cpu")
    assert torch.equal(torch.rand(1), expected)


# ---- networks of others --------------------------------------------------------------------------


def trained(classes=3, steps=40):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    y = torch.randint(0, classes, (200,), generator=generator)
    x = torch.randn(200, 2, generator=generator) * 0.1 + y[:, None]
    model = Denoiser(Foreign(16, classes), DDPM(schedules.cosine(30)), V)

    def loss(model, x, y, generator):
        return diffusion_loss(model, x, y, generator, label_dropout=0.2)

    settings = Settings(steps=steps, batch_size=50, lr=1e-2, warmup=2, ema=0.5)
    trainer = Trainer(model, loss, x, y, settings, device="cpu")
    losses = [float(progress.loss) for progress in fit(trainer)]
    assert sum(losses[-10:]) < sum(losses[:10])
    return trainer.averaged


def test_a_foreign_network_is_trained_guided_saved_and_loaded(tmp_path):
    model = trained()
    arguments = {"width": 16, "classes": 3}
    found, card = there_and_back(model, tmp_path, build=Foreign, arguments=arguments, num_classes=3)
    assert type(found.net) is Foreign and card.num_classes == 3
    assert card.recipe["net"] == {"name": f"{__name__}.Foreign", "arguments": arguments}
    x, y = torch.randn(6, 2), torch.tensor([0, 1, 2, 0, 1, 2])
    for w in (0.0, 2.5):
        ours, theirs = (ClassifierFree(d, w)(x, 20, y).x0 for d in (model, found))
        assert torch.equal(ours, theirs)
    unguided = ClassifierFree(found, 0.0)(x, 20, y).x0
    assert not torch.equal(ours, unguided)  # the null label was learned, and is another answer


def test_no_code_comes_from_a_file(tmp_path):
    """A name in a card is for people: it is never imported, whatever it says."""
    path = tmp_path / "m.safetensors"
    zoo.save(Foreign(4, 2), path, shape=[2], build=Foreign, arguments={"width": 4, "classes": 2})
    card = zoo.Card.read(path.with_suffix(".json"))
    hostile = card.recipe | {"net": {"name": "os.system", "arguments": {"command": "exit"}}}
    zoo.write_model(zoo.read(path)[1], replace(card, recipe=hostile), path)
    with pytest.raises(ValueError, match=r"'os\.system', which no file brings along.*build=MyNet"):
        zoo.load(path, "cpu")


SAVES = {
    "without its constructor": ({}, "Foreign is no network of this library: give its const"),
    "arguments alone": ({"arguments": {}}, "belong to a constructor"),
    "wrong arguments": (
        {"build": Foreign, "arguments": {"width": 4}},
        r"builds no such model again.*missing 1 required positional argument: 'classes'",
    ),
    "another net": (
        {"build": Foreign, "arguments": {"width": 5, "classes": 2}},
        "builds no such model again.*other weights than the network",
    ),
    "no network": ({"build": dict, "arguments": {"width": 4}}, "got dict"),
    "no JSON": ({"build": Foreign, "arguments": {"width": nn.ReLU}}, "are kept as JSON"),
    "not finite": ({"build": Foreign, "arguments": {"width": math.nan}}, "are kept as JSON"),
    "no shape": ({"shape": ()}, "shape is that of one sample"),
    "half a pixel": ({"shape": (1.5,)}, "shape is that of one sample"),
}


@pytest.mark.parametrize(("options", "sentence"), SAVES.values(), ids=SAVES)
def test_what_could_not_be_loaded_is_not_saved(options, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        zoo.save(Foreign(4, 2), tmp_path / "m.safetensors", **({"shape": [2]} | options))
    assert list(tmp_path.iterdir()) == []


class Own(Process):
    def coefficients(self, t):
        return 1 - t, t

    def time_of(self, log_snr):
        return torch.sigmoid(-log_snr / 2)


class Other(VP):
    pass


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (perceptron(Own()), "is no process of this library"),
        (perceptron(Other()), "is no process of this library"),
        (perceptron(predicts=replace(EPS, name="mine")), "'mine' is none of this library's"),
        (perceptron(predicts=replace(EPS, name="v")), "'v' is none of this library's"),
        (ClassifierFree(perceptron(num_classes=2), 1.0), "save that one, and wrap it again"),
    ],
)
def test_parts_that_no_card_can_tell_are_not_saved(model, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        zoo.save(model, tmp_path / "m.safetensors", shape=[2])
    assert list(tmp_path.iterdir()) == []


def test_a_number_of_classes_that_the_network_denies_is_refused(tmp_path):
    with pytest.raises(ValueError, match="knows 2 classes, not 3"):
        zoo.save(perceptron(num_classes=2), tmp_path, shape=[2], num_classes=3)


def test_a_run_is_not_replaced(tmp_path):
    (tmp_path / zoo.STATE).write_bytes(b"")
    with pytest.raises(FileExistsError, match="holds a run"):
        zoo.save(perceptron(), tmp_path, shape=[2])


def test_a_constructor_is_given_where_one_is_needed_alone(tmp_path):
    zoo.save(perceptron(), tmp_path, shape=[2])
    with pytest.raises(ValueError, match="holds a MLP, which needs no build"):
        zoo.load(tmp_path, "cpu", build=Foreign)
    with pytest.raises(ValueError, match="needs no build"):
        zoo.load("digits", "cpu", build=Foreign)


# ---- hostile and damaged cards -------------------------------------------------------------------


def net(**changes):
    return lambda r: r | {"net": r["net"] | changes}


def arguments(**changes):
    return lambda r: r | {"net": r["net"] | {"arguments": r["net"]["arguments"] | changes}}


CARDS = {
    "no net": lambda r: {k: v for k, v in r.items() if k != "net"},
    "no name": net(name=3),
    "another net": net(name="UNet"),
    "no such argument": arguments(colour="red"),
    "another width": arguments(width=12),
    "a huge width": arguments(width=2**40),
    "a huge depth": arguments(depth=10**9),
    "a negative depth": arguments(depth=-1),
    "a word for a number": arguments(width="8"),
    "no process": lambda r: r | {"process": None},
    "an unknown process": lambda r: r | {"process": {"name": "os.system"}},
    "a process with numbers": lambda r: r | {"process": {"name": "DDPM", "T": 5}},
    "a process out of range": lambda r: r | {"process": {"name": "VE", "sigma_min": -1}},
    "a process of words": lambda r: r | {"process": {"name": "VE", "sigma_min": "x"}},
    "an unknown meaning": lambda r: r | {"predicts": {"name": "eval"}},
    "a meaning out of range": lambda r: r | {"predicts": {"name": "EDM output", "sigma_data": 0}},
    "a meaning too many": lambda r: r | {"predicts": {"name": "v", "w": 1}},
    "a variance out of range": lambda r: r | {"var_mix": 7},
    "a variance of words": lambda r: r | {"var_mix": "x"},
    "a list": lambda r: r | {"predicts": [1, 2]},
}


@pytest.mark.parametrize("change", CARDS.values(), ids=CARDS)
def test_a_card_that_describes_nothing_is_refused_in_one_sentence(change, tmp_path):
    path = tmp_path / "m.safetensors"
    zoo.save(perceptron(), path, shape=[2])
    card = zoo.Card.read(path.with_suffix(".json"))
    zoo.write_model(zoo.read(path)[1], replace(card, recipe=change(card.recipe)), path)
    with pytest.raises(ValueError, match=r"m\.safetensors") as refused:
        zoo.load(path, "cpu")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("lost", ["process.beta", "net.out.weight"])
def test_weights_that_lack_a_tensor_are_refused(lost, tmp_path):
    path = tmp_path / "m.safetensors"
    card = zoo.save(perceptron(), path, shape=[2])
    tensors = {k: v for k, v in zoo.read(path)[1].items() if k != lost}
    zoo.write_model(tensors, card, path)
    with pytest.raises(ValueError, match="needs|other weights"):
        zoo.load(path, "cpu")


def test_deep_configs_are_not_built_where_the_weights_are_few(tmp_path):
    path = tmp_path / "m.safetensors"
    config = UNetConfig(width=8, mults=(1,), attention=(False,), heads=1, groups=4)
    card = zoo.save(UNet(config), path, shape=(1, 8, 8))
    deep = arguments(config=card.recipe["net"]["arguments"]["config"] | {"blocks": 10**6})
    zoo.write_model(zoo.read(path)[1], replace(card, recipe=deep(card.recipe)), path)
    with pytest.raises(ValueError, match="blocks must be at most 64"):
        zoo.load(path, "cpu")


def test_wide_configs_take_no_memory(tmp_path):
    """A matrix of (2**18)² numbers is 256 GB: it is compared, and not made."""
    path = tmp_path / "m.safetensors"
    card = zoo.save(perceptron(), path, shape=[2])
    wide = arguments(width=2**18)(card.recipe)
    zoo.write_model(zoo.read(path)[1], replace(card, recipe=wide), path)
    with pytest.raises(ValueError, match="other weights than those of the card's MLPShape"):
        zoo.load(path, "cpu")


def test_a_saved_model_is_where_another_starts(tmp_path):
    model, other = perceptron(), perceptron()
    torch.nn.init.normal_(other.net.out.weight)
    card = zoo.save(other, tmp_path, shape=[2])
    assert zoo.start_from(model, tmp_path) == card.sha256 and same_weights(model, other)


def test_a_shipped_chain_keeps_its_table(tmp_path):
    """Weights ship as float16; the betas are no weights."""
    folder = tmp_path / "run"
    zoo.save(perceptron(), folder, shape=[2])
    (folder / zoo.LOG).write_bytes(b"")
    path = zoo.ship(folder, folder=tmp_path / "shipped")
    found, card = zoo.load(path, "cpu")
    assert found.process == CHAIN and card.dtype == "float16"


# ---- tied weights and frozen layers --------------------------------------------------------------


def test_tied_weights_are_saved_and_stay_tied(tmp_path):
    model = Denoiser(Tied(True), CHAIN)
    found, card = there_and_back(model, tmp_path, build=Tied, arguments={"bias": True})
    assert same_weights(found, model)
    assert found.net.out.weight is found.net.inp.weight
    assert card.parameters == sum(p.numel() for p in model.parameters())


def test_tensors_that_share_memory_are_written_in_full():
    base = torch.arange(6.0)
    tensors = {"a": base, "b": base, "c": base[:3], "empty": base[:0]}
    content = files.to_safetensors(tensors, {})
    found, _ = files.from_safetensors(content, "x")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[k], v) for k, v in tensors.items())


def frozen_trainer(seed=0, steps=6, freeze=True, net=None):
    torch.manual_seed(seed)
    net = MLP(dim=2, width=8, depth=1) if net is None else net
    model = Denoiser(net, DDPM(schedules.linear(30)))
    if freeze:
        net.inp.requires_grad_(False)
    settings = Settings(steps=steps, batch_size=20, lr=1e-2, warmup=1, weight_decay=0.1, ema=0.5)
    x = torch.randn(100, 2, generator=torch.Generator().manual_seed(3))

    def loss(model, x, y, generator):
        return diffusion_loss(model, x, y, generator)

    return Trainer(model, loss, x, None, settings, device="cpu")


def test_frozen_layers_are_left_alone():
    trainer = frozen_trainer()
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    list(fit(trainer))
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("net.inp."), name
    averaged = trainer.averaged.state_dict()
    assert all(torch.equal(averaged[k], v) for k, v in before.items() if "net.inp." in k)


@pytest.mark.parametrize("tied", [False, True])
def test_a_run_with_frozen_or_tied_layers_resumes_to_the_same_bits(tied, tmp_path):
    def start(seed):
        torch.manual_seed(seed)  # of the tied network, made before the trainer
        return frozen_trainer(seed, freeze=not tied, net=Tied(True) if tied else None)

    whole, first, second = start(0), start(0), start(1)
    list(fit(whole))
    for progress in fit(first):
        if progress.step == 3:
            break
    first.save(tmp_path / "s.safetensors")
    second.load(tmp_path / "s.safetensors")
    assert second.step == 3
    list(fit(second))
    ours, theirs = whole.state_dict(), second.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    if tied:
        for found in (second.model.net, second.averaged.net):
            assert found.out.weight is found.inp.weight


def test_a_model_of_frozen_layers_alone_is_not_trained():
    model, _ = zoo.load("digits", "cpu")
    images = torch.zeros(8, 1, 8, 8)
    settings = Settings(steps=2, batch_size=4)

    def loss(model, x, y, generator):
        return diffusion_loss(model, x, y, generator)

    with pytest.raises(ValueError, match=r"all weights are frozen.*requires_grad_\(\)"):
        Trainer(model, loss, images, None, settings, device="cpu")


def test_a_model_is_not_saved_under_a_name_that_means_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="digits is a shipped checkpoint, which would be loaded"):
        zoo.save(perceptron(), "digits", shape=[2])
    assert list(tmp_path.iterdir()) == []


class WithAPart(nn.Module):
    def __init__(self):
        super().__init__()
        self.denoiser = nn.Linear(2, 2)

    def forward(self, x, t):
        return self.denoiser(x)


def test_a_network_may_call_a_part_as_it_likes(tmp_path):
    zoo.save(WithAPart(), tmp_path / "m.safetensors", shape=[2], build=WithAPart)
    assert isinstance(zoo.load(tmp_path / "m.safetensors", "cpu", build=WithAPart)[0], WithAPart)


def test_a_saved_model_ships_without_a_log(tmp_path):
    zoo.save(perceptron(), tmp_path / "mine", shape=[2])
    path = zoo.ship(tmp_path / "mine", dtype="float32", folder=tmp_path / "shipped")
    assert isinstance(zoo.load(path, "cpu")[0], Denoiser)


def test_a_saved_model_of_no_data_is_not_measured(tmp_path):
    zoo.save(perceptron(), tmp_path / "m.safetensors", shape=[2])
    with pytest.raises(FileNotFoundError, match="does not say where its images lie"):
        evaluate(tmp_path / "m.safetensors", device="cpu")


def test_a_bare_network_is_not_measured(tmp_path):
    zoo.save(WithAPart(), tmp_path / "m.safetensors", shape=[1, 8, 8], build=WithAPart)
    with pytest.raises(ValueError, match="is a WithAPart, .* put the network into a Denoiser"):
        evaluate(
            tmp_path / "m.safetensors", images=data.load("digits"), build=WithAPart, device="cpu"
        )
