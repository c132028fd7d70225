"""`ddpmlib.zoo.recipes`: a recipe says all, builds the same every time, and travels as JSON."""

import json
import math
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import nn

from ddpmlib import data, evaluation, training, zoo
from ddpmlib.data import augment
from ddpmlib.denoiser import PARAMETERIZATIONS, Denoiser
from ddpmlib.files import read_safetensors
from ddpmlib.losses import UniformTimes, objectives
from ddpmlib.models import (
    Classifier,
    ClassifierConfig,
    NoisyClassifier,
    NoisyClassifierConfig,
    UNetConfig,
)
from ddpmlib.process import DDPM
from ddpmlib.process.schedules import cosine
from ddpmlib.training import Settings
from ddpmlib.zoo import (
    RECIPES,
    ClassifierRecipe,
    DiffusionRecipe,
    NoisyClassifierRecipe,
    recipes,
    runs,
)
from ddpmlib.zoo.cost import budget

NET = UNetConfig(
    width=8, mults=(1,), attention=(False,), heads=1, groups=4, num_classes=10, dropout=0.1
)
TINY = DiffusionRecipe("tiny", "digits", NET, Settings(steps=3, batch_size=4), T=40)
CLASSIFIER = ClassifierRecipe("classified", "digits", ClassifierConfig(width=4), Settings(steps=3))
GUIDE = NoisyClassifierRecipe(
    "guide",
    "digits",
    NoisyClassifierConfig(width=8, mults=(1,), attention=(False,), heads=1, groups=4),
    Settings(steps=3, batch_size=4),
    T=40,
)
each_recipe = pytest.mark.parametrize("name", RECIPES)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# ---- JSON --------------------------------------------------------------------------------------


@each_recipe
def test_round_trip_through_json(name):
    recipe = RECIPES[name]
    assert recipe.name == name
    back = recipes.from_dict(json.loads(json.dumps(recipes.to_dict(recipe))))
    assert back == recipe and type(back) is type(recipe)
    assert type(back.net) is type(recipe.net) and hash(back) == hash(recipe)  # tuples, not lists


def test_from_dict_leaves_its_argument_alone():
    values = json.loads(json.dumps(recipes.to_dict(TINY)))
    before = json.dumps(values)
    recipes.from_dict(values)
    assert json.dumps(values) == before


def test_defaults_may_be_left_out():
    values = recipes.to_dict(TINY)
    del values["predicts"], values["net"]["dropout"], values["settings"]["lr"]
    back = recipes.from_dict(values)
    assert back == replace(TINY, net=replace(NET, dropout=0.0))


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        (
            ("kind",),
            "autoregressive",
            "kind 'diffusion', 'classifier' or 'noisy-classifier', got 'auto",
        ),
        (("kind",), None, "got None"),
        (("depth",), 3, "DiffusionRecipe has no field 'depth'"),
        (("net", "depth"), 3, "UNetConfig has no field 'depth'"),
        (("settings", "epochs"), 3, "Settings has no field 'epochs'"),
        (("net",), [1, 2], r"UNetConfig is a JSON object with named fields, got \[1, 2\]"),
        (("data",), "../mnist", "data set's name is a plain file name, got '../mnist'"),
        (("schedule",), "square", "schedule must be one of linear, cosine, sigmoid, got 'square'"),
        (("predicts",), "score", "predicts must be one of .*'score'"),
        (("label_dropout",), 1.5, "label_dropout must lie in"),
        (("label_dropout",), float("nan"), "label_dropout must lie in"),
        (("objective",), "hybird", "objective must be one of simple, hybrid, vlb, got 'hybird'"),
        (("times",), "loss", "times must be one of uniform, importance, got 'loss'"),
        (("objective",), "hybrid", r"learned variance .* got var_mix = 0.0 and 'hybrid'"),
        (
            ("var_mix",),
            None,
            r"needs the objective hybrid or vlb.* got var_mix = None and 'simple'",
        ),
        (("T",), 10.0, "T must be a whole number, got 10.0"),
        (("settings", "steps"), 0, "steps must be positive"),
        (("net", "heads"), 3, "multiple of"),
    ],
)
def test_what_is_wrong_is_said(path, value, match):
    values = json.loads(json.dumps(recipes.to_dict(TINY)))
    place = values
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ValueError, match=match):
        recipes.from_dict(values)


