"""Three U-Nets of one size: as many weights and as many operations, as nearly as each allows.

Ours and that of `diffusers` (with its adaptive group norm, `scale_shift`) are the same
architecture but for details. The one of `denoising-diffusion-pytorch` has two blocks a level and
attention on every level by design, so its widths are chosen such that both numbers agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from ddpmlib.models import UNetConfig
from ddpmlib.zoo.cost import operations_of_a_pass


@dataclass(frozen=True)
class Size:
    """One row of widths.

    Attributes:
        name: what the command calls it.
        side: pixels per side; images have ``unet.channels``.
        batch: of training.
        unet: our U-Net.
        diffusers: arguments of ``diffusers.UNet2DModel`` that are not those of ``unet``.
        lucidrains: arguments of ``denoising_diffusion_pytorch.Unet``.
    """

    name: str
    side: int
    batch: int
    unet: UNetConfig
    diffusers: dict[str, Any]
    lucidrains: dict[str, Any]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.unet.channels, self.side, self.side


SIZES = {
    s.name: s
    for s in (
        Size(  # for --quick and the tests
            "tiny",
            16,
            8,
            UNetConfig(width=16, mults=(1, 2), attention=(False, True), heads=2),
            {"attention_head_dim": 16, "norm_num_groups": 8},
            {"dim": 16, "init_dim": 16, "dim_mults": (1, 2), "attn_heads": 2, "attn_dim_head": 8},
        ),
        Size(  # a net that a CPU trains
            "small",
            32,
            32,
            UNetConfig(channels=3, width=32, mults=(1, 2, 2), attention=(False, False, True)),
            {"attention_head_dim": 16, "norm_num_groups": 8},
            {"dim": 32, "init_dim": 24, "dim_mults": (1, 2, 2), "attn_dim_head": 8},
        ),
        Size(  # the CIFAR-10 net of Ho et al. (2020), with adaptive group norm in all three
            "ddpm",
            32,
            128,
            UNetConfig(
                channels=3,
                width=128,
                mults=(1, 2, 2, 2),
                blocks=2,
                attention=(False, True, False, False),
                heads=1,
                groups=32,
            ),
            {"attention_head_dim": None, "norm_num_groups": 32},
            {"dim": 32, "init_dim": 96, "dim_mults": (6, 9, 12, 9), "attn_dim_head": 32},
        ),
    )
}


def count(net: nn.Module, size: Size) -> tuple[int, int]:
    """Weights, and floating-point operations of one forward pass for one image.

    Counted by :func:`ddpmlib.zoo.cost.operations_of_a_pass`, where nothing is computed.
    """
    weights = sum(p.numel() for p in net.parameters())
    return weights, operations_of_a_pass(net, size.image_shape)
