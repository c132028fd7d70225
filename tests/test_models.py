"""`ddpmlib.models`: networks taken apart, each piece against loops or formulas written out."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from ddpmlib.denoiser import EPS, Denoiser
from ddpmlib.losses import l_simple
from ddpmlib.models import (
    MLP,
    Classifier,
    ClassifierConfig,
    NoisyClassifier,
    NoisyClassifierConfig,
    UNet,
    UNetConfig,
    unet,
)
from ddpmlib.models.embedding import Embedding, sinusoidal
from ddpmlib.models.noisy_classifier import AttentionPool
from ddpmlib.models.unet import AdaGN, AdditiveGN, Block, Downsample, SelfAttention, Upsample
from ddpmlib.process import DDPM, schedules
from ddpmlib.zoo import RECIPES

F64 = torch.float64
SMALL = UNetConfig(width=8, mults=(1, 2), attention=(False, True), heads=2, groups=4)
CONFIGS = {
    "small": SMALL,
    "one level": UNetConfig(width=8, mults=(1,), attention=(True,), heads=2, groups=4),
    "colour, three levels": UNetConfig(
        channels=3, width=8, mults=(1, 2, 3), attention=(False, True, True), heads=4, groups=4
    ),
    "two blocks, classes": UNetConfig(
        width=8, mults=(1, 2), blocks=2, attention=(True, False), heads=1, groups=8, num_classes=5
    ),
    "patches": UNetConfig(
        width=8, mults=(1, 2), attention=(False, True), heads=2, groups=4, patch=2, num_classes=3
    ),
    "added time": UNetConfig(
        width=8, mults=(1, 2), attention=(False, True), heads=1, num_classes=3, conditioning="add"
    ),
    "dropout": UNetConfig(
        width=8, mults=(2, 1), attention=(False, False), heads=2, groups=4, dropout=0.2
    ),
}
each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def randomise(module: nn.Module) -> nn.Module:
    """Undo the zero starts, so that nothing passes because it is multiplied by nothing."""
    for p in module.parameters():
        nn.init.normal_(p, std=0.3)
    return module.eval()


def images(config: UNetConfig, n: int = 3, side: int = 2) -> Tensor:
    return torch.randn(n, config.channels, side * config.side_divisor, 2 * config.side_divisor)


def labels(config: UNetConfig, n: int = 3) -> Tensor | None:
    return torch.arange(n) % config.num_classes if config.num_classes else None


# ---- time and class ----------------------------------------------------------------------


@pytest.mark.equation("3.10")
@pytest.mark.parametrize("dim", [2, 6, 64])
def test_sinusoidal_by_hand(dim: int) -> None:
    t = torch.tensor([0, 1, 37, 1000])
    found = sinusoidal(t, dim)
    assert found.shape == (4, dim) and found.dtype == torch.float32
    for row, time in zip(found.tolist(), t.tolist(), strict=True):
        angles = [time / 10_000 ** (k / (dim // 2)) for k in range(dim // 2)]
        by_hand = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        assert row == pytest.approx(by_hand, abs=2e-4)  # float32 angles of up to 1000


@pytest.mark.equation("3.10")
def test_sinusoidal_turns_at_a_fixed_pace() -> None:
    """Every pair (sin, cos) rotates by the same angle per unit of time, and has length one."""
    found = sinusoidal(torch.arange(5), 8).double()
    sine, cosine = found.chunk(2, 1)
    torch.testing.assert_close(sine**2 + cosine**2, torch.ones(5, 4).double(), rtol=0, atol=1e-6)
    angle = torch.atan2(sine, cosine)
    expected = torch.tensor([1, 0.1, 0.01, 0.001], dtype=F64)
    torch.testing.assert_close(angle[1:4] - angle[:3], expected.expand(3, 4), rtol=0, atol=1e-6)


def test_sinusoidal_tells_all_times_apart() -> None:
    found = sinusoidal(torch.arange(1001), 32)
    distance = torch.cdist(found, found) + 9 * torch.eye(1001)
    assert float(distance.min()) > 0.5


@pytest.mark.parametrize("dim", [0, -2, 3])
def test_sinusoidal_needs_pairs(dim: int) -> None:
    with pytest.raises(ValueError, match=f"dim must be a positive even number, got {dim}"):
        sinusoidal(torch.zeros(2), dim)


def test_no_label_is_the_null_label() -> None:
    embed, t = Embedding(8, num_classes=4), torch.tensor([1, 2, 3])
    null = embed(t, torch.full((3,), 4))
    assert torch.equal(embed(t), null)
    assert float((embed(t, torch.tensor([0, 1, 2])) - null).detach().abs().min()) > 0


def test_the_class_is_added_to_the_time() -> None:
    embed, t, y = Embedding(8, num_classes=4), torch.tensor([1, 2, 3]), torch.tensor([3, 0, 4])
    table = embed.label.weight
    assert table.shape == (5, 8)
    torch.testing.assert_close(embed(t, y), embed.time(sinusoidal(t, 8)) + table[y])


def test_bad_labels_are_refused() -> None:
    t = torch.tensor([1, 2, 3])
    with pytest.raises(ValueError, match="knows no classes: build it with num_classes, or drop y"):
        Embedding(8)(t, torch.zeros(3, dtype=torch.int64))
    embed = Embedding(8, num_classes=4)
    with pytest.raises(ValueError, match=r"one label per sample, shape \(3,\), got \(2,\)"):
        embed(t, torch.tensor([0, 1]))
    for bad in (5, -1):
        with pytest.raises(ValueError, match=r"labels must lie in 0\.\.3 \(4 is the null"):
            embed(t, torch.tensor([0, bad, 1]))


# ---- the perceptron ----------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize("classes", [0, 3])
def test_the_perceptron_keeps_the_shape_and_learns_everywhere(dim: int, classes: int) -> None:
    net, y = MLP(dim, width=16, depth=2, num_classes=classes), None
    if classes:
        y = torch.tensor([0, 1, 2, 3])
    out = net(torch.randn(4, dim), torch.tensor([1, 2, 3, 4]), y)
    assert out.shape == (4, dim)
    (out**2).sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None and float(p.grad.abs().max()) > 0, name


def test_the_perceptron_hears_point_time_and_class_of_its_own_sample() -> None:
    net = MLP(2, width=16, depth=2, num_classes=3)
    x, t, y = torch.randn(3, 2), torch.tensor([5, 5, 5]), torch.tensor([0, 0, 0])
    with torch.no_grad():
        before = net(x, t, y)
        for moved in (
            net(x + torch.tensor([[0.0], [1.0], [0.0]]), t, y),
            net(x, torch.tensor([5, 50, 5]), y),
            net(x, t, torch.tensor([0, 2, 0])),
        ):
            assert float((moved - before)[1].abs().max()) > 1e-4
            torch.testing.assert_close(moved[[0, 2]], before[[0, 2]])


@pytest.mark.parametrize("outputs", [1, 2, 3])
def test_the_perceptron_answers_as_many_points_as_asked_for(outputs: int) -> None:
    out = MLP(2, width=8, depth=1, outputs=outputs)(torch.randn(4, 2), torch.arange(1, 5))
    assert out.shape == (4, 2 * outputs)


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 2, 1)])
def test_the_perceptron_refuses_other_points(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected points of shape \(B, 2\), got"):
        MLP(2, width=8)(torch.zeros(shape), torch.ones(4, dtype=torch.int64))


# ---- pieces of the U-Net -----------------------------------------------------------------


def group_norm_by_hand(x: Tensor, groups: int, weight: Tensor, bias: Tensor) -> Tensor:
    out, size = torch.empty_like(x), x.shape[1] // groups
    for b in range(len(x)):
        for g in range(groups):
            part = x[b, g * size : (g + 1) * size]
            spread = (part.var(unbiased=False) + 1e-5).sqrt()
            out[b, g * size : (g + 1) * size] = (part - part.mean()) / spread
    return out * weight[:, None, None] + bias[:, None, None]


@pytest.mark.equation("3.11")
def test_adagn_by_hand() -> None:
    """The embedding's linear map gives a scale and a shift per feature, on top of GroupNorm."""
    layer = randomise(AdaGN(groups=2, features=6, emb=5)).double()
    h, emb = torch.randn(3, 6, 4, 4, dtype=F64), torch.randn(3, 5, dtype=F64)
    normed = group_norm_by_hand(h, 2, layer.norm.weight, layer.norm.bias)
    film = emb @ layer.film.weight.T + layer.film.bias
    scale, shift = film[:, :6], film[:, 6:]
    expected = (1 + scale[:, :, None, None]) * normed + shift[:, :, None, None]
    torch.testing.assert_close(layer(h, emb), expected, rtol=0, atol=1e-12)


