"""Short trainings on the embedded digits, each with one thing changed, and their errors.

Each is the recipe ``digits`` of chapter 3 but for one :class:`Change`: of the network, of what it
predicts, of the optimiser. All are measured alike, by the error of x̂_0 on scans that no training
has seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ddpmlib import data, zoo
from ddpmlib.broadcast import flat_mean
from ddpmlib.denoiser import Denoiser
from ddpmlib.evaluation import features, metrics
from ddpmlib.experiments.results import Row
from ddpmlib.guidance import StaticThreshold
from ddpmlib.models.unet import Block, UNet
from ddpmlib.samplers import draw, uniform_times
from ddpmlib.training import Average, Settings, Trainer, fit, hardware
from ddpmlib.zoo import RECIPES, recipes
from ddpmlib.zoo.recipes.diffusion import process_of

TIMES = tuple(range(50, 1000, 100))  # the middles of ten equal parts of 1..1000
EDGES = (1, 5, 995, 1000)
STOPS = (25, 50, 100, 150, 200, 300, 400, 500)  # updates after which the error is measured
CALLS = 10  # of a sample
NO_CLIPPING = 1e9


@dataclass(frozen=True)
class Change:
    """What differs from the recipe.

    Attributes:
        label: in tables and figures.
        words: fields of the recipe, as ``ddpmlib train --set`` takes them.
        net: what is done to the fresh network.
        sgd: stochastic gradient descent with momentum 0.9 in place of Adam.
        constant: the learning rate does not fall after the warm-up.
    """

    label: str
    words: tuple[tuple[str, Any], ...] = ()
    net: Callable[[UNet], None] | None = None
    sgd: bool = False
    constant: bool = False


# ---- changes of the network ----------------------------------------------------------------------


def without_skips(net: UNet) -> None:
    """The way up is handed zeros in place of the features of the way down; no weight is removed."""
    features = [net.inp.out_channels]
    for layer in net.down:
        last = layer.conv2 if isinstance(layer, Block) else layer.conv
        assert isinstance(last, nn.Conv2d)
        features.append(last.out_channels)
    for layer in net.up:
        if isinstance(layer, Block):
            layer.register_forward_pre_hook(partial(_zeroed, features.pop()))


def _zeroed(skip: int, layer: nn.Module, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    h, emb = inputs
    return torch.cat([h[:, :-skip], torch.zeros_like(h[:, -skip:])], dim=1), emb


def without_attention(net: UNet) -> None:
    """No self-attention, in the middle neither."""
    for layer in (*net.down, *net.mid, *net.up):
        if isinstance(layer, Block):
            layer.attention = nn.Identity()


def without_zeros(net: UNet) -> None:
    """Layers that start at zero start at random weights, as all others do."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        for layer in net.modules():
            if isinstance(layer, nn.Conv2d) and not bool(layer.weight.any()):
                layer.reset_parameters()


# ---- training ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Constant(Settings):
    """Settings whose learning rate stays where the warm-up leaves it."""

    def lr_at(self, step: int) -> float:
        """Learning rate of update number ``step`` = 0, 1, ..."""
        return self.lr * min(1.0, (step + 1) / max(1, self.warmup))


class Watched(Trainer):
    """A trainer that notes the norm of each gradient before it is clipped."""

    norms: list[float]

    def _gradients(self) -> Tensor:
        loss = super()._gradients()
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        self.norms = [*getattr(self, "norms", []), float(nn.utils.get_total_norm(grads))]
        return loss


def trainer_of(change: Change, seed: int) -> Watched:
    """The run, before its first update."""
    recipe = recipes.changed(RECIPES["digits"], dict(change.words) | {"settings.seed": seed})
    model, digits = recipe.build(), data.load("digits")
    if change.net is not None:
        assert isinstance(model.net, UNet)
        change.net(model.net)
    fields = {name: getattr(recipe.settings, name) for name in Settings.__dataclass_fields__}
    settings = Constant(**fields) if change.constant else recipe.settings
    y = digits.labels("train")
    trainer = Watched(model, recipe.loss(), digits.x_train, y, settings, device="cpu")
    if change.sgd:
        trainer.optimiser = torch.optim.SGD(  # type: ignore[assignment]
            model.parameters(), settings.lr, momentum=0.9
        )
    return trainer


