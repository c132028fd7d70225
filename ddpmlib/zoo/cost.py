"""What training and networks cost, known before anything is carried out.

Operations are those of matrix products and convolutions, two for each multiplication, which are
nearly all. They are counted while the work is done, or on the meta device, where tensors have
shapes and no numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ddpmlib import data
from ddpmlib.zoo.recipe import Recipe

SAMPLE = 2  # images that are counted: normalisation over a batch refuses a single one


@dataclass(frozen=True)
class Budget:
    """What training holds and does.

    Attributes:
        parameters: number of weights.
        flops: operations for one image in one update, forward and backward.
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


def operations(work: Callable[[], object]) -> int:
    """Operations of a call, which is carried out once."""
    # Attention by its products: the counter does not know every fused kernel.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def operations_of_a_pass(net: nn.Module, image_shape: tuple[int, ...]) -> int:
    """Operations of one forward pass of ``net(x, t)`` for one image; nothing is computed.

    Args:
        net: stays as it is; a copy of it is counted, on the meta device.
        image_shape: (C, H, W).
    """
    x = torch.zeros(1, *image_shape, device="meta")
    t = torch.ones(1, dtype=torch.int64, device="meta")
    twin = copy.deepcopy(net).to("meta").eval()
    with torch.no_grad():
        return operations(lambda: twin(x, t))


def budget(recipe: Recipe, dataset: data.Dataset) -> Budget:
    """Count what a recipe needs on a data set; one small pass on the CPU.

    Args:
        recipe: see :data:`ddpmlib.zoo.recipes.RECIPES`.
        dataset: what it is to be trained on.
    """
    model = recipe.build().train()
    held = [dataset.x_train] if dataset.y_train is None else [dataset.x_train, dataset.y_train]
    weights = _bytes(list(model.parameters()))
    return Budget(
        parameters=sum(p.numel() for p in model.parameters()),
        flops=_operations_of_training(recipe, model, dataset) // SAMPLE,
        weights=weights,
        average=_bytes(list(model.state_dict().values())),
        optimiser=2 * weights,
        images=_bytes(held),
    )


def _operations_of_training(recipe: Recipe, model: nn.Module, dataset: data.Dataset) -> int:
    x = data.to_float(dataset.x_train[:SAMPLE])
    y = None if dataset.y_train is None else dataset.y_train[:SAMPLE]
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        return operations(lambda: recipe.loss()(model, x, y, generator).backward())


def _bytes(tensors: list[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