@pytest.mark.equation("3.11")
def test_adagn_without_a_message_is_group_norm() -> None:
    layer = AdaGN(groups=2, features=6, emb=5)
    nn.init.zeros_(layer.film.bias)
    h = torch.randn(3, 6, 4, 4)
    torch.testing.assert_close(layer(h, torch.zeros(3, 5)), nn.functional.group_norm(h, 2))


def test_an_added_message_is_normalised_with_the_features() -> None:
    layer = randomise(AdditiveGN(groups=2, features=6, emb=5)).double()
    h, emb = torch.randn(3, 6, 4, 4, dtype=F64), torch.randn(3, 5, dtype=F64)
    shift = emb @ layer.shift.weight.T + layer.shift.bias
    told = torch.stack([h[b] + shift[b].reshape(6, 1, 1) for b in range(3)])
    expected = group_norm_by_hand(told, 2, layer.norm.weight, layer.norm.bias)
    torch.testing.assert_close(layer(h, emb), expected, rtol=0, atol=1e-12)


@pytest.mark.equation("3.12")
@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_is_the_loop_over_heads_and_pixels(heads: int) -> None:
    features, height, width = 8, 3, 2
    layer = randomise(SelfAttention(features, heads, groups=4)).double()
    x = torch.randn(2, features, height, width, dtype=F64)
    normed = group_norm_by_hand(x, 4, layer.norm.weight, layer.norm.bias)
    each = features // heads
    expected = torch.empty_like(x)
    for b in range(2):
        pixels = normed[b].reshape(features, -1).T  # (H·W, F)
        qkv = pixels @ layer.qkv.weight[:, :, 0, 0].T + layer.qkv.bias
        mixed = torch.empty(height * width, features, dtype=F64)
        for head in range(heads):
            here = slice(head * each, (head + 1) * each)
            q, k, v = (qkv[:, i * features : (i + 1) * features][:, here] for i in range(3))
            for i in range(height * width):
                logits = torch.stack([(q[i] * k[j]).sum() for j in range(height * width)])
                share = (logits / math.sqrt(each)).exp()
                mixed[i, here] = (share / share.sum()) @ v
        out = mixed @ layer.out.weight[:, :, 0, 0].T + layer.out.bias
        expected[b] = x[b] + out.T.reshape(features, height, width)
    found = layer(x)
    assert float((found - x).detach().abs().max()) > 0.1  # the residual is not the whole story
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.equation("3.12")
def test_attention_moves_with_the_pixels() -> None:
    """Without positions, shuffling the pixels shuffles the answer."""
    layer, x = randomise(SelfAttention(8, 2, 4)).double(), torch.randn(2, 8, 3, 4, dtype=F64)
    order = torch.randperm(12)
    shuffled = layer(x.flatten(2)[:, :, order].reshape(x.shape)).flatten(2)
    torch.testing.assert_close(shuffled, layer(x).flatten(2)[:, :, order])


