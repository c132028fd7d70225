"""Draw the picture that stands beside a link to the book: ``python -m scripts.social_card``.

Four rows of digits that the shipped MNIST model generates, from pure noise on the left to the
sample on the right, beside the title. The file is committed: pages name its address.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import torch

from ddpmlib import zoo
from ddpmlib.guidance import ClassifierFree
from ddpmlib.samplers import sample, uniform_times

ROOT = Path(__file__).resolve().parent.parent
CARD = ROOT / "book" / "_static" / "social_card.png"
PIXELS = (1200, 630)
TITLE = "Diffusion models,\nfrom the formula\nto the picture"
BELOW = "An executable book with a tested library.\nEvery formula is proved to match the code."


def draw(path: Path, seed: int = 7) -> None:
    """Write the card."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    fig = plt.figure(figsize=(PIXELS[0] / 100, PIXELS[1] / 100), dpi=100, facecolor="white")
    fig.text(0.05, 0.86, TITLE, fontsize=36, weight="bold", va="top", linespacing=1.25)
    fig.text(0.05, 0.20, BELOW, fontsize=17, color="0.35", va="top", linespacing=1.4)
    for row, states in enumerate(_chains(seed)):
        for column, x in enumerate(states):
            ax = fig.add_axes((0.52 + 0.092 * column, 0.755 - 0.225 * row, 0.088, 0.21))
            ax.imshow(x, cmap="gray", vmin=-1, vmax=1)
            ax.axis("off")
    fig.savefig(path)
    plt.close(fig)


def _chains(seed: int) -> list[list[torch.Tensor]]:
    """Four digits, each at five times of its chain."""
    denoiser, card = zoo.load("mnist", "cpu")
    process, g = denoiser.process, torch.Generator().manual_seed(seed)
    x = torch.randn(4, *card.image_shape, generator=g)
    y = torch.tensor([2, 5, 8, 3])
    guided = ClassifierFree(denoiser, 0.5)
    chain = list(sample(guided, process, x, uniform_times(process.T, 50), y=y))
    shown = [chain[k].x for k in (0, 22, 32, 40, 50)]
    return [[x[i, 0].clamp(-1, 1) for x in shown] for i in range(4)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=CARD)
    draw(parser.parse_args().out)
