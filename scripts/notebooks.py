"""Keep the chapters' notebooks equal to their texts, and execute them.

    python scripts/notebooks.py                     sync and execute all chapters
    python scripts/notebooks.py 01_forward          only this one; part of the name will do
    python scripts/notebooks.py --check             compare text and notebook, change nothing
    python scripts/notebooks.py 01 --from-ipynb     take the cells from the notebook, then execute
    python scripts/notebooks.py 01 --from-text      drop the notebook's own edits, then execute
    python scripts/notebooks.py --refresh           renew set-up cells and badges, run nothing
    python scripts/notebooks.py --new 04_elbo "The evidence lower bound"

A chapter is ``notebooks/src/NN_name.py`` (jupytext's py:percent, what people edit and review) and
its executed twin ``notebooks/NN_name.ipynb`` (what GitHub, Colab and the HTML show). The text is
the truth, unless the notebook was edited after it: then this command stops and asks.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import yaml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
TEMPLATES = Path(__file__).resolve().parent / "templates"
PERCENT = {"extension": ".py", "format_name": "percent"}
FILTERS = {"cell_metadata_filter": "tags,mystnb,-all", "notebook_metadata_filter": "-all"}
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
CELL_TIMEOUT = 600
BUDGET = {"seconds": 60.0, "MB": 2000.0, "kB": 600.0}
COSTS = Path("data/costs.json")
CELL = re.compile(r"(?m)^(?=# %%)")  # where a cell of a text begins
BADGE = re.compile(r"@BADGE@|\[!\[Open in Colab\]\([^)]*\)\]\([^)]*\)")
# Linux hands ru_maxrss down from the process that started the kernel, so its own peak is read from
# /proc; macOS has no /proc and counts ru_maxrss in bytes.
PROBE = """import pathlib, re, resource, time
status = pathlib.Path("/proc/self/status")
if status.exists():
    peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", status.read_text())[1]) / 2**10
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(time.process_time(), peak)"""


class Trouble(Exception):
    """One sentence for the person at the keyboard."""


@dataclass(frozen=True)
class Chapter:
    """The two faces of one chapter."""

    name: str
    root: Path = ROOT

    @property
    def text(self) -> Path:
        return self.root / "notebooks" / "src" / f"{self.name}.py"

    @property
    def ipynb(self) -> Path:
        return self.root / "notebooks" / f"{self.name}.ipynb"

    @property
    def number(self) -> str:
        return self.name.split("_")[0]

    @property
    def appendix(self) -> bool:
        """Whether a letter stands in place of the number: a page to browse, not a lesson."""
        return self.number.isalpha()

    @property
    def digest(self) -> str:
        """Changes whenever the text does, but for what :func:`refresh` renews."""
        text = re.sub(BADGE, "", self.text.read_text("utf-8"))
        own = [cell for cell in re.split(CELL, text) if not _is_setup(cell)]
        return hashlib.sha256("".join(own).encode()).hexdigest()[:12]


def chapters(root: Path = ROOT) -> list[Chapter]:
    """All chapters that have a text or a notebook, in order."""
    folder = root / "notebooks"
    paths = [*folder.glob("src/[0-9A-Z]*_*.py"), *folder.glob("[0-9A-Z]*_*.ipynb")]
    return [Chapter(name, root) for name in sorted({path.stem for path in paths})]


def select(names: Sequence[str], root: Path = ROOT) -> list[Chapter]:
    """The chapters that were asked for; all when none was.

    Raises:
        Trouble: a name fits no chapter or several.
    """
    known = chapters(root)
    if not names:
        return known
    chosen = []
    for name in names:
        wanted = Path(name).stem
        exact = [chapter for chapter in known if chapter.name == wanted]
        fits = exact or [chapter for chapter in known if wanted in chapter.name]
        if len(fits) != 1:
            raise Trouble(f"{name!r} fits {len(fits)} chapters of {[c.name for c in known]}")
        chosen += fits
    return chosen


# What a chapter takes from one place: the repository's address, the set-up cell, the badge


def repository(root: Path = ROOT) -> tuple[str, str]:
    """Address and branch as `_config.yml` has them, the one place where they stand."""
    config = yaml.safe_load((root / "_config.yml").read_text("utf-8"))["repository"]
    return config["url"].rstrip("/"), config["branch"]


def setup_cell(root: Path = ROOT) -> str:
    """The source of the set-up cell, the same in every chapter.

    It fetches the release of ``templates/release.json``, which `python scripts/release.py pin`
    writes, and takes no other commit; before the first release, the newest that there is.
    """
    url, _ = repository(root)
    release = json.loads((TEMPLATES / "release.json").read_text("utf-8"))
    cell = (TEMPLATES / "setup.py").read_text("utf-8").strip()
    named = {"REPOSITORY": url, "NAME": url.split("/")[-1]}
    named |= {"RELEASE": release["tag"], "COMMIT": release["commit"]}
    return re.sub("@([A-Z]+)@", lambda found: named[found[1]], cell)


def badge(name: str, root: Path = ROOT) -> str:
    """The Colab badge of a chapter; the picture is ours, so that a page loads nothing foreign."""
    url, branch = repository(root)
    path = url.removeprefix("https://github.com/")
    colab = f"https://colab.research.google.com/github/{path}/blob/{branch}/notebooks/{name}.ipynb"
    return f"[![Open in Colab](../book/_static/colab.svg)]({colab})"


def refresh(chapter: Chapter) -> bool:
    """Renew set-up cell and badge; whether anything changed.

    The notebook too, if there is one, and without running it: its outputs stay as they are.
    """
    old = chapter.text.read_text("utf-8")
    cells = re.split(CELL, old)
    for i, cell in enumerate(cells):
        if _is_setup(cell):
            header = cell.split("\n", 1)[0]
            cells[i] = f"{header}\n{setup_cell(chapter.root)}\n\n"
    new = re.sub(BADGE, badge(chapter.name, chapter.root), "".join(cells))
    if new != old:
        _write(chapter.text, new)
    return _refresh_notebook(chapter) or new != old


def _is_setup(cell: str) -> bool:
    return '"setup"' in cell.split("\n", 1)[0]


def _refresh_notebook(chapter: Chapter) -> bool:
    if not chapter.ipynb.exists():
        return False
    old = chapter.ipynb.read_text("utf-8")
    notebook = nbformat.reads(old, as_version=4)
    for cell in notebook.cells:
        if "setup" in cell.metadata.get("tags", ()):
            cell.source = setup_cell(chapter.root)
        elif cell.cell_type == "markdown":
            cell.source = re.sub(BADGE, badge(chapter.name, chapter.root), cell.source)
    _name_cells(notebook)
    new = nbformat.writes(notebook) + "\n"
    if new != old:
        _write(chapter.ipynb, new)
    return new != old


def create(name: str, title: str, root: Path = ROOT) -> Chapter:
    """Write the skeleton of a new chapter, with all sections that a chapter has.

    Raises:
        Trouble: the name does not read NN_name, or the number or the file is taken.
    """
    chapter = Chapter(name, root)
    if not re.fullmatch(r"(\d\d|[A-Z])_[a-z0-9_]+", name):
        raise Trouble(f"{name!r} should read like 04_elbo: two digits, then lower-case words")
    if any(chapter.number == other.number for other in chapters(root)):
        raise Trouble(f"there is a chapter {chapter.number} already")
    text = (TEMPLATES / "chapter.py").read_text("utf-8")
    text = text.replace("# @SETUP@", setup_cell(root)).replace("@BADGE@", badge(name, root))
    text = text.replace("@TITLE@", title).replace("@NUMBER@", chapter.number)
    _write(chapter.text, text.replace("@CHAPTER@", chapter.number.lstrip("0")))
    return chapter


# Sync


def cells_of(notebook: NotebookNode) -> list[tuple[str, str, dict[str, Any]]]:
    """What text and notebook share: type, source and the metadata that the text keeps."""
    return [(cell.cell_type, cell.source, _kept(cell)) for cell in notebook.cells]


def _kept(cell: NotebookNode) -> dict[str, Any]:
    return {key: cell.metadata[key] for key in ("tags", "mystnb") if cell.metadata.get(key)}


def from_text(chapter: Chapter) -> NotebookNode:
    """The notebook that the text describes: no outputs, deterministic cell ids."""
    notebook = jupytext.read(chapter.text, fmt=PERCENT)
    notebook.metadata = NotebookNode(kernelspec=KERNEL, language_info={"name": "python"})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for cell in notebook.cells:
        cell.metadata = NotebookNode(_kept(cell))
    _name_cells(notebook)
    return notebook


def _name_cells(notebook: NotebookNode) -> None:
    """Give each cell the id that its source determines."""
    seen: dict[str, int] = {}
    for cell in notebook.cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        seen[digest] = seen.get(digest, 0) + 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"


def to_text(chapter: Chapter) -> None:
    """Write the notebook's cells as the chapter's text."""
    notebook = nbformat.read(chapter.ipynb, as_version=4)
    _write(chapter.text, jupytext.writes(notebook, fmt={**PERCENT, **FILTERS}))


def in_sync(chapter: Chapter) -> bool:
    """Whether both files exist and have the same cells."""
    if not (chapter.text.exists() and chapter.ipynb.exists()):
        return False
    notebook = nbformat.read(chapter.ipynb, as_version=4)
    return cells_of(from_text(chapter)) == cells_of(notebook)


def settle(chapter: Chapter, choice: str | None = None) -> None:
    """Make the text the truth, or stop when that would lose an edit.

    ``choice`` is "ipynb" or "text" when the person at the keyboard has decided.

    Raises:
        Trouble: only the notebook exists, or it differs from the text and is the newer one.
    """
    command = f"python scripts/notebooks.py {chapter.name}"
    if not chapter.text.exists():
        if choice != "ipynb":
            raise Trouble(f"{chapter.name} has no text; `{command} --from-ipynb` writes it.")
    elif not chapter.ipynb.exists() or in_sync(chapter):
        return
    if choice == "ipynb":
        to_text(chapter)
    elif choice is None and chapter.ipynb.stat().st_mtime > chapter.text.stat().st_mtime:
        raise Trouble(
            f"{chapter.ipynb.name} differs from its text and is newer: keep its edits with "
            f"`{command} --from-ipynb`, or drop them with `{command} --from-text`."
        )


# Execution


@dataclass(frozen=True)
class Cost:
    """What one run took: wall and processor seconds, peak memory, size of the file."""

    wall: float
    seconds: float
    MB: float
    kB: float

    def __str__(self) -> str:
        parts = [f"{self.wall:6.1f} s wall"]
        parts += [f"{getattr(self, unit):7.1f} {unit}" for unit in BUDGET]
        over = [unit for unit, limit in BUDGET.items() if getattr(self, unit) > limit]
        return "  ".join(parts) + (f"  OVER BUDGET: {', '.join(over)}" if over else "")


def costs(root: Path = ROOT) -> dict[str, dict[str, Any]]:
    """What each chapter took when it was last executed, as ``data/costs.json`` holds it.

    ``seconds`` of one CPU thread and ``MB`` of memory at most, on which ``processor``, and the
    digest of the ``text`` that was run: a cost that belongs to another text is out of date.
    """
    path = root / COSTS
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def keep_cost(chapter: Chapter, cost: Cost) -> None:
    """Note the cost of the text that was just executed; the page of the chapter shows it."""
    from ddpmlib.training import processor

    known = costs(chapter.root)
    known[chapter.name] = {
        "seconds": round(cost.seconds, 1),
        "MB": round(cost.MB),
        "processor": processor(),
        "text": chapter.digest,
    }
    listed = {name: known[name] for name in sorted(known)}
    _write(chapter.root / COSTS, json.dumps(listed, indent=1, ensure_ascii=False) + "\n")


def execute(chapter: Chapter) -> Cost:
    """Run the text in a fresh kernel with one thread and write the notebook.

    The file is replaced only when every cell has run.

    Raises:
        Trouble: a cell failed; the message shows where and why.
    """
    notebook = from_text(chapter)
    probe = nbformat.v4.new_code_cell(PROBE)
    notebook.cells.append(probe)
    start = time.perf_counter()
    _run(chapter, notebook)
    wall = time.perf_counter() - start
    # A busy machine may deliver one line in pieces.
    told = "".join(output.text for output in notebook.cells.pop().outputs)
    seconds, megabytes = map(float, told.split())
    _write(chapter.ipynb, nbformat.writes(stripped(notebook)) + "\n")
    return Cost(wall, seconds, megabytes, chapter.ipynb.stat().st_size / 1000)


def _run(chapter: Chapter, notebook: NotebookNode) -> None:
    # The results in the book are those of one CPU thread, whatever the machine has.
    environment = {**os.environ, **dict.fromkeys(THREADS, "1"), "CUDA_VISIBLE_DEVICES": ""}
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        kernel_name=KERNEL["name"],
        resources={"metadata": {"path": str(chapter.ipynb.parent)}},
        record_timing=False,
    )
    try:
        client.execute(env=environment)
    except CellExecutionError:
        cell, where = _failed(chapter, notebook)
        errors = [output for output in cell.outputs if output.output_type == "error"]
        raise Trouble(where + "\n".join(_plain(line) for line in errors[-1].traceback)) from None
    except (CellTimeoutError, DeadKernelError) as error:
        raise Trouble(_failed(chapter, notebook)[1] + _plain(str(error))) from None


def _failed(chapter: Chapter, notebook: NotebookNode) -> tuple[NotebookNode, str]:
    """The last cell that was begun, and where it stands in the text."""
    begun = [i for i, cell in enumerate(notebook.cells) if cell.get("execution_count")]
    last = max(begun, default=0)
    lines = chapter.text.read_text("utf-8").split("\n")
    starts = [i for i, line in enumerate(lines, start=1) if line.startswith("# %%")]
    line = starts[last] if last < len(starts) else len(lines)
    place = f"{chapter.text.relative_to(chapter.root)}:{line}"
    return notebook.cells[last], f"stopped in the cell that begins at {place}\n\n"


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def stripped(notebook: NotebookNode) -> NotebookNode:
    """Without what changes from run to run: counters of the kernel, times, split streams."""
    for cell in notebook.cells:
        cell.metadata = NotebookNode(_kept(cell))
        if cell.cell_type == "code":
            cell.outputs = _merged(cell.outputs)
    notebook.metadata = NotebookNode(kernelspec=KERNEL, language_info={"name": "python"})
    return notebook


def _merged(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Consecutive pieces of one stream joined: where they are cut depends on timing."""
    merged: list[NotebookNode] = []
    for output in outputs:
        if merged and output.output_type == "stream" and output.name == merged[-1].get("name"):
            merged[-1].text += output.text
        else:
            merged.append(output)
    return merged


