"""The same samples by several kinds of features: cells measured as they say, rows shown whole."""

from dataclasses import replace

import matplotlib.pyplot as plt
import pytest
import torch

from ddpmlib import data, evaluation, zoo
from ddpmlib.denoiser import FixedVariance
from ddpmlib.evaluation import Guidance, Sampling, features, metrics, statistics
from ddpmlib.experiments import (
    feature_audit,
    guidance_spaces,
    measuring,
    results,
    runs,
    sampler_spaces,
    spaces,
    threshold_spaces,
)
from ddpmlib.experiments.uncertainty import over_seeds, times_floor

Y = torch.arange(20) % 10
pytestmark = pytest.mark.filterwarnings("ignore:20 samples leave")


@pytest.fixture
def digits_net(monkeypatch):
    """The shipped digits network wherever one is asked for, not compiled."""
    denoiser, card = zoo.load("digits", "cpu")
    monkeypatch.setattr(measuring, "network", lambda name: (denoiser, card))
    drawn = (spaces.guided, sampler_spaces._drawn)
    for each in drawn:
        each.cache_clear()
    yield denoiser, card
    for each in drawn:
        each.cache_clear()


@pytest.mark.parametrize("space", spaces.LABELS)
def test_the_distance_is_that_of_the_named_features(space):
    images = data.load("digits")
    x0 = data.to_float(images.x_test[:20])
    network, _ = evaluation.network_of(space, images, "cpu")
    h, _ = features.extract(network, x0)
    expected = metrics.frechet_distance(h, statistics.train_moments(network, images))
    found, trained = spaces.measured("digits", space, x0, Y), data.to_float(images.x_train)
    assert found["frechet"] == pytest.approx(expected, abs=1e-4)
    assert found["contrast"] == pytest.approx(float(x0.std() / trained.std()), abs=1e-3)
    assert 0 <= found["recall"] <= 1 and found["floor_n"] == 20


@pytest.mark.parametrize(("method", "eta"), [("ddim", 0.0), ("beta_tilde", 1.0)])
def test_samplers_are_those_of_the_cell(digits_net, method, eta):
    denoiser, card = digits_net
    x0, dataset = sampler_spaces._drawn("digits", method, 3, 20)
    walk = FixedVariance(denoiser, 0.0)
    expected = evaluation.generate(walk, card.image_shape, Y, Sampling(3, eta=eta), card=card)
    assert dataset == "digits" and torch.equal(x0, expected)


def test_guidance_is_that_of_the_cell(digits_net):
    denoiser, card = digits_net
    x0 = spaces.guided("digits", Guidance(w=2.0), 3, 1.0, 20)
    how = Sampling(3, eta=1.0, guidance=Guidance(w=2.0))
    assert torch.equal(x0, evaluation.generate(denoiser, card.image_shape, Y, how, card=card))
    less = replace(how, guidance=Guidance(w=0.5))
    assert not torch.equal(x0, evaluation.generate(denoiser, card.image_shape, Y, less, card=card))


def test_guidance_is_measured_at_the_weight_of_the_cell(monkeypatch):
    monkeypatch.setattr(spaces, "measured_guided", lambda cell, how: (cell, how))
    assert guidance_spaces.measure({"w": 2.0}) == ({"w": 2.0}, Guidance(w=2.0))


def rows_of(ratio):
    """Rows of all cells: DDIM's distance is that of ancestral sampling times a known ratio."""
    return [
        cell
        | {
            "frechet": 2.0 * (ratio(cell) if cell["method"] == "ddim" else 1.0),
            "frechet_matched": 3.0 * (ratio(cell) ** 2 if cell["method"] == "ddim" else 1.0),
        }
        for cell in sampler_spaces.CELLS
    ]


def test_ratios_pair_the_networks_and_the_calls(monkeypatch):
    def ratio(cell):
        seed = runs.SEEDS.index(int(cell["run"].partition("-seed")[2] or 0))
        return 1 + seed + cell["steps"] + 100 * list(spaces.LABELS).index(cell["space"])

    made = rows_of(ratio)

    def found(name, **fields):
        return [row for row in made if all(row[k] == v for k, v in fields.items())]

    monkeypatch.setattr(sampler_spaces, "rows", found)
    for i, space in enumerate(spaces.LABELS):
        for k in sampler_spaces.CALLS:
            expected = [1 + seed + k + 100 * i for seed in range(3)]
            assert sampler_spaces.ratios(space, k) == pytest.approx(expected)
            squares = [value**2 for value in expected]
            assert sampler_spaces.ratios(space, k, "frechet_matched") == pytest.approx(squares)
    lines = sampler_spaces.table().splitlines()[2:]
    mean, error = over_seeds([1 + seed + 5 + 100 for seed in range(3)])
    shown = f"{mean:.2f}\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{error:.2f}"
    assert lines[2].startswith(f"| independent classifier | as it is | {shown} |")
    _, ax = plt.subplots()
    sampler_spaces.figure(ax)
    drawn = {y for line in ax.lines for y in line.get_ydata()}
    plt.close()
    expected = [2 + k + 100 * i for k in sampler_spaces.CALLS for i in range(3)]
    assert all(any(y == pytest.approx(value) for y in drawn) for value in expected)


