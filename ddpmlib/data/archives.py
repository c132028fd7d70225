"""Archives in the data directory: downloaded once, checked, or made from sheets of images."""

import http.client
import os
import tempfile
from pathlib import Path

import numpy as np

from ddpmlib.files import replacing

KEYS = ("x_train", "y_train", "x_test", "y_test")
DOWNLOADS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "cifar10": "CIFAR10"}
SIDES = {"mnist": 28, "fashion_mnist": 28, "cifar10": 32}  # pixels


class DataNotAvailable(RuntimeError):
    """The data set is neither in the data directory nor could it be downloaded."""


def directory() -> Path:
    """Where archives are kept: ``$DDPMLIB_DATA``, else ``~/.cache/ddpmlib``.

    Raises:
        NotADirectoryError: if a file has that name.
    """
    path = Path(os.environ.get("DDPMLIB_DATA") or Path.home() / ".cache" / "ddpmlib").expanduser()
    if path.is_file():
        raise NotADirectoryError(f"DDPMLIB_DATA must name a folder, but {path} is a file")
    return path


def archive_path(name: str) -> Path:
    """Where a data set is kept, or would be."""
    return directory() / f"{name}.npz"


def cached(name: str) -> tuple[np.ndarray, ...]:
    path = archive_path(name)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)  # before minutes of downloading
        _write_archive(path, _download(name))
    try:
        with np.load(path, allow_pickle=False) as npz:
            arrays = tuple(npz[key] for key in KEYS)
    except Exception as error:
        raise ValueError(
            f"{path} is not a readable archive of {', '.join(KEYS)} ({error}); delete it and "
            f"load {name!r} again"
        ) from error
    _check_arrays(path, arrays)
    return arrays


def _check_arrays(archive: Path, arrays: tuple[np.ndarray, ...]) -> None:
    x_train, y_train, x_test, y_test = arrays
    pairs = (x_train, y_train), (x_test, y_test)
    alike = x_train.shape[1:] == x_test.shape[1:]
    if not alike or not all(_are_images(x) and _are_labels(y, len(x)) for x, y in pairs):
        raise ValueError(
            f"{archive} must hold uint8 images N×H×W or N×H×W×3 and as many labels 0..9; delete it "
            "and load again"
        )


def _are_images(x: np.ndarray) -> bool:
    planar = x.ndim == 3 or (x.ndim == 4 and x.shape[3] == 3)
    return planar and x.dtype == np.uint8 and x.size > 0


def _are_labels(y: np.ndarray, n: int) -> bool:
    whole = y.shape == (n,) and np.issubdtype(y.dtype, np.integer)
    return whole and bool(y.min() >= 0 and y.max() <= 9)


def unpack(sheets: Path, name: str) -> Path:
    """Write the archive of a data set from lossless sheets of its images.

    Args:
        sheets: a folder with ``NAME/train-00.webp``, ``train-01.webp``, …, each a sheet of images
            side by side, row after row; their labels in ``NAME/train-labels.npy``; and as many
            for ``test``.
        name: a data set that is otherwise downloaded.

    Returns:
        the archive, in the data directory.

    Raises:
        DataNotAvailable: if there are no such sheets.
        ValueError: if there are more or fewer labels than images.
    """
    arrays: list[np.ndarray] = []
    for part in ("train", "test"):
        labels = sheets / name / f"{part}-labels.npy"
        if not labels.is_file():
            raise DataNotAvailable(f"there are no sheets of {name}: {labels} is missing")
        tiles = [_tiles(path, SIDES[name]) for path in sorted(labels.parent.glob(f"{part}-*.webp"))]
        y = np.load(labels, allow_pickle=False)
        if sum(map(len, tiles)) != len(y):
            raise ValueError(f"{labels} has {len(y)} labels for {sum(map(len, tiles))} images")
        x = np.concatenate(tiles)
        arrays += [x if name == "cifar10" else x[..., 0], y]
    path = archive_path(name)
    _write_archive(path, tuple(arrays))
    return path


def _tiles(sheet: Path, side: int) -> np.ndarray:
    """The images of a sheet, (N, side, side, 3) uint8."""
    from PIL import Image

    with Image.open(sheet) as image:
        pixels = np.asarray(image.convert("RGB"))
    rows, columns = pixels.shape[0] // side, pixels.shape[1] // side
    return pixels.reshape(rows, side, columns, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)


def _write_archive(archive: Path, arrays: tuple[np.ndarray, ...]) -> None:
    """A killed download leaves no half archive, and several processes may all have begun one."""
    x_train, y_train, x_test, y_test = arrays
    with replacing(archive) as file:
        np.savez(file, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)


def _download(name: str) -> tuple[np.ndarray, ...]:
    with tempfile.TemporaryDirectory() as root:
        try:  # torchvision shows a progress bar and verifies checksums
            import torchvision.datasets

            maker = getattr(torchvision.datasets, DOWNLOADS[name])
            parts = [maker(root, train=train, download=True) for train in (True, False)]
        except (OSError, RuntimeError, ImportError, http.client.HTTPException) as error:
            why = " ".join(str(error).split())  # it may have several lines, and be the longest part
            raise DataNotAvailable(
                f"{name} is not in {directory()} and could not be downloaded ({why}). Connect to "
                f"the network once, or put {name}.npz ({', '.join(KEYS)}; uint8) there, or set "
                "DDPMLIB_DATA to the folder that holds it; 'digits' needs no download."
            ) from error
    flat: list[np.ndarray] = []
    for part in parts:
        flat += [np.asarray(part.data, dtype=np.uint8), np.asarray(part.targets, dtype=np.int64)]
    return tuple(flat)