def _write(path: Path, text: str) -> None:
    """No reader ever sees half a file, and two runs may note their costs at once."""
    from ddpmlib.files import replacing

    with replacing(path) as file:
        file.write(text.encode())


# The command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 when all went well."""
    options = _parser().parse_args(arguments)
    try:
        if options.new:
            print(f"wrote {create(*options.new).text.relative_to(ROOT)}; now add it to _toc.yml")
            return 0
        chosen = select(options.chapters)
        if options.check:
            return _check(chosen)
        if options.refresh:
            print("renewed:", [chapter.name for chapter in chosen if refresh(chapter)])
            return 0
        if options.choice and not options.chapters:
            raise Trouble(f"--from-{options.choice} wants the name of a chapter")
        for chapter in chosen:
            settle(chapter, options.choice)
        return max([_execute(chapter) for chapter in chosen], default=0)
    except Trouble as trouble:
        print(trouble, file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=kind)
    parser.add_argument("chapters", nargs="*", help="names; all chapters when none is given")
    parser.add_argument("--check", action="store_true", help="only compare text and notebook")
    parser.add_argument("--refresh", action="store_true", help="renew set-up cells and badges")
    parser.add_argument("--new", nargs=2, metavar=("NN_name", "TITLE"), help="start a chapter")
    for source in ("ipynb", "text"):
        parser.add_argument(
            f"--from-{source}",
            dest="choice",
            action="store_const",
            const=source,
            help=f"where both differ, the {source} wins",
        )
    return parser


def _check(chosen: Sequence[Chapter]) -> int:
    differing = [chapter.name for chapter in chosen if not in_sync(chapter)]
    if differing:
        raise Trouble(f"{', '.join(differing)}: text and notebook differ; run `make notebooks`.")
    return 0


def _execute(chapter: Chapter) -> int:
    print(f"{chapter.name:24}", end="", flush=True)
    try:
        cost = execute(chapter)
    except Trouble as trouble:
        print(trouble)
        return 1
    print(cost)
    keep_cost(chapter, cost)
    return 0


if __name__ == "__main__":
    sys.exit(main())
