"""Every wire of every network carries something: inputs, skips, messages, heads, parameters.

The tests know no layer by heart. They move one thing at a time and see whether the answer moves; a
new class in `ddpmlib.models` fails until a network that uses it stands in NETWORKS.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from ddpmlib import models
from ddpmlib.denoiser import Denoiser, V
from ddpmlib.models import (
    MLP,
    Classifier,
    ClassifierConfig,
    NoisyClassifier,
    NoisyClassifierConfig,
    UNet,
    UNetConfig,
)
from ddpmlib.process import DDPM, schedules

F64 = torch.float64
SILENT = 1e-11  # of the largest: what rounding leaves of a derivative that is zero
TIMES = torch.tensor([1, 37, 400, 950])
LABELS = torch.tensor([0, 1, 2, 3])  # of three classes; the last one is the null label


@dataclass(frozen=True)
class Example:
    """How to build one network, and inputs for it: four samples of each.

    The coarsest grid has two pixels a side or more, so that no weight of a kernel meets only the
    border.
    """

    build: Callable[[], nn.Module]
    x: tuple[int, ...]
    t: bool = True
    y: bool = False

    def network(self) -> nn.Module:
        """In float64, without the zeros that branches start from, every statistic moved."""
        torch.manual_seed(0)
        net = self.build().double().eval()
        for p in net.parameters():
            nn.init.normal_(p, std=0.3)
        for name, b in net.named_buffers():
            if b.is_floating_point():
                nn.init.uniform_(b, 0.5, 1.5)
            assert name.endswith(("running_mean", "running_var", "num_batches_tracked")), name
        return net

    def inputs(self) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(4, *self.x, generator=generator, dtype=F64)
        return {"x": x} | ({"t": TIMES} if self.t else {}) | ({"y": LABELS} if self.y else {})


def unet(outputs: int = 1, **shape: object) -> Callable[[], UNet]:
    return lambda: UNet(UNetConfig(**({"width": 8, "groups": 4, "heads": 2} | shape)), outputs)


def noisy(**shape: object) -> Callable[[], NoisyClassifier]:
    small = {"width": 8, "groups": 4, "heads": 2, "num_classes": 3}
    return lambda: NoisyClassifier(NoisyClassifierConfig(**(small | shape)))


TWO = {"mults": (1, 2), "attention": (False, True)}
NETWORKS = {
    "MLP": Example(lambda: MLP(2, 16, 3), (2,)),
    "MLP, classes, two outputs": Example(lambda: MLP(3, 8, 2, 3, outputs=2), (3,), y=True),
    "Classifier": Example(
        lambda: Classifier(ClassifierConfig(channels=2, width=4, features=6)), (2, 8, 8), t=False
    ),
    "Classifier, residual": Example(
        lambda: Classifier(
            ClassifierConfig(channels=2, width=4, features=6, architecture="residual")
        ),
        (2, 8, 8),
        t=False,
    ),
    "UNet": Example(unet(**TWO), (1, 4, 8)),
    "UNet, one level": Example(unet(mults=(1,), attention=(True,), heads=1), (1, 3, 4)),
    "UNet, two blocks, classes": Example(
        unet(2, **TWO, blocks=2, num_classes=3, channels=2), (2, 4, 4), y=True
    ),
    "UNet, three levels": Example(
        unet(mults=(1, 1, 2), attention=(True, False, False), blocks=2, heads=4), (1, 8, 8)
    ),
    "UNet, patches": Example(unet(2, **TWO, patch=2, channels=3), (3, 8, 8)),
    "UNet, large patches": Example(unet(**TWO, patch=4), (1, 16, 16)),
    "UNet, added message": Example(
        unet(**TWO, conditioning="add", num_classes=3), (1, 4, 4), y=True
    ),
    "NoisyClassifier": Example(noisy(**TWO, blocks=2, channels=2), (2, 4, 4)),
    "NoisyClassifier, patches": Example(
        noisy(mults=(1,), attention=(True,), patch=2, conditioning="add", heads=4), (1, 4, 8)
    ),
}
each_network = pytest.mark.parametrize("example", NETWORKS.values(), ids=NETWORKS)
U_NETS = {name: example for name, example in NETWORKS.items() if name.startswith("UNet")}
each_unet = pytest.mark.parametrize("example", U_NETS.values(), ids=U_NETS)
TOLD = {name: example for name, example in NETWORKS.items() if example.t}
each_told_the_time = pytest.mark.parametrize("example", TOLD.values(), ids=TOLD)


def classes() -> Iterator[type[nn.Module]]:
    """Every module class that `ddpmlib.models` and what lies in it define."""
    for info in pkgutil.walk_packages(models.__path__, f"{models.__name__}."):
        for one in vars(importlib.import_module(info.name)).values():
            if inspect.isclass(one) and issubclass(one, nn.Module) and one.__module__ == info.name:
                yield one


def moved(before: Tensor, after: Tensor) -> Tensor:
    """Where two answers differ by more than rounding."""
    return (after - before).abs() > 1e-9 * before.abs().max()


def slopes(answer: Tensor, of: list[Tensor]) -> list[Tensor]:
    """Derivatives of the answer's entries, weighed at random; zeros where nothing leads there."""
    weights = torch.randn(answer.shape, generator=torch.Generator().manual_seed(2), dtype=F64)
    found = torch.autograd.grad((answer * weights).sum(), of, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(of, found, strict=True)]