@pytest.mark.parametrize(
    ("path", "owner"),
    [(("name",), "DiffusionRecipe"), (("net",), "DiffusionRecipe"), (("settings", "steps"), "Set")],
)
def test_what_is_missing_is_said(path, owner):
    values = recipes.to_dict(TINY)
    place = values
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    with pytest.raises(ValueError, match=rf"{owner}\w* needs the field '{path[-1]}'"):
        recipes.from_dict(values)


def test_a_recipe_may_name_a_data_set_that_is_not_there_yet():
    recipe = recipes.from_dict(recipes.to_dict(TINY) | {"data": "my-photos"})
    assert recipe.data == "my-photos"
    with pytest.raises(
        ValueError, match="unknown data set 'my-photos': choose one of digits, mnist"
    ):
        data.load(recipe.data)


def test_a_kind_is_found_by_its_own_name():
    assert {name: cls.kind for name, cls in recipes.KINDS.items()} == {k: k for k in recipes.KINDS}
    assert {type(r) for r in RECIPES.values()} == set(recipes.KINDS.values())


@dataclass(frozen=True)
class MeanNet:
    """The shape of :class:`Mean`."""

    sides: tuple[int, ...] = (8, 8)


@dataclass(frozen=True)
class MeanRecipe:
    """A family of one's own: the mean image, learned by gradient descent."""

    kind: ClassVar[str] = "mean"
    name: str
    data: str
    settings: Settings
    net: MeanNet = MeanNet()
    num_classes: ClassVar[int] = 0

    def build(self):
        model = nn.Module()
        model.mean = nn.Parameter(torch.zeros(1, *self.net.sides))
        return model

    def loss(self):
        return lambda model, x, y, generator: ((x - model.mean) ** 2).mean()

    def check(self, dataset):
        if dataset.image_shape[1:] != self.net.sides:
            raise ValueError(f"{dataset.name} has other sides than {self.net.sides}")


def test_another_family_is_one_class_and_one_line(tmp_path, monkeypatch):
    """It travels as JSON, is changed, trained, counted, shipped as far as a card, and loaded."""
    monkeypatch.setitem(recipes.KINDS, "mean", MeanRecipe)
    recipe = MeanRecipe(
        "mean", "digits", Settings(steps=60, batch_size=100, lr=0.1, warmup=0, ema=0.5)
    )
    assert recipes.from_dict(json.loads(json.dumps(recipes.to_dict(recipe)))) == recipe
    card = runs.train(recipe, tmp_path / "run", device="cpu")
    assert card.recipe["kind"] == "mean" and card.num_classes == 0 and card.parameters == 64
    model, _ = zoo.load(tmp_path / "run", "cpu")
    images = data.load("digits")
    expected = data.to_float(images.x_train).mean(0)
    assert float((model.mean - expected).abs().mean()) < 0.1
    assert budget(recipe, images).parameters == 64
    other = recipes.changed(recipe, {"net.sides": [8, 9]})
    assert other.net == MeanNet((8, 9))
    with pytest.raises(ValueError, match="digits has other sides"):
        runs.train(other, tmp_path / "other", device="cpu")
    assert not (tmp_path / "other").exists()


def test_a_classifier_has_no_schedule():
    with pytest.raises(ValueError, match="ClassifierRecipe has no field 'schedule'"):
        recipes.from_dict(recipes.to_dict(CLASSIFIER) | {"schedule": "cosine"})


# ---- data sets that fit --------------------------------------------------------------------------


