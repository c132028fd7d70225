"""A user's own images: a folder of pictures or an .npz file, read once or again."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path

from ddpmlib.data import folders
from ddpmlib.data.arrays import from_npz
from ddpmlib.data.folders import Tell
from ddpmlib.data.sets import DATASETS, Dataset, Source
from ddpmlib.records import DEVICES, check_plain_name

Size = tuple[int, int]
LONGEST = 90  # characters of a name that is made from a folder's


def as_it_is(size: Size) -> Size:
    """The size itself: nothing has to be halved."""
    return size


def from_folder(
    path: Path | str,
    name: str | None = None,
    *,
    size: Size | None = None,
    grey: bool | None = None,
    fit: Callable[[Size], Size] = as_it_is,
    skip_broken: bool = False,
    tell: Tell = print,
) -> Dataset:
    """A data set from a folder of pictures: class by class in sub-folders, or all in one folder.

    Args:
        path: the folder, see :func:`ddpmlib.data.folders.listed`.
        name: of the data set; by default the folder's, as a plain name.
        size: height and width of the images, pixels; by default the most common one.
        grey: one channel or three; None for one if no picture has a colour.
        fit: what becomes of the size, for example the nearest that a net can halve.
        skip_broken: leave out files that cannot be read, which otherwise stop.
        tell: gets each sentence about what was left out or changed.

    Raises:
        FileNotFoundError, ValueError: see :mod:`ddpmlib.data.folders` and :func:`check_own_name`.
    """
    name = name or plain_name(path)
    check_own_name(name)
    found = folders.listed(path, tell)
    asked = size or folders.common_size(found, tell)
    return folders.read(found, name, fit(asked), grey=grey, skip_broken=skip_broken, tell=tell)


def from_path(
    path: Path | str,
    name: str | None = None,
    *,
    size: Size | None = None,
    grey: bool | None = None,
    fit: Callable[[Size], Size] = as_it_is,
    skip_broken: bool = False,
    tell: Tell = print,
) -> Dataset:
    """What a command line names: a folder (:func:`from_folder`) or an .npz file.

    Raises:
        FileNotFoundError: if there is neither.
        ValueError: see :mod:`ddpmlib.data.folders` and :func:`ddpmlib.data.arrays.from_npz`.
    """
    path = Path(path)
    name = name or plain_name(path)
    check_own_name(name)
    if _is_archive(path):
        return from_npz(path, name, size=size, grey=grey, fit=fit)
    if path.is_file():
        raise ValueError(f"images come as a folder or an .npz file, and {path} is neither")
    return from_folder(
        path, name, size=size, grey=grey, fit=fit, skip_broken=skip_broken, tell=tell
    )


def again(source: Source, name: str, tell: Tell = print) -> Dataset:
    """The data set that was read from a source before.

    Raises:
        FileNotFoundError: if nothing lies there any more.
        ValueError: if it can no longer be read so.
    """
    height, width = source.size
    path, size = Path(source.path), (height, width)
    if _is_archive(path):
        check_own_name(name)
        return from_npz(path, name, size=size, grey=source.grey, before=True)
    return from_path(
        path, name, size=size, grey=source.grey, skip_broken=source.skip_broken, tell=tell
    )


def _is_archive(path: Path) -> bool:
    return path.suffix.lower() == ".npz" and not path.is_dir()


def plain_name(path: Path | str) -> str:
    """A name for a data set and its run, from that of its folder or file.

    Accents are dropped, as is what no plain name may hold, and "images" stands for nothing left.

    >>> plain_name("Holiday pictures/"), plain_name("mnist.npz"), plain_name("Bäume")
    ('Holiday-pictures', 'my-mnist', 'Baume')
    """
    found = Path(path).resolve()
    stem = found.stem if found.suffix.lower() == ".npz" else found.name
    letters = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode("ascii")
    words = "".join(c if c.isalnum() or c in "-_" else " " for c in letters).split()
    name = "-".join(words).lstrip("-")[:LONGEST] or "images"
    return f"my-{name}" if name in DATASETS or name.lower() in DEVICES else name


def check_own_name(name: str) -> None:
    """Whether images of a user's own may be called so.

    Raises:
        ValueError: if it is no plain file name, or that of a data set of the library.
    """
    check_plain_name("data set", name)
    if name in DATASETS:
        raise ValueError(f"{name} is a data set of this library: give your images another name")