# ---- all networks ------------------------------------------------------------------------------


def test_every_network_and_every_piece_of_one_is_tested_here() -> None:
    known = list(classes())
    assert {MLP, Classifier, UNet, NoisyClassifier} <= set(known)
    built = [example.build() for example in NETWORKS.values()]
    exported = {one for one in vars(models).values() if one in known}
    assert exported == {type(net) for net in built}
    used = {type(module) for net in built for module in net.modules()}
    assert not [one.__qualname__ for one in known if one not in used], "add an example of it"


@each_network
def test_the_example_gives_everything_that_the_network_takes(example: Example) -> None:
    takes = set(inspect.signature(type(example.network()).forward).parameters) - {"self"}
    embed = getattr(example.network(), "embed", None)
    if embed is None or not embed.num_classes:
        takes -= {"y"}
    assert takes == set(example.inputs())


@each_network
def test_every_input_moves_every_output_of_its_own_sample_and_no_other(example: Example) -> None:
    net, given = example.network(), example.inputs()
    before = net(**given).detach()
    others = {"x": given["x"].flip(0), "t": TIMES.flip(0), "y": LABELS.flip(0)}
    for name, value in given.items():
        for i in range(4):
            one = value.clone()
            one[i] = others[name][i]
            after = net(**given | {name: one}).detach()
            at = torch.arange(4) == i
            assert bool(moved(before, after)[at].all()), f"{name} of sample {i} is not heard"
            torch.testing.assert_close(after[~at], before[~at], rtol=1e-10, atol=1e-10)


@each_network
def test_every_number_of_x_matters(example: Example) -> None:
    net, given = example.network(), example.inputs()
    (slope,) = slopes(net(**given | {"x": given["x"].requires_grad_()}), [given["x"]])
    assert bool((slope.abs() > SILENT * slope.abs().max()).all())


@each_network
def test_every_number_of_every_parameter_matters(example: Example) -> None:
    """A head of attention, a channel of a skip, a label's vector: without it a slope is zero."""
    net = example.network()
    names, parameters = zip(*net.named_parameters(), strict=True)
    answer = net(**example.inputs())
    found = dict(zip(names, slopes(answer, list(parameters)), strict=True))
    largest = max(float(slope.abs().max()) for slope in found.values())
    for name, slope in found.items():
        silent = slope.abs() <= SILENT * largest
        assert torch.equal(silent, cannot_matter(net, name, slope)), name


def cannot_matter(net: nn.Module, name: str, parameter: Tensor) -> Tensor:
    """The biases of attention's keys: each shifts all scores of a query alike."""
    mute = torch.zeros(parameter.shape, dtype=torch.bool)
    owner, _, kind = name.rpartition(".")
    if kind == "bias" and owner.endswith((".qkv", ".key_value")):
        n = net.get_submodule(owner.rpartition(".")[0] + ".out").weight.shape[1]
        mute[:-n][-n:] = True  # (queries,) keys, values
    return mute


# ---- messages ----------------------------------------------------------------------------------


def told(net: nn.Module) -> dict[str, nn.Module]:
    """The modules that take a message and have somewhere to put it, and those around them."""
    takes = {
        name: module
        for name, module in net.named_modules()
        if "emb" in inspect.signature(module.forward).parameters
    }
    deaf = [name for name, m in takes.items() if type(m).__name__ in ("Downsample", "Upsample")]
    return {name: module for name, module in takes.items() if name not in deaf}


@each_told_the_time
def test_every_layer_that_is_told_something_is_told_the_time_and_the_class(
    example: Example,
) -> None:
    net, given, messages = example.network(), example.inputs(), {}
    for name, module in told(net).items():

        def note(_: nn.Module, args: tuple[Tensor, ...], name: str = name) -> None:
            messages.setdefault(name, []).append(args[1].detach())

        module.register_forward_pre_hook(note)
    variants = [{}, {"t": TIMES.flip(0)}] + ([{"y": LABELS.flip(0)}] if example.y else [])
    for change in variants:
        net(**given | change)
    assert messages
    for name, (plain, *others) in messages.items():
        for change, other in zip(variants[1:], others, strict=True):
            assert bool(moved(plain, other).any(1).all()), f"{name} does not hear of {change}"


