"""Who works on a file or in a folder: locks that name their holder and end with it.

A lock is a file that is held by ``flock``, which the system lets go when the process ends, however
it ends: a killed process leaves the file, and the next one takes it. A file system that knows no
``flock`` (some of clusters), and Windows, are the exception: there the file itself is the lock,
one that a killed process left has to be removed by hand, which the message says, and half files of
killed writers stay.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

HELD_BY_SYSTEM = fcntl is not None
PART = re.compile(r"\..+\.[0-9a-f]{8}\.part")  # what new_part makes
PAUSE = 0.02  # seconds between two tries
_own: set[int] = set()  # descriptors of the locks that this process holds


class Held(BlockingIOError):
    """Somebody else holds the lock; the message says who."""


@contextmanager
def locked(path: Path, what: str, otherwise: str, wait: float = 0.0) -> Iterator[None]:
    """Hold a lock until the block ends.

    Args:
        path: the file that is held, and gone again afterwards; its folder is made if needed.
        what: what the holder does, for the message: "runs/digits is being trained".
        otherwise: what somebody who comes too late can do.
        wait: seconds to wait for another holder.

    Raises:
        Held: if another process or thread holds it: "WHAT by process 12 on HOST since TIME: ...".
        OSError: naming the folder, if it takes no files.
    """
    descriptor = _waited_for(path, wait)
    if descriptor is None:
        left = f", or remove {path} if that process is gone"
        raise Held(f"{what} by {_holder(path)}: {otherwise}{left * (not _flocks(path))}")
    _own.add(descriptor)
    try:
        os.write(descriptor, _signature())
        yield
    finally:
        if descriptor in _own:  # a forked process may come here too
            _let_go(path, descriptor)


def _let_go(path: Path, descriptor: int) -> None:
    _own.discard(descriptor)
    with contextlib.suppress(OSError):  # Windows removes no open file
        path.unlink()
    os.close(descriptor)
    if not HELD_BY_SYSTEM:
        path.unlink(missing_ok=True)


def _waited_for(path: Path, seconds: float) -> int | None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        until = time.monotonic() + seconds
        while (found := held(path)) is None and time.monotonic() < until:
            time.sleep(PAUSE)
        return found
    except OSError as error:
        why = error.strerror or error
        raise OSError(error.errno, f"cannot write into {path.parent}: {why}") from error


def _signature() -> bytes:
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    return json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}).encode()


def _holder(path: Path) -> str:
    """Who wrote a lock's file, in words."""
    try:
        found = json.loads(path.read_text("utf-8"))
        who = f"process {found['pid']:d} on {found['host']!s:.64} since {found['since']!s:.32}"
    except (OSError, ValueError, TypeError, KeyError):  # it came or went in this moment
        who = ""
    return who if who and who.isprintable() else "another process"  # no escapes for a terminal


# ---- one file ------------------------------------------------------------------------------------


def held(path: Path) -> int | None:
    """A descriptor of ``path``, made if needed, that nobody else holds; None if somebody does."""
    flags = os.O_RDWR | getattr(os, "O_BINARY", 0)
    while True:
        new = True
        try:
            descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            new = False
            try:
                descriptor = os.open(path, flags)
            except FileNotFoundError:  # its holder has gone, and taken it along
                continue
        if not _taken(descriptor, new):
            os.close(descriptor)
            return None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                os.truncate(descriptor, 0)
                return descriptor
        os.close(descriptor)  # the file of a holder who has gone: there may be another one now


def _taken(descriptor: int, new: bool) -> bool:
    """Whether an open file is ours; where the system holds none, who made the file does."""
    if fcntl is None:
        return new
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return new
    return True


def _flocks(path: Path) -> bool:
    """Whether the system holds the files of this folder, so that the dead hold none."""
    if fcntl is None:
        return False
    try:
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        finally:
            os.close(descriptor)
    except OSError as error:
        return isinstance(error, BlockingIOError)
    return True


def _let_go_in_child() -> None:
    """A forked process holds nothing: it may live on when the one that locked has been killed."""
    while _own:
        os.close(_own.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)


# ---- half files ----------------------------------------------------------------------------------


def new_part(path: Path) -> tuple[Path, int]:
    """A new file beside ``path`` for its coming content, held by this writer alone."""
    while True:
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        if (descriptor := held(part)) is not None:  # else somebody tidies up just now
            return part, descriptor


@functools.cache  # once a process and folder: a folder of many files is not read for each of them
def tidy(folder: Path) -> None:
    """Remove the half files of a folder that nobody holds: their writers have been killed."""
    if not HELD_BY_SYSTEM:
        return
    for part in folder.glob(".*.part"):
        if PART.fullmatch(part.name):
            with contextlib.suppress(OSError):
                if (descriptor := held(part)) is not None:
                    part.unlink()
                    os.close(descriptor)
