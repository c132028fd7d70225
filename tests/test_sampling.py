"""`evaluation.Sampling`: one record of how samples are drawn, the same wherever it is said."""

import json
import math
from dataclasses import fields, replace

import pytest
import torch

from ddpmlib import cli, evaluation, samplers, zoo
from ddpmlib.denoiser import EPS, Denoiser
from ddpmlib.evaluation import Guidance, Sampling, drawing, entries, sampling
from ddpmlib.process import DDPM, EDM, schedules
from ddpmlib.samplers import SampleNoise, noise

OTHER = Sampling(
    steps=20, spacing="quadratic", eta=0.5, seed=2**32 - 1, bf16=True, guidance=Guidance(w=2.0)
)


@pytest.fixture(scope="module")
def digits():
    return zoo.load("digits", "cpu")


# ---- the record --------------------------------------------------------------------------------


def test_a_record_is_what_cards_have_always_stored_and_the_streams():
    assert Sampling().record() == {
        "steps": 50, "eta": 0.0, "seed": 0, "spacing": "uniform", "bf16": False,
        "streams": "per sample",
    }  # fmt: skip
    old = {"metric": "samples", "n": 1000, "steps": 50, "eta": 0.0, "seed": 0}
    assert {k: v for k, v in old.items() if k in Sampling().record()}.items() <= (
        Sampling().record().items()
    )
    assert OTHER.record()["guidance"] == {"w": 2.0}


@pytest.mark.parametrize(
    "how",
    [Sampling(), OTHER, Sampling(guidance=Guidance(classifier="c", strength=1.0, low=1, high=9))],
)
def test_a_record_reads_back_from_json(how):
    assert Sampling.from_record(json.loads(json.dumps(how.record()))) == how


@pytest.mark.parametrize("name", [f.name for f in fields(Sampling) if f.name != "step"])
def test_no_field_is_left_out_of_the_record(name):
    assert replace(Sampling(), **{name: getattr(OTHER, name)}).record() != Sampling().record()


@pytest.fixture
def euler(monkeypatch):
    """Another way of drawing the next state, under a name."""

    def step(denoise, process, past, s, generator):
        prediction = denoise(past[-1].x, past[-1].t)
        noise.normal(past[-1].x, generator)  # in vain
        x = process.step(past[-1].x, prediction, past[-1].t, s, 0.0, None)
        return samplers.State(s, x, prediction.x0)

    monkeypatch.setitem(sampling.STEPS, "euler", lambda how: step)


