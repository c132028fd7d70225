"""`ddpmlib.evaluation`: samples by the seed, every metric on them, and the card that remembers."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from ddpmlib import data, evaluation, files, likelihood, samplers, zoo
from ddpmlib.denoiser import EPS, X0, Denoiser, FixedVariance
from ddpmlib.evaluation import (
    Sampling,
    bits_per_dim,
    drawing,
    entries,
    features,
    intervals,
    metrics,
    sample_jobs,
    sample_quality,
)
from ddpmlib.models import Classifier, ClassifierConfig, UNetConfig
from ddpmlib.process import DDPM, schedules
from ddpmlib.training import Settings
from ddpmlib.zoo import ClassifierRecipe, DiffusionRecipe, checkpoints, runs

NET = UNetConfig(width=8, mults=(1,), attention=(False,), heads=1, groups=4, num_classes=10)
TINY = DiffusionRecipe("tiny", "digits", NET, Settings(steps=10, batch_size=8, warmup=2, ema=0.5))
CLASSIFIER = ClassifierRecipe(
    "digits-classifier",
    "digits",
    ClassifierConfig(width=4, features=8),
    Settings(steps=120, batch_size=32, lr=1e-2, warmup=5, ema=0.5),
)
TWO = Sampling(steps=2)
FEW = {"metrics": ["fid"], "n": 20, "device": "cpu", "extractor": "classifier"}
KEYS = {
    "agreement": ["class_agreement", "class_agreement_interval"],
    "fid": ["frechet", "frechet_interval", "frechet_floor", "floor_n"],
    "contrast": [
        "contrast",
        "brightness",
        "contrast_floor",
        "brightness_floor",
        "frechet_matched",
        "frechet_matched_interval",
    ],
    "is": ["inception_score", "inception_score_std", "inception_score_floor", "splits"],
    "kid": ["kid", "kid_std", "kid_floor", "kid_size"],
    "pr": [
        "precision",
        "recall",
        "density",
        "coverage",
        "precision_floor",
        "recall_floor",
        "density_floor",
        "coverage_floor",
    ],
    "saturation": ["saturation", "saturation_floor", "out_of_range"],
}
ALL_KEYS = [key for keys in KEYS.values() for key in keys]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "a tiny run"
    runs.train(TINY, folder, device="cpu", command="make tiny")
    return folder


@pytest.fixture(scope="module")
def classifier_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "classifier"
    runs.train(CLASSIFIER, folder, device="cpu", command="make classifier")
    return folder


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    folder = tmp_path / "shipped here"
    monkeypatch.setattr(checkpoints, "shipped", lambda: folder)
    return folder


@pytest.fixture
def tiny(finished, classifier_run, shipped):
    """Both are shipped; the card of the denoiser."""
    zoo.ship(classifier_run)
    path = zoo.ship(finished)
    return lambda: zoo.Card.read(path.with_suffix(".json")).metrics


@pytest.fixture(scope="module")
def classifier(classifier_run):
    return zoo.load(classifier_run, "cpu")[0]


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def measured(sampling=TWO, **options):
    common = {"n": 100, "device": "cpu", "draws": 20, "extractor": "classifier"}
    if "metrics" not in options:
        common["metrics"] = evaluation.OF_SAMPLES
    return evaluation.evaluate("tiny", sampling, **common | options)


# ---- the card ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_evaluate_writes_into_the_card_and_replaces_the_same_cell_only(tiny):
    (first,) = measured()
    assert tiny() == [first] and first["metric"] == "samples"
    assert set(ALL_KEYS) <= set(first)
    assert first["features"] == "digits-classifier" and first["n"] == first["floor_n"] == 100
    assert first["extractor"] == zoo.load("digits-classifier", "cpu")[1].sha256[:12]
    assert 0 <= first["class_agreement"] <= 1 and first["frechet"] > first["frechet_floor"] >= 0
    assert first["seconds"] >= 0 and first["hardware"]  # in tenths: 0.0 on a quick machine
    (other,) = measured(Sampling(steps=3))
    (again,) = measured()
    assert tiny() == [again, other]
    assert again | {"seconds": 0} == first | {"seconds": 0}
    assert other["frechet"] != first["frechet"]
    zoo.load("tiny", "cpu")  # the card still belongs to the file


@pytest.mark.parametrize(
    "change", [{"eta": 1.0}, {"seed": 1}, {"spacing": "quadratic"}, {"bf16": True}]
)
def test_another_setting_is_another_entry(tiny, change):
    measured(metrics=["agreement"])
    measured(Sampling(steps=2, **change), metrics=["agreement"])
    measured(metrics=["agreement"], n=99)
    assert len(tiny()) == 3 and tiny()[2]["n"] == 99
    for key, value in change.items():
        assert tiny()[1][key] == value != tiny()[0][key]


@pytest.mark.parametrize("name", KEYS)
def test_one_metric_alone_keeps_what_is_known_of_the_same_samples(tiny, name):
    (whole,) = measured()
    (entry,) = measured(metrics=[name])
    assert entry | {"seconds": 0} == whole | {"seconds": 0} and tiny() == [entry]


SPACES = ["digits-classifier", "pixels", "random"]


@pytest.mark.slow
def test_by_default_all_features_at_hand_look_at_the_same_samples(tiny):
    found = evaluation.evaluate("tiny", TWO, n=100, draws=20, device="cpu")
    assert [e["metric"] for e in found] == ["samples"] * 3 + ["memorisation"]
    assert [e.get("features") for e in found] == [*SPACES, None] and tiny() == found
    by_classifier, by_pixels, by_random, copies = found
    for entry in found[:3]:
        assert {"frechet", "frechet_matched", "frechet_interval", "kid", "coverage"} <= set(entry)
        assert entry["contrast"] == by_classifier["contrast"]  # they are the same samples
    assert len({e["frechet"] for e in found[:3]}) == len({e["extractor"] for e in found[:3]}) == 3
    assert "class_agreement" in by_classifier and "saturation" in by_classifier
    for entry in (by_pixels, by_random):
        assert not {"class_agreement", "inception_score", "saturation"} & set(entry)
    low, high = copies["nearer_to_training_interval"]
    assert low <= copies["nearer_to_training"] <= high
    assert copies["nearer_to_training_expected"] == pytest.approx(1442 / 1797, abs=1e-4)
    again = evaluation.evaluate("tiny", TWO, n=100, draws=20, device="cpu", extractor="pixels")
    assert again[0].items() >= (by_pixels | {"seconds": again[0]["seconds"]}).items()
    assert len(tiny()) == 4 and again[1] | {"seconds": 0} == copies | {"seconds": 0}


def test_copies_of_training_images_are_caught(digits):
    caught = evaluation.measure_memorisation(data.to_float(digits.x_train[:300]), digits)
    free = evaluation.measure_memorisation(data.to_float(digits.x_test), digits)
    assert caught["nearer_to_training"] > 0.9 and caught["copies"] > 0.9
    assert free["nearer_to_training"] < 0.1 and free["copies"] == free["copies_floor"] < 0.05


def test_a_classifier_beside_the_checkpoint_comes_before_the_shipped_one(tiny, finished, tmp_path):
    path = zoo.ship(finished, folder=tmp_path / "own")
    shipped = zoo.load("digits-classifier", "cpu")[1].sha256[:12]
    (entry,) = evaluation.evaluate(path, TWO, draws=20, **FEW)
    assert entry["extractor"] == shipped
    other = replace(CLASSIFIER, settings=replace(CLASSIFIER.settings, seed=1, steps=20))
    runs.train(other, tmp_path / "other", device="cpu")
    zoo.ship(tmp_path / "other", folder=tmp_path / "own")
    (entry,) = evaluation.evaluate(path, TWO, draws=20, **FEW)
    assert (
        entry["extractor"]
        == zoo.read(tmp_path / "own" / "digits-classifier.safetensors")[0].sha256[:12]
    )
    assert entry["extractor"] != shipped
    (entry,) = evaluation.evaluate("tiny", TWO, draws=20, **FEW)
    assert entry["extractor"] == shipped


def test_a_result_is_told_before_it_is_written(tiny, shipped, monkeypatch):
    told = []
    before = (shipped / "tiny.json").read_bytes()

    def full(*words):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zoo.card, "write_atomically", full)
    with pytest.raises(OSError, match="No space left"):
        measured(metrics=["agreement"], report=told.append)
    (entry,) = told
    assert 0 <= entry["class_agreement"] <= 1 and entry["seconds"] >= 0 and entry["hardware"]
    assert (shipped / "tiny.json").read_bytes() == before


def test_what_others_note_meanwhile_is_kept(tiny, shipped):
    """The card is read again before it is written: it was read last before the measurement."""

    def another(entry):
        entries.note(shipped / "tiny.safetensors", sha256, {"metric": "nll", "n": 3})

    sha256 = zoo.Card.read(shipped / "tiny.json").sha256
    (mine,) = measured(metrics=["agreement"], report=another)
    assert tiny() == [{"metric": "nll", "n": 3}, mine]


def test_a_result_of_weights_that_have_been_replaced_meanwhile_is_refused(tiny, shipped, finished):
    def replace_weights(entry):
        zoo.ship(finished, "tiny", "float32")

    with pytest.raises(ValueError, match="tiny.safetensors holds other weights than when it was"):
        measured(metrics=["agreement"], report=replace_weights)
    assert tiny() == [] and zoo.load("tiny", "cpu")[1].dtype == "float32"


def test_a_folder_that_takes_no_files_is_noticed_before_measuring(tiny, shipped, monkeypatch):
    def refuse(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files.tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(sample_jobs, "generate", lambda *a, **k: pytest.fail("sampled in vain"))
    with pytest.raises(PermissionError, match="cannot write into .*shipped here: Permission den"):
        measured(metrics=["agreement"])


def test_an_entry_of_another_extractor_is_replaced_as_a_whole():
    old = {"metric": "samples", "n": 5, "steps": 2, "eta": 0.0, "seed": 0, "features": "a"}
    new = old | {"spacing": "uniform", "bf16": False, "extractor": "beef", "frechet": 1.0}
    known, entry = entries.with_entry([old | {"kid": 7}], new)
    assert known == [new] and entry == new  # an older card names no extractor
    known, entry = entries.with_entry([new], new | {"extractor": "dead"})
    assert known == [entry] and entry["extractor"] == "dead"
    known, _ = entries.with_entry([old | {"features": "inception"}], new)
    assert len(known) == 2


def test_evaluate_a_classifier(classifier_run, shipped, digits):
    zoo.ship(classifier_run)
    (result,) = evaluation.evaluate("digits-classifier", device="cpu")
    classifier, card = zoo.load("digits-classifier", "cpu")
    assert isinstance(classifier, Classifier)
    right = classifier(data.to_float(digits.x_test)).argmax(1) == digits.y_test
    assert result["value"] == pytest.approx(float(right.double().mean()))
    assert result["n"] == len(digits.y_test) and card.metrics == [result]
    with pytest.raises(ValueError, match="measured by its accuracy alone"):
        evaluation.evaluate("digits-classifier", metrics=["fid"], device="cpu")


def test_evaluate_knows_before_sampling_what_is_missing(finished, shipped, monkeypatch):
    monkeypatch.setattr(sample_jobs, "generate", lambda *a, **k: pytest.fail("sampled in vain"))
    with pytest.raises(FileNotFoundError, match="digits-classifier"):
        evaluation.evaluate(finished, TWO, n=20, extractor="classifier", device="cpu")
    with pytest.raises(FileNotFoundError, match="no checkpoint 'vgg': give a folder"):
        evaluation.evaluate(finished, TWO, n=20, extractor="vgg", device="cpu")
    for options, match in (
        ({"n": 1}, "at least 2"),
        ({"metrics": ["fid", "FID"]}, "metrics must be among agreement, fid, .*, nll, got 'FID'"),
        ({"extractor": "inception"}, "digits is grey, and Inception is for colour images only"),
    ):
        with pytest.raises(ValueError, match=match):
            evaluation.evaluate(finished, TWO, **{"n": 20, "device": "cpu"} | options)


# ---- measuring ---------------------------------------------------------------------------------


def test_every_number_is_the_metric_on_the_classifiers_features(classifier, digits):
    n = 200
    x0 = data.to_float(digits.x_train[:n]) * 0.8 + 0.1
    found = evaluation.measure_samples(classifier, x0, digits.y_train[:n], digits, draws=20)
    assert list(found) == ALL_KEYS
    h, logits = features.extract(classifier, x0)
    train, _ = features.extract(classifier, digits.x_train)
    real = evaluation.reference(classifier, digits, n, digits.y_train[:n])
    assert len(real.train) == len(real.test) == n == found["floor_n"]
    assert found["frechet"] == pytest.approx(metrics.frechet_distance(h, train), abs=1e-4)
    floor = metrics.frechet_distance(real.test, train)
    assert found["frechet_floor"] == pytest.approx(floor, abs=1e-4)
    low, high = found["frechet_interval"]
    assert low < found["frechet"] < high
    agreement = metrics.class_agreement(logits, digits.y_train[:n])
    low, high = found["class_agreement_interval"]
    assert found["class_agreement"] == agreement and low < agreement < high
    score = metrics.inception_score(logits, 2)
    assert found["splits"] == 2 and found["inception_score"] == pytest.approx(score[0], abs=1e-4)
    assert found["inception_score_std"] == pytest.approx(score.std, abs=1e-4)
    generator = torch.Generator().manual_seed(0)
    kid = metrics.kid(h, real.train, size=n // 2, generator=generator)
    assert found["kid_size"] == n // 2 and found["kid"] == pytest.approx(kid.mean, abs=1e-6)
    assert found["kid_std"] == pytest.approx(kid.std, abs=1e-6) and kid.std > 0
    precision, recall = metrics.precision_recall(real.train, h)
    assert (found["precision"], found["recall"]) == pytest.approx((precision, recall), abs=1e-4)
    pair = metrics.density_coverage(real.train, h)
    assert (found["density"], found["coverage"]) == pytest.approx(pair, abs=1e-4)
    pixels = data.to_float(digits.x_train)
    mean, std = float(pixels.mean()), float(pixels.std(correction=0))
    assert found["contrast"] == pytest.approx(float(x0.std(correction=0)) / std, abs=1e-3)
    assert found["brightness"] == pytest.approx(float(x0.mean()) - mean, abs=1e-3)
    h, _ = features.extract(classifier, metrics.matched_contrast(x0, mean, std))
    assert found["frechet_matched"] == pytest.approx(metrics.frechet_distance(h, train), abs=1e-3)
    low, high = found["frechet_matched_interval"]
    assert low < found["frechet_matched"] < high < found["frechet"]
    saturated = metrics.saturation(x0)
    shares = found["saturation"], found["out_of_range"]
    assert shares == pytest.approx(saturated, abs=1e-5)


def test_the_floor_is_what_test_images_score_in_place_of_samples(classifier, digits):
    """Given the very test images as samples, every number is its floor."""
    x = digits.x_test[sample_quality.random_places(digits.y_test, 150)]
    found = evaluation.measure_samples(classifier, data.to_float(x), None, digits, draws=20)
    assert "class_agreement" not in found
    names = ("frechet", "inception_score", "kid", "precision", "recall", "density", "coverage")
    for name in (*names, "contrast", "brightness", "saturation"):
        assert found[name] == pytest.approx(found[f"{name}_floor"], abs=2e-4), name


def test_the_floor_has_the_classes_of_the_samples(digits):
    y = torch.tensor([3] * 20 + [7] * 5 + [0])
    places = sample_quality.random_places(digits.y_test, len(y), y)
    assert torch.bincount(digits.y_test[places], minlength=10).tolist() == [
        1, 0, 0, 20, 0, 0, 0, 5, 0, 0,
    ]  # fmt: skip
    assert len(places.unique()) == len(y)
    drawn = sample_quality.random_places(digits.y_test, len(y))
    assert len(set(digits.y_test[drawn].tolist())) > 3  # without labels all classes are there
    many = sample_quality.random_places(digits.y_test, 1000, torch.arange(1000) % 10)
    assert sorted(many.tolist()) == list(range(355))  # no more than there are


def test_the_reference_takes_the_classes_that_were_asked_for(classifier, digits):
    y = torch.tensor([3] * 20 + [7] * 5 + [0])
    real = evaluation.reference(classifier, digits, len(y), y)
    places = sample_quality.random_places(digits.y_test, len(y), y)
    features_there, logits_there = features.extract(classifier, digits.x_test[places])
    assert torch.equal(real.test, features_there) and torch.equal(real.test_logits, logits_there)
    drawn = sample_quality.random_places(digits.y_train, len(y))
    assert torch.equal(real.train, features.extract(classifier, digits.x_train[drawn])[0])
    assert drawn.tolist() != list(range(len(y)))  # sorted sets would give one class


class Echo(torch.nn.Module):
    """Says of every image that it was flat, as grey as its label."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x_t, t, y=None):
        return (y.float() / 10)[:, None, None, None].expand_as(x_t)


