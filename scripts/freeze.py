"""Write constraints.txt: the exact version of everything that the book and the tests need.

Packages whose line was deleted from constraints.txt before move to their newest version that the
rest allows; all others stay. `make constraints` calls this.

Also hashes.txt: the SHA-256 of those packages that are one file for all platforms and Pythons, as
most are. pip wants hashes of everything or of nothing in one call, and an editable project, or the
many builds of torch, have none: so these are installed first, by themselves. Only files of a public
index count, not those that a machine happens to have.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

CONSTRAINTS = Path("constraints.txt")
HASHES = Path("hashes.txt")
HEADER = """\
# The exact versions that the book is built and tested with. Written by `make constraints`:
# delete the lines of the packages that may move, run it, then `make lint book test`.
# Not pinned: pip, setuptools and wheel, and the CUDA packages that follow from torch.
"""
HASHED = """\
# SHA-256 of those packages of constraints.txt that are one file for all platforms; written with it.
"""
NOT_PINNED = re.compile(
    r"(pip|setuptools|wheel|ddpmlib|nvidia-.*|cuda-.*|triton.*)==", re.IGNORECASE
)


def main() -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    move = ["install", "--quiet", "--upgrade", "--upgrade-strategy", "eager"]
    subprocess.run([*pip, *move, "-c", CONSTRAINTS, "-e", ".[book,test]"], check=True)
    command = [*pip, "list", "--format=freeze", "--exclude-editable"]
    listed = subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout
    pins = [line for line in listed.splitlines() if not NOT_PINNED.match(line)]
    CONSTRAINTS.write_text(HEADER + "\n".join(sorted(pins, key=str.lower)) + "\n", "utf-8")
    print(f"{CONSTRAINTS}: {len(pins)} pins")
    lines = universal(_report(pip, [pin for pin in pins if not pin.startswith("torch")]))
    HASHES.write_text(HASHED + "\n".join(lines) + "\n", "utf-8")
    print(f"{HASHES}: {len(lines)} of them by their SHA-256")


def _report(pip: list[str], pins: list[str]) -> dict[str, Any]:
    """What pip would install, and from which files; nothing is installed."""
    with tempfile.TemporaryDirectory() as folder:
        wanted, report = Path(folder) / "pins.txt", Path(folder) / "report.json"
        wanted.write_text("\n".join(pins), "utf-8")
        dry = ["install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps"]
        files = ["--only-binary", ":all:", "--report", str(report), "-r", str(wanted)]
        subprocess.run([*pip, *dry, *files], check=True)
        found: dict[str, Any] = json.loads(report.read_text("utf-8"))
    return found


def universal(report: dict[str, Any]) -> list[str]:
    """Lines with hashes of those files of an installation report that all platforms take."""
    lines = []
    for item in report["install"]:
        url, metadata = item["download_info"]["url"], item["metadata"]
        if url.startswith("https://") and url.partition("#")[0].endswith("-none-any.whl"):
            sha256 = item["download_info"]["archive_info"]["hashes"]["sha256"]
            lines.append(f"{metadata['name']}=={metadata['version']} --hash=sha256:{sha256}")
    return sorted(lines, key=str.lower)


if __name__ == "__main__":
    main()