def images_of(shape=(1, 8, 8), classes=tuple("0123456789")):
    x = torch.zeros(10, *shape, dtype=torch.uint8)
    y = torch.arange(10) % len(classes) if classes else None
    return data.Dataset("these", x, y, x, y, classes)


BARE = replace(TINY, net=replace(NET, num_classes=0))
SHIFTING = replace(GUIDE, reach=7)


@pytest.mark.parametrize("recipe", [TINY, CLASSIFIER, GUIDE, BARE, SHIFTING])
def test_images_that_fit_are_taken(recipe):
    assert recipe.check(images_of()) is None
    assert recipe.num_classes == (0 if recipe is BARE else 10)
    model = recipe.build()
    x, y = torch.zeros(10, 1, 8, 8), torch.arange(10)
    assert bool(recipe.loss()(model, x, y, generator()).isfinite())


def test_a_denoiser_without_classes_takes_images_with_and_without():
    BARE.check(images_of(classes=()))
    BARE.check(images_of(classes=("a", "b")))


@pytest.mark.parametrize(
    ("recipe", "images", "sentence"),
    [
        *(
            (r, {"shape": (3, 8, 8)}, "these has 3 channels, the net 1: set net.channels to 3")
            for r in (TINY, CLASSIFIER, GUIDE)
        ),
        *(
            (r, {"classes": ("a",)}, "these has 1 classes, the net 10")
            for r in (TINY, CLASSIFIER, GUIDE)
        ),
        *(
            (r, {"classes": ()}, "these has 0 classes, the net 10")
            for r in (TINY, CLASSIFIER, GUIDE)
        ),
        (replace(TINY, net=replace(NET, patch=3)), {}, "these is 8 × 8 pixels, .* multiples of 3"),
        (replace(GUIDE, net=replace(GUIDE.net, patch=3)), {}, "8 × 8 pixels, .* multiples of 3"),
        (replace(CLASSIFIER, reach=8), {}, "reach = 8 shifts images of side 8 out of sight"),
        (SHIFTING, {"shape": (1, 8, 7)}, "reach = 7 shifts images of side 7 out of sight"),
    ],
)
def test_images_that_do_not_fit_are_refused(recipe, images, sentence):
    with pytest.raises(ValueError, match=sentence):
        recipe.check(images_of(**images))


# ---- building ----------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [TINY, CLASSIFIER, GUIDE], ids=lambda r: r.kind)
def test_build_is_reproducible_and_leaves_the_global_generator_alone(recipe):
    torch.manual_seed(123)
    before = torch.get_rng_state()
    first = recipe.build()
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(7)
    second = recipe.build()
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    other = replace(recipe, settings=replace(recipe.settings, seed=1)).build()
    pairs = zip(first.parameters(), other.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)


@each_recipe
@pytest.mark.slow
def test_every_recipe_fits_its_data(name):
    recipe = RECIPES[name]
    shapes = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "fashion_mnist": (1, 28, 28)}
    shapes["cifar10"] = (3, 32, 32)
    x = torch.rand(2, *shapes[recipe.data], generator=generator()) * 2 - 1
    model = recipe.build()
    loss = recipe.loss()(model, x, torch.tensor([0, 9]), generator())
    assert loss.shape == () and bool(loss.isfinite())
    loss.backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("predicts", PARAMETERIZATIONS)
@pytest.mark.parametrize("schedule", recipes.SCHEDULES)
def test_a_denoiser_is_built_as_written(predicts, schedule):
    denoiser = replace(TINY, predicts=predicts, schedule=schedule, var_mix=1.0).build()
    assert isinstance(denoiser, Denoiser) and denoiser.process.T == 40
    assert denoiser.parameterization is PARAMETERIZATIONS[predicts] and denoiser.var_mix == 1.0
    expected = DDPM(recipes.SCHEDULES[schedule](40)).alpha_bar
    assert torch.equal(denoiser.process.alpha_bar, expected)
    assert denoiser.net.config == NET


def test_a_classifier_is_built_as_written():
    model = CLASSIFIER.build()
    assert isinstance(model, Classifier) and model.config == CLASSIFIER.net


