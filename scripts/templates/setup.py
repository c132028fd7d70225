# Set-up: find ddpmlib installed, in the clone around this notebook, or fetch it (Colab).
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec("ddpmlib") is None:
    around = [
        p
        for p in [Path.cwd(), *Path.cwd().parents]
        if (p / "ddpmlib/__init__.py").exists()
    ]
    clone = around[0] if around else Path("@NAME@").resolve()
    if not clone.exists():
        url = "@REPOSITORY@"
        subprocess.run(
            ["git", "clone", "--quiet", "--depth=1", url, str(clone)],
            check=True,
        )
    sys.path.insert(0, str(clone))

from ddpmlib import plots

plots.style()
