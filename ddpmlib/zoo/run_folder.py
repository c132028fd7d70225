"""The folder of a run: whether it is free, and one run at a time in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ddpmlib.locks import Held, locked
from ddpmlib.training import parallel
from ddpmlib.zoo.checkpoints import MODEL, STATE

LOCK = ".lock"  # there while the run is being trained


def check_folder(folder: Path, resume: bool) -> None:
    """Whether a run may begin in a folder, or go on there, asked before anything long.

    Args:
        folder: need not be there.
        resume: go on with the run that it holds, if it does; also where ``torchrun`` started the
            processes again.

    Raises:
        NotADirectoryError: if it is a file.
        FileExistsError: if it holds another run, or a model without the state to go on from.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"a run needs a folder, and {folder} is a file")
    state, model = (folder / STATE).exists(), (folder / MODEL).exists()
    if state and not (resume or parallel.restarted()):
        raise FileExistsError(
            f"{folder} already holds a run: go on with it by --resume (resume=True), or give "
            "another folder by --out"
        )
    if model and not state:  # training from the start would in the end replace it
        raise FileExistsError(
            f"{folder} holds a trained model but no {STATE} to go on from: give another folder by "
            "--out"
        )


def stamp_of(path: Path) -> tuple[int, int] | None:
    """Which file a name stands for at this moment; None for no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


@contextmanager
def reserved(folder: Path) -> Iterator[None]:
    """The folder is this run's; of several processes the first one holds the lock for all.

    Raises:
        Held: on every process, if somebody else trains there.
        OSError: if the folder takes no files.
    """
    refused: OSError | None = None
    with ExitStack() as stack:
        if parallel.is_main():
            busy = f"{folder} is being trained"
            other = "wait for it, or give another folder by --out"
            try:
                stack.enter_context(locked(folder / LOCK, busy, other))
            except OSError as error:
                refused = error
        sentence = parallel.collected(["" if refused is None else str(refused)])[0]
        if refused is not None or sentence:
            raise refused or Held(sentence)
        yield
