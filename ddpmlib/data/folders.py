"""A folder of pictures as a data set: sub-folders are classes, and file names decide the split.

:func:`listed` looks at names, :func:`common_size` at the heads of the files, :func:`read` reads
them. What was left out or changed is told in sentences, and what is broken stops with its name.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddpmlib.data import pictures
from ddpmlib.data.sets import Dataset, Source

Tell = Callable[[str], Any]
PARTS = ("train", "test")
LARGEST_SIDE = 256  # pixels that are taken without being asked for
TEST_SHARE = 10  # one picture in so many is kept for the test
MOST_NAMES = 3  # in a sentence
MEMORY_SHARE = 2  # of the free memory, half


@dataclass(frozen=True)
class Listing:
    """The pictures of a folder by their names, nothing read yet.

    Attributes:
        root: the folder.
        train, test: paths below it, sorted, with ``/`` between their parts.
        classes: names of the sub-folders, sorted; empty for a flat folder.
        split: whether the folder itself is split, into ``train/`` and ``test/``.
    """

    root: Path
    train: tuple[str, ...]
    test: tuple[str, ...]
    classes: tuple[str, ...]
    split: bool

    @property
    def names(self) -> tuple[str, ...]:
        return self.train + self.test

    def labels(self, names: Sequence[str]) -> Tensor | None:
        """One label per picture, the place of its sub-folder among the classes."""
        if not self.classes:
            return None
        level = 1 if self.split else 0
        return torch.tensor([self.classes.index(n.split("/")[level]) for n in names]).long()


def listed(root: Path | str, tell: Tell = print) -> Listing:
    """Find the pictures in a folder, their classes and their split.

    Hidden files are passed over; so are files whose names are no pictures', which is told. Links
    are followed, no folder twice. Of each class about a tenth is kept for the test, at least one
    picture of two or more, by a hash of the path below the folder: a new picture leaves the others
    where they are, unless it takes the place of one that was kept for want of a better.

    Raises:
        FileNotFoundError: if there is no such folder, or no picture in it.
        ValueError: if pictures lie beside sub-folders of pictures, or ``test/`` has other classes.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}")
    found, others = _pictures_below(root)
    _tell_others(others, tell)
    if not found:
        kinds = ", ".join(sorted(pictures.SUFFIXES))
        raise FileNotFoundError(f"no pictures in {root}: their names end in {kinds}")
    tops = {name.partition("/")[0] for name in found if "/" in name}
    if flat := [name for name in found if "/" not in name and tops]:
        raise ValueError(
            f"{root} holds pictures ({_some(flat)}) beside folders of pictures "
            f"({_some(sorted(tops))}): put each picture into the folder of its class, or all of "
            "them into one folder"
        )
    if tops == set(PARTS):
        return _as_split(root, found, tell)
    classes = tuple(sorted(tops))
    groups = [[n for n in found if n.startswith(f"{c}/")] for c in classes] if classes else [found]
    test = {name for group in groups for name in kept_for_test(group)}
    parts = tuple(n for n in found if n not in test), tuple(n for n in found if n in test)
    return Listing(root, *parts, classes, split=False)


