"""Memory and generalisation: the measuring is held against a denoiser that knows its images."""

import pytest
import torch

from ddpmlib import data, evaluation
from ddpmlib.data import Dataset
from ddpmlib.denoiser import oracle
from ddpmlib.experiments import generalisation, results
from ddpmlib.process import DDPM, schedules

PROCESS = DDPM(schedules.linear(1000))


def images(seed: int, n: int = 12) -> Dataset:
    x = torch.randint(0, 256, (n, 1, 6, 6), generator=torch.Generator().manual_seed(seed))
    return Dataset("own", x.to(torch.uint8), None, x[:0].to(torch.uint8), None)


def test_an_oracle_of_its_images_is_caught_by_every_measure():
    own, other = images(0), images(1)
    memoriser = oracle.FiniteData(PROCESS, data.to_float(own.x_train).double())
    copies = data.to_float(own.x_train).repeat(2, 1, 1, 1) * 0.99
    found = generalisation._of_one(memoriser, copies, own, other)
    assert found["nearer_to_training"] == found["copies"] == 1
    assert found["copies_of_others"] == 0
    assert found["gap"] > 5 * found["gap_error"] > 0
    turned = generalisation._of_one(memoriser, copies, other, own)
    assert turned["nearer_to_training"] == turned["copies"] == 0 and turned["copies_of_others"] == 1
    assert turned["gap"] < -5 * turned["gap_error"]


def test_a_denoiser_of_the_distribution_is_not_caught():
    """White noise in 36 pixels, and the Gaussian that it came from: no image is known better."""
    draws = torch.randn(1200, 1, 6, 6, generator=torch.Generator().manual_seed(0)).double() / 4
    new, *halves = draws.split(400)
    pixels = [((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8) for x in halves]
    own, other = (Dataset("own", x, None, x[:0], None) for x in pixels)
    one = torch.ones(1).double()
    exact = oracle.Mixture(PROCESS, one, torch.zeros(1, 1, 6, 6).double(), one / 4)
    found = generalisation._of_one(exact, new, own, other)
    assert found["copies"] == found["copies_of_others"] == 0
    assert abs(found["nearer_to_training"] - 0.5) < 0.1
    assert abs(found["gap"]) < 4 * found["gap_error"]


@pytest.mark.parametrize("count", [3, 8])
def test_halves_are_disjoint_and_unlabelled(count):
    whole = data.load("digits")
    halves = [generalisation.part(whole, count * i, count) for i in (0, 1)]
    assert all(len(half.x_train) == count and half.num_classes == 0 for half in halves)
    known = {image.numpy().tobytes() for image in whole.x_train}
    found = [{image.numpy().tobytes() for image in half.x_train} for half in halves]
    assert found[0].isdisjoint(found[1]) and found[0] | found[1] <= known
    assert (generalisation.part(whole, 0, count).x_train == halves[0].x_train).all()


def test_likeness_is_the_correlation_of_pixels():
    a = torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    b = torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.allclose(generalisation.likeness(a, 3 * a + 1), torch.ones(5).double())
    assert torch.allclose(generalisation.likeness(a, -a), -torch.ones(5).double())
    pairs = [
        torch.corrcoef(torch.stack([x.flatten(), y.flatten()]))[0, 1]
        for x, y in zip(a, b, strict=True)
    ]
    assert torch.allclose(generalisation.likeness(a, b), torch.stack(pairs))


def test_the_table_and_the_figure_show_every_row():
    import matplotlib.pyplot as plt

    found = results.rows("generalisation")
    assert [row["images"] for row in found] == list(generalisation.SIZES)
    lines = generalisation.table().splitlines()[2:]
    assert [line.split("|")[1].strip() for line in lines] == [
        f"{n:,}" for n in generalisation.SIZES
    ]
    for row, line in zip(found, lines, strict=True):
        means = {key: sum(row[key]) / 2 for key in ("nearer_to_training", "copies", "gap")}
        assert [cell.strip() for cell in line.split("|")[2:-1]] == [
            f"{means['nearer_to_training']:.0%}", f"{means['copies']:.0%}", f"{means['gap']:.4f}",
            f"{row['twins']:.2f}", f"{row['strangers']:.2f}",
        ]  # fmt: skip
    _, ax = plt.subplots()
    generalisation.figure(ax)
    copies, twins, strangers = (line.get_ydata() for line in ax.lines)
    for row, *shown in zip(found, copies, twins, strangers, strict=True):
        expected = [sum(row["copies"]) / 2, row["twins"], row["strangers"]]
        assert shown == pytest.approx(expected)
    plt.close()


class Memoriser(oracle.FiniteData):
    """An oracle with what a network's place on a device is read from."""

    def parameters(self):
        return iter([torch.zeros(1)])


def test_a_cell_is_measured_with_a_network_for_each_half(monkeypatch):
    """With memorisers in place of networks every number of the row is known."""
    trained = []

    def memoriser(own, updates):
        trained.append((own, updates))
        return Memoriser(PROCESS, data.to_float(own.x_train))

    monkeypatch.setattr(generalisation, "DATA", "digits")
    monkeypatch.setattr(generalisation, "_trained", memoriser)
    found = generalisation.measure({"images": 5, "updates": 7, "n": 12})
    whole = data.load("digits")
    halves = [generalisation.part(whole, first, 5) for first in (0, 5)]
    assert [updates for _, updates in trained] == [7, 7]
    for (own, _), half in zip(trained, halves, strict=True):
        assert torch.equal(own.x_train, half.x_train)
    assert found["dataset"] == "digits" and found["n"] == 12 and found["eta"] == 0
    assert found["copies"] == found["nearer_to_training"] == [1, 1]
    assert found["copies_of_others"] == [0, 0] and min(found["gap"]) > 0
    sets = [(data.to_float(half.x_train).repeat(80, 1, 1, 1), None) for half in halves]
    at_200 = (200, torch.Generator().manual_seed(0))  # as the chapter says
    gap = evaluation.denoising_gap(memoriser(halves[0], 7), *sets, *at_200)
    assert found["gap"][0] == pytest.approx(gap.difference, abs=1e-6)
    drawn = [
        evaluation.generate(memoriser(half, 7), (1, 8, 8), None, generalisation.HOW, n=12)
        for half in halves
    ]
    same = generalisation.likeness(*drawn).mean()
    other = generalisation.likeness(drawn[0], drawn[1][[11, *range(11)]]).mean()
    assert found["twins"] == pytest.approx(float(same), abs=1e-4)
    assert found["strangers"] == pytest.approx(float(other), abs=1e-4)
