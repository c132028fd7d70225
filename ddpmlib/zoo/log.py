"""The log of a run: progress bar and JSON lines."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ddpmlib.files import read_content, write_atomically
from ddpmlib.records import fits
from ddpmlib.training import parallel
from ddpmlib.training.trainer import Trainer

LARGEST = 2**30  # bytes of a log: ten million lines


class Log:
    """Progress bar and JSON lines; after a resume both go on where the saved state stood."""

    def __init__(self, path: Path, trainer: Trainer, every: int) -> None:
        self.path, self.trainer, self.every = path, trainer, every
        self.rows = [row for row in _rows(path) if row["step"] <= trainer.step]
        content = "".join(json.dumps(row) + "\n" for row in self.rows)
        if parallel.is_main():
            write_atomically(path, content.encode())
        self.seconds = self.rows[-1]["seconds"] if self.rows else 0.0

    def watch(self, updates: Iterator[Any]) -> Iterator[Any]:
        from tqdm import tqdm

        settings, begun = self.trainer.settings, self.trainer.step
        total, count, started, before = 0.0, 0, time.perf_counter(), self.seconds
        last, quiet = started, None if parallel.is_main() else True
        with tqdm(total=settings.steps, initial=begun, unit="step", disable=quiet) as bar:
            for p in updates:
                total, count = total + p.loss.float(), count + 1
                if p.step % self.every == 0 or p.step == settings.steps:
                    loss, now = float(total) / count, time.perf_counter()
                    speed = count * settings.batch_size / (now - last)
                    self.seconds = before + now - started
                    self._write(p.step, loss, p.lr, speed)
                    bar.set_postfix_str(f"loss {loss:.4f}, {speed:.0f} images/s")
                    total, count, last = 0.0, 0, now
                bar.update()
                yield p

    def _write(self, step: int, loss: float, lr: float, speed: float) -> None:
        row = {"step": step, "loss": loss, "lr": lr, "images_per_s": round(speed, 1)}
        row["seconds"] = round(self.seconds, 2)
        self.rows.append(row)
        if parallel.is_main():
            with open(self.path, "a") as file:
                file.write(json.dumps(row) + "\n")


def read_log(path: Path | str) -> dict[str, list[float]]:
    """A run's log as columns: step, loss, lr, images_per_s, seconds.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    rows = _rows(Path(path))
    if not rows and not Path(path).is_file():
        raise FileNotFoundError(f"there is no log {path}")
    return {key: [row[key] for row in rows] for key in (rows[0] if rows else ())}


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
