"""Write constraints.txt: the exact version of everything that the book and the tests need.

Packages whose line was deleted from constraints.txt before move to their newest version that the
rest allows; all others stay. `make constraints` calls this.
"""

import re
import subprocess
import sys
from pathlib import Path

CONSTRAINTS = Path("constraints.txt")
HEADER = """\
# The exact versions that the book is built and tested with. Written by `make constraints`:
# delete the lines of the packages that may move, run it, then `make lint book test`.
# Not pinned: pip, setuptools and wheel, and the CUDA packages that follow from torch.
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


if __name__ == "__main__":
    main()
