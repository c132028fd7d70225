"""Data sets, as uint8 tensors that stay where the model is, and toy points in the plane.

``digits`` comes with scikit-learn and needs no download. The others are fetched once by
torchvision, checked by checksum, and kept as one ``NAME.npz`` in the data directory:
``$DDPMLIB_DATA``, else ``~/.cache/ddpmlib``. An archive that already lies there is used as it is.
"""

import contextlib
import http.client
import math
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

KEYS = ("x_train", "y_train", "x_test", "y_test")
DOWNLOADS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "cifar10": "CIFAR10"}
NAMES = ("digits", *DOWNLOADS)
SIDES = {"mnist": 28, "fashion_mnist": 28, "cifar10": 32}  # pixels


class DataNotAvailable(RuntimeError):
    """The data set is neither in the data directory nor could it be downloaded."""


@dataclass(frozen=True)
class Images:
    """A labelled image set.

    Attributes:
        name: one of :data:`NAMES`.
        x_train, x_test: uint8 (N, C, H, W).
        y_train, y_test: int64 (N,).
        num_classes: labels lie in 0..num_classes−1.
    """

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    num_classes: int = 10

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        c, h, w = self.x_train.shape[1:]
        return c, h, w


def load(name: str) -> Images:
    """The data set ``name``: "digits", "mnist", "fashion_mnist" or "cifar10".

    Raises:
        ValueError: for another name, or a damaged archive in the data directory.
        DataNotAvailable: if a download is needed and fails.
    """
    if name not in NAMES:
        raise ValueError(f"unknown data set {name!r}: choose one of {', '.join(NAMES)}")
    arrays = _digits() if name == "digits" else _cached(name)
    x_train, y_train, x_test, y_test = (torch.from_numpy(a) for a in arrays)
    return Images(name, _planes(x_train), y_train.long(), _planes(x_test), y_test.long())


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


def to_float(x: Tensor) -> Tensor:
    """uint8 0..255 -> float32 in [-1, 1].

    Raises:
        ValueError: if ``x`` is not uint8 (data scaled twice look almost right and train badly).
    """
    if x.dtype != torch.uint8:
        raise ValueError(f"to_float takes uint8 images 0..255, got {x.dtype}")
    return x.float() / 127.5 - 1


def to_uint8(x: Tensor) -> Tensor:
    """Float images -> uint8, rounded; values outside [-1, 1] are clipped first.

    Raises:
        ValueError: if ``x`` does not hold floating-point numbers, or holds NaN.
    """
    if not x.is_floating_point():
        raise ValueError(f"to_uint8 takes float images in [-1, 1], got {x.dtype}")
    if bool(x.isnan().any()):
        raise ValueError("images hold NaN: the network that made them has diverged")
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


# ---- image sets ------------------------------------------------------------------------------


def _digits() -> tuple[np.ndarray, ...]:
    from sklearn.datasets import load_digits

    bunch = load_digits()  # 1,797 scans, 8×8, grey values 0..16
    x = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    y = bunch.target.astype(np.int64)
    rank = np.empty(len(y), dtype=np.int64)
    for k in range(10):  # every fifth scan *of each class*, so that both parts are balanced
        rank[y == k] = np.arange((y == k).sum())
    test = rank % 5 == 4
    return x[~test], y[~test], x[test], y[test]


def _planes(x: Tensor) -> Tensor:
    """(N, H, W) or (N, H, W, C) -> (N, C, H, W)."""
    return (x[:, None] if x.ndim == 3 else x.permute(0, 3, 1, 2)).contiguous()