@pytest.mark.parametrize("dataset", guidance_spaces.DATASETS)
def test_guidance_by_several_features_shows_every_row(dataset):
    everything = results.rows("guidance_spaces", dataset=dataset)
    assert len(everything) == len(guidance_spaces.WEIGHTS) * len(spaces.SPACES[dataset])
    table = [line.strip("| ").split(" | ") for line in guidance_spaces.table(dataset).splitlines()]
    for row in everything:
        column = table[0].index(f"w = {row['w']:g}")
        for key, how in spaces.KEYS.items():
            (line,) = [cells for cells in table if cells[:2] == [spaces.LABELS[row["space"]], how]]
            assert line[column] == f"{row[key]:.2f}"
        assert table[2][column - 1] == f"{row['contrast']:.3f}"  # its first cell is empty
        line = next(cells for cells in table if cells[0] == spaces.LABELS[row["space"]])
        assert line[table[0].index("test images")] == f"{row['frechet_floor']:.2f}"
        assert table[2][-1] == f"{row['contrast_floor']:.3f}"
    _, (left, right) = plt.subplots(1, 2)
    guidance_spaces.figure(dataset, left)
    guidance_spaces.frontier_figure(dataset, right)
    drawn = {y for line in left.lines for y in line.get_ydata()}
    pairs = {xy for line in right.lines for xy in zip(*line.get_data(), strict=True)}
    bars = [
        segment[:, 1]
        for container in left.containers
        for lines in container.lines[2]
        for segment in lines.get_segments()
    ]
    plt.close()
    for row in everything:
        for key in ("frechet", "frechet_matched"):
            ends = [min(row[key], row[f"{key}_interval"][0]), row[f"{key}_interval"][1]]
            over = pytest.approx([end / row["frechet_floor"] for end in ends])
            assert any(bar.tolist() == over for bar in bars)
        matched = row["frechet_matched"] / row["frechet_floor"]
        assert {times_floor(row), matched} <= drawn
        assert (row["recall"], times_floor(row)) in pairs
    for space in spaces.SPACES[dataset]:
        by_w = {r["w"]: r["frechet"] for r in everything if r["space"] == space}
        assert by_w[guidance_spaces.best(dataset, space)] == min(by_w.values())


@pytest.mark.parametrize(
    ("how", "end"), [("static", {"clip": True}), ("dynamic", {"threshold": 0.995})]
)
def test_a_threshold_is_that_of_the_cell(digits_net, monkeypatch, how, end):
    denoiser, card = digits_net
    monkeypatch.setattr(spaces, "measured", lambda dataset, space, x0, y: {"x0": x0, "y": y})
    cell = {"dataset": "digits", "w": 4.0, "threshold": how, "space": "pixels", "steps": 3}
    found = threshold_spaces.measure(cell | {"eta": 0.5, "n": 20})
    chosen = Sampling(3, eta=0.5, guidance=Guidance(w=4.0, **end))
    expected = evaluation.generate(denoiser, card.image_shape, Y, chosen, card=card)
    assert torch.equal(found["x0"], expected) and torch.equal(found["y"], Y)


@pytest.mark.parametrize("dataset", guidance_spaces.DATASETS)
def test_thresholds_are_compared_with_the_same_guidance_without(dataset):
    table = [line.strip("| ").split(" | ") for line in threshold_spaces.table(dataset).splitlines()]
    found = results.rows("threshold_spaces", dataset=dataset)
    assert len(found) == 2 * 2 * len(spaces.SPACES[dataset])
    for row in found:
        where = {"dataset": dataset, "w": row["w"], "space": row["space"]}
        (plain,) = results.rows("guidance_spaces", **where)
        column = table[0].index(f"{row['threshold']}, w = {row['w']:g}")
        for key, how in spaces.KEYS.items():
            (line,) = [cells for cells in table if cells[:2] == [spaces.LABELS[row["space"]], how]]
            assert line[column] == f"{row[key] / plain[key]:.2f}"


@pytest.mark.parametrize("dataset", spaces.SPACES)
def test_the_audit_shows_every_row_in_units_of_a_missing_class(dataset):
    table = [line.strip("| ").split(" | ") for line in feature_audit.table(dataset).splitlines()]
    by = {(r["space"], r["change"]): r for r in results.rows("feature_audit", dataset=dataset)}
    assert len(by) == len(spaces.SPACES[dataset]) * (len(table) - 2)
    for change, *shown, agreed in table[2:]:
        for space, cell in zip(table[0][1:], shown, strict=False):
            none, unit = (by[space, c]["frechet"] for c in ("none", feature_audit.SETS[0]))
            share = (by[space, change]["frechet"] - none) / (unit - none)
            assert float(cell) == pytest.approx(share, abs=0.0051) and cell != "-0.00"
        assert agreed == f"{by['classifier', change]['class_agreement']:.1%}"
