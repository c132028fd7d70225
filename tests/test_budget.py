"""`ddpmlib.zoo.cost`: what is counted beforehand is what training then holds and does."""

import pytest
import torch
from torch import nn

from ddpmlib import data
from ddpmlib.training import Trainer
from ddpmlib.zoo import RECIPES, recipes
from ddpmlib.zoo.cost import budget


@pytest.mark.parametrize("name", ["digits", "digits-classifier", "digits-noisy-classifier"])
def test_bytes_are_those_that_a_trainer_holds(name):
    images, recipe = data.load("digits"), RECIPES[name]
    found = budget(recipe, images)
    trainer = Trainer(
        recipe.build(), recipe.loss(), images.x_train, images.y_train, recipe.settings, device="cpu"
    )
    trainer.update()
    tensors = trainer.state_dict()

    def held(*kinds):
        return sum(v.numel() * v.element_size() for k, v in tensors.items() if k.startswith(kinds))

    parameters = list(trainer.model.parameters())
    assert found.parameters == sum(p.numel() for p in parameters)
    assert found.weights == sum(p.numel() * 4 for p in parameters)
    assert found.average == held("ema.")
    counters = 4 * len(parameters)  # AdamW also counts the updates of each tensor
    assert found.optimiser == held("optimiser.") - counters
    assert found.images == 1442 * (8 * 8 + 8)  # a byte a pixel, eight a label
    gradients = sum(p.grad.numel() * 4 for p in parameters)
    everything = found.weights + gradients + found.average + found.optimiser + found.images
    assert found.resident == everything


class Linear:
    """A recipe whose operations are known: one product of 64 × 10 numbers."""

    def build(self):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False))

    def loss(self):
        return lambda model, x, y, generator: nn.functional.cross_entropy(model(x), y)


def test_operations_of_a_linear_layer_forward_and_for_its_weights():
    """The input needs no gradient, so the backward pass is one product more, not two."""
    found = budget(Linear(), data.load("digits"))
    assert found.flops == 2 * (2 * 64 * 10) and found.parameters == 640


def test_operations_grow_with_the_square_of_the_width():
    images = data.load("digits")
    narrow, wide = (
        budget(recipes.changed(RECIPES["digits"], {"net.width": w}), images) for w in (16, 32)
    )
    assert 3.5 < wide.flops / narrow.flops < 4.1
    assert 3.5 < wide.parameters / narrow.parameters < 4.1


def test_counting_leaves_the_random_numbers_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    recipe = RECIPES["digits-noisy-classifier"]
    assert recipe.net.dropout > 0
    budget(recipe, data.load("digits"))
    assert torch.equal(torch.rand(3), expected)
