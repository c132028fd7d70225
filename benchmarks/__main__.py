"""The command: `python -m benchmarks --help`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import torch

from benchmarks import report
from benchmarks.libraries import present
from benchmarks.matmul import rates
from benchmarks.memory import measurable, memory_rows
from benchmarks.rows import Plan, Row, all_rows, random_images
from benchmarks.sizes import SIZES
from benchmarks.switches import gains
from ddpmlib.training import default_device

RESULTS = Path(__file__).resolve().parent / "results"


def parser() -> argparse.ArgumentParser:
    """The options."""
    found = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    found.add_argument(
        "--device", default=default_device().type, help="cpu, cuda (default: %(default)s)"
    )
    found.add_argument(
        "--size",
        nargs="+",
        choices=SIZES,
        help="networks (default: small on a CPU, small and ddpm on a GPU)",
    )
    found.add_argument(
        "--repeats", type=int, default=9, help="measurements of each number (default: %(default)s)"
    )
    found.add_argument(
        "--quick",
        action="store_true",
        help="a look in seconds: tiny network, nothing compiled, batches 1 and 16",
    )
    found.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    return found


def plan(arguments: argparse.Namespace) -> Plan:
    """What the options ask for.

    Raises:
        ValueError: for less than one repeat.
    """
    if arguments.repeats < 1:
        raise ValueError(f"--repeats counts measurements, at least 1, got {arguments.repeats}")
    if arguments.quick:
        return Plan(("tiny",), min(arguments.repeats, 3), (1, 16), whole=False, images=128)
    usual = ("small",) if arguments.device == "cpu" else ("small", "ddpm")
    return Plan(tuple(arguments.size or usual), arguments.repeats)


def run(chosen: Plan, device: torch.device, folder: Path) -> list[Path]:
    """Measure everything, print each row when it is there, write the results."""
    libraries, missing = present()
    print(*missing, sep="\n", end="\n" if missing else "")
    sizes = report.counted(libraries, chosen.sizes)
    matmul = rates(device)
    flops = {size: {n: f["flops"] for n, f in found.items()} for size, found in sizes.items()}
    rows: list[Row] = []
    for row in all_rows(libraries, chosen, device, flops):
        rows.append(show(row))
    for name in chosen.sizes if chosen.whole and measurable(device) else ():
        rows += map(show, memory_rows(libraries, SIZES[name], device, min(3, chosen.rounds)))
    size = SIZES[chosen.sizes[0]]
    images = random_images(size, max(chosen.images, size.batch))
    found = gains(size, images, device, chosen.rounds, chosen.whole)
    about = report.circumstances(libraries, device)
    whole = report.assemble(about, sizes, matmul, rows, found)
    print(report.markdown(whole))
    return report.write(whole, folder)


def show(row: Row) -> Row:
    """Print a row and hand it on."""
    values = ", ".join(f"{name} {report.number(v.median)}" for name, v in row.values.items())
    ahead = ", ".join(f"{v.median:.2f}× {name}" for name, v in row.ahead.items())
    print(f"{row.name} ({row.size}, {row.batch}), {row.unit}: {values}; {ahead}", flush=True)
    return row


def main(words: list[str] | None = None) -> int:
    """The command; 0 if all went well."""
    os.environ["TQDM_DISABLE"] = "1"  # one peer's bars would cost it time, and fill the screen
    arguments = parser().parse_args(words)
    try:
        chosen, device = plan(arguments), torch.device(arguments.device)
    except (ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if torch.get_num_threads() > 1 and device.type == "cpu":
        print(f"{torch.get_num_threads()} threads; OMP_NUM_THREADS=1 makes a busy machine fair.")
    for path in run(chosen, device, arguments.out):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
