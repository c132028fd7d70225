"""What a recipe costs, known before it is carried out: weights, operations, bytes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ddpmlib import data
from ddpmlib.zoo.recipes import Recipe

SAMPLE = 2  # images that are counted: normalisation over a batch refuses a single one


@dataclass(frozen=True)
class Budget:
    """What training holds and does.

    Attributes:
        parameters: number of weights.
        flops: operations for one image in one update, forward and backward: those of matrix
            products and convolutions, two for each multiplication, which are nearly all.
        weights: bytes of the weights.
        average: bytes of the averaged model.
        optimiser: bytes of AdamW's two moments.
        images: bytes of the training set on the device.
    """

    parameters: int
    flops: int
    weights: int
    average: int
    optimiser: int
    images: int

    @property
    def resident(self) -> int:
        """Bytes on the device before the first activation, gradients included."""
        return 2 * self.weights + self.average + self.optimiser + self.images


def budget(recipe: Recipe, images: data.Images) -> Budget:
    """Count what a recipe needs on a data set; one small pass on the CPU.

    Args:
        recipe: see :data:`ddpmlib.zoo.recipes.RECIPES`.
        images: the data set of its name.
    """
    model = recipe.build().train()
    x, y = data.to_float(images.x_train[:SAMPLE]), images.y_train[:SAMPLE]
    flops = _flops_of_training(recipe, model, x, y) // SAMPLE
    weights = _bytes(list(model.parameters()))
    average = _bytes(list(model.state_dict().values()))
    held = _bytes([images.x_train, images.y_train])
    count = sum(p.numel() for p in model.parameters())
    return Budget(count, flops, weights, average, 2 * weights, held)


def _flops_of_training(recipe: Recipe, model: nn.Module, x: Tensor, y: Tensor) -> int:
    generator = torch.Generator().manual_seed(0)
    # Attention by its products: the counter does not know every fused kernel.
    count = FlopCounterMode(display=False)
    with torch.random.fork_rng(), sdpa_kernel(SDPBackend.MATH), count as counter:
        recipe.loss()(model, x, y, generator).backward()
    return int(counter.get_total_flops())


def _bytes(tensors: list[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