@each_told_the_time
def test_every_layer_that_is_told_something_listens(example: Example) -> None:
    net, given = example.network(), example.inputs()
    before = net(**given).detach()
    for name, module in told(net).items():
        other = module.register_forward_pre_hook(lambda _, args: (args[0], args[1].flip(0)))
        assert bool(moved(before, net(**given)).flatten(1).all()), name
        other.remove()


# ---- skips of the U-Net ------------------------------------------------------------------------


def skipping(net: UNet, given: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """What is kept on the way down, what goes into each block on the way up, and the answer.

    The way down is cut after each thing that is kept, so all its influence goes through its skip.
    """
    kept, met = [], []
    for layer in (*net.down, net.mid[0]):
        layer.register_forward_pre_hook(lambda _, args: (args[0].detach(), *args[1:]))
    for layer in (net.inp, *net.down):
        layer.register_forward_hook(lambda _, args, out: kept.append(out))
    for layer in net.up:
        if type(layer).__name__ != "Upsample":
            layer.register_forward_pre_hook(lambda _, args: met.append(args[0]))
    answer = net(**given)
    return kept, met, answer


@each_unet
def test_every_number_of_every_skip_matters(example: Example) -> None:
    kept, _, answer = skipping(example.network(), example.inputs())
    for i, slope in enumerate(slopes(answer, kept)):
        assert bool((slope.abs() > SILENT * slope.abs().max()).all()), f"skip {i}"


@each_unet
def test_skips_come_back_one_by_one_the_last_first(example: Example) -> None:
    """The n-th block on the way up meets the n-th last skip, and below it those before."""
    kept, met, _ = skipping(example.network(), example.inputs())
    assert len(kept) == len(met) > 1
    for n, here in enumerate(met, 1):
        heard = [bool(slope.count_nonzero()) for slope in slopes(here, kept)]
        assert heard == [False] * (len(kept) - n) + [True] * n, f"block {n} of the way up"


@each_unet
def test_the_bottom_is_heard_beside_the_skips(example: Example) -> None:
    net, given, seen = example.network(), example.inputs(), []
    net.mid[-1].register_forward_hook(lambda _, args, out: seen.append(out))
    answer = net(**given)
    (slope,) = slopes(answer, seen)
    assert bool((slope.abs() > SILENT * slope.abs().max()).all())


# ---- patches -----------------------------------------------------------------------------------

PATCHED = {name: example for name, example in NETWORKS.items() if "patches" in name}


@pytest.mark.parametrize("example", PATCHED.values(), ids=PATCHED)
def test_a_patch_comes_from_its_own_place(example: Example) -> None:
    net, x, seen = example.network(), example.inputs()["x"].requires_grad_(), []
    net.inp.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    net(**example.inputs() | {"x": x})
    (inside,), p = seen, net.config.patch
    assert p > 1 and inside.shape[2:] == (x.shape[2] // p, x.shape[3] // p)
    for i in range(inside.shape[2]):
        for j in range(inside.shape[3]):
            (slope,) = torch.autograd.grad(inside[:, :, i, j].sum(), x, retain_graph=True)
            expected = torch.zeros_like(slope)
            expected[:, :, p * i : p * i + p, p * j : p * j + p] = 1
            torch.testing.assert_close(slope, expected)


@each_unet
def test_patches_go_out_as_they_came_in(example: Example) -> None:
    """A U-Net whose last layer repeats what its first one met gives back its input."""
    net, given, seen = example.network(), example.inputs(), []
    net.inp.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    times = net.out.out_channels // net.inp.in_channels
    net.out.register_forward_hook(
        lambda *_: torch.cat([k * seen[0] for k in range(1, times + 1)], 1)
    )
    x = given["x"]
    assert torch.equal(net(**given), torch.cat([k * x for k in range(1, times + 1)], 1))


# ---- denoisers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["MLP, classes, two outputs", "UNet, two blocks, classes"])
def test_a_learned_variance_is_read_from_its_own_half_of_the_answer(name: str) -> None:
    example = NETWORKS[name]
    net, given = example.network(), example.inputs()
    seen: list[Tensor] = []
    net.register_forward_hook(lambda _, args, out: seen.append(out))
    denoiser = Denoiser(net, DDPM(schedules.cosine(1000)), V, var_mix=None)
    prediction = denoiser(given["x"], given["t"], given["y"])
    (answer,) = seen
    for part, first in ((prediction.x0, True), (prediction.var_mix, False)):
        assert part.shape == given["x"].shape
        (slope,) = slopes(part, [answer])
        mean, variance = (half.count_nonzero() == half.numel() for half in slope.chunk(2, 1))
        assert (bool(mean), bool(variance)) == (first, not first)
        assert slope.count_nonzero() == part.numel()
