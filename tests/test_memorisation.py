"""Memorisation: copies are caught, new images of the same kind are not."""

import pytest
import torch

from ddpmlib import data
from ddpmlib.denoiser import oracle
from ddpmlib.evaluation import memorisation
from ddpmlib.process import DDPM, schedules


def blobs(n, seed, side=6):
    """Images of one smooth family: the same distribution at every seed."""
    g = torch.Generator().manual_seed(seed)
    rows, cols = torch.randn(2, n, 1, 3, generator=g)
    waves = torch.stack([torch.linspace(-1, 1, side) ** k for k in range(3)])
    x = torch.einsum("nck,kh,ncj,jw->nchw", rows, waves, cols, waves)
    return data.to_uint8(x.div(4).clamp(-1, 1))


TRAIN, HELD_OUT = blobs(300, 0), blobs(300, 1)


def test_distances_are_those_of_a_loop():
    x, images = blobs(7, 2), blobs(11, 3)
    found = memorisation.nearest_distances(x, images, 3, chunk=2)
    a, b = (data.to_float(v).double() for v in (x, images))
    loop = torch.stack([((one - b) ** 2).mean((1, 2, 3)).sqrt().sort().values[:3] for one in a])
    assert found.shape == (7, 3) and torch.allclose(found, loop, atol=1e-7)


def test_an_image_is_at_no_distance_from_itself():
    near = memorisation.nearest_distances(TRAIN[:20], TRAIN, 2)
    assert (near[:, 0] == 0).all() and (near[:, 1] > 0).all()


@pytest.mark.parametrize(
    ("x", "images", "k", "said"),
    [
        (TRAIN, TRAIN[:, :, 1:], 1, "need images"),
        (TRAIN[0], TRAIN, 1, "need images"),
        (TRAIN, TRAIN, 301, "k must lie in 1..300"),
        (TRAIN, TRAIN, 0, "k must lie in 1..300"),
    ],
)
def test_bad_input_is_refused(x, images, k, said):
    with pytest.raises(ValueError, match=said):
        memorisation.nearest_distances(x, images, k)


def test_copies_are_found_and_new_images_are_not():
    noise = 0.003 * torch.randn(50, 1, 6, 6, generator=torch.Generator().manual_seed(4))
    copies = data.to_float(TRAIN[:50]) + noise
    assert memorisation.copied(copies, TRAIN).float().mean() > 0.8
    assert memorisation.copied(HELD_OUT, TRAIN).float().mean() < 0.1


@pytest.mark.parametrize("count", [300, 100])
def test_new_images_are_as_near_to_any_image(count):
    """Each of the 300 and of the others is as likely to be the nearest."""
    share = memorisation.nearer_to_training(blobs(1000, 5), TRAIN, HELD_OUT[:count])
    expected = 300 / (300 + count)
    assert abs(share - expected) < 4 * (expected * (1 - expected) / 1000) ** 0.5
    assert memorisation.nearer_to_training(TRAIN, TRAIN, HELD_OUT[:count]) > 0.99
    assert memorisation.nearer_to_training(HELD_OUT[:count], TRAIN, HELD_OUT[:count]) < 0.01


def test_ties_are_shared_as_by_chance_and_nothing_is_refused():
    assert memorisation.nearer_to_training(blobs(9, 6), TRAIN, TRAIN) == 0.5
    for bad in ((HELD_OUT, TRAIN, HELD_OUT[:0]), (HELD_OUT[:0], TRAIN, HELD_OUT)):
        with pytest.raises(ValueError, match="need images, training images and held-out images"):
            memorisation.nearer_to_training(*bad)


def test_samples_of_the_memoriser_and_of_the_distribution_are_told_apart():
    """Copies of each training image, or new ones: the whole entry, with fewer test images."""
    images = data.Dataset("blobs", TRAIN, None, HELD_OUT[:100], None)
    caught = memorisation.measure_memorisation(data.to_float(TRAIN).repeat(2, 1, 1, 1), images)
    free = memorisation.measure_memorisation(data.to_float(blobs(600, 7)), images)
    assert caught["nearer_to_training"] > 0.99 and caught["copies"] > 0.9 > caught["copies_floor"]
    low, high = free["nearer_to_training_interval"]
    assert low < free["nearer_to_training_expected"] == 0.75 < high
    assert abs(free["copies"] - free["copies_floor"]) < 0.05
    share = memorisation.nearer_to_training(blobs(600, 7), TRAIN, HELD_OUT[:100])
    assert free["nearer_to_training"] == pytest.approx(share, abs=1e-4)
    floor = memorisation.copied(images.x_test, TRAIN).double().mean()
    assert free["copies_floor"] == pytest.approx(float(floor), abs=1e-4)


def test_the_gap_of_the_memoriser_is_there_and_that_of_the_distribution_is_not():
    """The exact denoiser of the training images, and the one of the Gaussian they came from."""
    g = torch.Generator().manual_seed(0)
    process = DDPM(schedules.cosine(100))
    train, held_out = torch.randn(2, 400, 4, generator=g)
    memoriser = oracle.FiniteData(process, train)
    honest = oracle.Gaussian(process, torch.zeros(4), torch.eye(4))
    for t in (5, 20):
        sets = ((train, None), (held_out, None))
        learned = memorisation.denoising_gap(memoriser, *sets, t, g)
        assert learned.difference > 5 * learned.standard_error
        fair = memorisation.denoising_gap(honest, *sets, t, g, batch_size=60)
        assert abs(fair.difference) < 4 * fair.standard_error
        # With x_0 of variance 1 the mean over 4 of its squared errors has variance (1 − ᾱ_t)² / 2.
        deviation = (1 - float(process.alpha_bar[t])) * (0.5 * 2 / 400) ** 0.5
        assert fair.standard_error == pytest.approx(deviation, rel=0.3)
