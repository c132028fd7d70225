"""Pictures for the tests of own images: two kinds that a small classifier can tell apart."""

from pathlib import Path

import numpy as np


def picture(i: int, kind: int, size: tuple[int, int] = (40, 56), colour: bool = True) -> np.ndarray:
    """Number i of a kind: a disc or a bar somewhere on a slope of grey, uint8 (H, W, 3)."""
    rng = np.random.default_rng(1000 * kind + i)
    h, w = size
    y, x = np.mgrid[:h, :w]
    cy, cx = rng.uniform(0.3, 0.7, 2) * (h, w)
    disc = (y - cy) ** 2 + (x - cx) ** 2 < (0.2 * h) ** 2
    bar = (abs(y - cy) < 0.06 * h) & (abs(x - cx) < 0.35 * w)
    slope = 40 + 60 * x / w + rng.normal(0, 3, (h, w))
    found = np.repeat(slope[..., None], 3, axis=2)
    found[bar if kind else disc] = rng.uniform(150, 250, 3) if colour else 220
    return found.clip(0, 255).astype(np.uint8)


def write_folder(
    root: Path, n: int = 10, size: tuple[int, int] = (40, 56), colour: bool = True,
    kinds: tuple[str, ...] = ("disc", "bar"), start: int = 0,
) -> Path:  # fmt: skip
    """``n`` PNGs of each kind, each kind in a folder of its name; without kinds all in ``root``."""
    from PIL import Image

    for k, kind in enumerate(kinds or ("",)):
        (root / kind).mkdir(parents=True, exist_ok=True)
        for i in range(start, start + n):
            pixels = picture(i, k, size, colour)
            Image.fromarray(pixels).save(root / kind / f"{i:03}.png", compress_level=1)
    return root