# ---- losses ------------------------------------------------------------------------------------


class Spy(nn.Module):
    """A denoiser whose network notes what it is asked and answers with zeros."""

    def __init__(self, T=5, num_classes=10):
        super().__init__()
        self.process = DDPM(cosine(T))
        self.parameterization = PARAMETERIZATIONS["eps"]
        self.num_classes, self.asked = num_classes, []

    def without(self, y):
        return torch.full_like(y, self.num_classes)

    def raw(self, x_t, t, y):
        self.asked.append((x_t, t, y))
        return torch.zeros_like(x_t), 0.0


def test_times_are_uniform_over_1_to_T_with_both_ends():
    spy = Spy(T=5)
    objectives.diffusion_loss(spy, torch.zeros(5000, 1), None, generator())
    ((_, t, y),) = spy.asked
    assert y is None and t.dtype == torch.int64
    counts = torch.bincount(t)
    assert counts[0] == 0 and len(counts) == 6
    assert float((counts[1:] / 1000 - 1).abs().max()) < 0.15


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_label_dropout_takes_its_share(share):
    spy, y = Spy(), torch.arange(4000) % 10
    before = y.clone()
    objectives.diffusion_loss(spy, torch.zeros(4000, 1), y, generator(), share)
    ((_, _, seen),) = spy.asked
    dropped = seen == 10
    assert float(dropped.float().mean()) == pytest.approx(share, abs=0.025)
    assert torch.equal(seen[~dropped], y[~dropped]) and torch.equal(y, before)


def test_diffusion_loss_is_the_mean_square_at_the_drawn_noise():
    spy = Spy()
    x = torch.rand(64, 1, 2, 2, generator=generator(3))
    loss = objectives.diffusion_loss(spy, x, None, generator(4))
    ((x_t, t, _),) = spy.asked
    scale = spy.process.alpha_bar[t].sqrt().reshape(-1, 1, 1, 1)
    std = (1 - spy.process.alpha_bar[t]).sqrt().reshape(-1, 1, 1, 1)
    eps = (x_t.double() - scale * x) / std
    assert float(loss) == pytest.approx(float((eps**2).mean()), rel=1e-4)
    assert float(eps.std()) == pytest.approx(1, abs=0.15)


def test_the_generator_decides_the_loss():
    x, y = torch.rand(8, 1, 8, 8, generator=generator()), torch.arange(8)
    model = TINY.build().eval()
    first, again, other = (TINY.loss()(model, x, y, generator(s)).item() for s in (0, 0, 1))
    assert first == again != other


def test_a_network_without_classes_ignores_labels():
    recipe = replace(TINY, net=replace(NET, num_classes=0))
    x, y = torch.rand(8, 1, 8, 8), torch.arange(8)
    assert bool(recipe.loss()(recipe.build(), x, y, generator()).isfinite())


@pytest.mark.parametrize("flip", [False, True])
def test_flips_only_where_the_recipe_says_so(monkeypatch, flip):
    calls = []
    monkeypatch.setattr(augment, "random_flip", lambda x, g: calls.append(len(x)) or x)
    x, y = torch.rand(4, 1, 8, 8), torch.arange(4)
    for recipe in (TINY, CLASSIFIER, GUIDE):
        replace(recipe, flip=flip).loss()(recipe.build(), x, y, generator())
    assert calls == ([4, 4, 4] if flip else [])


@pytest.mark.parametrize("appearance", [False, True])
def test_appearance_varies_only_where_the_recipe_says_so(monkeypatch, appearance):
    calls = []
    monkeypatch.setattr(augment, "random_appearance", lambda x, g: calls.append(len(x)) or x)
    recipe = replace(CLASSIFIER, appearance=appearance)
    recipe.loss()(recipe.build(), torch.rand(4, 1, 8, 8), torch.arange(4), generator())
    assert calls == ([4] if appearance else [])