def test_new_branches_begin_as_the_identity() -> None:
    x, emb = torch.randn(2, 8, 4, 4), torch.randn(2, 32)
    assert torch.equal(SelfAttention(8, 2, 4)(x), x)
    assert torch.equal(Block(SMALL, 8, 8, attention=True)(x, emb), x)


def test_down_and_up_change_the_side_by_two() -> None:
    x, emb = torch.randn(2, 8, 4, 6), torch.randn(2, 32)
    assert Downsample(8)(x, emb).shape == (2, 8, 2, 3)
    up = Upsample(8)
    nn.init.dirac_(up.conv.weight)
    nn.init.zeros_(up.conv.bias)
    expected = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(up(x, emb), expected)


# ---- the U-Net ---------------------------------------------------------------------------


@each_config
def test_the_unet_keeps_the_shape_and_starts_at_zero(config: UNetConfig) -> None:
    x = images(config)
    out = UNet(config)(x, torch.tensor([1, 2, 3]), labels(config))
    assert out.shape == x.shape
    assert not bool(out.any())


@each_config
def test_two_images_per_image_for_a_learned_variance(config: UNetConfig) -> None:
    """Image and variance: chunks of the channels, each as large as what was given."""
    x, t = images(config), torch.tensor([1, 2, 3])
    net = randomise(UNet(config, outputs=2))
    out = net(x, t, labels(config))
    assert out.shape == (len(x), 2 * x.shape[1], *x.shape[2:])
    halves = out.chunk(2, 1)
    assert all(half.shape == x.shape and bool(half.any()) for half in halves)
    # a weight of the last layer that serves one half moves no pixel of the other
    with torch.no_grad():
        net.out.bias[: len(net.out.bias) // 2] += 1
        moved = net(x, t, labels(config)).chunk(2, 1)
    assert float((moved[0] - halves[0]).detach().abs().min()) > 0.5
    torch.testing.assert_close(moved[1], halves[1])


@each_config
@pytest.mark.parametrize("outputs", [1, 2])
def test_a_gradient_reaches_every_parameter(config: UNetConfig, outputs: int) -> None:
    net = randomise(UNet(config, outputs))
    y = labels(config, 6)
    out = net(images(config, 6), torch.tensor([1, 2, 3, 4, 5, 6]), y)
    (out**2).sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None and bool(p.grad.isfinite().all()), name
        assert float(p.grad.abs().max()) > 0, name


@each_config
def test_each_sample_is_seen_alone(config: UNetConfig) -> None:
    net = randomise(UNet(config)).double()
    x, t, y = images(config).double(), torch.tensor([1, 50, 900]), labels(config)
    together = net(x, t, y)
    for i in range(3):
        y_i = None if y is None else y[i : i + 1]
        alone = net(x[i : i + 1], t[i : i + 1], y_i)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["two blocks, classes", "patches"])
