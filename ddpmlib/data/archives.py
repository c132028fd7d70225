"""Archives in the data directory: downloaded once, checked, or made from sheets of images.

A download is kept only if its images have the SHA-256 of the published data set. An archive that
somebody put there may hold other images of that form; :func:`is_genuine` tells which it is.
"""

import hashlib
import http.client
import os
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ddpmlib.files import replacing

KEYS = ("x_train", "y_train", "x_test", "y_test")
SIDES = {"mnist": 28, "fashion_mnist": 28, "cifar10": 32}  # pixels
LARGEST = 2**32  # bytes of the arrays of an archive, 24 times those of CIFAR-10
DIGESTS: dict[str, tuple[str, str]] = {
    "digits": (
        "df3a97715af6535aadaf0f03ce7c08189919f288451d0291cdad65a92a714eda",
        "0b10a762e33d50787485c49133658adb58651c48c0a70dbeb134a7f7f4703e9c",
    ),
    "mnist": (
        "6c05382b733c8c831017f983ad2ae468166fe65583b39dfe3990f5b713f9c734",
        "15689b9750ec5813e854cba3a00c4f848c26586d538d6b555f98cff4c202e272",
    ),
    "fashion_mnist": (
        "883c2197881016d33bbdff6617649a0c3ed929e0a4213903b814847561dbfdbd",
        "81222942ea765149468ebb239e1d2c73c7b105cbee69d74d68911829b85f19b2",
    ),
    "cifar10": (
        "2def816b97a381c02ce503dbdf6f1466a7cc7c3ade1d478f8dac734fb545045c",
        "a561c01961913139bd0c56972b8131d1339a0c04426517d6588ce0af188181a6",
    ),
}
"""The :func:`digest` of the training and of the test images of each published data set."""
# The version of CIFAR-10 "suitable for C programs": the other two hold pickles, which run code.
CIFAR10 = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"  # as published beside it


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
    if not path.is_file():
        raise ValueError(f"{path} is no file: put {', '.join(KEYS)} there as one, or remove it")
    try:
        _check_size(path)
        with np.load(path, allow_pickle=False) as npz:
            arrays = tuple(npz[key] for key in KEYS)
        if not all(isinstance(array, np.ndarray) for array in arrays):
            raise ValueError("a member is no array")  # NumPy hands out its bytes
    except Exception as error:
        raise ValueError(
            f"{path} is not a readable archive of {', '.join(KEYS)} ({error}); delete it and "
            f"load {name!r} again"
        ) from error
    _check_arrays(path, arrays)
    return arrays


def _check_size(archive: Path) -> None:
    """Whether the arrays fit into memory, by what the archive says of their sizes.

    Python's reader of archives stops there, whatever the compressed data go on to say.
    """
    with zipfile.ZipFile(archive) as members:
        size = sum(member.file_size for member in members.infolist())
    if size > LARGEST:
        raise ValueError(f"it holds {size:,} bytes, where {LARGEST:,} are the most there can be")


def digest(x: np.ndarray, y: np.ndarray) -> str:
    """SHA-256 of labelled images, the same in whatever order they lie.

    That is, of their shape and the sorted SHA-256 of each image followed by its label, a byte.

    Args:
        x: images, uint8 (N, H, W) or (N, H, W, 3).
        y: labels 0..255, any whole type, (N,).
    """
    labels = y.astype(np.uint8)
    pairs = zip(np.ascontiguousarray(x), labels, strict=True)
    each = sorted(hashlib.sha256(a.tobytes() + b.tobytes()).digest() for a, b in pairs)
    return hashlib.sha256(f"{x.shape[1:]}".encode() + b"".join(each)).hexdigest()


def is_genuine(name: str, arrays: Sequence[np.ndarray]) -> bool:
    """Whether these are all images and labels of a published data set, in whatever order.

    Args:
        name: of the data set, one of :data:`DIGESTS`; of any other, nothing is known.
        arrays: x_train, y_train, x_test, y_test, see :func:`digest`.
    """
    return name in DIGESTS and not _foreign(name, arrays)