def test_second_opinions_differ_in_what_they_are_for():
    for name in ("digits", "mnist", "fashion_mnist", "cifar10"):
        own, other, robust = (
            RECIPES[f"{name}-{k}"] for k in ("classifier", "independent", "robust")
        )
        assert len({r.settings.seed for r in (own, other, robust)}) == 3
        assert [r.appearance for r in (own, other, robust)] == [False, False, True]
        shapes = [r.net.architecture for r in (own, other, robust)]
        assert shapes == ["plain", "residual", "plain"]


def test_digits_are_never_mirrored():
    assert not any(r.flip for r in RECIPES.values() if r.data in ("digits", "mnist"))


def test_a_classifier_learns_from_shifted_images_and_needs_labels(monkeypatch):
    reaches, real = [], data.random_shift
    monkeypatch.setattr(
        augment, "random_shift", lambda x, g, reach: reaches.append(reach) or real(x, g, reach)
    )
    recipe = replace(CLASSIFIER, reach=1)
    x, y = torch.rand(4, 1, 8, 8), torch.arange(4)
    model = recipe.build().eval()
    loss = recipe.loss()(model, x, y, generator())
    assert reaches == [1]
    logits = model(real(x, generator(), 1))
    assert loss.item() == pytest.approx(nn.functional.cross_entropy(logits, y).item(), rel=1e-5)
    with pytest.raises(ValueError, match="needs labels"):
        recipe.loss()(model, x, None, generator())


def test_a_noisy_classifier_is_built_as_written():
    model = replace(GUIDE, schedule="linear").build()
    assert isinstance(model, NoisyClassifier) and model.config == GUIDE.net
    expected = DDPM(recipes.SCHEDULES["linear"](40)).alpha_bar
    assert torch.equal(model.process.alpha_bar, expected)


@pytest.mark.parametrize("noisy", [True, False])
def test_a_noisy_classifier_learns_from_x_t_and_its_twin_from_clean_images(noisy):
    """Both are told the same times; only the images differ."""
    asked = []

    class Net(nn.Module):
        def forward(self, x, t):
            asked.append((x, t))
            return torch.stack([x.flatten(1).sum(1), t.float()], 1)

    x, y = torch.rand(64, 1, 8, 8, generator=generator()), torch.arange(64) % 2
    loss = replace(GUIDE, noisy=noisy).loss()(Net(), x, y, generator(3))
    ((seen, t),) = asked
    g = generator(3)
    times = torch.randint(1, 41, (64,), generator=g)
    assert torch.equal(t, times) and int(t.min()) < 5 and int(t.max()) > 36
    eps = torch.randn(x.shape, generator=g)
    expected = DDPM(cosine(40)).q_sample(x, t, eps) if noisy else x
    assert torch.equal(seen, expected)
    logits = torch.stack([expected.flatten(1).sum(1), t.float()], 1)
    assert float(loss) == pytest.approx(float(nn.functional.cross_entropy(logits, y)), rel=1e-6)
    with pytest.raises(ValueError, match="needs labels"):
        GUIDE.loss()(Net(), x, None, generator())


def test_a_noisy_classifier_shifts_images_before_the_noise(monkeypatch):
    seen = []
    real = data.random_shift
    monkeypatch.setattr(
        augment, "random_shift", lambda x, g, r: seen.append((x, r)) or real(x, g, r)
    )
    x, y = torch.rand(4, 1, 8, 8), torch.arange(4)
    for reach in (0, 2):
        recipe = replace(GUIDE, reach=reach)
        recipe.loss()(recipe.build(), x, y, generator())
    ((shifted, reach),) = seen
    assert torch.equal(shifted, x) and reach == 2


def test_guiding_recipes_share_the_noise_of_the_denoiser_of_their_data():
    """Else ClassifierGuidance refuses the pair."""
    guides = [r for r in RECIPES.values() if isinstance(r, NoisyClassifierRecipe)]
    assert {r.name for r in guides} == {
        f"{d}-noisy-classifier" for d in ("digits", "mnist", "fashion_mnist")
    }
    for guide in guides:
        denoiser = RECIPES[guide.data]
        assert (guide.schedule, guide.T) == (denoiser.schedule, denoiser.T) and guide.noisy


