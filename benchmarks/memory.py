"""Peak memory of training and of sampling, each library in a process of its own.

`python -m benchmarks.memory LIBRARY SIZE TASK DEVICE` prints bytes: on a CUDA device what PyTorch
allocated at most; on a CPU by how much the resident memory grew at most after the imports, which
weigh differently and are nobody's network.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks.libraries import LIBRARIES, Library, Way
from benchmarks.rows import Row, random_images, row_of
from benchmarks.sizes import SIZES, Size

TASKS = ("training", "sampling")


def memory_rows(
    libraries: Sequence[Library], size: Size, device: torch.device, rounds: int
) -> list[Row]:
    """A row for each task; the peak of a process varies little, so few rounds do."""
    rows = []
    for task in TASKS:
        found: dict[str, list[float]] = {lib.name: [] for lib in libraries}
        for _ in range(rounds):
            for lib in libraries:
                found[lib.name].append(in_own_process(lib.name, size.name, task, device))
        name = f"Peak memory, {task}"
        rows.append(row_of(name, size.name, size.batch, "MiB", lambda b: b / 2**20, found))
    return rows


def measurable(device: torch.device) -> bool:
    """Whether the peak can be read: on CUDA, and on a CPU under Linux."""
    return device.type == "cuda" or (
        device.type == "cpu" and os.access("/proc/self/clear_refs", os.W_OK)
    )


def in_own_process(library: str, size: str, task: str, device: torch.device) -> float:
    """Bytes that the library needs at most for the task.

    Raises:
        RuntimeError: with the process's last words, if it fails.
    """
    command = [sys.executable, "-m", "benchmarks.memory", library, size, task, str(device)]
    root = str(Path(__file__).resolve().parent.parent)
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "TQDM_DISABLE": "1"}
    env["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    done = subprocess.run(command, env=env, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        raise RuntimeError(f"measuring the memory of {library} failed: {done.stderr[-2000:]}")
    return float(done.stdout.split()[-1])


def peak(work: Callable[[], object], device: torch.device) -> int:
    """Bytes in use at most during the work, beyond those in use before it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device)
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", "utf-8")  # forget the peak of the imports
    work()
    return _resident("VmHWM") - before


def _resident(which: str) -> int:
    """VmRSS (now) or VmHWM (at most) of this process in bytes, as Linux counts."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    (line,) = (line for line in lines if line.startswith(f"{which}:"))
    return 1024 * int(line.split()[1])


def task(library: Library, size: Size, name: str, device: torch.device) -> Callable[[], object]:
    """Three updates, or two DDIM steps for as many images as training takes at a time."""

    def training() -> None:
        update = library.training(size, random_images(size, 2 * size.batch), device, Way(), True)
        for _ in range(3):
            update()

    def sampling() -> None:
        library.sampling(size, device, Way(), size.batch, 2)()

    return training if name == "training" else sampling


def main(library: str, size: str, name: str, device: str) -> None:
    """Print the peak of one task in bytes."""
    (chosen,) = (lib for lib in LIBRARIES if lib.name == library)
    tiny = SIZES["tiny"]  # imports happen at first use, and are not to be counted
    place = torch.device(device)
    task(chosen, tiny, name, place)()
    print(peak(task(chosen, SIZES[size], name, place), place))


if __name__ == "__main__":
    main(*sys.argv[1:])
