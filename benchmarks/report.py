"""From measured rows to what is read: one JSON file, and from it alone a table and a figure.

`python -m benchmarks.report benchmarks/results/cpu.json` draws both again.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

from benchmarks.libraries import Library, version
from benchmarks.rows import Row
from benchmarks.sizes import SIZES, count
from benchmarks.switches import WHAT, Gain
from ddpmlib.training import device_name

FORMAT = "ddpmlib-benchmark-1"
Report = dict[str, Any]


def counted(libraries: Sequence[Library], sizes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Weights and forward operations per image, by size and library."""
    found: dict[str, dict[str, Any]] = {}
    for name in sizes:
        found[name] = {}
        for library in libraries:
            weights, flops = count(library.net(SIZES[name]), SIZES[name])
            found[name][library.name] = {"weights": weights, "flops": flops}
    return found


def circumstances(libraries: Sequence[Library], device: torch.device) -> dict[str, Any]:
    """Date, commit, hardware, versions, threads."""
    versions = {lib.name: version(lib) for lib in libraries}
    cores = f", {os.cpu_count()} cores" if device.type == "cpu" else ""
    return {
        "date": date.today().isoformat(),
        "commit": _commit(),
        "device": device.type,
        "hardware": device_name(device) + cores,
        "threads": torch.get_num_threads(),
        "versions": versions | {"torch": torch.__version__, "python": platform.python_version()},
    }


def _commit() -> str:
    root = Path(__file__).resolve().parent.parent
    ask = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        done = subprocess.run(ask, capture_output=True, encoding="utf-8", check=False)
    except OSError:  # no git
        return "unknown"
    return done.stdout.strip() or "unknown"


def assemble(
    about: dict[str, Any],
    sizes: dict[str, dict[str, Any]],
    rates: dict[str, float],
    rows: Sequence[Row],
    gains: Sequence[Gain],
) -> Report:
    """Everything as JSON values."""
    report = {"format": FORMAT, "about": about, "sizes": sizes, "matmul": rates}
    report["rows"] = [dataclasses.asdict(row) for row in rows]
    report["switches"] = [dataclasses.asdict(gain) for gain in gains]
    return json.loads(json.dumps(report))


def load(path: Path) -> Report:
    """A report from its file.

    Raises:
        ValueError: if it is none.
    """
    report = json.loads(path.read_text("utf-8"))
    if not isinstance(report, dict) or report.get("format") != FORMAT:
        raise ValueError(f"{path} is not a report of this benchmark ({FORMAT})")
    return report


def write(report: Report, folder: Path) -> list[Path]:
    """NAME.json, NAME.md and, where there is a peer, NAME.svg; NAME is the device."""
    folder.mkdir(parents=True, exist_ok=True)
    name = report["about"]["device"]
    paths = [folder / f"{name}.{ending}" for ending in ("json", "md", "svg")]
    paths[0].write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    paths[1].write_text(markdown(report), "utf-8")
    if not report["rows"][0]["ahead"]:
        return paths[:2]
    figure(report, paths[2])
    return paths


# ---- the table -----------------------------------------------------------------------------------


def markdown(report: Report) -> str:
    """The tables of one report, with where and when they were measured."""
    parts = [_where(report), sizes_table(report), rows_table(report)]
    parts += [use_table(report)] if any(row["flops"] for row in report["rows"]) else []
    parts += [switches_table(report)] if report["switches"] else []
    return "\n\n".join(parts) + "\n"


