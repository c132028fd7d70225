"""Guidance in plain values: the wrappers it names, in their order, and what it refuses."""

import math

import pytest
import torch

from ddpmlib import evaluation, zoo
from ddpmlib.evaluation import Guidance, Sampling, metrics
from ddpmlib.guidance import (
    ClassifierFree,
    ClassifierGuidance,
    DynamicThreshold,
    StaticThreshold,
    Unconditional,
    interval,
)
from ddpmlib.process import FlowMatching
from ddpmlib.samplers import draw, uniform_times

NOISY = "digits-noisy-classifier"


@pytest.fixture(scope="module")
def loaded():
    return zoo.load("digits", "cpu")


@pytest.fixture(scope="module")
def digits(loaded):
    return loaded[0]


@pytest.fixture(scope="module")
def card(loaded):
    return loaded[1]


def sampled(denoiser, n=4):
    noise = torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return draw(
        denoiser, denoiser.process, noise, uniform_times(1000, 5), eta=0.0, y=torch.arange(n)
    )


def test_nothing_asked_for_is_the_denoiser_itself(digits, card):
    assert Guidance().wrap(digits, card) is digits
    assert Guidance().record() == {}


def test_the_record_names_what_was_asked_for_alone():
    assert Guidance(w=2.0, threshold=0.99).record() == {"w": 2.0, "threshold": 0.99}
    assert Guidance(w=1.0, low=3, high=7).record() == {"w": 1.0, "low": 3, "high": 7}


def test_the_wrappers_are_those_one_would_write(digits, card):
    classifier, _ = zoo.load(NOISY, "cpu")
    pairs = (
        (Guidance(w=3.0), ClassifierFree(digits, 3.0)),
        (Guidance(w=3.0, low=1, high=1000), ClassifierFree(digits, 3.0)),
        (Guidance(w=3.0, low=500, high=1000), ClassifierFree(digits, interval(3.0, 500, 1000))),
        (Guidance(w=3.0, low=500), ClassifierFree(digits, lambda t: 3.0 * (t >= 500))),
        (Guidance(w=3.0, high=500), ClassifierFree(digits, lambda t: 3.0 * (t <= 500))),
        (Guidance(w=9.0, threshold=0.9), DynamicThreshold(ClassifierFree(digits, 9.0), 0.9)),
        (Guidance(unconditional=True), Unconditional(digits)),
        (Guidance(w=9.0, clip=True), StaticThreshold(ClassifierFree(digits, 9.0))),
        (
            Guidance(classifier=NOISY, strength=2.0, unconditional=True, low=1, high=500),
            ClassifierGuidance(Unconditional(digits), classifier, lambda t: 2.0 * (t <= 500)),
        ),
        (
            Guidance(w=1.0, classifier=NOISY, strength=2.0, high=800),
            ClassifierGuidance(
                ClassifierFree(digits, lambda t: 1.0 * (t <= 800)),
                classifier,
                lambda t: 2.0 * (t <= 800),
            ),
        ),
    )
    for options, by_hand in pairs:
        assert torch.equal(sampled(options.wrap(digits, card)), sampled(by_hand))


def test_the_least_noise_is_guided_too(digits, card):
    x, y = torch.randn(2, 1, 8, 8), torch.tensor([3, 4])
    for options in (Guidance(w=1.0), Guidance(classifier=NOISY, strength=1.0)):
        assert not torch.equal(options.wrap(digits, card)(x, 1, y).x0, digits(x, 1, y).x0)


def test_a_lower_end_above_the_classifiers_default_moves_that(digits, card):
    x, y = torch.randn(2, 1, 8, 8), torch.tensor([3, 4])
    guided = Guidance(classifier=NOISY, strength=1.0, low=950).wrap(digits, card)
    assert not torch.equal(guided(x, 950, y).x0, digits(x, 950, y).x0)
    assert torch.equal(guided(x, 900, y).x0, digits(x, 900, y).x0)


