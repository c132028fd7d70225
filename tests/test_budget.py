"""`ddpmlib.zoo.cost`: what is counted beforehand is what training then holds and does."""

import pytest
import torch
from torch import nn

from ddpmlib import data
from ddpmlib.training import Trainer
from ddpmlib.zoo import RECIPES, recipes
from ddpmlib.zoo.cost import budget, operations, operations_of_a_pass


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


def test_operations_of_a_product_are_two_a_multiplication():
    a, b = torch.zeros(3, 5), torch.zeros(5, 7)
    done = []
    assert operations(lambda: done.append(a @ b)) == 2 * 3 * 5 * 7
    assert done[0].shape == (3, 7)  # the work is done


def test_attention_is_counted_by_its_two_products():
    q = torch.zeros(1, 2, 9, 4)  # heads, positions, width
    attention = nn.functional.scaled_dot_product_attention
    assert operations(lambda: attention(q, q, q)) == 2 * 2 * (2 * 9 * 9 * 4)


def test_operations_of_a_pass_compute_nothing_and_leave_the_network_alone():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.seen = nn.Conv2d(3, 5, 3, padding=1), []

        def forward(self, x, t):
            self.seen.append((x.device.type, self.training, t.shape))
            return self.conv(x)

    net = Net()
    before = net.conv.weight.clone()
    assert operations_of_a_pass(net, (3, 4, 6)) == 2 * (4 * 6) * 5 * (3 * 3 * 3)
    assert net.training and net.seen == [] and torch.equal(net.conv.weight, before)


def test_images_without_classes_are_counted_too():
    recipe = recipes.changed(RECIPES["digits"], {"net.num_classes": 0})
    images = data.load("digits")
    bare = data.Dataset("bare", images.x_train, None, images.x_test, None)
    assert budget(recipe, bare).images == 1442 * 8 * 8
    assert budget(recipe, bare).flops == budget(recipe, images).flops


def test_counting_leaves_the_random_numbers_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    recipe = RECIPES["digits-noisy-classifier"]
    assert recipe.net.dropout > 0
    budget(recipe, data.load("digits"))
    assert torch.equal(torch.rand(3), expected)
