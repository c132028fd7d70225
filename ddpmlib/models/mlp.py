"""A perceptron with residual layers, for points: toy data in one or two dimensions."""

import torch
from torch import Tensor, nn

from ddpmlib.inputs import check_asked, check_floats
from ddpmlib.models.embedding import Embedding


class MLP(nn.Module):
    """Residual perceptron on (B, dim) points, told the time at every layer.

    Args:
        dim: dimension of a point.
        width: hidden units (even).
        depth: residual layers.
        num_classes: 0 for an unconditional network.
        outputs: points answered per point: 2 where the reverse variance is learned too.
    """

    def __init__(
        self,
        dim: int = 2,
        width: int = 128,
        depth: int = 3,
        num_classes: int = 0,
        outputs: int = 1,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.embed = Embedding(width, num_classes)
        self.inp = nn.Linear(dim, width)
        self.layers = nn.ModuleList(_Layer(width) for _ in range(depth))
        self.out = nn.Linear(width, outputs * dim)

    @property
    def conditional(self) -> bool:
        """Whether it knows classes."""
        return self.embed.null_label is not None

    def without(self, y: Tensor) -> Tensor:
        """The null label for each of the labels (B,), which mean no class."""
        return self.embed.without(y)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """(B, dim) points, (B,) times, (B,) labels -> (B, outputs · dim).

        Raises:
            ValueError: if ``x`` is not (B, dim).
        """
        check_floats(x, "x")
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(f"expected points of shape (B, {self.dim}), got {tuple(x.shape)}")
        check_asked(x, t, self.inp.weight)
        emb, h = self.embed(t, y), self.inp(x)
        for layer in self.layers:
            h = layer(h, emb)
        return self.out(nn.functional.silu(h))


class _Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Linear(2 * width, width)
        self.out = nn.Linear(width, width)

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        u = self.mix(torch.cat([self.norm(h), emb], dim=1))
        return h + self.out(nn.functional.silu(u))