def _where(report: Report) -> str:
    about = report["about"]
    threads = about["threads"]
    versions = ", ".join(f"{name} {v}" for name, v in about["versions"].items())
    where = f"{about['hardware']}, {threads} thread{'s' * (threads != 1)}" \
        if about["device"] == "cpu" else about["hardware"]  # fmt: skip
    return f"Measured on {about['date']} on {where}, at commit {about['commit']}: {versions}."


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, the first two columns to the left and numbers to the right."""
    lines = [head, ["---", "---", *["--:"] * (len(head) - 2)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def sizes_table(report: Report) -> str:
    """Weights and operations of the networks."""
    rows = [
        [size, library, f"{found['weights'] / 1e6:.3f} M", f"{found['flops'] / 1e9:.3f} G"]
        for size, libraries in report["sizes"].items()
        for library, found in libraries.items()
    ]
    return table(["network", "library", "weights", "operations per image, forward"], rows)


def rows_table(report: Report) -> str:
    """Medians, and by how much ours is ahead with the quartiles of the ratio."""
    libraries = list(report["rows"][0]["values"])
    head = ["what", "network, batch", *libraries, *(f"against {n}" for n in libraries[1:])]
    rows = []
    for row in report["rows"]:
        values = [number(row["values"][name]["median"]) for name in libraries]
        ahead = [ratio(row["ahead"][name]) for name in libraries[1:]]
        what = f"{row['name']} ({row['unit']})"
        rows.append([what, f"{row['size']}, {row['batch']}", *values, *ahead])
    return table(head, rows)


def use_table(report: Report) -> str:
    """What share of the device's matrix-product rate training reaches."""
    rows = []
    for row in (row for row in report["rows"] if row["flops"]):
        kind = "bf16" if "bf16" in row["name"] else "fp32"
        rate = report["matmul"][kind]
        for library, images in row["values"].items():
            share = row["flops"][library] * images["median"] / rate
            what = f"{row['name']}, {row['size']}"
            rows.append([what, library, f"{rate / 1e9:,.0f} G/s ({kind})", f"{share:.0%}"])
    head = ["what", "library", "matrix products", "of which training uses"]
    return table(head, [[cell.replace("%", " %") for cell in row] for row in rows])


def switches_table(report: Report) -> str:
    """One switch at a time."""
    rows = []
    for gain in report["switches"]:
        what = WHAT.get(gain["switch"], "fp32, eager, all switches off, one thread")
        milliseconds = number(gain["milliseconds"]["median"])
        rows.append([gain["switch"], what, milliseconds, ratio(gain["gain"])])
    return table(["switch", "what it does", "ms per update", "faster"], rows)


def number(value: float) -> str:
    """Three digits that mean something."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def ratio(spread: dict[str, float]) -> str:
    """2.31× [2.20–2.45]: median and quartiles."""
    return f"{spread['median']:.2f}× [{spread['low']:.2f}–{spread['high']:.2f}]"


# ---- the figure ----------------------------------------------------------------------------------


def figure(report: Report, path: Path) -> None:
    """How many times ahead ours is, one point per row and peer, with quartiles."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullLocator

    from ddpmlib import plots

    plots.style()
    # Images per second of sampling say what milliseconds per step say, for a chain of 50.
    rows = [
        row
        for row in report["rows"]
        if not (row["name"].startswith("Sampling") and row["unit"] == "images/s")
    ]
    mpl.rcParams["svg.hashsalt"] = FORMAT
    drawn, ax = plt.subplots(figsize=(7.2, 0.28 * len(rows) + 1.2))
    for k, (peer, colour, mark) in enumerate(
        zip(rows[0]["ahead"], (plots.BLUE, plots.ORANGE), "os", strict=False)
    ):
        middle = [row["ahead"][peer]["median"] for row in rows]
        low = [row["ahead"][peer]["median"] - row["ahead"][peer]["low"] for row in rows]
        high = [row["ahead"][peer]["high"] - row["ahead"][peer]["median"] for row in rows]
        y = [i + 0.16 * (2 * k - 1) for i in range(len(rows))]
        ax.errorbar(middle, y, xerr=[low, high], fmt=mark, color=colour, label=f"vs {peer}")
    ax.axvline(1, color=plots.GREY, linewidth=1)
    ax.set_yticks(range(len(rows)), [_label(row) for row in rows])
    ax.invert_yaxis()
    ax.set(xscale="log")
    ax.set_xlabel(
        "times faster, or smaller, than the peer: ddpmlib is ahead right of 1", loc="right"
    )
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:g}×")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncol=2)
    drawn.savefig(path, metadata={"Date": None})
    plt.close(drawn)


def _label(row: dict[str, Any]) -> str:
    return f"{row['name']}, {row['size']}, {row['batch']} ({row['unit']})"


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        write(load(Path(argument)), Path(argument).parent)