def run(change: Change, seed: int) -> Row:
    """Train, and measure on the way and at the end."""
    trainer, losses = trainer_of(change, seed), list[float]()
    fixed = Average(trainer.model, 0.999)
    nets = {"averaged": trainer.averaged, "last": trainer.model, "fixed": fixed.module}
    curve: dict[str, list[float]] = {name: [] for name in nets}
    for progress in fit(trainer):
        losses.append(float(progress.loss))
        fixed.update(trainer.model, n=10**9)  # so late, its decay is 0.999
        if progress.step in STOPS:
            for name, net in nets.items():
                curve[name].append(_rounded(v_error(net, 64, TIMES)))
    found: Row = {"parameters": sum(p.numel() for p in trainer.model.parameters())}
    found["loss"] = [_rounded(sum(losses[a:b]) / (b - a)) for a, b in pairwise(range(0, 501, 25))]
    found["gradient_norm"] = [_rounded(max(trainer.norms[i : i + 5])) for i in range(0, 500, 5)]
    found["clipped"] = sum(n > 1 for n in trainer.norms) / len(trainer.norms)
    found["curve"] = curve
    found["x0_error"] = [_rounded(e) for e in x0_errors(trainer.averaged, 355, (*TIMES, *EDGES))]
    found |= samples(trainer.averaged, "") | samples(trainer.averaged, "clipped_", clip=True)
    found |= samples(trainer.model.eval(), "last_")
    return found | {"hardware": hardware(torch.device("cpu"))}


# ---- measuring -----------------------------------------------------------------------------------


@torch.no_grad()
def x0_errors(denoiser: nn.Module, n: int, times: tuple[int, ...]) -> Iterator[float]:
    """Mean square error of x̂_0 per pixel at each of the times, on the first n unseen scans."""
    assert isinstance(denoiser, Denoiser)
    denoiser.eval()
    digits = data.load("digits")
    x0, y = data.to_float(digits.x_test[:n]), digits.labels("test")[:n]
    for t in times:
        eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(t))
        x_t = denoiser.process.q_sample(x0, t, eps)
        yield float(flat_mean((denoiser(x_t, t, y).x0 - x0) ** 2).mean())


@cache
def alpha_bar(t: int) -> float:
    """ᾱ_t of the recipe."""
    return float(process_of("cosine", 1000).alpha_bar[t])


def v_error(denoiser: nn.Module, n: int, times: tuple[int, ...]) -> float:
    """Mean over times of the error of v, which is that of x̂_0 over 1 − ᾱ_t."""
    pairs = zip(x0_errors(denoiser, n, times), times, strict=True)
    return sum(e / (1 - alpha_bar(t)) for e, t in pairs) / len(times)


def samples(denoiser: nn.Module, prefix: str, clip: bool = False) -> Row:
    """Ancestral samples of the classes of the unseen scans, against the training images."""
    assert isinstance(denoiser, Denoiser)
    _, y, floor = _scans()
    noise = torch.randn(len(y), 1, 8, 8, generator=torch.Generator().manual_seed(0))
    drawn_by: Any = StaticThreshold(denoiser) if clip else denoiser
    times, generator = uniform_times(denoiser.process.end, CALLS), torch.Generator().manual_seed(1)
    x = draw(drawn_by, denoiser.process, noise, times, y=y, generator=generator)
    return {prefix + key: value for key, value in _against_scans(x, y).items()} | floor


@cache
def _scans() -> tuple[dict[str, Tensor], Tensor, Row]:
    digits = data.load("digits")
    x, y = data.to_float(digits.x_train), digits.labels("test")
    real = {"frechet": features.extract(_classifier(), x)[0], "frechet_pixels": x.flatten(1)}
    test = data.to_float(digits.x_test)
    found = {
        "frechet": features.extract(_classifier(), test)[0], "frechet_pixels": test.flatten(1)
    }  # fmt: skip
    floor = {k + "_floor": _rounded(metrics.frechet_distance(found[k], real[k])) for k in real}
    return real, y, floor


@cache
def _classifier() -> Any:
    return zoo.load("digits-classifier", "cpu")[0]


def _against_scans(x: Tensor, y: Tensor) -> Row:
    if not bool(x.isfinite().all()):
        return {"agreement": math.nan, "frechet": math.nan, "frechet_pixels": math.nan}
    real, _, _ = _scans()
    h, logits = features.extract(_classifier(), x)
    distance = metrics.frechet_distance
    return {
        "agreement": _rounded(metrics.class_agreement(logits, y)),
        "frechet": _rounded(distance(h, real["frechet"])),
        "frechet_pixels": _rounded(distance(x.flatten(1), real["frechet_pixels"])),
    }


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