def test_another_step_is_recorded_and_taken(euler, digits):
    denoiser, card = digits
    how = Sampling(steps=3, step="euler")
    assert how.record() == Sampling(steps=3).record() | {"step": "euler"}
    assert Sampling.from_record(how.record()) == how
    y = torch.arange(4)
    plain = evaluation.generate(denoiser, card.image_shape, y, Sampling(steps=3))
    assert torch.equal(evaluation.generate(denoiser, card.image_shape, y, how), plain)
    with pytest.raises(ValueError, match="eta is of the ancestral step, and step 'euler' has none"):
        Sampling(step="euler", eta=1.0)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"steps": 2.0}, "steps must be a whole number, got 2.0"),
        ({"steps": True}, "steps must be a whole number, got True"),
        ({"eta": 1.5}, r"eta must lie in \[0, 1\]"),
        ({"eta": float("nan")}, "eta must be a finite number, got nan"),
        ({"eta": "0"}, "eta must be a number, got '0'"),
        ({"seed": -1}, r"seed must lie in 0\.\.2\*\*32 - 1, got -1"),
        ({"seed": 2**32}, r"seed must lie in 0\.\.2\*\*32 - 1"),
        ({"spacing": "log"}, "spacing must be among uniform, leading, .*, got 'log'"),
        ({"step": "leap"}, "step must be among ancestral, .*, got 'leap'"),
        ({"bf16": 1}, "bf16 must be true or false, got 1"),
        ({"guidance": {"w": 2.0}}, "guidance must be a Guidance"),
    ],
)
def test_bad_values_are_refused_in_one_sentence(values, sentence):
    with pytest.raises(ValueError, match=sentence):
        Sampling(**values)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"stepz": 3}, "a Sampling has no field 'stepz'"),
        ({"steps": None}, "steps must be a whole number, got None"),
        ({"guidance": {"v": 2.0}}, "a Guidance has no field 'v'"),
        ({"guidance": [1]}, "a Guidance is a JSON object with named fields"),
        ({"guidance": {"w": "2"}}, "w must be a number, got '2'"),
        ({"guidance": {"w": 1.0, "low": 0.5}}, "low must be a whole number or null, got 0.5"),
        ({"streams": "by batch"}, "streams = 'by batch', which cannot be drawn again"),
    ],
)
def test_a_bad_record_is_refused_in_one_sentence(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        Sampling.from_record(Sampling().record() | change)


def test_an_incomplete_record_and_an_older_one_are_refused():
    record = Sampling().record()
    for name in ("steps", "eta", "seed", "spacing", "bf16"):
        with pytest.raises(ValueError, match=f"a Sampling needs the field '{name}'"):
            Sampling.from_record({k: v for k, v in record.items() if k != name})
    with pytest.raises(ValueError, match="streams = None, which cannot be drawn again"):
        Sampling.from_record({k: v for k, v in record.items() if k != "streams"})
    with pytest.raises(ValueError, match="is a JSON object with named fields, got 3"):
        Sampling.from_record(3)


def test_times_are_the_spacings_and_know_the_process():
    process = DDPM(schedules.cosine(20))
    for name, spacing in evaluation.SPACINGS.items():
        assert Sampling(steps=7, spacing=name).times(process) == spacing(20, 7)
    with pytest.raises(ValueError, match=r"steps must lie in 1\.\.T = 1\.\.20, got 21"):
        Sampling(steps=21).times(process)


# ---- drawing -----------------------------------------------------------------------------------


class Echo(torch.nn.Module):
    """Says that all is noise: no sums over a batch, so that samples are equal to the bit."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x_t, t):
        return x_t


ECHO = Denoiser(Echo(), DDPM(schedules.cosine(20)), EPS)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_sample_does_not_depend_on_the_batch_it_is_drawn_in(eta):
    """To the bit, where the network does not round otherwise in batches of other sizes."""
    how = Sampling(steps=5, eta=eta, seed=3)
    whole = evaluation.generate(ECHO, (1, 4, 4), None, how, n=17)
    assert len(whole.flatten(1).unique(dim=0)) == 17
    for size in (1, 7):
        assert torch.equal(
            evaluation.generate(ECHO, (1, 4, 4), None, how, n=17, batch_size=size), whole
        )
    assert torch.equal(evaluation.generate(ECHO, (1, 4, 4), None, how, n=6), whole[:6])


@pytest.mark.parametrize("how", [
    Sampling(steps=4), Sampling(steps=4, eta=0.5),
    Sampling(steps=4, eta=1.0, guidance=Guidance(w=2.0, clip=True)),
])  # fmt: skip
def test_samples_of_a_network_differ_by_rounding_alone(digits, how):
    denoiser, card = digits
    y = evaluation.classes_in_turn(card, 20)
    whole = evaluation.generate(denoiser, card.image_shape, y, how)
    for size in (1, 7):
        found = evaluation.generate(denoiser, card.image_shape, y, how, batch_size=size)
        assert torch.allclose(found, whole, rtol=0, atol=1e-4)
    assert float((whole[0] - whole[10]).abs().mean()) > 0.01  # of one class, other noise


def test_generate_guides_as_the_record_says(digits):
    denoiser, card = digits
    y, guidance = torch.arange(4), Guidance(w=3.0, threshold=0.9)
    found = evaluation.generate(denoiser, card.image_shape, y, Sampling(steps=3, guidance=guidance))
    by_hand = evaluation.generate(guidance.wrap(denoiser, card), (1, 8, 8), y, Sampling(steps=3))
    plain = evaluation.generate(denoiser, (1, 8, 8), y, Sampling(steps=3))
    assert torch.equal(found, by_hand) and not torch.equal(found, plain)


def test_a_classifier_of_other_data_is_refused_where_the_card_is_known(digits):
    denoiser, card = digits
    guidance = Guidance(classifier="mnist-noisy-classifier", strength=1.0)
    how = Sampling(steps=2, guidance=guidance)
    with pytest.raises(ValueError, match="trained on mnist, and digits"):
        evaluation.generate(denoiser, card.image_shape, torch.arange(2), how, card=card)


# ---- one record for all ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "how"),
    [
        ("", Sampling()),
        (
            "--steps 20 --spacing quadratic --eta 0.5 --seed 4294967295 --bf16 --w 2",
            OTHER,
        ),
        (
            "--sampling-steps 3 --step ancestral --classifier digits-noisy-classifier "
            "--strength 2 --unconditional --interval 5 700 --clip",
            Sampling(
                steps=3,
                guidance=Guidance(
                    classifier="digits-noisy-classifier", strength=2.0, unconditional=True,
                    low=5, high=700, clip=True,
                ),
            ),
        ),
        ("--w 1 --threshold 0.9", Sampling(guidance=Guidance(w=1.0, threshold=0.9))),
    ],
)  # fmt: skip
@pytest.mark.parametrize("verb", ["sample", "evaluate"])
def test_the_command_line_makes_the_record(verb, words, how, monkeypatch, tmp_path):
    seen = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evaluation, "evaluate", lambda name, how, **options: seen.append(how) or [])
    monkeypatch.setattr(
        evaluation, "sample_batches",
        lambda d, shape, y, how, **options: seen.append(how) or iter([torch.zeros(len(y), *shape)]),
    )  # fmt: skip
    assert cli.main([verb, "digits", "--device", "cpu", "--n", "2", *words.split()]) == 0
    assert seen == [how]


# ---- the card ----------------------------------------------------------------------------------


def entry(how, **more):
    return {"metric": "samples", "n": 10, "extractor": "a"} | how.record() | more


def test_older_entries_are_neither_replaced_nor_mixed_with_new_ones():
    old = {k: v for k, v in entry(Sampling(), frechet=1.0).items() if k != "streams"}
    found, new = entries.with_entry([old], entry(Sampling(), kid=2.0))
    assert found == [old, new] and "frechet" not in new
    found, new = entries.with_entry(found, entry(Sampling(), kid=3.0, frechet=4.0))
    assert found == [old, new] and new["kid"] == 3.0


def test_what_is_measured_is_found_by_its_record():
    guided = Sampling(guidance=Guidance(w=1.0))
    known = [entry(Sampling(), features="x"), {"metric": "nll", "n": 5, "draws": 3}]
    assert entries.is_measured(known, 10, Sampling()) and entries.is_measured(known, 5, None)
    for n, how in ((9, Sampling()), (10, guided), (10, Sampling(seed=1)), (10, None), (5, OTHER)):
        assert not entries.is_measured(known, n, how)
    assert not entries.is_measured([entry(guided)], 10, Sampling())
    old = {k: v for k, v in entry(Sampling()).items() if k != "streams"}
    assert not entries.is_measured([old], 10, Sampling())


def test_generate_draws_the_start_from_the_same_noise(monkeypatch):
    """The first draw of a sample is its start, so η = 0 and η = 1 begin in the same state."""
    starts = []

    def drawn(denoiser, process, x, *words, **options):
        starts.append(x)
        return x

    monkeypatch.setattr(drawing.samplers, "draw", drawn)
    for eta in (0.0, 1.0):
        evaluation.generate(ECHO, (1, 4, 4), None, Sampling(steps=2, eta=eta), n=3)
    assert torch.equal(*starts)
    assert torch.equal(starts[0], samplers.SampleNoise(0, range(3)).like(starts[0]))


def test_a_walk_in_continuous_time_starts_from_the_noise_of_its_process():
    """EDM starts at σ_max: its noise is that much wider than the standard normal."""
    seen = []

    class Spy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def forward(self, x_t, t):
            seen.append((x_t, t))
            return self.weight * x_t

    how = Sampling(steps=3, step="euler", seed=1)
    evaluation.generate(Denoiser(Spy(), EDM(), EPS), (1, 8, 8), None, how, n=50)
    assert [float(t[0]) for _, t in seen] == pytest.approx(
        [math.log(sigma) / 4 for sigma in how.times(EDM())[:-1]]
    )
    start = seen[0][0]
    assert torch.equal(start, 80.0 * SampleNoise(1, range(50)).like(start))
