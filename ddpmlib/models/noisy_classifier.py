"""A classifier of noisy images that is told the time: the half of a U-Net that goes down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddpmlib.inputs import check_asked, check_floats
from ddpmlib.models.embedding import Embedding
from ddpmlib.models.unet import Block, Downsample, UNetConfig
from ddpmlib.process.process import check_noisy

if TYPE_CHECKING:
    from ddpmlib.process.ddpm import DDPM


@dataclass(frozen=True)
class NoisyClassifierConfig(UNetConfig):
    """Shape of a noisy classifier: that of a U-Net whose way up was left out.

    Attributes:
        num_classes: logits, at least 2.
        others: see :class:`ddpmlib.models.UNetConfig`; ``heads`` also pool.
    """

    num_classes: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_classes < 2:
            raise ValueError(f"a classifier needs at least 2 classes, got {self.num_classes}")


class NoisyClassifier(nn.Module):
    """(B, C, H, W) images x_t, (B,) times -> (B, num_classes) logits of p(y|x_t).

    The encoder of the U-Net, then attention pooling (Dhariwal & Nichol 2021, section 4). Group
    normalisation keeps samples apart, so the gradient of a summed batch is each sample's own.

    Args:
        config: its shape.
        process: the forward process whose noise it was, or will be, trained on; kept so that
            :mod:`ddpmlib.guidance` can refuse a denoiser of another one.
    """

    def __init__(self, config: NoisyClassifierConfig, process: DDPM | None = None) -> None:
        super().__init__()
        self.config, self.process = config, process
        features = [config.width * m for m in config.mults]
        self.embed = Embedding(4 * config.width)
        self.inp = nn.Conv2d(config.channels * config.patch**2, features[0], 3, padding=1)
        self.down, now = nn.ModuleList(), features[0]
        for level, f in enumerate(features):
            if level:
                self.down.append(Downsample(now))
            for _ in range(config.blocks):
                self.down.append(Block(config, now, f, config.attention[level]))
                now = f
        self.mid = Block(config, now, now, False)
        self.norm = nn.GroupNorm(config.groups, now)
        self.pool = AttentionPool(now, config.heads)
        self.head = nn.Linear(now, config.num_classes)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Classify; see the class for shapes.

        Raises:
            ValueError: if ``x`` has other channels, or sides that the levels cannot halve, or a
                time is not among 1..T of the process.
        """
        check_floats(x, "x")
        c, d = self.config.channels, self.config.side_divisor
        if x.ndim != 4 or x.shape[1] != c or x.shape[2] % d or x.shape[3] % d:
            raise ValueError(
                f"expected images of shape (B, {c}, H, W) with H and W multiples of {d}, "
                f"got {tuple(x.shape)}"
            )
        check_asked(x, t, self.inp.weight)
        if self.process is not None:
            self.process.check_time(t)
            check_noisy(self.process, t)
        emb = F.silu(self.embed(t))
        h = self.inp(F.pixel_unshuffle(x, self.config.patch))
        for layer in (*self.down, self.mid):
            h = layer(h, emb)
        return self.head(self.pool(F.silu(self.norm(h))))


class AttentionPool(nn.Module):
    """One vector per image: the mean of all pixels asks, every pixel answers (Radford et al. 2021).

    Without position codes, so that images of any side fit.
    """

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(features, features)
        self.key_value = nn.Linear(features, 2 * features)
        self.out = nn.Linear(features, features)

    def forward(self, h: Tensor) -> Tensor:
        """(B, F, H, W) -> (B, F); inside, q is (B, heads, 1, F/heads), k and v of all pixels."""
        b, f = h.shape[:2]
        pixels = h.flatten(2).transpose(1, 2)
        tokens = torch.cat([pixels.mean(1, keepdim=True), pixels], dim=1)
        each = f // self.heads
        q = self.query(tokens[:, :1]).reshape(b, 1, self.heads, each).transpose(1, 2)
        k, v = self.key_value(tokens).reshape(b, tokens.shape[1], 2, self.heads, each).unbind(2)
        pooled = F.scaled_dot_product_attention(q, k.transpose(1, 2), v.transpose(1, 2))
        return self.out(pooled.transpose(1, 2).reshape(b, f))