def test_the_unet_hears_time_and_class_and_knows_the_null_label(name: str) -> None:
    config = CONFIGS[name]
    net = randomise(UNet(config)).double()
    x, t, y = images(config).double(), torch.tensor([1, 50, 900]), labels(config)
    with torch.no_grad():
        out, null = net(x, t, y), torch.full((3,), config.num_classes)
        assert float((net(x, t + 30, y) - out).abs().max()) > 1e-3
        assert float((net(x, t, y.flip(0)) - out).abs().max()) > 1e-3
        assert torch.equal(net(x, t), net(x, t, null))
        assert float((net(x, t) - out).abs().max()) > 1e-3


def test_every_pixel_may_depend_on_every_pixel() -> None:
    """Attention at the bottom joins corners that the convolutions alone do not."""
    net = randomise(UNet(SMALL)).double()
    x = torch.randn(1, 1, 32, 32, dtype=F64, requires_grad=True)
    (slope,) = torch.autograd.grad(net(x, torch.tensor([5]))[0, 0, 0, 0], x)
    assert bool((slope[0, 0] != 0).all())


def test_patches_are_a_rearrangement_and_no_blur() -> None:
    """With patches the network works on a smaller grid, and gives every pixel back its own."""
    config = CONFIGS["patches"]
    net = UNet(config)
    assert net.inp.in_channels == 4 and net.out.out_channels == 4
    nn.init.normal_(net.out.weight)
    out = net(images(config), torch.tensor([1, 2, 3]))
    corners = out.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4)
    assert float((corners.max(-1).values - corners.min(-1).values).detach().min()) > 0


def test_side_divisor() -> None:
    assert CONFIGS["one level"].side_divisor == 1
    assert CONFIGS["colour, three levels"].side_divisor == 4
    assert CONFIGS["patches"].side_divisor == 4
    assert UNet(CONFIGS["one level"])(torch.zeros(1, 1, 3, 5), torch.ones(1)).shape == (1, 1, 3, 5)


