"""A run in TensorBoard, beside its log: loss, learning rate, images per second, grids of samples.

``log.jsonl`` is always written and is what the card's curve comes from; this is for those who watch
several runs in a browser: ``tensorboard --logdir runs``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ddpmlib.training import parallel
from ddpmlib.training.settings import Progress
from ddpmlib.zoo.previews import Previews, picture

EVENTS = "tensorboard"  # in a run's folder
SCALARS = {"loss": "loss", "lr": "learning rate", "images_per_s": "images per second"}


def check_installed() -> None:
    """Whether the package is there, asked before anything long begins.

    Raises:
        ImportError: if not, saying how to get it.
    """
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "--tensorboard needs the package tensorboard: pip install 'ddpmlib[tensorboard]'"
        ) from error


def watch(
    updates: Iterator[Progress],
    folder: Path,
    rows: list[dict[str, Any]],
    begun: int,
    previews: Previews | None = None,
) -> Iterator[Progress]:
    """Hand updates on, and repeat each new row of the log, and each new grid, as events.

    Args:
        updates: as the log watches them, and ``previews`` after it.
        folder: of the run; the events go into ``tensorboard`` inside.
        rows: of the log, which grows.
        begun: updates done before; events of later ones, from before an interruption, are hidden.
        previews: who draws the grids, if anyone does.
    """
    if not parallel.is_main():
        yield from updates
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder / EVENTS), purge_step=begun + 1) as events:
        for progress in updates:
            step = progress.step
            if rows and rows[-1]["step"] == step:
                for key, name in SCALARS.items():
                    events.add_scalar(name, rows[-1][key], step)
            if previews and previews.due(step):
                events.add_image("samples", picture(previews.path(step)), step, dataformats="HWC")
            yield progress