@pytest.mark.slow
def test_a_noisy_classifier_tells_digits_apart_once_the_noise_is_gone():
    """A few seconds of training: right near the data, by chance in pure noise, between between."""
    images = data.load("digits")
    recipe = replace(
        GUIDE,
        net=NoisyClassifierConfig(width=16, mults=(1, 2), attention=(False, False), heads=2),
        settings=Settings(steps=250, batch_size=64, lr=1e-2, warmup=10, ema=0.95),
    )
    trainer = training.Trainer(
        recipe.build(), recipe.loss(), images.x_train, images.y_train, recipe.settings,
        device="cpu",
    )  # fmt: skip
    for _ in training.fit(trainer):
        pass
    found = evaluation.accuracy_under_noise(trainer.averaged, images)
    assert found["times"] == [1, *range(4, 41, 4)] and found["n"] == 355
    at = dict(zip(found["times"], found["at_times"], strict=True))
    assert at[1] > 0.6 and 0.2 < at[20] < at[1] and at[40] < 0.2
    assert found["value"] == pytest.approx(sum(at.values()) / 11, abs=1e-4)


# ---- a learned variance, and times that are not uniform ------------------------------------------

HYBRID = replace(TINY, var_mix=None, objective="hybrid")


@pytest.mark.parametrize("objective", ["hybrid", "vlb"])
@pytest.mark.parametrize("times", recipes.TIMES)
def test_a_recipe_with_a_learned_variance_trains_both_halves(objective, times):
    recipe = replace(HYBRID, objective=objective, times=times)
    assert recipes.from_dict(json.loads(json.dumps(recipes.to_dict(recipe)))) == recipe
    model, loss = recipe.build(), recipe.loss()
    assert model.var_mix is None
    x, y = torch.rand(4, 1, 8, 8, generator=generator()) * 2 - 1, torch.arange(4)
    found = loss(model, x, y, generator())
    assert found.shape == () and bool(found.isfinite())
    found.backward()
    bias = model.net.out.bias.grad
    assert bias.shape == (2,) and bool((bias != 0).all())
    prediction = model.eval()(x, 5, y)
    assert prediction.x0.shape == prediction.var_mix.shape == x.shape


@pytest.mark.parametrize("objective", recipes.OBJECTIVES)
def test_the_loss_of_a_recipe_is_its_objective(objective):
    recipe = replace(HYBRID, objective=objective, var_mix=None if objective != "simple" else 0.0)
    recipe = replace(recipe, label_dropout=0.0)
    model = recipe.build().eval()
    x, y = torch.rand(6, 1, 8, 8, generator=generator()) * 2 - 1, torch.arange(6)
    found = recipe.loss()(model, x, y, generator(3))
    g = generator(3)
    t = torch.randint(1, 41, (6,), generator=g)
    eps = torch.randn(x.shape, generator=g)
    expected = recipes.OBJECTIVES[objective](model, x, t, eps, y).mean()
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)


def test_the_mean_of_a_batch_is_weighted_and_the_plain_losses_are_noted():
    class Two:
        T = 5

        def draw(self, n, g):
            return torch.tensor([2, 4]), torch.tensor([0.5, 3.0])

        def update(self, t, losses):
            self.noted = t.tolist(), losses.tolist()

        def check(self, process):
            assert process.T == self.T

    times = Two()
    found = objectives.diffusion_loss(
        Spy(5),
        torch.zeros(2, 3),
        None,
        generator(),
        objective=lambda model, x, t, eps, y: t.float(),
        times=times,
    )
    assert float(found) == (0.5 * 2 + 3.0 * 4) / 2
    assert times.noted == ([2, 4], [2.0, 4.0])


