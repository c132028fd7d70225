"""Write every table and figure of the comparison, from ``data/results`` alone.

python scripts/scoreboard.py [FOLDER]     (default: _build/scoreboard)
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import matplotlib as mpl

from ddpmlib import plots, scoreboard

TABLES = (
    {
        "training": scoreboard.training_table,
        "ladder": scoreboard.ladder_table,
        "deck": scoreboard.deck_table,
        "lengths": scoreboard.lengths_table,
        "schedules": scoreboard.schedules_table,
        "variances": scoreboard.variances_table,
        "likelihood": scoreboard.likelihood_table,
        "gradient_noise": scoreboard.gradient_noise_table,
        "strides_linear": lambda: scoreboard.strides_table("linear-hybrid"),
        "strides_cosine": lambda: scoreboard.strides_table("cosine-hybrid"),
        "interval_mnist": lambda: scoreboard.interval_table("mnist"),
        "interval_fashion_mnist": lambda: scoreboard.interval_table("fashion_mnist"),
        "dropout": scoreboard.dropout_table,
    }
    | {
        f"guidance_{dataset}_{method}": partial(scoreboard.guidance_table, dataset, method)
        for dataset in ("mnist", "fashion_mnist")
        for method in ("classifier_free", "classifier", "classifier_conditional")
    }
    | {
        f"thresholds_{dataset}": partial(scoreboard.thresholds_table, dataset)
        for dataset in ("mnist", "fashion_mnist")
    }
)
FIGURES = {
    "ladder": scoreboard.ladder_figure,
    "chain": scoreboard.chain_figure,
    "strides_linear": lambda ax: scoreboard.strides_figure("linear-hybrid", ax),
    "strides_cosine": lambda ax: scoreboard.strides_figure("cosine-hybrid", ax),
} | {
    f"guidance_{dataset}": partial(scoreboard.guidance_figure, dataset)
    for dataset in ("mnist", "fashion_mnist")
}


def main() -> None:
    """Write FOLDER/NAME.md and FOLDER/NAME.png."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "_build/scoreboard")
    folder.mkdir(parents=True, exist_ok=True)
    plots.style()
    for name, text in TABLES.items():
        (folder / f"{name}.md").write_text(text() + "\n", "utf-8")
    for name, draw in FIGURES.items():
        figure, ax = plt.subplots()
        draw(ax)
        if "ladder" not in name:
            ax.legend(fontsize=7)
            ax.set(ylabel="Fréchet distance", yscale="log")
        figure.savefig(folder / f"{name}.png", dpi=150)
        plt.close(figure)
    print(f"{len(TABLES)} tables and {len(FIGURES)} figures in {folder}")


if __name__ == "__main__":
    main()
