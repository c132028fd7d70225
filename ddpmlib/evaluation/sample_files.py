"""Samples as files: a grid, a PNG for each, or the array that tools for FID read.

Samples come in batches (see :func:`ddpmlib.evaluation.drawing.sample_batches`), and what is written
is uint8, clipped to the range of images. Only a grid needs all of them at once.

- A ``.png`` is one grid.
- A folder gets ``000000.png``, ``000001.png``, … in the order of the samples, and ``labels.csv``
  where they have classes. torch-fidelity, clean-fid and pytorch-fid read such a folder.
- An ``.npz`` holds ``arr_0``, uint8 (N, H, W, 3), and, where there are classes, ``arr_1``, int64
  (N,). That is what the scripts of Dhariwal & Nichol (2021) write and their evaluator reads; its
  Inception takes three channels, so grey is repeated.
"""

from __future__ import annotations

import csv
import io
import os
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddpmlib import plots
from ddpmlib.data.scale import to_uint8
from ddpmlib.files import replacing, write_atomically


@dataclass(frozen=True)
class Drawn:
    """Samples on their way into files.

    Attributes:
        batches: tensors (B, C, H, W) in [-1, 1], in order.
        n: how many samples they hold together.
        image_shape: (C, H, W).
        y: labels (n,), or None.
        names: of the classes, in the order of their labels; may be empty.
    """

    batches: Iterable[Tensor]
    n: int
    image_shape: tuple[int, ...]
    y: Tensor | None = None
    names: Sequence[str] = ()


Writer = Callable[[Drawn, Path], None]


def writer_for(out: str | Path, image_shape: tuple[int, ...]) -> Writer:
    """How samples are written to a place, asked before they are drawn.

    Args:
        out: ends in .png or .npz; or a folder: one that is there, or that ends in a slash or has
            no suffix.
        image_shape: (C, H, W) of the samples.

    Raises:
        ValueError: for a file of another kind, a folder that already holds something, or an array
            of images that have neither one channel nor three.
    """
    path, kind = Path(out), Path(out).suffix.lower()
    if path.is_dir() or str(out).endswith(("/", os.sep)) or not kind:
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise ValueError(
                f"{path} already holds something: samples go into a new or an empty folder, so "
                "that they are not mixed with others"
            )
        return write_pictures
    if kind == ".npz":
        if image_shape[0] not in (1, 3):
            raise ValueError(
                f"an .npz for FID holds grey or RGB images, and these have {image_shape[0]} "
                "channels: write a .png or a folder"
            )
        return write_array
    if kind != ".png":
        raise ValueError(
            "samples go into a grid (samples.png), a folder of pictures (samples/) or an array "
            f"(samples.npz), got {out}"
        )
    return write_grid


def write_grid(drawn: Drawn, path: Path) -> None:
    """One picture of all samples, ten in a row, see :func:`ddpmlib.plots.save_grid`."""
    plots.save_grid(torch.cat([to_uint8(x) for x in drawn.batches]), path, ncol=10)


def write_pictures(drawn: Drawn, path: Path) -> None:
    """A PNG for each sample, and last ``labels.csv``: file, label, and the class by its name."""
    number, colour = 0, drawn.image_shape[0] == 3
    for x in drawn.batches:
        for pixels in plots.rgb(x):
            content = plots.png(pixels if colour else np.ascontiguousarray(pixels[..., 0]))
            write_atomically(path / f"{number:06d}.png", content)
            number += 1
    if drawn.y is not None:
        write_atomically(path / "labels.csv", _labels(drawn.y, drawn.names).encode())


def _labels(y: Tensor, names: Sequence[str]) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("file", "label", "class") if names else ("file", "label"))
    for i, label in enumerate(y.tolist()):
        rows.writerow((f"{i:06d}.png", label, names[label]) if names else (f"{i:06d}.png", label))
    return text.getvalue()


def write_array(drawn: Drawn, path: Path) -> None:
    """``arr_0`` and ``arr_1`` of an .npz, batch by batch, replacing an older file in one go."""
    try:
        with replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
            with archive.open("arr_0.npy", "w", force_zip64=True) as entry:
                shape = (drawn.n, *drawn.image_shape[1:], 3)
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(entry, header)
                for x in drawn.batches:
                    entry.write(plots.rgb(x).tobytes())
            if drawn.y is not None:
                with archive.open("arr_1.npy", "w") as entry:
                    np.lib.format.write_array(entry, drawn.y.numpy())
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path}: {error.strerror or error}") from error
