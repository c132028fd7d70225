"""The short trainings on digits differ from the recipe in what they say, and in nothing else."""

import dataclasses
import statistics

import pytest
import torch

from ddpmlib import data
from ddpmlib.experiments import ablations, digit_runs
from ddpmlib.models.unet import Block, SelfAttention
from ddpmlib.zoo import RECIPES

CHANGES = ablations.CHANGES


def asked(trainer):
    """What the fresh network answers to two noisy images."""
    net = trainer.model.net
    for layer in net.modules():  # beyond what starts at zero
        if isinstance(layer, torch.nn.Conv2d) and not bool(layer.weight.any()):
            torch.nn.init.normal_(layer.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return net(x, torch.tensor([10, 900]), torch.tensor([3, 4]))


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_what_it_says_and_nothing_else(name):
    change, recipe = CHANGES[name], RECIPES["digits"]
    trainer = digit_runs.trainer_of(change, 1)
    settings = dataclasses.asdict(trainer.settings)
    words = {key.removeprefix("settings."): value for key, value in change.words}
    expected = dataclasses.asdict(recipe.settings) | {"seed": 1}
    expected |= {key: value for key, value in words.items() if key in expected}
    assert settings == expected
    assert trainer.model.parameterization.name == words.get("predicts", "v")
    assert isinstance(trainer.optimiser, torch.optim.SGD) == change.sgd
    rates = [trainer.settings.lr_at(n) for n in (0, 49, 250, 499)]
    cold = trainer.settings.warmup == 0
    assert rates[0] == pytest.approx(trainer.settings.lr / (1 if cold else 50))
    falls = not change.constant
    assert (rates[3] < 0.01 * trainer.settings.lr) == falls
    assert rates[1] == pytest.approx(trainer.settings.lr, rel=0.03)


def test_without_skips_nothing_arrives_from_the_way_down():
    trainer = digit_runs.trainer_of(CHANGES["no-skips"], 0)
    before, net = asked(trainer), trainer.model.net
    handed = []
    for layer in net.up:
        if isinstance(layer, Block):
            layer.norm1.register_forward_hook(lambda layer, given, out: handed.append(given[0]))
    assert torch.equal(asked(trainer), before)
    widths = [32, 16, 16, 16]  # of the skips, as they are taken
    assert len(handed) == 4
    for h, width in zip(handed, widths, strict=True):
        assert not bool(h[:, -width:].any()) and bool(h[:, :-width].any())
    plain = digit_runs.trainer_of(CHANGES["recipe"], 0)
    assert not torch.allclose(asked(plain), before)
    copies = (trainer.averaged.net, trainer.model.net)  # the average has no skips either
    assert all(len(n.up[0]._forward_pre_hooks) == 1 for n in copies)


def test_without_attention_no_layer_attends():
    plain, changed = (
        digit_runs.trainer_of(CHANGES[name], 0).model.net for name in ("recipe", "no-attention")
    )
    assert sum(isinstance(m, SelfAttention) for m in plain.modules()) == 4
    assert not any(isinstance(m, SelfAttention) for m in changed.modules())
    assert sum(p.numel() for p in plain.parameters()) == 194_145
    assert sum(p.numel() for p in changed.parameters()) == 176_993


def test_without_zeros_no_layer_starts_at_zero_and_all_others_start_alike():
    plain, changed = (
        digit_runs.trainer_of(CHANGES[name], 0).model.net for name in ("recipe", "no-zeros")
    )
    pairs = zip(plain.named_parameters(), changed.named_parameters(), strict=True)
    for (name, ours), (_, theirs) in pairs:
        zero = name.endswith("weight") and ours.ndim == 4 and not bool(ours.any())
        assert bool(theirs.any()) or name.endswith("bias")
        if not zero and not name.endswith("bias"):
            assert torch.equal(ours, theirs), name


def test_errors_are_those_of_unseen_scans_by_the_loss_of_the_target():
    trainer = digit_runs.trainer_of(CHANGES["recipe"], 0)
    digits = data.load("digits")
    x0 = data.to_float(digits.x_test)
    # a v-network that answers 0 loses the mean square of v
    times = digit_runs.TIMES
    expected = statistics.fmean(
        digit_runs.alpha_bar(t) + (1 - digit_runs.alpha_bar(t)) * float((x0**2).mean())
        for t in times
    )
    assert digit_runs.v_error(trainer.averaged, 355, times) == pytest.approx(expected, rel=0.02)
    row = {"x0_error": [(1 - digit_runs.alpha_bar(t)) * 0.3 for t in times] + [9] * 4}
    assert ablations.error(row) == pytest.approx(0.3)
    noise = statistics.fmean(digit_runs.alpha_bar(t) for t in times)
    assert ablations.error(row, "eps") == pytest.approx(0.3 * noise)


def test_an_interval_is_students():
    mean, half = ablations.interval([1.0, 2.0, 3.0])
    assert mean == 2 and half == pytest.approx(4.303 / 3**0.5)


def test_tables_show_every_change_and_figures_every_run():
    plt = pytest.importorskip("matplotlib.pyplot")
    tables = {name: text() for name, text in ablations.EXPERIMENT.tables.items()}
    said = "\n".join(tables.values())
    for name, change in CHANGES.items():
        assert change.label in said or name in ("eps", "x0")
        assert f"{statistics.fmean(ablations.errors(name)):.3f}" in said
    assert "nan" not in said and "None" not in said
    _, ax = plt.subplots()
    ablations.summary_figure(ax)
    drawn = {x for line in ax.lines for x in line.get_xdata()}
    shown = [name for name in CHANGES if name not in ("eps", "x0")]
    assert {e for name in shown for e in ablations.errors(name)} <= drawn
    plt.close()
