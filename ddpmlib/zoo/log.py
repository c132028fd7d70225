"""The log of a run: progress bar and JSON lines."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ddpmlib.files import append, read_content, write_atomically
from ddpmlib.records import fits
from ddpmlib.training import parallel
from ddpmlib.training.trainer import Trainer

LARGEST = 2**30  # bytes of a log: ten million lines


class Log:
    """Progress bar and JSON lines; after a resume both go on where the saved state stood.

    A line is on the disk before a state of a later update is saved, and what the next line will say
    of the loss is a part of the state (:attr:`ddpmlib.training.trainer.Trainer.recent`). So a run
    that is killed at any moment and goes on has the lines of one that never was: the same steps,
    losses and learning rates.
    """

    def __init__(self, path: Path, trainer: Trainer, every: int) -> None:
        self.path, self.trainer, self.every = path, trainer, every
        self.rows = [row for row in _rows(path) if row["step"] <= trainer.step]
        content = "".join(json.dumps(row) + "\n" for row in self.rows)
        if parallel.is_main():
            write_atomically(path, content.encode())
        self.seconds = self.rows[-1]["seconds"] if self.rows else 0.0
        self._catch_up()

    def _catch_up(self) -> None:
        """Write the line of the last update, if a kill came between its state and its line."""
        step, recent = self.trainer.step, self.trainer.recent
        if self.rows and self.rows[-1]["step"] == step:
            recent.taken()
        elif step and self._is_due(step) and (loss := recent.taken()) is not None:
            speed = self.rows[-1]["images_per_s"] if self.rows else 0.0
            self._write(step, loss, self.trainer.settings.lr_at(step - 1), speed)

    def _is_due(self, step: int) -> bool:
        return step % self.every == 0 or step == self.trainer.settings.steps

    def watch(self, updates: Iterator[Any]) -> Iterator[Any]:
        from tqdm import tqdm

        settings, begun = self.trainer.settings, self.trainer.step
        count, started, before = 0, time.perf_counter(), self.seconds
        last, quiet = started, None if parallel.is_main() else True
        with tqdm(total=settings.steps, initial=begun, unit="step", disable=quiet) as bar:
            for p in updates:
                count += 1
                if self._is_due(p.step) and (loss := self.trainer.recent.taken()) is not None:
                    now = time.perf_counter()
                    speed = count * settings.batch_size / (now - last)
                    self.seconds = before + now - started
                    self._write(p.step, loss, p.lr, speed)
                    bar.set_postfix_str(f"loss {loss:.4f}, {speed:.0f} images/s")
                    count, last = 0, now
                bar.update()
                yield p

    def _write(self, step: int, loss: float, lr: float, speed: float) -> None:
        row = {"step": step, "loss": loss, "lr": lr, "images_per_s": round(speed, 1)}
        row["seconds"] = round(self.seconds, 2)
        self.rows.append(row)
        if parallel.is_main():
            append(self.path, (json.dumps(row) + "\n").encode())


def read_log(path: Path | str) -> dict[str, list[float]]:
    """A run's log as columns: step, loss, lr, images_per_s, seconds.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    rows = _rows(Path(path))
    if not rows and not Path(path).is_file():
        raise FileNotFoundError(f"there is no log {path}")
    return {key: [row[key] for row in rows] for key in (rows[0] if rows else ())}


def thinned(pairs: list[tuple[int, float]], most: int = 200) -> list[tuple[int, float]]:
    """At most ``most`` points of a curve, each the mean of its neighbours."""
    size = -(-len(pairs) // most) or 1
    groups = [pairs[i : i + size] for i in range(0, len(pairs), size)]
    return [(g[-1][0], round(sum(v for _, v in g) / len(g), 6)) for g in groups]


def _rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; a kill may have cut the last one, which is then left out."""
    content = read_content(path, LARGEST) if path.is_file() else b""
    lines = content.decode("utf-8", errors="replace").splitlines()
    return [row for row in map(_json_or_none, lines) if row is not None and _is_row(row)]


def _is_row(row: Any) -> bool:
    numbers = ("step", "loss", "lr", "images_per_s", "seconds")
    return isinstance(row, dict) and all(fits(row.get(k), float) for k in numbers)


def _json_or_none(line: str) -> dict[str, Any] | None:
    """A line of the log; the last one may have been cut by a kill."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