def test_labels_and_noise_go_on_from_batch_to_batch():
    denoiser = Denoiser(Echo(), DDPM(schedules.cosine(20)), X0)
    y = torch.tensor([0, 3, 1, 4, 2])
    x0 = evaluation.generate(denoiser, (1, 4, 4), y, Sampling(steps=3), batch_size=2)
    assert torch.allclose(x0.mean((1, 2, 3)), y / 10, atol=1e-6)
    noisy = Denoiser(Known(), DDPM(schedules.cosine(20)), EPS)
    x0 = evaluation.generate(noisy, (1, 4, 4), y, Sampling(steps=3, eta=1.0), batch_size=2)
    assert len(x0.flatten(1).unique(dim=0)) == 5  # no batch repeats another's noise


def test_training_images_beat_the_floor_and_noise_is_far_above(digits):
    classifier, _ = zoo.load("digits-classifier", "cpu")  # noise may look real to a poor classifier
    real = evaluation.reference(classifier, digits, 300)
    noise = torch.randn(300, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    bad = evaluation.measure_samples(classifier, noise, None, digits, draws=20, real=real)
    assert bad["frechet"] > 10 * bad["frechet_floor"] and bad["frechet_interval"][0] > 0
    assert bad["kid"] > 5 * abs(bad["kid_floor"])
    assert bad["precision"] < bad["precision_floor"] and bad["recall"] < bad["recall_floor"]
    assert bad["inception_score"] < bad["inception_score_floor"]


def test_more_samples_than_test_images_say_so(classifier, digits):
    x0 = data.to_float(digits.x_train[:400])
    found = evaluation.measure_samples(classifier, x0, None, digits, ["fid", "is"], draws=20)
    assert found["floor_n"] == 355 and list(found) == KEYS["fid"] + KEYS["is"]
    _, logits = features.extract(
        classifier, digits.x_test[sample_quality.random_places(digits.y_test, 400)]
    )
    floor = metrics.inception_score(logits, 3)  # of 118 images, as 4 splits of 100 samples
    assert found["splits"] == 4
    assert found["inception_score_floor"] == pytest.approx(floor.mean, abs=1e-4)


def test_the_interval_of_the_distance_is_drawn_within_the_classes_asked_for(classifier, digits):
    """Samples have as many of each class as was asked for; redrawn sets must have as many, too."""
    x0, y = data.to_float(digits.x_train[:100]), digits.y_train[:100]
    real = evaluation.reference(classifier, digits, 100, y)
    fake, _ = features.extract(classifier, x0)

    def expected(groups):
        low, high = intervals.bootstrap(
            lambda h: metrics.frechet_distance(h, real.moments), fake, draws=20, groups=groups,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        return pytest.approx([low, high], abs=1e-4)

    options = {"metrics": ["fid"], "draws": 20, "real": real}
    told = evaluation.measure_samples(classifier, x0, y, digits, **options)["frechet_interval"]
    assert told == expected(y)
    untold = evaluation.measure_samples(classifier, x0, None, digits, **options)["frechet_interval"]
    assert untold == expected(None) and untold != told


def test_a_reference_at_hand_spares_the_work(classifier, digits, monkeypatch):
    x0 = data.to_float(digits.x_train[:100])
    plain = evaluation.measure_samples(classifier, x0, None, digits, draws=20)
    real = evaluation.reference(classifier, digits, 100)
    monkeypatch.setattr(sample_quality, "reference", lambda *a: pytest.fail("measured again"))
    assert evaluation.measure_samples(classifier, x0, None, digits, draws=20, real=real) == plain


# ---- likelihood --------------------------------------------------------------------------------


def test_nll_is_an_entry_of_its_own(tiny):
    (samples, nll) = measured(metrics=["nll", "agreement"], nll_draws=3)
    assert (samples["metric"], nll["metric"]) == ("samples", "nll") and tiny() == [samples, nll]
    assert {"n": 100, "steps": 1000, "draws": 3, "seed": 0}.items() <= nll.items()
    assert nll["bits_per_dim"] > 1 and 0 < nll["standard_error"] < nll["bits_per_dim"]
    assert "frechet" not in nll and nll["hardware"]
    (again,) = measured(metrics=["nll"], nll_draws=3)
    assert again | {"seconds": 0} == nll | {"seconds": 0} and tiny() == [samples, again]
    measured(metrics=["nll"], nll_draws=4)
    assert len(tiny()) == 3


class Known(torch.nn.Module):
    """A network without weights that matter: x_t is its own noise."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x_t, t, y=None):
        return x_t


def test_nll_estimates_the_full_sum(digits):
    """Against every term of the bound on the same images, within the stated error."""
    denoiser = Denoiser(Known(), DDPM(schedules.cosine(20)), EPS, 1.0)
    found = evaluation.nll(denoiser, digits, 60, draws=40, labels=False, batch_size=25)
    x0 = data.to_float(digits.x_test[sample_quality.random_places(digits.y_test, 60)])
    bound = likelihood.elbo(denoiser, denoiser.process, x0, generator=torch.Generator())
    difference = found["bits_per_dim"] - float(bound.bits_per_dim.mean())
    assert abs(difference) < 4 * found["standard_error"], (difference, found)
    assert found["n"] == 60 and found["steps"] == 20


def test_estimates_of_parts_are_pooled_to_that_of_the_whole():
    x = torch.randn(90, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def estimate(v):
        return likelihood.Estimate(float(v.mean()), float(v.std()) / math.sqrt(len(v)), len(v))

    found = bits_per_dim._pooled([estimate(v) for v in (x[:10], x[10:50] + 3, x[50:])])
    whole = estimate(torch.cat([x[:10], x[10:50] + 3, x[50:]]))
    assert found.n == whole.n and found.mean == pytest.approx(whole.mean, rel=1e-12)
    assert found.standard_error == pytest.approx(whole.standard_error, rel=1e-12)


# ---- drawing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_generate_is_decided_by_its_seed(finished, eta):
    denoiser, card = zoo.load(finished, "cpu")

    def drawn(seed, **options):
        y = evaluation.classes_in_turn(card, 5)
        how = Sampling(steps=3, eta=eta, seed=seed)
        return evaluation.generate(denoiser, card.image_shape, y, how, **options)

    torch.manual_seed(5)
    before = torch.get_rng_state()
    x = drawn(0)
    assert torch.equal(before, torch.get_rng_state())
    assert x.shape == (5, 1, 8, 8) and x.device.type == "cpu" and not x.requires_grad
    assert torch.equal(x, drawn(0)) and not torch.equal(x, drawn(1))
    assert torch.allclose(drawn(0, batch_size=2), x, atol=1e-5)


def test_generate_is_the_sampler_on_the_seeds_noise(finished):
    denoiser, card = zoo.load(finished, "cpu")
    y = torch.tensor([7, 1])
    found = evaluation.generate(denoiser, card.image_shape, y, Sampling(steps=4, seed=3))
    noise = samplers.SampleNoise(3, range(2)).like(torch.empty(2, 1, 8, 8))
    times = samplers.uniform_times(1000, 4)
    expected = samplers.draw(denoiser, denoiser.process, noise, times, eta=0.0, y=y)
    assert torch.equal(found, expected)
    other = evaluation.generate(denoiser, card.image_shape, y.flip(0), Sampling(steps=4, seed=3))
    assert not torch.equal(found, other)  # labels are used


def test_classes_in_turn(finished):
    card = zoo.Card.read(finished / "model.json")
    assert evaluation.classes_in_turn(card, 12).tolist() == [*range(10), 0, 1]


def test_samples_of_a_name_are_those_of_its_denoiser(finished):
    denoiser, card = zoo.load(finished, "cpu")

    def expected(y, how=TWO, **options):
        return evaluation.generate(denoiser, card.image_shape, torch.tensor(y), how, **options)

    def found(n=None, y=None, how=TWO, **options):
        return evaluation.samples(finished, n, y, how, device="cpu", **options)

    assert torch.equal(found(12), expected([*range(10), 0, 1]))
    assert len(found()) == 100 and torch.equal(found()[:12], found(100)[:12])
    for y in (7, "7", np.int64(7)):
        assert torch.equal(found(3, y), expected([7, 7, 7]))
    for y in ([7, 1], ["7", 1], torch.tensor([7, 1])):
        assert torch.equal(found(y=y), expected([7, 1]))
    other = Sampling(steps=3, eta=1.0, seed=4)
    assert torch.equal(found(2, how=other), expected([0, 1], other))
    assert torch.equal(found(5, batch_size=2), expected([0, 1, 2, 3, 4], batch_size=2))


def test_one_label_for_all_may_be_a_number_of_numpy(finished):
    denoiser, card = zoo.load(finished, "cpu")
    one, other = (
        evaluation.generate(denoiser, card.image_shape, y, TWO, n=3) for y in (7, np.int64(7))
    )
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("n", "y", "match"),
    [
        (0, None, "n counts samples and must be at least 1, got 0"),
        (3, [1, 2], "give labels or a number of samples"),
        (None, [], "give labels or a number of samples"),
        (1, 10, "a class of tiny is one of 0, 1, .*, 9; got 10"),
        (1, -1, "a class of tiny is one of .*; got -1"),
        (1, "seven", "a class of tiny is one of .*; got 'seven'"),
        (None, torch.tensor([0.5]), "a class of tiny is one of .*; got 0.5"),
    ],
)
def test_samples_that_cannot_be_drawn(finished, n, y, match):
    with pytest.raises(ValueError, match=match):
        evaluation.samples(finished, n, y, TWO, device="cpu")


def test_a_classifier_has_no_samples(classifier_run):
    with pytest.raises(ValueError, match="is a classifier: it measures samples but draws none"):
        evaluation.samples(classifier_run, 1, device="cpu")


def test_classes_have_the_names_of_their_data(finished):
    card = zoo.Card.read(finished / "model.json")
    assert evaluation.class_names(card) == tuple("0123456789")
    older = replace(card, training={})
    assert evaluation.class_names(older) == tuple("0123456789")
    shoes = replace(older, recipe=card.recipe | {"data": "fashion_mnist"})
    assert evaluation.label_of(shoes, "ankle boot") == 9 == evaluation.label_of(shoes, "9")
    own = replace(card, num_classes=2, training={"classes": ["9", "a cat"]})
    assert evaluation.class_names(own) == ("9", "a cat")
    assert evaluation.label_of(own, "9") == 0 and evaluation.label_of(own, "1") == 1
    for bad in (["cat"], ["cat", 3], "ab", {"a": 0, "b": 1}):
        assert evaluation.class_names(replace(own, training={"classes": bad})) == ()
    for name, names in data.sets.CLASSES.items():
        assert name in data.sets.DATASETS and len(set(names)) == 10
    assert data.sets.CLASSES.keys() == data.sets.DATASETS.keys()
    assert data.load("digits").classes == data.sets.CLASSES["digits"]


def test_without_known_names_a_class_is_its_number(finished):
    card = replace(zoo.Card.read(finished / "model.json"), training={})
    for other in (replace(card, num_classes=3), replace(card, recipe={"data": "mine"})):
        assert evaluation.class_names(other) == ()
    three = replace(card, num_classes=3)
    assert evaluation.label_of(three, "2") == 2
    with pytest.raises(ValueError, match=r"a class of tiny is one of 0..2; got '3'"):
        evaluation.label_of(three, "3")
    with pytest.raises(ValueError, match="a class of tiny is none, as it knows no classes; got 0"):
        evaluation.label_of(replace(card, num_classes=0), 0)


def test_batches_come_one_after_the_other(finished, monkeypatch):
    """A batch is drawn when it is asked for, and bad input is refused before."""
    denoiser, card = zoo.load(finished, "cpu")
    drawn, real = [], drawing._batch
    monkeypatch.setattr(drawing, "_batch", lambda *a: drawn.append(len(a[-1])) or real(*a))
    y = evaluation.classes_in_turn(card, 5)
    batches = evaluation.sample_batches(denoiser, (1, 8, 8), y, TWO, batch_size=2)
    assert drawn == []
    first = next(batches)
    assert drawn == [2] and first.shape == (2, 1, 8, 8)
    whole = torch.cat([first, *batches])
    assert drawn == [2, 2, 1]
    assert torch.equal(whole, evaluation.generate(denoiser, (1, 8, 8), y, TWO, batch_size=2))
    with pytest.raises(ValueError, match="steps must lie in"):
        evaluation.sample_batches(denoiser, (1, 8, 8), y, Sampling(steps=2000))


@pytest.mark.parametrize("name", evaluation.SPACINGS)
def test_generate_takes_every_spacing(finished, name):
    denoiser, card = zoo.load(finished, "cpu")
    spacing, how = evaluation.SPACINGS[name], Sampling(steps=5, spacing=name)
    found = evaluation.generate(denoiser, card.image_shape, None, how, n=2)
    noise = samplers.SampleNoise(0, range(2)).like(torch.empty(2, 1, 8, 8))
    expected = samplers.draw(denoiser, denoiser.process, noise, spacing(1000, 5), eta=0.0)
    assert torch.equal(found, expected)


def test_generate_in_bfloat16_is_almost_the_same_and_stays_float32(finished):
    denoiser, card = zoo.load(finished, "cpu")
    y = evaluation.classes_in_turn(card, 4)
    plain = evaluation.generate(denoiser, card.image_shape, y, Sampling(steps=4))
    half = evaluation.generate(denoiser, card.image_shape, y, Sampling(steps=4, bf16=True))
    assert half.dtype == torch.float32 and not torch.equal(half, plain)
    assert float((half - plain).abs().mean()) < 0.05


@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: FixedVariance(d, 1.0)])
def test_compiling_is_of_a_twin(finished, monkeypatch, wrap):
    """Only the network is compiled, wherever it sits, and the given denoiser keeps its own."""
    compiled = []

    def fake_compile(call, mode):
        compiled.append(call.__self__)
        return call

    denoiser, _ = zoo.load(finished, "cpu")
    net, given = denoiser.net, wrap(denoiser)
    monkeypatch.setattr(torch, "compile", fake_compile)
    twin = drawing._compiled(given)
    inner = twin if given is denoiser else twin.denoiser
    assert compiled == [inner.net] and inner.net is not net and twin is not given
    assert denoiser.net is net and net._compiled_call_impl is None
    assert inner.net.inp.weight is net.inp.weight  # the weights are shared
    assert inner.process is denoiser.process


def test_generate_needs_labels_or_a_number(finished):
    denoiser, card = zoo.load(finished, "cpu")
    for y, n in ((None, None), (None, 0), (torch.zeros(2, dtype=torch.int64), 3)):
        with pytest.raises(ValueError, match="give labels or a number of samples"):
            evaluation.generate(denoiser, card.image_shape, y, TWO, n=n)


def test_an_entry_that_is_measured_again_stays_where_it_was():
    cell = {"metric": "samples", "n": 10, "eta": 0.0, "seed": 0, "extractor": "a"}
    known = [cell | {"steps": k, "frechet": k} for k in (50, 10, 5)]
    found, entry = entries.with_entry(known, cell | {"steps": 10, "frechet": 0.5})
    assert [(m["steps"], m["frechet"]) for m in found] == [(50, 50), (10, 0.5), (5, 5)]
    assert entry is found[1]
    found, _ = entries.with_entry(known, cell | {"steps": 7, "frechet": 7})
    assert [m["steps"] for m in found] == [50, 10, 5, 7]