def kept_for_test(names: Sequence[str]) -> set[str]:
    """About a tenth of the names, at least one of two or more, at most a quarter of many."""
    ranked = sorted(names, key=lambda name: (_place(name), name))
    share = sum(_place(name) < 2**64 // TEST_SHARE for name in ranked)
    return set(ranked[: min(max(1, min(share, len(names) // 4)), len(names) - 1)])


def _place(name: str) -> int:
    """Where the hash of a name lies in 0..2⁶⁴ − 1, the same on every system of files."""
    plain = unicodedata.normalize("NFC", name).encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.sha256(plain).digest()[:8], "big")


def _as_split(root: Path, found: Sequence[str], tell: Tell) -> Listing:
    train, test = (tuple(n for n in found if n.startswith(f"{part}/")) for part in PARTS)
    depth = {name.count("/") > 1 for name in found}
    if len(depth) > 1:
        raise ValueError(
            f"{root} is split into train/ and test/, where some pictures lie in folders of classes "
            "and some do not: put each picture into the folder of its class, in both parts"
        )
    classes = tuple(sorted({n.split("/")[1] for n in train})) if depth == {True} else ()
    if new := sorted({n.split("/")[1] for n in test} - set(classes)) if classes else []:
        raise ValueError(f"{root}/test has classes that {root}/train has not: {_some(new)}")
    tell(f"{root} is split by its folders train/ and test/")
    return Listing(root, train, test, classes, split=True)


def _pictures_below(root: Path) -> tuple[list[str], list[str]]:
    """Pictures and other files, each as a path below the folder, sorted."""
    found: list[str] = []
    others: list[str] = []
    pending, seen = [root], {os.path.realpath(root)}
    while pending:
        for entry in sorted(pending.pop().iterdir()):
            if entry.name.startswith(".") or entry.name.lower() in ("thumbs.db", "desktop.ini"):
                continue
            if entry.is_dir():
                if (real := os.path.realpath(entry)) not in seen:  # links may lead in a ring
                    seen.add(real)
                    pending.append(entry)
                continue
            is_picture = entry.suffix.lower() in pictures.SUFFIXES
            (found if is_picture else others).append(entry.relative_to(root).as_posix())
    return sorted(found), sorted(others)


# ---- what is told ------------------------------------------------------------------------------


def _tell_others(others: Sequence[str], tell: Tell) -> None:
    if others:
        tell(f"left out, as their names are no pictures': {_counted(others)}")


def shown(text: str) -> str:
    """A name as it may be printed: what would move the cursor is escaped."""
    return text if text.isprintable() else ascii(text)


def _some(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > MOST_NAMES else ""
    return ", ".join(map(shown, names[:MOST_NAMES])) + more


def _counted(names: Sequence[str]) -> str:
    return f"{len(names):,} file{'s' if len(names) > 1 else ''} ({_some(names)})"


# ---- sizes -------------------------------------------------------------------------------------


def common_size(listing: Listing, tell: Tell = print) -> tuple[int, int]:
    """The most common height and width of the pictures, upright; of several the largest.

    Raises:
        ValueError: if that is more than :data:`LARGEST_SIDE`, or no picture can be read.
    """
    sizes: Counter[tuple[int, int]] = Counter()
    for name in _progress(listing.names, "looking"):
        try:
            sizes[pictures.upright_size(listing.root / name)] += 1
        except pictures.BrokenPicture:
            continue  # reading tells
    if not sizes:
        raise ValueError(f"none of the pictures in {listing.root} can be read")
    size, n = max(sizes.items(), key=lambda item: (item[1], item[0]))
    if max(size) > LARGEST_SIDE:
        raise ValueError(
            f"the most common size in {listing.root} is {size[0]}×{size[1]}, which is more than a "
            f"net of this library should be trained on unasked: give a size, for example 64"
        )
    if len(sizes) > 1:
        total = sum(sizes.values())
        tell(f"{n:,} of {total:,} pictures are {size[0]}×{size[1]} pixels: all become so")
    return size


def nearest(size: tuple[int, int], divisor: int) -> tuple[int, int]:
    """The nearest height and width that are multiples of ``divisor``, at least it; ties go up."""
    height, width = (max(1, (2 * side + divisor) // (2 * divisor)) * divisor for side in size)
    return height, width


# ---- reading -----------------------------------------------------------------------------------


def read(
    listing: Listing,
    name: str,
    size: tuple[int, int],
    *,
    grey: bool | None = None,
    skip_broken: bool = False,
    tell: Tell = print,
) -> Dataset:
    """Read the pictures of a folder, each brought to one size, with a progress bar.

    Args:
        listing: see :func:`listed`.
        name: of the data set.
        size: height and width; see :func:`ddpmlib.data.pictures.read_picture`.
        grey: one channel or three; None for one if no picture has a colour.
        skip_broken: leave out files that cannot be read, which otherwise stop.
        tell: gets each sentence about what was left out or changed.

    Raises:
        ValueError: for files that cannot be read, naming up to three; if the pictures do not fit
            into memory; if nothing is left to train on.
    """
    _check_memory(listing, size, grey)
    arrays: dict[str, np.ndarray] = {}
    broken: dict[str, str] = {}
    several: list[str] = []
    for path in _progress(listing.names, "reading"):
        try:
            pixels = pictures.read_picture(listing.root / path, size, grey)
            several += [path] if pictures.frames(listing.root / path) > 1 else []
            arrays[path] = pixels  # after all that can raise: no broken file is trained on
        except pictures.BrokenPicture as error:
            broken[path] = str(error)
    _settle_broken(broken, skip_broken, tell)
    if several:
        tell(f"of {_counted(several)}, each of several pictures, the first is taken")
    if not any(path in arrays for path in listing.train):
        raise ValueError(f"no picture in {listing.root} is left to train on")
    train, test = ([n for n in part if n in arrays] for part in (listing.train, listing.test))
    test = _without_copies(arrays, train, test, tell)
    colour = any(array.ndim == 3 for array in arrays.values())
    x_train, x_test = (_stacked([arrays[n] for n in part], size, colour) for part in (train, test))
    source = Source(str(listing.root.resolve()), size, not colour, skip_broken)
    return Dataset(
        name, x_train, listing.labels(train), x_test, listing.labels(test), listing.classes, source
    )


def _stacked(arrays: Sequence[np.ndarray], size: tuple[int, int], colour: bool) -> Tensor:
    """(N, C, H, W)."""
    out = torch.empty(len(arrays), 3 if colour else 1, *size, dtype=torch.uint8)
    for place, array in zip(out, arrays, strict=True):
        planes = torch.from_numpy(array.copy())
        place.copy_(planes.permute(2, 0, 1) if array.ndim == 3 else planes)
    return out


def _settle_broken(broken: dict[str, str], skip: bool, tell: Tell) -> None:
    if not broken:
        return
    reasons = [f"{shown(n)}: {shown(why)}" for n, why in list(broken.items())[:MOST_NAMES]]
    more = "; ..." if len(broken) > MOST_NAMES else ""
    files = f"{len(broken):,} file{'s' if len(broken) > 1 else ''}"
    said = f"{files} cannot be read ({'; '.join(reasons)}{more})"
    if not skip:
        raise ValueError(
            f"{said}: mend or remove them, or leave them out by --skip-broken (skip_broken=True)"
        )
    tell(f"left out: {said}")


def _without_copies(
    arrays: dict[str, np.ndarray], train: Sequence[str], test: Sequence[str], tell: Tell
) -> list[str]:
    """The test pictures that are not in the training set too; copies within a part stay."""
    first: dict[bytes, str] = {}
    copies: list[tuple[str, str]] = []
    for name in [*train, *test]:
        digest = hashlib.sha256(arrays[name].tobytes()).digest()
        original = first.setdefault(digest, name)
        copies += [(name, original)] if original != name else []
    if copies:
        a, b = copies[0]
        tell(
            f"{len(copies):,} picture{'s' if len(copies) > 1 else ''} twice, for example "
            f"{shown(a)} and {shown(b)}: they count as often, but none is trained on and tested"
        )
    trained = set(train)
    double = {name for name, original in copies if original in trained}
    return [name for name in test if name not in double]


def _check_memory(listing: Listing, size: tuple[int, int], grey: bool | None) -> None:
    needed = len(listing.names) * size[0] * size[1] * (1 if grey else 3) * 2  # read, then stacked
    if needed > (limit := most_bytes()):
        raise ValueError(
            f"{len(listing.names):,} pictures of {size[0]}×{size[1]} need {needed / 2**30:.1f} GiB "
            f"of memory and may take {limit / 2**30:.1f}: choose a smaller size, or read them by "
            "workers from Python (ddpmlib.data.MapStyle)"
        )


def most_bytes() -> int:
    """How much of the memory images may take: half of what is free, or 4 GiB where none tells."""
    info = Path("/proc/meminfo")
    lines = info.read_text("utf-8").splitlines() if info.is_file() else []
    free = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return free[0] // MEMORY_SHARE if free else 4 * 2**30


def _progress(names: Iterable[str], what: str) -> Iterator[str]:
    from tqdm import tqdm

    quiet = True if os.environ.get("RANK", "0") != "0" else None  # None: unless at a terminal
    return iter(tqdm(names, desc=what, unit="picture", disable=quiet, delay=1))