@pytest.mark.parametrize("shape", [(2, 1, 8), (2, 3, 8, 8), (2, 1, 7, 8), (2, 1, 8, 7)])
def test_images_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    sentence = r"expected images of shape \(B, 1, H, W\) with H and W multiples of 2, got"
    with pytest.raises(ValueError, match=sentence):
        UNet(SMALL)(torch.zeros(shape), torch.ones(2, dtype=torch.int64))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"mults": (1, 2)}, "mults and attention need one entry"),
        ({"mults": (), "attention": ()}, "mults and attention need one entry"),
        ({"width": 12}, "must be even and a multiple of groups = 8 and of heads = 4"),
        ({"width": 40, "heads": 3}, "multiple of groups = 8 and of heads = 3"),
        ({"width": 3, "groups": 1, "heads": 1}, "width = 3 must be even"),
        ({"conditioning": "film"}, "conditioning must be 'adagn' or 'add', got 'film'"),
    ],
)
def test_shapes_that_cannot_be_built_are_refused(options: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        UNetConfig(**options)


def test_the_nets_of_the_papers_have_the_papers_weights() -> None:
    """Ho et al. (2020, section 4) count 35.7 million, Nichol & Dhariwal (2021, table 1) 52.5."""
    counts = {}
    for name in ("cifar10-ddpm", "cifar10"):
        recipe = RECIPES[name]
        with torch.device("meta"):
            net = UNet(recipe.net, outputs=2 if recipe.var_mix is None else 1)
        counts[name] = sum(p.numel() for p in net.parameters())
    assert counts == {"cifar10-ddpm": 35_746_307, "cifar10": 52_748_678}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gradients", [True, False])
def test_the_layout_inside_is_chosen_by_the_processor_and_changes_nothing(
    dtype: torch.dtype, gradients: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = randomise(UNet(CONFIGS["colour, three levels"]))
    x, t = images(net.config).requires_grad_(gradients), torch.tensor([1, 5, 9])
    layouts = []
    net.mid[0].register_forward_hook(
        lambda module, args, out: layouts.append(
            args[0].is_contiguous(memory_format=torch.channels_last)
        )
    )

    def answer() -> tuple[Tensor, Tensor | None]:
        with torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
            out = net(x, t)
        slope = torch.autograd.grad(out.float().square().sum(), x)[0] if gradients else None
        return out.float(), slope

    with torch.set_grad_enabled(gradients):
        chosen = answer()
        monkeypatch.setattr(unet, "_plain_is_faster", lambda h: True)
        plain = answer()
    assert layouts == [not (dtype == torch.bfloat16 and gradients), False]
    for ours, theirs in zip(chosen, plain, strict=True):
        if theirs is not None and dtype == torch.float32:
            assert (ours - theirs).abs().max() < 2e-5 * theirs.abs().max()


def test_attention_reaches_the_fused_kernel() -> None:
    layer, x = randomise(SelfAttention(8, 2, groups=4)), torch.randn(2, 8, 4, 4)
    for layout in (torch.contiguous_format, torch.channels_last):
        with profile(activities=[ProfilerActivity.CPU]) as seen, torch.no_grad():
            layer(x.contiguous(memory_format=layout))
        assert any("flash_attention" in event.key for event in seen.key_averages())


def test_dropout_acts_in_training_only() -> None:
    net = randomise(UNet(CONFIGS["dropout"]))
    x, t = images(CONFIGS["dropout"]), torch.tensor([1, 2, 3])
    with torch.no_grad():
        assert torch.equal(net(x, t), net(x, t))
        net.train()
        assert not torch.equal(net(x, t), net(x, t))


@pytest.mark.slow
def test_a_unet_learns_an_image_by_heart() -> None:
    """The whole path, loss to weights: forty steps on one image beat the untrained network."""
    process = DDPM(schedules.cosine(100))
    denoiser = Denoiser(UNet(SMALL), process, EPS)
    x0 = torch.rand(1, 1, 8, 8).expand(16, 1, 8, 8) * 2 - 1
    optimiser = torch.optim.AdamW(denoiser.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        t = torch.randint(1, 101, (16,))
        loss = l_simple(denoiser, x0, t, torch.randn_like(x0)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(1, abs=0.15)  # saying zero costs E ε² = 1
    assert sum(losses[-5:]) / 5 < 0.75


# ---- the classifier ----------------------------------------------------------------------


@pytest.mark.parametrize("side", [4, 8, 28])
def test_the_classifier_has_logits_and_features(side: int) -> None:
    net = Classifier(ClassifierConfig(channels=2, num_classes=7, width=4, features=6)).eval()
    x = torch.randn(3, 2, side, side)
    assert net(x).shape == (3, 7) and net.features(x).shape == (3, 6)
    torch.testing.assert_close(net(x), net.head(net.features(x)))


def test_a_gradient_reaches_every_parameter_of_the_classifier() -> None:
    net = Classifier(ClassifierConfig(width=4, features=8, dropout=0.0))
    loss = nn.functional.cross_entropy(net(torch.randn(8, 1, 8, 8)), torch.arange(8))
    loss.backward()
    for name, p in net.named_parameters():
        assert p.grad is not None and bool(p.grad.isfinite().all()), name
        # A bias before batch normalisation is subtracted again: its gradient is rounding.
        before_norm = name.startswith("body") and p.ndim == 1
        assert before_norm or float(p.grad.abs().max()) > 0, name


@pytest.mark.parametrize("shape", [(2, 1, 8), (2, 3, 8, 8), (2, 1, 3, 8), (2, 1, 8, 3)])
def test_the_classifier_refuses_other_images(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected images of shape \(B, 1, H, W\), sides >= 4"):
        Classifier(ClassifierConfig())(torch.zeros(shape))


# ---- the classifier of noisy images ------------------------------------------------------

HALVES = {
    "one level": {"mults": (1,), "attention": (False,), "heads": 1},
    "attention": {"mults": (1, 2), "attention": (False, True), "heads": 2, "blocks": 2},
    "patches, colour": {
        "channels": 3, "mults": (1, 2), "attention": (False, False), "heads": 4, "patch": 2,
    },
}  # fmt: skip
each_half = pytest.mark.parametrize("shape", HALVES.values(), ids=HALVES)


def half(shape: dict, num_classes: int = 5) -> NoisyClassifier:
    config = NoisyClassifierConfig(width=8, groups=4, num_classes=num_classes, **shape)
    net = randomise(NoisyClassifier(config))
    assert isinstance(net, NoisyClassifier)
    return net


@each_half
def test_a_noisy_classifier_has_logits_for_images_of_any_side(shape: dict) -> None:
    net, t = half(shape), torch.tensor([1, 500, 1000])
    for side in (1, 2, 5):
        assert net(images(net.config, 3, side), t).shape == (3, 5)


@each_half
def test_a_noisy_classifier_hears_the_time(shape: dict) -> None:
    net = half(shape)
    x = images(net.config, 1).repeat(3, 1, 1, 1)
    logits = net(x, torch.tensor([1, 500, 500])).detach()
    assert float((logits[0] - logits[1]).abs().max()) > 1e-3
    torch.testing.assert_close(logits[1], logits[2])


@each_half
def test_the_gradient_of_a_batch_is_each_samples_own(shape: dict) -> None:
    """Classifier guidance sums over the batch; a batch norm, say, would mix the gradients."""
    net = half(shape).double()
    x, t = images(net.config).double().requires_grad_(), torch.tensor([3, 40, 900])
    (together,) = torch.autograd.grad(net(x, t).log_softmax(1)[:, 2].sum(), x)
    for i in range(3):
        one = x[i : i + 1].detach().requires_grad_()
        (alone,) = torch.autograd.grad(net(one, t[i : i + 1]).log_softmax(1)[:, 2].sum(), one)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-9, atol=1e-12)
        assert float(alone.abs().max()) > 0


@each_half
def test_a_gradient_reaches_every_parameter_of_the_noisy_classifier(shape: dict) -> None:
    net = half(shape)
    x = images(net.config, 5)
    nn.functional.cross_entropy(net(x, torch.arange(5)), torch.arange(5)).backward()
    for name, p in net.named_parameters():
        assert p.grad is not None and bool(p.grad.isfinite().all()), name
        # A key's bias shifts all scores of a query alike, and softmax forgets it.
        keys = name in ("pool.key_value.bias",) or name.endswith("qkv.bias")
        assert keys or float(p.grad.abs().max()) > 0, name


def test_an_untrained_noisy_classifier_already_listens() -> None:
    """The zero starts inside its blocks leave the path through the skips open."""
    net = NoisyClassifier(NoisyClassifierConfig(width=8, groups=4, heads=2))
    x, t = torch.randn(4, 1, 8, 8, requires_grad=True), torch.full((4,), 9)
    (slope,) = torch.autograd.grad(net(x, t).log_softmax(1)[:, 0].sum(), x)
    assert bool((slope.flatten(1).abs().amax(1) > 0).all())


def test_attention_pooling_is_what_loops_say() -> None:
    torch.manual_seed(1)
    pool, h = AttentionPool(6, 2).double(), torch.randn(2, 6, 2, 3, dtype=F64)
    with torch.no_grad():
        found = pool(h)
        for b in range(2):
            pixels = [h[b, :, i, j] for i in range(2) for j in range(3)]
            tokens = [sum(pixels) / 6, *pixels]
            q, heads = pool.query(tokens[0]), []
            pairs = [pool.key_value(token) for token in tokens]
            for part in (slice(0, 3), slice(3, 6)):
                scores = [float(q[part] @ kv[:6][part]) / math.sqrt(3) for kv in pairs]
                weights = [math.exp(s) / sum(math.exp(r) for r in scores) for s in scores]
                heads.append(sum(w * kv[6:][part] for w, kv in zip(weights, pairs, strict=True)))
            torch.testing.assert_close(found[b], pool.out(torch.cat(heads)))


def test_a_noisy_classifier_is_the_half_of_a_unet() -> None:
    """The same configuration: the same blocks down, and none up."""
    shape = {"width": 8, "mults": (1, 2), "attention": (False, True), "heads": 2, "groups": 4}
    net, whole = NoisyClassifier(NoisyClassifierConfig(**shape)), UNet(UNetConfig(**shape))
    ours = {k: v.shape for k, v in net.down.state_dict().items()}
    assert ours == {k: v.shape for k, v in whole.down.state_dict().items()}
    assert sum(p.numel() for p in net.parameters()) < sum(p.numel() for p in whole.parameters())


@pytest.mark.parametrize("shape", [(2, 1, 8), (2, 3, 8, 8), (2, 1, 9, 8), (2, 1, 8, 10)])
def test_the_noisy_classifier_refuses_other_images(shape: tuple[int, ...]) -> None:
    net = NoisyClassifier(NoisyClassifierConfig(width=8, groups=4))
    with pytest.raises(ValueError, match=r"shape \(B, 1, H, W\) with H and W multiples of 4"):
        net(torch.zeros(shape), torch.ones(2, dtype=torch.int64))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"num_classes": 1}, "at least 2 classes, got 1"),
        ({"num_classes": -1}, "num_classes >= 0"),
        ({"width": 9}, "must be even and a multiple"),
        ({"mults": ()}, "one entry a level"),
    ],
)
def test_a_half_unet_that_cannot_be_built_is_refused(change: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        NoisyClassifierConfig(**change)


# ---- the null label ----------------------------------------------------------------------


def test_networks_name_their_null_label_and_each_sample_may_carry_it() -> None:
    for net, x in (
        (randomise(UNet(CONFIGS["patches"])), images(CONFIGS["patches"])),
        (randomise(MLP(2, 8, 1, num_classes=3)), torch.randn(3, 2)),
    ):
        t = torch.tensor([5, 6, 7])
        assert net.conditional and net.without(t).tolist() == [3, 3, 3]
        mixed = net(x, t, torch.tensor([1, 3, 3]))
        torch.testing.assert_close(mixed[1:], net(x, t)[1:])
        torch.testing.assert_close(mixed[:1], net(x, t, torch.tensor([1, 0, 0]))[:1])
        assert not torch.allclose(mixed[:1], net(x, t)[:1])
    for net in (MLP(2, 8, 1), UNet(SMALL), Denoiser(MLP(2, 8, 1), DDPM(schedules.cosine(9)))):
        assert not net.conditional
        with pytest.raises(ValueError, match="knows no classes|can be without"):
            net.without(torch.tensor([0]))
