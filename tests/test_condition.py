"""`condition`: labels and mappings of tensors alike, all the way from data to samples."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ddpmlib import condition, evaluation
from ddpmlib.denoiser import Denoiser, FixedVariance, Translated, V
from ddpmlib.evaluation import Guidance, Sampling
from ddpmlib.guidance import ClassifierFree, StaticThreshold, Unconditional
from ddpmlib.losses import diffusion_loss, l_hybrid
from ddpmlib.models import MLP
from ddpmlib.process import DDPM, VP, schedules
from ddpmlib.samplers import ddim_invert, draw, langevin
from ddpmlib.training import Settings, Trainer

PROCESS = DDPM(schedules.cosine(20))


def named(n: int = 4) -> dict[str, Tensor]:
    return {"colour": torch.rand(n, 3), "kind": torch.arange(n) % 2}


class Net(nn.Module):
    """Adds up what it is told, so that every part of a condition is seen in the output."""

    conditional = True

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.asked: list[Any] = []

    def forward(self, x: Tensor, t: Tensor, y: Any = None) -> Tensor:
        self.asked.append(y)
        if y is None:
            return self.weight * x
        told = y["colour"].sum(1) + y["kind"]
        return self.weight * x + told.reshape(-1, *[1] * (x.ndim - 1))

    def without(self, y: Any) -> Any:
        return {name: torch.full_like(value, 9) for name, value in y.items()}


def same(a: Any, b: Any) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("y", [torch.arange(4), named()], ids=["labels", "named"])
def test_parts_and_wholes(y: Any) -> None:
    assert condition.count(y) == 4 and condition.device_of(y) == torch.device("cpu")
    twice = condition.joined(y, y)
    assert condition.count(twice) == 8
    again = condition.taken(twice, torch.arange(4, 8))
    for a, b in zip(_tensors(again), _tensors(y), strict=True):
        assert torch.equal(a, b)
    other = condition.each(lambda u: u + 1, y)
    mixed = condition.chosen(torch.tensor([True, False, True, False]), y, other)
    for u, v, w in zip(_tensors(mixed), _tensors(y), _tensors(other), strict=True):
        assert torch.equal(u[::2], v[::2]) and torch.equal(u[1::2], w[1::2])


def _tensors(y: Any) -> list[Tensor]:
    return [y] if isinstance(y, Tensor) else list(y.values())


def test_what_is_no_condition_is_one_sentence() -> None:
    with pytest.raises(ValueError, match="a condition is a tensor or a mapping of tensors"):
        condition.joined(torch.arange(3), named())
    with pytest.raises(ValueError, match="a condition is a tensor or a mapping of tensors"):
        condition.joined(named(), {"colour": torch.rand(4, 3)})
    with pytest.raises(ValueError, match="one entry per sample in each tensor"):
        condition.count({"a": torch.zeros(3), "b": torch.zeros(4)})
    with pytest.raises(ValueError, match="one entry per sample in each tensor"):
        condition.count({})
    with pytest.raises(ValueError, match="no condition that it can be without"):
        condition.emptied(nn.Identity(), torch.arange(3))


def test_a_named_condition_goes_through_every_wrapper() -> None:
    net, y, x = Net(), named(), torch.randn(4, 2)
    inner = Denoiser(net, PROCESS, V)
    guided = StaticThreshold(ClassifierFree(FixedVariance(inner, 1.0), 2.0), 100.0)
    found = guided(x, 5, y).x0
    assert same(net.asked[-1], condition.joined(y, net.without(y)))
    with_y, without = inner(x, 5, y).x0, inner(x, 5, net.without(y)).x0
    torch.testing.assert_close(found, 3 * with_y - 2 * without)
    translated = Translated(inner, VP())
    assert translated.conditional and same(translated.without(y), net.without(y))
    translated(x, 0.5, y)
    assert same(net.asked[-1], y)
    Unconditional(inner)(x, 5, y)
    assert net.asked[-1] is None


def test_a_named_condition_reaches_samplers() -> None:
    net, y, x = Net(), named(), torch.randn(4, 2)
    denoiser = Denoiser(net, PROCESS, V)
    for walk in (
        lambda: draw(denoiser, PROCESS, x, [20, 5, 0], eta=0.0, y=y),
        lambda: list(ddim_invert(denoiser, PROCESS, x, [20, 5, 0], y=y)),
        lambda: list(langevin(denoiser, PROCESS, x, 5, 0.01, 2, y=y)),
    ):
        net.asked.clear()
        walk()
        assert net.asked and all(same(asked, y) for asked in net.asked)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_share_of_named_conditions_is_dropped_whole(share: float) -> None:
    net, y = Net(), named(4000)
    denoiser = Denoiser(net, PROCESS, V)
    generator = torch.Generator().manual_seed(0)
    diffusion_loss(denoiser, torch.randn(4000, 2), y, generator, share).backward()
    seen = net.asked[-1]
    dropped = seen["kind"] == 9
    assert float(dropped.float().mean()) == pytest.approx(share, abs=0.03)
    assert bool((seen["colour"][dropped] == 9).all())
    assert torch.equal(seen["colour"][~dropped], y["colour"][~dropped])


def test_a_trainer_cuts_named_conditions_into_batches() -> None:
    """The third number of each sample is its place; its condition must travel with it."""
    n = 12
    x = torch.arange(n, dtype=torch.float32)[:, None].repeat(1, 2)
    y = {"place": torch.arange(n), "square": torch.arange(n) ** 2}
    seen: list[int] = []

    def loss(model: nn.Module, x: Tensor, y: Any, generator: torch.Generator) -> Tensor:
        assert torch.equal(x[:, 0].long(), y["place"])
        assert torch.equal(y["place"] ** 2, y["square"])
        seen.extend(y["place"].tolist())
        return model(x).square().mean()

    settings = Settings(steps=3, batch_size=4)
    trainer = Trainer(nn.Linear(2, 1), loss, x, y, settings, device="cpu", accumulate=2)
    for _ in range(3):
        trainer.update()
    assert sorted(seen) == list(range(n))
    with pytest.raises(ValueError, match="one label per sample, got 12 labels for 11"):
        Trainer(nn.Linear(2, 1), loss, x[:11], y, settings, device="cpu")


def test_samples_are_drawn_on_named_conditions_in_any_batch() -> None:
    denoiser, y = Denoiser(Net(), PROCESS, V).requires_grad_(False), named(7)
    how = Sampling(steps=4, eta=1.0, guidance=Guidance(w=0.5))
    whole = evaluation.generate(denoiser, (1, 2, 2), y, how)
    parts = evaluation.generate(denoiser, (1, 2, 2), y, how, batch_size=3)
    torch.testing.assert_close(whole, parts, rtol=1e-6, atol=1e-6)
    other = {**y, "kind": y["kind"] + 1}
    assert not torch.allclose(evaluation.generate(denoiser, (1, 2, 2), other, how), whole)


def test_a_network_without_a_third_argument_works_and_learns() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(2, 2)

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.line(x)

    denoiser = Denoiser(Plain(), PROCESS, V)
    assert not denoiser.conditional
    diffusion_loss(denoiser, torch.randn(4, 2), None, torch.Generator()).backward()
    assert draw(denoiser, PROCESS, torch.randn(3, 2)).shape == (3, 2)
    with pytest.raises(ValueError, match="needs a model with classes"):
        ClassifierFree(denoiser, 1.0)
    with pytest.raises(ValueError, match="no condition that it can be without"):
        diffusion_loss(denoiser, torch.randn(4, 2), torch.arange(4), torch.Generator(), 0.5)
    with pytest.raises(ValueError, match="one condition per sample, got 1 for 4"):
        diffusion_loss(denoiser, torch.randn(4, 2), torch.arange(1), torch.Generator())


def test_the_learned_variance_sees_the_condition_too() -> None:
    denoiser = Denoiser(MLP(2, 8, 1, num_classes=3, outputs=2), PROCESS, V, var_mix=None)
    generator, y = torch.Generator().manual_seed(0), torch.tensor([0, 1, 2, 1])
    diffusion_loss(denoiser, torch.rand(4, 2), y, generator, 0.5, l_hybrid).backward()
    label = denoiser.net.embed.label
    assert float(label.weight.grad.abs().sum()) > 0
