"""How the time t and the class y enter a network: one vector per sample."""

import math

import torch
from torch import Tensor, nn

from ddpmlib.equations import equation

MOST_CLASSES = 10**6  # fifty times those of the largest labelled image sets


@equation("3.10")
def sinusoidal(t: Tensor, dim: int, longest: float = 10_000.0) -> Tensor:
    """Sines and cosines of t at geometrically spaced frequencies (Vaswani et al. 2017, sec. 3.5).

    Args:
        t: (B,), any number type.
        dim: even number of features.
        longest: 2π times this is about the longest period.

    Returns:
        (B, dim) float32 in [-1, 1]: first all sines, then all cosines.

    Raises:
        ValueError: if ``dim`` is not a positive even number.
    """
    if dim < 2 or dim % 2:
        raise ValueError(f"dim must be a positive even number, got {dim}")
    if not isinstance(t, Tensor) or t.ndim != 1 or t.is_complex():
        got = tuple(t.shape) if isinstance(t, Tensor) else type(t).__name__
        raise ValueError(f"times are a tensor (B,) of real numbers, got {got}")
    k = torch.arange(dim // 2, device=t.device, dtype=torch.float32)
    angles = t.float()[:, None] * torch.exp(-math.log(longest) * k / (dim // 2))
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class Embedding(nn.Module):
    """Time, and class where there are classes, as one vector.

    Args:
        dim: length of the vector.
        num_classes: 0 for none. Label ``num_classes`` is the null label ∅ that label dropout uses;
            calling with ``y=None`` means ∅ for the whole batch.
        sinusoids: sines and cosines that tell the time, an even number; by default ``dim``.
    """

    def __init__(self, dim: int, num_classes: int = 0, sinusoids: int | None = None) -> None:
        super().__init__()
        self.dim, self.num_classes, self.sinusoids = dim, num_classes, sinusoids or dim
        self.time = nn.Sequential(nn.Linear(self.sinusoids, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.label = nn.Embedding(num_classes + 1, dim) if num_classes else None

    @property
    def null_label(self) -> int | None:
        """The label ∅ that stands for none; None if there are no classes."""
        return self.num_classes or None

    def without(self, y: Tensor) -> Tensor:
        """The null label in place of each of the labels (B,).

        Raises:
            ValueError: if there are no classes.
        """
        if self.null_label is None:
            raise ValueError("this network knows no classes, and so none to leave out")
        if not isinstance(y, Tensor) or y.dtype != torch.int64:
            got = y.dtype if isinstance(y, Tensor) else type(y).__name__
            raise ValueError(f"labels are a tensor (B,) of int64, got {got}")
        return torch.full_like(y, self.null_label)

    def forward(self, t: Tensor, y: Tensor | None = None) -> Tensor:
        """(B,) times and (B,) labels -> (B, dim).

        Raises:
            ValueError: if labels come to a network without classes, or not one per time.
        """
        h = self.time(sinusoidal(t, self.sinusoids).to(next(self.time.parameters()).dtype))
        if self.label is None:
            if y is not None:
                raise ValueError(
                    "this network knows no classes: build it with num_classes, or drop y"
                )
            return h
        if y is None:
            y = torch.full_like(t, self.num_classes, dtype=torch.int64)
        if not isinstance(y, Tensor):
            raise ValueError(f"labels are a tensor (B,), got {type(y).__name__}")
        if y.shape != t.shape or y.device != t.device:
            raise ValueError(
                f"expected one label per sample, shape {tuple(t.shape)}, got {tuple(y.shape)}"
            )
        if y.dtype != torch.int64:
            raise ValueError(f"labels must be int64, got {y.dtype}")
        # Neither a GPU nor a program that torch.export or torch.compile records is looked into.
        seen = y.device.type == "cpu" and not torch.compiler.is_compiling() and y.numel()
        if seen and not 0 <= int(y.min()) <= int(y.max()) <= self.num_classes:
            raise ValueError(
                f"labels must lie in 0..{self.num_classes - 1} ({self.num_classes} is the null one)"
            )
        return h + self.label(y)
