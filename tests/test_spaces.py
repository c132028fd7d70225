"""The same samples by several kinds of features: cells measured as they say, rows shown whole."""

from dataclasses import replace

import matplotlib.pyplot as plt
import pytest
import torch

from ddpmlib import data, evaluation, zoo
from ddpmlib.evaluation import Guidance, Sampling, features, metrics, statistics
from ddpmlib.experiments import guidance_spaces, measuring, results, spaces
from ddpmlib.experiments.uncertainty import times_floor

Y = torch.arange(20) % 10
pytestmark = pytest.mark.filterwarnings("ignore:20 samples leave")


@pytest.fixture
def digits_net(monkeypatch):
    """The shipped digits network wherever one is asked for, not compiled."""
    denoiser, card = zoo.load("digits", "cpu")
    monkeypatch.setattr(measuring, "network", lambda name: (denoiser, card))
    guidance_spaces._drawn.cache_clear()
    yield denoiser, card
    guidance_spaces._drawn.cache_clear()


@pytest.mark.parametrize("space", spaces.SPACES)
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


def test_guidance_is_that_of_the_cell(digits_net):
    denoiser, card = digits_net
    x0 = guidance_spaces._drawn("digits", 2.0, 3, 1.0, 20)
    how = Sampling(3, eta=1.0, guidance=Guidance(w=2.0))
    assert torch.equal(x0, evaluation.generate(denoiser, card.image_shape, Y, how, card=card))
    less = replace(how, guidance=Guidance(w=0.5))
    assert not torch.equal(x0, evaluation.generate(denoiser, card.image_shape, Y, less, card=card))


@pytest.mark.parametrize("dataset", guidance_spaces.DATASETS)
def test_guidance_by_several_features_shows_every_row(dataset):
    everything = results.rows("guidance_spaces", dataset=dataset)
    assert len(everything) == len(guidance_spaces.WEIGHTS) * len(spaces.SPACES)
    table = guidance_spaces.table(dataset).splitlines()
    for row in everything:
        (line,) = [line for line in table if line.startswith(f"| {row['w']:g} |")]
        assert f"| {row['frechet']:.2f} | {row['frechet_matched']:.2f} |" in line
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
    for space in spaces.SPACES:
        by_w = {r["w"]: r["frechet"] for r in everything if r["space"] == space}
        assert by_w[guidance_spaces.best(dataset, space)] == min(by_w.values())
