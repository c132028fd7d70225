"""Create .venv and install the project with the versions of constraints.txt.

What hashes.txt knows comes first, each file checked by its SHA-256; the rest, torch among it, has
other files on other platforms, and comes after.

`make` calls this with the stamp file to write when everything is installed:

    python3 scripts/setup_venv.py .venv/.installed

It runs on the Python that is there and needs nothing beyond the standard library.
"""

import signal
import subprocess
import sys
import time
from pathlib import Path

VENV = Path(".venv")
PYTHON = VENV / "bin" / "python"
LOG = VENV / "install.log"
HASHED = ["--require-hashes", "--no-deps", "--only-binary", ":all:", "-r", "hashes.txt"]
REQUIREMENTS = ["-c", "constraints.txt", "-e", ".[book,test]"]
HEARTBEAT = 10.0  # seconds between two signs of life


def usable() -> bool:
    """Whether .venv holds a recent Python with pip: not the case after an interrupted start."""
    probe = "import pip._internal.cli.main, sys; sys.exit(sys.version_info < (3, 11))"
    try:
        return subprocess.run([PYTHON, "-c", probe], capture_output=True).returncode == 0
    except OSError:
        return False


def create() -> None:
    """A fresh, empty .venv of the Python that runs this script."""
    try:
        import ensurepip  # noqa: F401  (Debian ships venv without it)
    except ImportError:
        sys.exit(
            f"{sys.executable} cannot create virtual environments: install the venv package of "
            "this Python (Debian and Ubuntu: apt-get install python3-venv) and run make again."
        )
    print(f"Creating {VENV} with Python {sys.version.split()[0]} ({sys.executable})", flush=True)
    if subprocess.run([sys.executable, "-m", "venv", "--clear", VENV]).returncode:
        sys.exit(f"Creating {VENV} failed: look above for the cause.")


def log_lines() -> list[str]:
    lines = LOG.read_text("utf-8", errors="replace").splitlines()
    return [line.strip() for line in lines if not line.startswith("WARNING")]


def stage() -> str:
    """What pip is busy with, in its own words."""
    busy = ("Collecting", "Downloading", "Installing")
    return next((line for line in reversed(log_lines()) if line.startswith(busy)), "starting")


def pip_install(*args: str) -> None:
    """Run pip into the log, and show every few seconds where it is."""
    started = time.monotonic()
    with LOG.open("w") as log:
        pip = subprocess.Popen(
            [PYTHON, "-m", "pip", "install", "--disable-pip-version-check", *args],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            while pip.poll() is None:
                try:
                    pip.wait(HEARTBEAT)
                except subprocess.TimeoutExpired:
                    print(f"  {time.monotonic() - started:4.0f} s  {stage():.80}", flush=True)
        finally:
            pip.terminate()  # no orphan keeps writing into .venv after an interrupt
            pip.wait()
    if pip.returncode:
        print(*log_lines()[-25:], sep="\n", file=sys.stderr)
        sys.exit(f"The installation failed: the whole log is {LOG}; run make again to go on.")


def main(stamp: Path) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    stamp.unlink(missing_ok=True)
    if not usable():
        create()
    print("Installing the pinned packages (at first about 6 GB, a few minutes)", flush=True)
    pip_install("pip>=25")  # older resolvers take twice as long for this set
    pip_install(*HASHED)
    pip_install(*REQUIREMENTS)
    stamp.touch()
    print(f"Installed into {VENV}.", flush=True)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except KeyboardInterrupt:
        sys.exit("Interrupted: run make again to go on.")