def test_times_of_another_chain_are_refused():
    for T in (4, 6):
        with pytest.raises(ValueError, match=rf"times in 1..{T} do not fit a process of T = 5"):
            objectives.diffusion_loss(
                Spy(5), torch.zeros(2, 3), None, generator(), times=UniformTimes(T)
            )


def test_importance_times_learn_while_a_recipe_trains():
    recipe = replace(HYBRID, objective="vlb", times="importance", T=3)
    model, loss, g = recipe.build(), recipe.loss(), generator()
    x, y = torch.rand(20, 1, 8, 8, generator=generator()) * 2 - 1, torch.arange(20) % 10
    with torch.no_grad():
        for _ in range(4):
            loss(model, x, y, g)
    assert loss.times.seen.sum() == 80 and bool((loss.times.seen >= 10).all())
    p = loss.times.probabilities()
    assert p[0] > 2 / 3  # by far the largest terms of an untrained network are at t = 1
    assert set(loss.state_dict()) == {"times.history", "times.seen"}
    assert recipe.loss().times.seen.sum() == 0  # each run begins anew
    assert TINY.loss().state_dict() == {}


@pytest.mark.parametrize("at", [3, 9])
@pytest.mark.slow
def test_an_interrupted_run_with_importance_times_resumes_to_the_same_bits(
    tmp_path, monkeypatch, at
):
    """Once inside the warm-up (30 losses at T = 3), once after it."""
    settings = Settings(steps=12, batch_size=8, warmup=2, ema=0.5)
    recipe = replace(HYBRID, objective="vlb", times="importance", T=3, settings=settings)

    def fit(trainer, **options):
        for progress in training.fit(trainer, **options):
            yield progress
            if progress.step == at:
                raise KeyboardInterrupt

    straight = tmp_path / "straight"
    runs.train(recipe, straight, device="cpu", save_every=3)
    with monkeypatch.context() as patch:
        patch.setattr(runs, "fit", fit)
        with pytest.raises(KeyboardInterrupt):
            runs.train(recipe, tmp_path / "r", device="cpu", save_every=3)
    torch.rand(9)
    runs.train(recipe, tmp_path / "r", resume=True, device="cpu", save_every=3)
    (a, header), (b, other) = (read_safetensors(f / zoo.STATE) for f in (straight, tmp_path / "r"))
    assert header == other and a.keys() == b.keys()
    assert {"loss.times.history", "loss.times.seen"} <= a.keys()
    assert int(a["loss.times.seen"].sum()) == 12 * 8
    assert all(torch.equal(a[k], b[k]) for k in a)
    denoiser, card = zoo.load(straight, device="cpu")
    assert denoiser.var_mix is None and card.recipe["times"] == "importance"


# ---- changing a recipe ---------------------------------------------------------------------------


def test_changed_reaches_every_field_and_leaves_the_rest():
    recipe = recipes.changed(
        TINY,
        {
            "schedule": "linear",
            "T": 50,
            "var_mix": None,
            "objective": "hybrid",
            "net.width": 16,
            "net.mults": [1, 2],
            "net.attention": [False, True],
            "settings.lr": 1,
            "settings.seed": 4,
            "flip": True,
        },
    )
    assert recipe == replace(
        TINY,
        schedule="linear",
        T=50,
        var_mix=None,
        objective="hybrid",
        net=replace(NET, width=16, mults=(1, 2), attention=(False, True)),
        settings=replace(TINY.settings, lr=1, seed=4),
        flip=True,
    )
    assert TINY.T == 40 and recipes.changed(TINY, {}) == TINY
    assert recipes.changed(recipe, {"var_mix": 0.5, "objective": "simple"}).var_mix == 0.5
    assert recipes.changed(CLASSIFIER, {"net.features": 8, "reach": 1}).net.features == 8


