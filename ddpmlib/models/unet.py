"""The U-Net that predicts noise: residual blocks, skips, time by AdaGN, attention where cheap.

After Ho et al. (2020, appendix B) with the adaptive group normalisation of Nichol & Dhariwal (2021)
and, optionally, 2×2 or 4×4 pixel patches at the door, which is what makes it quick on a CPU. With
``conditioning="add"`` it is the net of Ho et al. to the last weight.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddpmlib.equations import equation
from ddpmlib.inputs import check_asked, check_floats
from ddpmlib.models.embedding import MOST_CLASSES, Embedding
from ddpmlib.records import check_sizes

# Far above every network of the papers, and small enough that a card which claims one is compared
# with its weights in seconds, before memory is taken for it.
MOST = {"channels": 4096, "width": 8192, "blocks": 64, "heads": 8192, "patch": 64, "groups": 8192}
MOST_LEVELS, MOST_MULT = 12, 64


@dataclass(frozen=True)
class UNetConfig:
    """Shape of a U-Net.

    Attributes:
        channels: image channels.
        width: features at the finest level, a multiple of ``groups``.
        mults: one entry per level, features = width · mult; each level halves the side.
        blocks: residual blocks per level on the way down (one more on the way up).
        attention: one flag per level.
        heads: attention heads.
        patch: side of the pixel patches that become channels at the door (1: none).
        num_classes: 0 for an unconditional network.
        dropout: rate inside residual blocks.
        groups: groups of the normalisation.
        conditioning: how a block is told the time and the class: "adagn" scales and shifts its
            normalisation (Nichol & Dhariwal 2021); "add" adds them to its features, from ``width``
            sinusoids (Ho et al. 2020).
    """

    channels: int = 1
    width: int = 32
    mults: tuple[int, ...] = (1, 2, 2)
    blocks: int = 1
    attention: tuple[bool, ...] = (False, False, True)
    heads: int = 4
    patch: int = 1
    num_classes: int = 0
    dropout: float = 0.0
    groups: int = 8
    conditioning: str = "adagn"

    def __post_init__(self) -> None:
        if len(self.mults) != len(self.attention) or not self.mults:
            raise ValueError(
                f"mults and attention need one entry a level, got {self.mults} and {self.attention}"
            )
        if len(self.mults) > MOST_LEVELS or max(self.mults) > MOST_MULT:
            raise ValueError(
                f"a net has at most {MOST_LEVELS} levels of mults up to {MOST_MULT}, got "
                f"{len(self.mults)} up to {max(self.mults)}"
            )
        check_sizes(self, MOST)
        known = 0 <= self.num_classes <= MOST_CLASSES
        if not known or not 0 <= self.dropout < 1 or min(self.mults) < 1:
            raise ValueError(
                f"need num_classes >= 0 and at most {MOST_CLASSES:,}, 0 <= dropout < 1 and mults "
                f">= 1, got {self.num_classes}, {self.dropout} and {self.mults}"
            )
        if self.width % self.groups or self.width % self.heads or self.width % 2:
            raise ValueError(
                f"width = {self.width} must be even and a multiple of groups = {self.groups} "
                f"and of heads = {self.heads}"
            )

        if self.conditioning not in ("adagn", "add"):
            raise ValueError(f"conditioning must be 'adagn' or 'add', got {self.conditioning!r}")

    @property
    def side_divisor(self) -> int:
        """Image sides must be a multiple of this."""
        return self.patch * 2 ** (len(self.mults) - 1)


class UNet(nn.Module):
    """(B, C, H, W) images, (B,) times, (B,) labels -> (B, outputs · C, H, W).

    Args:
        config: its shape.
        outputs: images answered per image: 2 where the reverse variance is learned too.
    """

    def __init__(self, config: UNetConfig, outputs: int = 1) -> None:
        super().__init__()
        self.config = config
        features = [config.width * m for m in config.mults]
        pixels = config.channels * config.patch**2
        sinusoids = config.width if config.conditioning == "add" else None
        self.embed = Embedding(4 * config.width, config.num_classes, sinusoids)
        self.inp = nn.Conv2d(pixels, features[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        skips, now = [features[0]], features[0]
        for level, f in enumerate(features):
            if level:
                self.down.append(Downsample(now))
                skips.append(now)
            for _ in range(config.blocks):
                self.down.append(Block(config, now, f, config.attention[level]))
                skips.append(now := f)
        self.mid = nn.ModuleList([Block(config, now, now, True), Block(config, now, now, False)])
        for level, f in reversed(list(enumerate(features))):
            for _ in range(config.blocks + 1):
                self.up.append(Block(config, now + skips.pop(), f, config.attention[level]))
                now = f
            if level:
                self.up.append(Upsample(now))
        self.out_norm = nn.GroupNorm(config.groups, now)
        self.out = _zero(nn.Conv2d(now, outputs * pixels, 3, padding=1))

    @property
    def conditional(self) -> bool:
        """Whether it knows classes."""
        return self.embed.null_label is not None

    def without(self, y: Tensor) -> Tensor:
        """The null label for each of the labels (B,), which mean no class."""
        return self.embed.without(y)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Predict; see the class for shapes.

        Raises:
            ValueError: if ``x`` has other channels, or sides that the levels cannot halve.
        """
        self._check(x)
        check_asked(x, t, self.inp.weight)
        emb = F.silu(self.embed(t, y))
        h = self.inp(F.pixel_unshuffle(x, self.config.patch))
        if h.device.type == "cpu" and not _plain_is_faster(h):
            h = h.contiguous(memory_format=torch.channels_last)
        skips = [h]
        for layer in self.down:
            h = layer(h, emb)
            skips.append(h)
        for layer in self.mid:
            h = layer(h, emb)
        for layer in self.up:
            h = layer(h if isinstance(layer, Upsample) else torch.cat([h, skips.pop()], 1), emb)
        return F.pixel_shuffle(self.out(F.silu(self.out_norm(h))), self.config.patch)

    def _check(self, x: Tensor) -> None:
        check_floats(x, "x")
        c, d = self.config.channels, self.config.side_divisor
        if x.ndim != 4 or x.shape[1] != c or x.shape[2] % d or x.shape[3] % d:
            raise ValueError(
                f"expected images of shape (B, {c}, H, W) with H and W multiples of {d}, "
                f"got {tuple(x.shape)}"
            )


