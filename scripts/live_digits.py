"""Write the pictures that stand in the place of the live digits where scripts are off.

    python scripts/live_digits.py

They are drawn by ddpmlib from the script of weights that the pages load, rounding included.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ddpmlib import plots
from ddpmlib.denoiser import Denoiser
from ddpmlib.guidance import ClassifierFree
from ddpmlib.samplers import draw, sample, uniform_times
from ddpmlib.teaching import web_export

FOLDER = Path(__file__).resolve().parent.parent / "book" / "_static" / "alive"
SHAPE = (1, 28, 28)
NOISE = 3  # guessed noise is shown from −3 to 3, as in scrubber.js
COLUMNS = 8


def digits(model: Denoiser, y: Tensor, w: float, eta: float, seed: int) -> Tensor:
    """Ten steps from the noise of a seed to an image for each label."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(y), *SHAPE, generator=generator)
    times = uniform_times(model.process.end, 10)
    guided = ClassifierFree(model, w)
    return draw(guided, model.process, x, times, eta=eta, y=y, generator=generator)


def trajectory(model: Denoiser, label: int, steps: int, eta: float, seed: int) -> Tensor:
    """Three rows along one chain: states, guessed images, guessed noises."""
    generator = torch.Generator().manual_seed(seed)
    x, times = torch.randn(1, *SHAPE, generator=generator), uniform_times(model.process.end, steps)
    y = torch.tensor([label])
    states = list(sample(model, model.process, x, times, eta=eta, y=y, generator=generator))
    places = [round(k * (steps - 1) / (COLUMNS - 2)) for k in range(COLUMNS - 1)]
    xs = [states[k].x for k in places] + [states[-1].x]
    x0s = [_prediction(states[k + 1].x0) for k in places] + [_prediction(states[-1].x0)]
    noises = [
        model.process.eps_from_x0(states[k].x, _prediction(states[k + 1].x0), times[k])
        for k in [*places, steps - 1]
    ]
    return torch.cat([*xs, *x0s, *(noise / NOISE for noise in noises)])


def _prediction(x0: Tensor | None) -> Tensor:
    assert x0 is not None  # only the start of a chain has none
    return x0


def main() -> None:
    """Write all pictures."""
    model, _ = web_export.read(FOLDER / "mnist_weights.js")
    each, sevens = torch.arange(10), torch.full((10,), 7)
    plots.save_grid(digits(model, each, 0, 1, 1), FOLDER / "digits_intro.png", ncol=5)
    guided = torch.cat([digits(model, sevens, w, 0, 1) for w in (0, 1, 4)])
    plots.save_grid(guided, FOLDER / "digits_11.png", ncol=10)
    plots.save_grid(trajectory(model, 3, 50, 1, 1), FOLDER / "scrubber_03.png", ncol=COLUMNS)
    plots.save_grid(trajectory(model, 5, 10, 0, 1), FOLDER / "scrubber_07.png", ncol=COLUMNS)


if __name__ == "__main__":
    main()
