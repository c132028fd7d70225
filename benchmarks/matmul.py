"""How fast the device multiplies matrices: the rate that everything else is held against."""

from __future__ import annotations

import torch

from benchmarks.timing import seconds

KINDS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def rates(device: torch.device, n: int | None = None) -> dict[str, float]:
    """Operations per second of n × n products, the best of five, for each kind of number.

    fp32 is computed as training computes it, with whatever ``torch.backends`` allows.
    """
    n = n or (8192 if device.type == "cuda" else 1024)
    return {kind: _rate(device, n, dtype) for kind, dtype in KINDS.items()}


def _rate(device: torch.device, n: int, dtype: torch.dtype) -> float:
    a = torch.randn(n, n, device=device, dtype=dtype)
    out = torch.empty_like(a)

    def product() -> object:
        return torch.mm(a, a, out=out)

    product()
    return 2 * n**3 / min(seconds(product, 3, device) for _ in range(5))