def _cached(name: str) -> tuple[np.ndarray, ...]:
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
    path.parent.mkdir(parents=True, exist_ok=True)
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
    """Write beside the archive, flush, rename: a killed download leaves no half archive."""
    x_train, y_train, x_test, y_test = arrays
    part = archive.with_name(f".{archive.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            np.savez(file, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, archive)
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()


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


# ---- toy points in the plane, roughly within [-2, 2]² ------------------------------------------


def moons(n: int, noise: float = 0.05, generator: torch.Generator | None = None) -> Tensor:
    """Two interleaved half circles, (n, 2) float32."""
    angle = torch.rand(n, generator=generator) * math.pi
    x = torch.stack([angle.cos(), angle.sin()], 1)
    second = torch.rand(n, generator=generator) < 0.5
    x[second] = torch.tensor([1.0, 0.5]) - x[second]
    centred = x - torch.tensor([0.5, 0.25])
    return 1.25 * (centred + noise * torch.randn(n, 2, generator=generator))


def spiral(n: int, noise: float = 0.03, generator: torch.Generator | None = None) -> Tensor:
    """A spiral of one and a half turns, (n, 2) float32, evenly filled along its length."""
    turn = torch.rand(n, generator=generator).sqrt()
    angle = 3 * math.pi * turn
    x = 1.8 * turn[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
    return x + noise * torch.randn(n, 2, generator=generator)


def checkerboard(n: int, generator: torch.Generator | None = None) -> Tensor:
    """Uniform on the dark squares of a 4×4 board over [-2, 2]², (n, 2) float32."""
    column = torch.randint(0, 4, (n,), generator=generator)
    row = 2 * torch.randint(0, 2, (n,), generator=generator) + column % 2
    corner = torch.stack([column, row], 1).float() - 2
    return corner + torch.rand(n, 2, generator=generator)


def ring(
    n: int, modes: int = 8, noise: float = 0.1, generator: torch.Generator | None = None
) -> Tensor:
    """A ring of Gaussians of radius 1.5, (n, 2) float32; see :func:`ring_means`."""
    k = torch.randint(0, modes, (n,), generator=generator)
    return ring_means(modes)[k] + noise * torch.randn(n, 2, generator=generator)


def ring_means(modes: int = 8) -> Tensor:
    """Centres of :func:`ring`, (modes, 2) float32."""
    angle = 2 * math.pi * torch.arange(modes) / modes
    return 1.5 * torch.stack([angle.cos(), angle.sin()], 1)


# ---- batches -----------------------------------------------------------------------------------


class Batches:
    """Which samples make up batch number k: a pure function of (seed, k), so nothing to save.

    Every epoch is a new permutation; the last, incomplete batch of an epoch is left out. The order
    travels to ``device`` once an epoch, so that a batch is then a window onto it.

    Raises:
        ValueError: if the batch is larger than the data set, or a batch number is negative.
    """

    def __init__(
        self, n: int, batch_size: int, seed: int, device: torch.device | str = "cpu"
    ) -> None:
        if not 1 <= batch_size <= n:
            raise ValueError(
                f"batch_size must lie in 1..{n} (the size of the data set), got {batch_size}"
            )
        self.n, self.batch_size, self.seed, self.device = n, batch_size, seed, device
        self.per_epoch = n // batch_size
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def __getitem__(self, k: int) -> Tensor:
        """Indices of batch k = 0, 1, ...: int64 (batch_size,)."""
        if k < 0:
            raise ValueError(f"batches are counted from 0, got number {k}")
        epoch, i = divmod(k, self.per_epoch)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            order = torch.randperm(self.n, generator=generator)
            self._epoch, self._order = epoch, order.to(self.device)
        return self._order[i * self.batch_size : (i + 1) * self.batch_size]


Augment = Callable[[Tensor, torch.Generator], Tensor]


def random_flip(x: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image (B, C, H, W) with probability one half."""
    flip = torch.rand(len(x), device=x.device, generator=generator) < 0.5
    return torch.where(flip[:, None, None, None], x.flip(-1), x)


def random_shift(x: Tensor, generator: torch.Generator, reach: int = 2) -> Tensor:
    """Shift each image (B, C, H, W) by up to ``reach`` pixels each way, filling with black (-1)."""
    b, c, h, w = x.shape
    padded = torch.nn.functional.pad(x, [reach] * 4, value=-1.0)
    dy, dx = torch.randint(0, 2 * reach + 1, (2, b), device=x.device, generator=generator)
    rows = (dy[:, None] + torch.arange(h, device=x.device))[:, None, :, None]
    cols = (dx[:, None] + torch.arange(w, device=x.device))[:, None, None, :]
    samples = torch.arange(b, device=x.device)[:, None, None, None]
    planes = torch.arange(c, device=x.device)[None, :, None, None]
    return padded[samples, planes, rows, cols]
