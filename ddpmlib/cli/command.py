"""``ddpmlib VERB``: the command line as a whole, and how it ends."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import TextIO

from ddpmlib import __version__, interruption
from ddpmlib.cli import evaluate, export_web, film, sample, ship, statistics, train, zoo
from ddpmlib.cli.text import complain

EXAMPLES = """examples:
  ddpmlib train digits                    about a minute on one CPU thread, into runs/digits
  ddpmlib train digits --resume           after an interruption, with the options that it had
  ddpmlib train digits --resume --steps 9000              longer than it was meant to be
  ddpmlib train digits --minutes 2        as many steps as fit into two minutes
  torchrun --nproc-per-node 2 -m ddpmlib train digits      in two processes
  ddpmlib train --images photos           your own pictures, a sub-folder for each class or none
  ddpmlib sample                          100 samples of the newest run into samples.png
  ddpmlib sample mnist --n 20 --label 7 --steps 20 --eta 1 --out sevens.png
  ddpmlib sample mnist --w 2              guided towards the class
  ddpmlib sample mnist --n 10000 --out samples.npz      the array that tools for FID read
  ddpmlib train digits --sample-every 50  a grid of samples every 50 steps, and then
  ddpmlib film digits                     a film of them
  ddpmlib evaluate mnist                  how good its samples are
  ddpmlib evaluate mnist --metric fid nll --n 5000 --steps 10 --spacing quadratic
  ddpmlib zoo                             what can be trained, and what is there trained
"""
# Of what was asked for or read, not of the program: one sentence, and no traceback.
FAULTS = (ValueError, OSError, RuntimeError, ArithmeticError, ImportError, MemoryError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    Bad input ends with one sentence on stderr and status 2, Ctrl-C with 130, SIGTERM with 143.
    Started by ``torchrun``, the processes share the work, and the first one speaks.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    with interruption.ending_at_once():
        args = parser().parse_args(words)
    # A run that is named by its folder alone is not told without it.
    unnamed = all(getattr(args, name, "") is None for name in ("recipe", "images"))
    args.command = shlex.join(["ddpmlib", *_repeatable(words, () if unnamed else ("--out",))])
    try:
        with interruption.heeded(), warnings.catch_warnings():
            warnings.showwarning = _warn
            _run(args)
    except FAULTS as error:
        # PyTorch adds pages to some messages: the first line says what is wrong.
        lines = str(error).strip().splitlines() or [type(error).__name__]
        process = f" (process {os.environ['RANK']})" if "RANK" in os.environ else ""
        complain(f"ddpmlib{process}: {lines[0]}")
        return 2
    except KeyboardInterrupt as stop:
        signum = getattr(stop, "signum", signal.SIGINT)
        print(file=sys.stderr)  # ends the line of the ^C
        complain(interruption.sentence(signum, _hint(args, stop)))
        return 128 + signum
    return 0


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """One sentence for the reader, without the line of code that it comes from."""
    complain(f"ddpmlib: {message}")


def _hint(args: argparse.Namespace, stop: KeyboardInterrupt) -> str:
    """What was kept of a run that is interrupted."""
    if args.run is not train.run:
        return ""
    kept = getattr(stop, "kept", "")
    if not kept:
        return "; if a state was saved, `--resume` goes on from it"
    return f"; {kept}, and `{shlex.join(train.resumption(args))}` goes on"


def _run(args: argparse.Namespace) -> None:
    with interruption.ending_at_once():  # these take seconds
        from ddpmlib.training import parallel

    with parallel.joined(args.device) as args.device:
        _settle(args)
        if parallel.is_main():
            args.run(args)
        elif args.run not in (film.run, ship.run, zoo.run):
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
                args.run(args)


def _repeatable(words: Sequence[str], places: Sequence[str] = ("--out",)) -> list[str]:
    """The words that decide the result: not where it was put, nor that it was interrupted.

    Nor how long it might take: how many steps that were is added when it is known.
    """
    dropped = (*places, "--minutes")
    pairs = zip(["", *words], words, strict=False)
    kept = [w for before, w in pairs if before not in dropped and w not in (*dropped, "--resume")]
    return [w for w in kept if not w.startswith(tuple(f"{name}=" for name in dropped))]


def _settle(args: argparse.Namespace) -> None:
    """Threads and device, checked before anything long begins."""
    if not args.threads and not args.device:
        return
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    if args.device:
        try:
            torch.empty(0, device=args.device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise ValueError(f"there is no device {args.device!r} here: try cpu") from error


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    found = argparse.ArgumentParser(
        prog="ddpmlib",
        description="Train and sample diffusion models.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("--version", action="version", version=f"ddpmlib {__version__}")
    verbs = found.add_subparsers(required=True, metavar="VERB")
    for module in (train, sample, film, evaluate, statistics, ship, export_web, zoo):
        module.add(verbs)
    return found
