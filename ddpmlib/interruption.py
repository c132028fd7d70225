"""Ctrl-C and SIGTERM: a run saves its state before it ends, and never half an update.

Within :func:`deferred` a first signal waits until somebody asks for it by :func:`check`; a second
one does not wait. The command line ends by both signals with one sentence, see :func:`heeded`, also
while the libraries are imported, which takes seconds. Needs neither torch nor numpy, so that it can
come before them.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_waiting: list[int] = []  # signals that nobody has asked for yet
_blocks: list[None] = []  # of deferred, one in the other


class Interrupted(KeyboardInterrupt):
    """A signal asked the process to end.

    Attributes:
        signum: which.
        kept: what was kept, in words: "update 12 is saved".
    """

    def __init__(self, signum: int, kept: str = "") -> None:
        super().__init__(kept)
        self.signum, self.kept = signum, kept


@contextmanager
def deferred() -> Iterator[None]:
    """Within the block a first signal waits for :func:`check`, or for the end of the block.

    Blocks may lie in each other: the outermost counts. Elsewhere than in the main thread, where
    Python takes no signals, nothing changes; neither for signals that are ignored.

    Raises:
        Interrupted: at the end, for a signal that came.
    """
    if not _in_main_thread():
        yield
        return
    outermost = not _blocks
    _blocks.append(None)
    before = _handled(_note) if outermost else {}
    try:
        yield
        if outermost:
            check()
    finally:
        _blocks.pop()
        if outermost:
            _waiting.clear()
        _restored(before)


def check(kept: Callable[[], str] | None = None) -> None:
    """End here if a signal came.

    Args:
        kept: called before; saves what there is to save, and says so.

    Raises:
        Interrupted: if one came.
    """
    if _waiting and _in_main_thread():
        said = "" if kept is None else kept()
        raise Interrupted(_waiting.pop(0), said)


@contextmanager
def heeded() -> Iterator[None]:
    """Within the block both signals raise, SIGTERM too.

    Raises:
        Interrupted: when one comes.
    """
    before = _handled(_raise)
    try:
        yield
    finally:
        _restored(before)


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Within the block both signals end the process: for imports, in which an exception is lost."""

    def end(signum: int, frame: FrameType | None) -> None:
        os.write(2, f"\n{sentence(signum)}\n".encode())
        os._exit(128 + signum)

    before = _handled(end)
    try:
        yield
    finally:
        _restored(before)


def sentence(signum: int, hint: str = "") -> str:
    """What the command line says when a signal ends it."""
    how = "interrupted" if signum == signal.SIGINT else f"ended by {signal.Signals(signum).name}"
    return f"ddpmlib: {how}{hint}"


def _note(signum: int, frame: FrameType | None) -> None:
    if _waiting:
        _waiting.clear()
        raise Interrupted(signum)
    _waiting.append(signum)


def _raise(signum: int, frame: FrameType | None) -> None:
    raise Interrupted(signum)


def _handled(handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Handle the signals so; returns what did before, of those that are changed."""
    if not _in_main_thread():
        return {}
    # Who starts a command in the background has Ctrl-C ignored, and means it.
    found = {s: signal.getsignal(s) for s in SIGNALS}
    before: dict[int, Any] = {s: h for s, h in found.items() if h not in (None, signal.SIG_IGN)}
    for s in before:
        signal.signal(s, handler)
    return before


def _restored(before: dict[int, Any]) -> None:
    for s, handler in before.items():
        signal.signal(s, handler)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