def _foreign(name: str, arrays: Sequence[np.ndarray]) -> list[str]:
    """Which parts are not those of the published data set."""
    x_train, y_train, x_test, y_test = arrays
    found = {"training": (x_train, y_train), "test": (x_test, y_test)}
    pairs = zip(found.items(), DIGESTS[name], strict=True)
    return [part for (part, (x, y)), sha256 in pairs if digest(x, y) != sha256]


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
        ValueError: if there are more or fewer labels than images, or the labels are no array.
    """
    arrays: list[np.ndarray] = []
    for part in ("train", "test"):
        labels = sheets / name / f"{part}-labels.npy"
        if not labels.is_file():
            raise DataNotAvailable(f"there are no sheets of {name}: {labels} is missing")
        tiles = [_tiles(path, SIDES[name]) for path in sorted(labels.parent.glob(f"{part}-*.webp"))]
        y = _labels(labels)
        if sum(map(len, tiles)) != len(y):
            raise ValueError(f"{labels} has {len(y)} labels for {sum(map(len, tiles))} images")
        x = np.concatenate(tiles)
        arrays += [x if name == "cifar10" else x[..., 0], y]
    path = archive_path(name)
    _write_archive(path, tuple(arrays))
    return path


def _labels(path: Path) -> np.ndarray:
    """An array of labels; mapped first, so that no memory is taken for more than there may be."""
    try:
        y = np.load(path, mmap_mode="r", allow_pickle=False)
        if y.ndim != 1 or y.nbytes > LARGEST:
            raise ValueError(f"an array of shape {y.shape}")
        return np.array(y)
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a readable array of labels ({error})") from error


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
    """The arrays of a published data set, from its public address.

    Raises:
        DataNotAvailable: if it does not answer, or with something else.
    """
    way_out = (
        f"put {name}.npz ({', '.join(KEYS)}; uint8) there, or set DDPMLIB_DATA to the folder that "
        "holds it; 'digits' needs no download."
    )
    with tempfile.TemporaryDirectory() as root:
        try:
            arrays = _cifar10(root) if name == "cifar10" else _handwritten(name, root)
        except FAILURES as error:
            why = " ".join(str(error).split())  # it may have several lines, and be the longest part
            raise DataNotAvailable(
                f"{name} is not in {directory()} and could not be downloaded ({why}). Connect to "
                f"the network once, or {way_out}"
            ) from error
    if foreign := _foreign(name, arrays):
        raise DataNotAvailable(
            f"what was downloaded as {name} is something else, and was not kept: the "
            f"{' and '.join(foreign)} images have another SHA-256 than the published ones. Try "
            f"again later, or {way_out}"
        )
    return arrays


FAILURES = (
    OSError, RuntimeError, ImportError, ValueError, KeyError, EOFError, tarfile.TarError,
    http.client.HTTPException,
)  # fmt: skip


def _handwritten(name: str, root: str) -> tuple[np.ndarray, ...]:
    """MNIST, or what has its form; torchvision shows a progress bar and verifies checksums."""
    import torchvision.datasets

    maker = getattr(torchvision.datasets, {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}[name])
    flat: list[np.ndarray] = []
    for train in (True, False):
        part = maker(root, train=train, download=True)
        flat += [np.asarray(part.data, dtype=np.uint8), np.asarray(part.targets, dtype=np.int64)]
    return tuple(flat)


def _cifar10(root: str) -> tuple[np.ndarray, ...]:
    """CIFAR-10 from plain bytes: nothing is unpickled, and nothing is unpacked into a folder."""
    import torchvision.datasets.utils

    torchvision.datasets.utils.download_url(CIFAR10, root, "cifar10.tar.gz", CIFAR10_MD5)
    with tarfile.open(Path(root) / "cifar10.tar.gz") as archive:
        train = [_records(archive, f"data_batch_{i}") for i in range(1, 6)]
        x_test, y_test = _records(archive, "test_batch")
    x_train, y_train = (np.concatenate(part) for part in zip(*train, strict=True))
    return x_train, y_train, x_test, y_test


def _records(archive: tarfile.TarFile, name: str, n: int = 10_000) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 32, 32, 3) uint8 and labels (N,) int64 of records of 1 + 3·32·32 bytes."""
    file = archive.extractfile(f"cifar-10-batches-bin/{name}.bin")
    rows = np.frombuffer(file.read(n * 3073 + 1) if file else b"", np.uint8).reshape(n, 3073)
    x = rows[:, 1:].reshape(n, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(x), rows[:, 0].astype(np.int64)
