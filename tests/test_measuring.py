"""Measuring: a cell becomes one row, at once; what is on record is not measured again."""

import json
from dataclasses import replace

import pytest
import torch

from ddpmlib import data, experiments, zoo
from ddpmlib.denoiser import FixedVariance
from ddpmlib.evaluation import Guidance
from ddpmlib.experiments import (
    digit_schedules,
    gradient_noise,
    guidance,
    guidance_dropout,
    guidance_interval,
    measuring,
    restart,
    results,
    runs,
    sampler_spaces,
    spaces,
    thresholds,
)
from ddpmlib.experiments.__main__ import main
from ddpmlib.experiments.cells import Experiment, sampled_cells
from ddpmlib.files import data_folder
from ddpmlib.prediction import Prediction
from ddpmlib.process import DDPM, schedules
from ddpmlib.samplers import draw, uniform_times

T = 50
TINY = {"run": "tiny", "method": "ddim", "steps": 2, "n": 20}
GUIDED = {"dataset": "digits", "method": "classifier_free", "w": 1.0, "threshold": True,
          "steps": 2, "eta": 1.0, "n": 20}  # fmt: skip
SPACE = {"dataset": "digits", "w": 1.0, "space": "pixels", "steps": 2, "eta": 1.0, "n": 20}
SHORT = {"schedule": "cosine", "seed": 0, "updates": 2, "n": 70}
RESTART = {"model": "digits", "steps": 4, "back": 500, "n": 20, "seed": 0}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Results and runs of this test alone; "tiny" is the digits' network with a shorter chain."""
    monkeypatch.setattr(results, "folder", lambda: tmp_path / "results")
    monkeypatch.setattr(runs, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(runs, "CLEAN", tmp_path / "runs" / "clean")
    monkeypatch.setattr(torch, "compile", lambda net: net)
    card, tensors = zoo.read(zoo.find("digits"))
    recipe = card.recipe | {"T": T, "objective": "simple", "times": "uniform"}
    zoo.write_model(tensors, replace(card, recipe=recipe), tmp_path / "runs" / "tiny" / zoo.MODEL)
    cached = (measuring.network, spaces.guided, sampler_spaces._drawn)
    for each in cached:
        each.cache_clear()
    yield tmp_path
    for each in cached:
        each.cache_clear()


def with_cells(monkeypatch, name, *cells):
    """Give an experiment other cells."""
    experiment = replace(experiments.EXPERIMENTS[name], cells=cells)
    monkeypatch.setitem(experiments.EXPERIMENTS, name, experiment)


@pytest.mark.filterwarnings("ignore:20 samples leave")
@pytest.mark.parametrize(
    ("name", "cell", "found"),
    [
        ("strides", TINY, {"frechet", "recall", "seconds", "hardware"}),
        ("ladder", TINY | {"guidance": "classifier_free", "w": 1.0}, {"frechet", "saturation"}),
        ("guidance", GUIDED, {"frechet", "precision", "out_of_range"}),
        ("guidance", GUIDED | {"method": "classifier"}, {"frechet", "saturation_floor"}),
        ("thresholds", GUIDED | {"clip": True}, {"frechet"}),
        ("guidance_interval", GUIDED | {"low": 1, "high": 20}, {"frechet"}),
        ("guidance_dropout", TINY | {"label_dropout": 0.1, "w": 1.0, "eta": 1.0}, {"frechet"}),
        ("likelihood", TINY | {"method": "beta", "draws": 2}, {"bits_per_dim", "se"}),
        ("chain", TINY | {"steps": 7}, {"curve", "seconds"}),
        ("restart", RESTART, {"ways", "frechet_floor", "pixels_floor"}),
        ("guidance_spaces", SPACE, {"frechet", "frechet_matched", "contrast", "recall"}),
        ("sampler_spaces", TINY | {"space": "random"}, {"frechet", "frechet_matched", "recall"}),
        ("threshold_spaces", SPACE | {"threshold": "static"}, {"frechet", "frechet_matched"}),
        ("digit_schedules", SHORT, {"errors", "frechet", "frechet_floor"}),
    ],
)
def test_a_cell_becomes_a_row_and_is_not_measured_again(
    folder, monkeypatch, capsys, name, cell, found
):
    with_cells(monkeypatch, name, cell)
    assert main(["measure", name]) == 0
    (row,) = json.loads((folder / "results" / f"{name}.json").read_text())
    assert row.items() >= cell.items() and found <= set(row) and row["dataset"] == "digits"
    assert capsys.readouterr().out == f"{name} {cell}\n"
    monkeypatch.setattr(zoo, "load", lambda *args: pytest.fail("must not measure"))
    assert main(["measure", name]) == 0
    assert capsys.readouterr().out == f"{name}: nothing is missing, 1 cells have their rows\n"
    assert results.rows(name) == [row]


@pytest.mark.filterwarnings("ignore:20 samples leave")
def test_the_chain_ends_at_the_sample(folder):
    row = experiments.chain.measure(TINY | {"steps": 7})
    assert [point["t"] for point in row["curve"]] == [T, pytest.approx(2 * T / 7, abs=1), 0]
    assert row["curve"][0]["frechet"] > row["curve"][-1]["frechet"]


def test_the_card_of_a_run_becomes_a_row(folder):
    row = experiments.training.measure({"run": "tiny"})
    shipped = zoo.Card.read(zoo.shipped() / "digits.json")
    own = zoo.Card.read(folder / "runs" / "tiny" / "model.json")
    assert row["run"] == "tiny" and row["sha256"] == own.sha256 and row["T"] == T
    assert row["label_dropout"] == shipped.recipe["label_dropout"]
    assert row["updates"] == shipped.recipe["settings"]["steps"]
    of_the_book = json.loads((data_folder("results") / "training.json").read_text())
    assert set(row) == set(of_the_book[0])


def test_an_interrupted_command_goes_on_where_it_stopped(folder, capsys):
    cells, measured = sampled_cells(("tiny",), ("ddim", "beta"), 5, 10), []

    def measure(cell):
        measured.append(cell)
        if len(measured) == 3:
            raise KeyboardInterrupt
        return cell | {"frechet": 1.0}

    experiment = Experiment("one", cells, measure)
    with pytest.raises(KeyboardInterrupt):
        experiment.measure_missing()
    assert len(results.rows("one")) == 2 and experiment.missing() == cells[2:]
    experiment.measure_missing()
    assert measured == [*cells[:3], *cells[2:]] and experiment.missing() == []
    capsys.readouterr()
    experiment.measure_missing()
    assert capsys.readouterr().out == "one: nothing is missing, 4 cells have their rows\n"
    assert results.rows("one") == [cell | {"frechet": 1.0} for cell in cells]


def test_cells_without_a_trained_network_wait(folder, monkeypatch, capsys):
    with_cells(monkeypatch, "strides", TINY | {"run": "gone"})
    assert main(["measure", "strides"]) == 0
    assert capsys.readouterr().out.startswith("strides: 1 cells wait for runs that are not")
    assert results.rows("strides", missing_ok=True) == []
    assert not runs.trained(GUIDED | {"method": "clean_classifier"}) and runs.trained(GUIDED)


def test_a_guided_row_does_not_stand_for_a_plain_one(folder):
    experiment = Experiment("one", [TINY], dict)
    results.add("one", TINY | {"guidance": "classifier_free", "frechet": 1.0})
    assert experiment.missing() == [TINY]
    results.add("one", TINY | {"frechet": 2.0})
    assert experiment.missing() == []


def test_chains_of_restart_share_what_they_should():
    """The first halves, x_T, and the end of DDIM that is noised back; each costs what it says."""
    denoiser = FixedVariance(zoo.load("digits", "cpu")[0], 0.0)
    process, asked = denoiser.process, []

    def counted(x, t, y=None):
        asked.append(float(t))
        return denoiser(x, t, y)

    counted.process = process
    x_T = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y, g = torch.arange(3), torch.Generator().manual_seed(1)
    found = restart.draws(counted, RESTART, x_T, y, g)
    assert set(found) == set(restart.LABELS)
    calls = {name: n for name, (n, _) in found.items()}
    halves = dict.fromkeys(("ddim", "late", "early", "ancestral"), 4)
    assert calls == halves | {"restart": 6, "twice": 8, "more": 6}
    assert len(asked) == 2 * 2 + 4 * 2 + 2 * 2 + 6  # halves are shared
    plain = draw(denoiser, process, x_T, uniform_times(1000, 4), eta=0.0, y=y)
    torch.testing.assert_close(found["ddim"][1], plain)
    more = draw(denoiser, process, x_T, uniform_times(1000, 6), eta=0.0, y=y)
    torch.testing.assert_close(found["more"][1], more)
    for name in ("restart", "twice", "late", "early", "ancestral"):
        assert float((found[name][1] - plain).abs().max()) > 0.1


def test_principal_components_are_ordered_and_orthonormal():
    """The last column has most of the variance."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(500, 1, 2, 2, generator=g) * torch.tensor([[1.0, 2.0], [3.0, 0.5]])
    found = restart.principal(x)
    torch.testing.assert_close(found.T @ found, torch.eye(4, dtype=torch.float64))
    assert int(found[:, -1].abs().argmax()) == 2 and float(found[2, -1].abs()) > 0.99


def test_noise_and_signal_of_gradients_are_estimated_without_bias():
    generator = torch.Generator().manual_seed(0)
    mean = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    noise = 2 * torch.randn(4000, 5, 3, dtype=torch.float64, generator=generator)
    found = [gradient_noise.noise_to_signal(mean + gradients) for gradients in noise]
    trace, signal = (sum(f[k] for f in found) / len(found) for k in ("trace", "signal"))
    assert trace == pytest.approx(3 * 4, rel=0.03)
    assert signal == pytest.approx(float(mean @ mean), rel=0.03)


@pytest.mark.parametrize("times", ["uniform", "importance"])
def test_gradient_noise_of_a_network(folder, times):
    cell = {"run": "tiny", "objective": "vlb", "times": times, "batches": 3, "batch_size": 8}
    row = gradient_noise.measure(cell)
    assert row["trace"] > 0 and row["noise_to_signal"] == row["trace"] / row["signal"]


def test_each_kind_of_guidance_is_what_its_row_says():
    free = guidance.options("classifier_free", 2.0, True)
    assert free.record() == {"w": 2.0, "threshold": guidance.QUANTILE}
    alone = guidance.options("classifier", 2.0, dataset="fashion_mnist")
    assert alone.record() == {
        "classifier": "fashion_mnist-noisy-classifier", "strength": 2.0, "unconditional": True,
    }  # fmt: skip
    assert guidance.options("classifier", 0.0).record() == {"unconditional": True}
    assert not guidance.options("classifier_conditional", 1.0).unconditional
    clean = guidance.options("clean_classifier", 1.0, True)
    assert clean.classifier == str(runs.CLEAN) and clean.unconditional
    assert clean.threshold == guidance.QUANTILE == 0.995


def test_a_guided_cell_is_measured_with_what_it_names(monkeypatch):
    asked = []
    monkeypatch.setattr(
        measuring, "guided", lambda cell, name, how, eta: asked.append((name, how, eta))
    )
    cell = {"dataset": "fashion_mnist", "w": 2.0, "steps": 2, "eta": 0.5, "n": 20}
    guidance_interval.measure(cell | {"low": 3, "high": 7})
    thresholds.measure(cell | {"method": "classifier_free", "clip": True})
    guidance.measure(cell | {"method": "classifier_free", "threshold": True})
    guidance.measure(cell | {"method": "classifier", "threshold": False})
    guidance_dropout.measure({"run": "dropout-20", "w": 2.0, "eta": 0.5})
    by_classifier = {"classifier": "fashion_mnist-noisy-classifier", "strength": 2.0}
    assert asked == [
        ("fashion_mnist", Guidance(w=2.0, low=3, high=7), 0.5),
        ("fashion_mnist", Guidance(w=2.0, clip=True), 0.5),
        ("fashion_mnist", Guidance(w=2.0, threshold=0.995), 0.5),
        ("fashion_mnist", Guidance(**by_classifier, unconditional=True), 0.5),
        (runs.folder("dropout-20"), Guidance(w=2.0), 0.5),
    ]


class Black:
    """A network that was trained under linear and predicts black images; it notes the times."""

    def __init__(self):
        self.process, self.asked = DDPM(schedules.linear(1000)), []

    def __call__(self, x, t, y=None):
        self.asked.append(int(t))
        return Prediction(torch.zeros_like(x))


def test_errors_of_a_network_are_those_of_its_noise_at_the_levels():
    power = data.to_float(data.load("digits").x_test).square().mean()
    levels = torch.tensor(digit_schedules.LEVELS)
    found = torch.tensor(digit_schedules.errors(Black()))
    assert torch.allclose(found, levels.exp() * power, rtol=0.05)  # levels of a table


def test_a_network_is_asked_along_another_path_at_its_own_times():
    network, path = Black(), DDPM(schedules.cosine(1000))
    digit_schedules.samples(network, 2, torch.Generator().manual_seed(0))
    visited = torch.tensor(uniform_times(1000, 25)[:-1])
    own = network.process.log_snr(torch.tensor(network.asked))
    assert network.asked[0] == 1000 and len(network.asked) == 25
    inside = own > network.process.log_snr(torch.tensor(1000))  # beyond, it has no level
    assert inside.sum() > 20
    assert torch.allclose(own[inside], path.log_snr(visited)[inside], atol=0.1)


# ---- the command ---------------------------------------------------------------------------------


def test_the_command_trains_what_is_not_finished(folder, monkeypatch, capsys):
    done = []
    monkeypatch.setattr(runs.subprocess, "run", lambda words, check: done.append(words[2:]))
    assert main(["train", "cosine-hybrid-seed2", "clean"]) == 0
    seeded, clean = done
    assert seeded[:3] == ["ddpmlib", "train", "mnist-comparison"] and "--resume" in seeded
    assert seeded[seeded.index("--seed") + 1] == "2" and "schedule=cosine" in seeded
    assert clean[2] == "mnist-noisy-classifier" and "noisy=false" in clean
    (folder / "runs" / "clean").mkdir()
    (folder / "runs" / "clean" / zoo.MODEL).touch()
    assert main(["train", "clean"]) == 0 and len(done) == 2


def test_a_training_that_fails_has_said_why(folder, monkeypatch, capsys):
    def fails(words, check):
        raise runs.subprocess.CalledProcessError(2, words)

    monkeypatch.setattr(runs.subprocess, "run", fails)
    assert main(["train", "clean"]) == 2 and capsys.readouterr().err == ""


def test_the_command_writes_the_tables_and_figures_of_an_experiment(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert main(["tables", "ladder", "lengths", "--out", str(tmp_path / "new")]) == 0
    names = {path.name for path in (tmp_path / "new").iterdir()}
    assert names == {"ladder.md", "deck.md", "lengths.md", "ladder.png"}
    assert (tmp_path / "new" / "lengths.md").read_text() == experiments.lengths.table() + "\n"
    assert capsys.readouterr().out.startswith("3 tables and 1 figures in ")


@pytest.mark.parametrize("verb", ["train", "measure", "tables"])
def test_an_unknown_name_is_told_with_those_that_there_are(folder, capsys, verb):
    assert main([verb, "strikes"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("unknown strikes: there are ") and len(said.splitlines()) == 1


def test_file_names_of_tables_and_figures_are_taken_once():
    for kind in ("tables", "figures"):
        names = [name for e in experiments.EXPERIMENTS.values() for name in getattr(e, kind)]
        assert len(names) == len(set(names))
