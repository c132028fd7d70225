"""The moving average against its closed form, and what it must leave alone."""

import copy
from math import prod

import pytest
import torch
from torch import nn

from ddpmlib import data, evaluation, zoo
from ddpmlib.evaluation import features, metrics
from ddpmlib.training import Average, Trainer, fit
from ddpmlib.zoo.recipes import changed

LATE = 10**9  # updates before: the decay is the fixed one


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()


def moved(model, average, updates, n=lambda k: k):
    """The first weights before and after each of some random updates; the average follows them."""
    seen = [model[0].weight.detach().clone()]
    for k in range(updates):
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(torch.randn_like(p))
        seen.append(model[0].weight.detach().clone())
        average.update(model, n(k))
    return seen


def weighted(shares, seen):
    return sum(w * s for w, s in zip(shares, seen, strict=True))


def test_it_starts_at_the_weights_and_is_a_copy():
    model = net()
    average = Average(model, 0.9)
    before = copy.deepcopy(average.module.state_dict())
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    assert all(torch.equal(v, before[k]) for k, v in average.module.state_dict().items())


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
def test_late_in_a_run_it_is_the_geometric_sum(decay):
    model = net()
    average = Average(model, decay)
    seen = moved(model, average, 5, n=lambda k: LATE + k)
    shares = [decay**5] + [(1 - decay) * decay ** (5 - k) for k in range(1, 6)]
    expected = weighted(shares, seen)
    torch.testing.assert_close(average.module[0].weight.data, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("updates", [1, 2, 40])
def test_while_the_decay_grows_it_is_the_sum_in_proportion_to_a_power_of_time(updates):
    """The weights after update k count 9 (k+1)…(k+8) / ((N+1)…(N+9)), those of the start 9! / …"""
    model = net()
    average = Average(model, 0.9995)
    seen = moved(model, average, updates)
    whole = prod(range(updates + 1, updates + 10))
    shares = [prod(range(1, 10)) / whole]
    shares += [9 * prod(range(k + 1, k + 9)) / whole for k in range(1, updates + 1)]
    assert sum(shares) == pytest.approx(1, abs=1e-12)
    expected = weighted(shares, seen)
    torch.testing.assert_close(average.module[0].weight.data, expected, rtol=1e-12, atol=1e-12)


def test_the_decay_grows_up_to_its_bound_and_no_further():
    """(1+n)/(10+n) passes 0.5 at n = 8."""
    model = net()
    average = Average(model, 0.5)
    seen, expected = moved(model, average, 12), None
    for k, weight in enumerate(seen):
        d = [0.1, 2 / 11, 3 / 12, 4 / 13, 5 / 14, 6 / 15, 7 / 16, 8 / 17, 0.5, 0.5, 0.5, 0.5]
        expected = weight if expected is None else d[k - 1] * expected + (1 - d[k - 1]) * weight
    torch.testing.assert_close(average.module[0].weight.data, expected, rtol=1e-12, atol=1e-12)


def test_buffers_are_copied_not_averaged():
    model = net().train()
    average = Average(model, 0.9)
    model(torch.randn(8, 3, dtype=torch.float64))
    average.update(model, 0)
    assert torch.equal(average.module[1].running_mean, model[1].running_mean)
    assert int(average.module[1].num_batches_tracked) == 1


@pytest.mark.slow
def test_the_averaged_weights_of_a_short_run_draw_as_well_as_the_last_ones():
    """400 updates with the decay of the recipe mnist; with that decay fixed, samples are noise."""
    recipe = changed(zoo.RECIPES["digits"], {"settings.steps": 400, "settings.ema": 0.9995})
    digits = data.load("digits")
    trainer = Trainer(
        recipe.build(), recipe.loss(), digits.x_train, digits.y_train, recipe.settings, device="cpu"
    )
    fixed = Average(trainer.model, 0.9995)
    for progress in fit(trainer):
        fixed.update(trainer.model, LATE + progress.step)
    classifier, _ = zoo.load("digits-classifier", "cpu")
    y, how = torch.arange(200) % 10, evaluation.Sampling(steps=10)

    def agreement(denoiser):
        x0 = evaluation.generate(denoiser.eval(), (1, 8, 8), y, how)
        return metrics.class_agreement(features.extract(classifier, x0)[1], y)

    found = {
        "averaged": agreement(trainer.averaged),
        "raw": agreement(trainer.model),
        "fixed": agreement(fixed.module),
    }
    assert found["averaged"] > found["raw"] - 0.05 and found["averaged"] > 0.7, found
    assert found["fixed"] < 0.5, found