def test_a_classifier_leaves_the_noisiest_tenth_alone_unless_told(digits, card):
    x, y = torch.randn(2, 1, 8, 8), torch.tensor([3, 4])
    guided = Guidance(classifier=NOISY, strength=1.0).wrap(digits, card)
    assert torch.equal(guided(x, 901, y).x0, digits(x, 901, y).x0)
    assert not torch.equal(guided(x, 900, y).x0, digits(x, 900, y).x0)
    told = Guidance(classifier=NOISY, strength=1.0, high=1000).wrap(digits, card)
    assert not torch.equal(told(x, 901, y).x0, digits(x, 901, y).x0)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"strength": 1.0}, "both its name and a strength"),
        ({"classifier": NOISY}, "both its name and a strength"),
        ({"unconditional": True, "w": 1.0}, "needs the class"),
        ({"low": 5}, "needs guidance"),
        ({"w": math.nan}, "finite"),
        ({"strength": math.inf, "classifier": NOISY}, "strength must be a finite number"),
        ({"w": 1.0, "low": 9, "high": 3}, "must lie in 1..1000 and not be empty"),
        ({"w": 2.0, "low": 2000, "high": 3000}, "must lie in 1..1000"),
        ({"w": 2.0, "low": 0, "high": 300}, "must lie in 1..1000"),
        ({"w": 2.0, "low": 5, "high": 0}, "must lie in 1..1000"),
        ({"classifier": "mnist-noisy-classifier", "strength": 1.0}, "trained on mnist, and digits"),
        ({"threshold": 1.5}, "share of pixels"),
        ({"threshold": 0.9, "clip": True}, "either dynamic or static"),
        ({"classifier": "digits-classifier", "strength": 1.0}, "cannot guide: .* noisy images"),
        ({"classifier": "digits", "strength": 1.0}, "cannot guide"),
        ({"classifier": "nobody", "strength": 1.0}, "no checkpoint 'nobody'"),
    ],
)
def test_bad_options_are_refused_with_a_reason(digits, card, values, sentence):
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        Guidance(**values).wrap(digits, card)


def test_guided_and_plain_samples_are_two_entries_of_a_card(tmp_path):
    for shipped in zoo.shipped().glob("digits.*"):
        (tmp_path / shipped.name).write_bytes(shipped.read_bytes())
    path = tmp_path / "digits.safetensors"
    common = {"n": 20, "draws": 20, "metrics": ("agreement",), "device": "cpu"}
    common["extractor"] = "classifier"
    plainly, guidedly = Sampling(steps=2), Sampling(steps=2, guidance=Guidance(w=4.0))
    (plain,) = evaluation.evaluate(path, plainly, **common)
    (guided,) = evaluation.evaluate(path, guidedly, **common)
    assert "guidance" not in plain and guided["guidance"] == {"w": 4.0}
    entries = zoo.Card.read(path.with_suffix(".json")).metrics
    same = [m for m in entries if m.get("n") == 20 and m["steps"] == 2]
    assert [m.get("guidance") for m in same] == [None, {"w": 4.0}]
    evaluation.evaluate(path, guidedly, **common)
    assert len(zoo.Card.read(path.with_suffix(".json")).metrics) == len(entries)


# ---- saturation --------------------------------------------------------------------------------


def test_saturation_counts_white_and_what_will_be_clipped():
    x = torch.tensor([-1.5, -1.0, -1.005, 0.0, 0.9, 0.995, 1.0, 1.2])
    assert metrics.saturation(x) == (3 / 8, 2 / 8)
    assert metrics.saturation(-torch.ones(3, 4)) == (0, 0)
    with pytest.raises(ValueError, match="at least one pixel"):
        metrics.saturation(torch.zeros(0))
    with pytest.raises(ValueError, match="hold NaN"):
        metrics.saturation(torch.tensor([math.nan]))


def test_guidance_saturates_and_the_threshold_brings_back(digits, card):
    found = {}
    for threshold in (0.0, 0.9):
        guided = Guidance(w=12.0, threshold=threshold).wrap(digits, card)
        found[threshold] = metrics.saturation(sampled(guided, 10))
    assert found[0.0].out_of_range > metrics.saturation(sampled(digits, 10)).out_of_range
    assert found[0.9].out_of_range == 0


def test_a_continuous_process_is_guided_at_all_its_times(digits):
    class Continuous(torch.nn.Module):
        process, conditional = FlowMatching(), True

        def without(self, y):
            return torch.full_like(y, 10)

    guided = Guidance(w=2.0).wrap(Continuous())
    assert isinstance(guided, ClassifierFree) and guided.w == 2.0
    with pytest.raises(ValueError, match="an interval counts the times of a chain"):
        Guidance(w=2.0, low=1).wrap(Continuous())