class Block(nn.Module):
    """Residual block that is told the time, then self-attention where the level asks for it."""

    def __init__(self, config: UNetConfig, inp: int, out: int, attention: bool) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(config.groups, inp)
        self.conv1 = nn.Conv2d(inp, out, 3, padding=1)
        norm2 = AdaGN if config.conditioning == "adagn" else AdditiveGN
        self.norm2 = norm2(config.groups, out, 4 * config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = _zero(nn.Conv2d(out, out, 3, padding=1))
        self.skip = nn.Conv2d(inp, out, 1) if inp != out else nn.Identity()
        self.attention = (
            SelfAttention(out, config.heads, config.groups) if attention else nn.Identity()
        )

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(self.dropout(F.silu(self.norm2(h, emb))))
        return self.attention(self.skip(x) + h)


class AdaGN(nn.Module):
    """Group normalisation scaled and shifted by the embedding (Dhariwal & Nichol 2021, eq. 3)."""

    def __init__(self, groups: int, features: int, emb: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, features)
        self.film = nn.Linear(emb, 2 * features)

    @equation("3.11")
    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        """(B, F, H, W), (B, emb) -> (B, F, H, W): (1 + scale) · GroupNorm(h) + shift."""
        scale, shift = self.film(emb)[:, :, None, None].chunk(2, dim=1)
        return torch.addcmul(shift, self.norm(h), 1 + scale)


class AdditiveGN(nn.Module):
    """Group normalisation of features to which the embedding is added (Ho et al. 2020, app. B)."""

    def __init__(self, groups: int, features: int, emb: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, features)
        self.shift = nn.Linear(emb, features)

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        """(B, F, H, W), (B, emb) -> (B, F, H, W): GroupNorm(h + shift)."""
        return self.norm(h + self.shift(emb)[:, :, None, None])


class SelfAttention(nn.Module):
    """Every pixel looks at every pixel (Vaswani et al. 2017, eq. 1), as a residual."""

    def __init__(self, features: int, heads: int, groups: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(groups, features)
        self.qkv = nn.Conv2d(features, 3 * features, 1)
        self.out = _zero(nn.Conv2d(features, features, 1))

    @equation("3.12")
    def forward(self, x: Tensor) -> Tensor:
        """(B, F, H, W) -> same; inside, q, k and v are (B, heads, H·W, F/heads)."""
        b, f, height, width = x.shape
        qkv = self.qkv(self.norm(x)).flatten(2).transpose(1, 2)
        if not _plain_is_faster(qkv):
            qkv = qkv.contiguous()  # a copy, or none (channels_last): the fused kernels ask for it
        qkv = qkv.reshape(b, height * width, 3, self.heads, f // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()
        h = F.scaled_dot_product_attention(q, k, v)  # softmax(q kᵀ / √(F/heads)) v
        return x + self.out(h.permute(0, 1, 3, 2).reshape(b, f, height, width))


class Downsample(nn.Module):
    """Halve the side with a strided convolution."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(features, features, 3, stride=2, padding=1)

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        return self.conv(h)


class Upsample(nn.Module):
    """Double the side by copying pixels, then smooth with a convolution."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        return self.conv(F.interpolate(h, scale_factor=2.0, mode="nearest"))


def _plain_is_faster(h: Tensor) -> bool:
    """Whether PyTorch's kernels for other layouts are bad: in bfloat16 with gradients on a CPU.

    There the backward passes of fused attention and of a channels_last GroupNorm take about six
    times as long as the plain ones; everywhere else the dense layouts win, see `benchmarks`.
    """
    return h.device.type == "cpu" and h.dtype == torch.bfloat16 and torch.is_grad_enabled()


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    """Start a residual branch, or the output, at zero: the untrained network is then harmless."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