@each_recipe
def test_every_field_of_every_recipe_can_be_set_to_what_it_is(name):
    def fields_of(values, prefix=""):
        for key, value in values.items():
            if isinstance(value, dict):
                yield from fields_of(value, f"{prefix}{key}.")
            elif key != "kind":
                yield prefix + key, value

    values = json.loads(json.dumps(recipes.to_dict(RECIPES[name])))
    assert recipes.changed(RECIPES[name], dict(fields_of(values))) == RECIPES[name]


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        (
            "shedule",
            "linear",
            "kind 'diffusion' has no field 'shedule' to set: there are name, data, schedule, ",
        ),
        ("kind", "classifier", "no field 'kind'"),
        ("net", {}, "no field 'net'"),
        ("settings", 3, "no field 'settings'"),
        ("net.depth", 3, "no field 'net.depth'"),
        ("net.mults.first", 3, "no field 'net.mults.first'"),
        ("net.mults.first.second", 3, "no field"),
        ("schedule.x", 3, "no field 'schedule.x'"),
        ("", 3, "no field ''"),
        ("T", "many", "T must be a whole number, got 'many'"),
        ("T", 50.0, "T must be a whole number, got 50.0"),
        ("T", True, "T must be a whole number, got True"),
        ("T", None, "T must be a whole number, got None"),
        ("settings.lr", None, "settings.lr must be a number, got None"),
        ("settings.lr", "fast", "settings.lr must be a number"),
        ("label_dropout", None, "label_dropout must be a number, got None"),
        ("label_dropout", True, "label_dropout must be a number, got True"),
        ("var_mix", "learned", "var_mix must be a number or null, got 'learned'"),
        ("var_mix", None, "needs the objective hybrid or vlb"),
        ("flip", 1, "flip must be true or false, got 1"),
        ("schedule", 3, "schedule must be a word, got 3"),
        ("schedule", "square", "schedule must be one of"),
        ("net.width", 16.0, "net.width must be a whole number, got 16.0"),
        ("net.width", 9, "must be even"),
        ("net.mults", 2, "net.mults must be a list of whole numbers, got 2"),
        ("net.mults", ["a"], "net.mults must be a list of whole numbers"),
        ("net.attention", [1], "net.attention must be a list of true or false"),
    ],
)
def test_a_change_that_does_not_fit_is_one_sentence(name, value, match):
    with pytest.raises(ValueError, match=match) as caught:
        recipes.changed(TINY, {name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "changes", "sentence"),
    [
        ("digits", {"net.heads": 0}, "heads must be at least 1, got 0"),
        ("digits", {"net.patch": 0}, "patch must be at least 1, got 0"),
        ("digits", {"net.width": -16}, "width must be at least 1, got -16"),
        ("digits", {"net.num_classes": -1}, "num_classes >= 0"),
        ("digits", {"net.dropout": 1.0}, "0 <= dropout < 1"),
        ("digits", {"T": 10**11}, "1..100,000, got 100000000000"),
        ("digits", {"name": "../evil"}, "plain file name, got '../evil'"),
        ("digits", {"name": ""}, "plain file name, got ''"),
        ("digits", {"settings.lr": math.inf}, "lr must be positive and finite, got inf"),
        ("digits", {"settings.weight_decay": math.nan}, "weight_decay .* got nan"),
        ("digits-classifier", {"reach": -1}, "reach .* got -1"),
        ("digits-classifier", {"net.width": 0}, "width must be at least 1, got 0"),
        ("digits-classifier", {"name": "a/b"}, "plain file name, got 'a/b'"),
        ("digits-noisy-classifier", {"reach": -1}, "reach .* got -1"),
        ("digits-noisy-classifier", {"T": 0}, "T counts steps"),
        ("digits-noisy-classifier", {"schedule": "square"}, "schedule must be one of"),
        ("digits-noisy-classifier", {"noisy": 1}, "noisy must be true or false, got 1"),
        ("digits-noisy-classifier", {"net.num_classes": 1}, "at least 2 classes, got 1"),
        ("digits-noisy-classifier", {"name": "a/b"}, "plain file name, got 'a/b'"),
    ],
)
def test_a_recipe_that_can_build_nothing_is_refused(name, changes, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        recipes.changed(recipes.RECIPES[name], changes)
