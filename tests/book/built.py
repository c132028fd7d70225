"""The built book for the tests: built once for all of them, opened with the network cut."""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup
from playwright.sync_api import Browser, Page

from scripts import notebooks

ROOT = notebooks.ROOT
FOLDER = ROOT / "_build" / "tests"  # beside the reader's _build/html, which is left alone
HTML = FOLDER / "_build" / "html"
STAMP = FOLDER / "html-sources.sha256"


def sources() -> list[Path]:
    """Everything that the HTML is made of."""
    files = [ROOT / "_config.yml", ROOT / "_toc.yml", ROOT / notebooks.COSTS]
    files += ROOT.glob("notebooks/*.ipynb")
    files += [path for path in ROOT.glob("book/**/*") if path.is_file()]
    # the reference is made of the library, and links name lines of library and tests
    files += [*ROOT.glob("ddpmlib/**/*.py"), *ROOT.glob("tests/**/*.py")]
    return sorted(path for path in files if "__pycache__" not in path.parts)


def digest() -> str:
    """Changes whenever a source changes."""
    total = hashlib.sha256()
    for path in sources():
        total.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return total.hexdigest()


def build() -> Path:
    """The folder of the built book, rebuilt when a source has changed; a warning is an error.

    Modules of tests run in several processes: the first builds, the others wait for it.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    with open(STAMP.with_suffix(".lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wanted = digest()
        if (
            not (HTML / "index.html").exists()
            or not STAMP.exists()
            or STAMP.read_text("utf-8") != wanted
        ):
            STAMP.unlink(missing_ok=True)
            program = Path(sys.executable).with_name("jupyter-book")
            command = [str(program), "build", str(ROOT), "--path-output", str(FOLDER)]
            command += ["--all", "-W", "--keep-going"]
            run = subprocess.run(command, capture_output=True, encoding="utf-8")
            assert run.returncode == 0, (run.stdout + run.stderr)[-4000:]
            STAMP.write_text(wanted, "utf-8")
    return HTML


def parse(text: str) -> BeautifulSoup:
    return BeautifulSoup(text, "html.parser")


FLAGS = [
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",
]
PATIENCE = 120_000  # milliseconds; a page takes one second on an idle machine
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


class Visit:
    """One page, opened from the disk with the network cut, and what it tried and complained of.

    ``options`` are those of a browser's context: colour scheme, reduced motion, scripts off.
    """

    def __init__(
        self, browser: Browser, path: Path, width: int = 1280, query: str = "", **options: object
    ) -> None:
        looks = {"viewport": {"width": width, "height": 900}, "color_scheme": "light"} | options
        self.context = browser.new_context(offline=True, **looks)  # type: ignore[arg-type]
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("requestfailed", lambda request: self.complaints.append(request.url))
        self.page.goto(path.resolve().as_uri() + query, wait_until="load")
        if options.get("java_script_enabled", True):
            self.page.wait_for_function("!window.MathJax || window.MathJax.startup?.promise")
            self.page.evaluate("window.MathJax?.startup?.promise")
            self.page.evaluate("document.fonts.ready.then(() => null)")

    def _console(self, message: object) -> None:
        if message.type == "error":  # type: ignore[attr-defined]
            self.complaints.append(message.text)  # type: ignore[attr-defined]

    def weight(self) -> int:
        """Bytes of everything that the page has loaded from the disk."""
        loaded = {urlsplit(url).path for url in self.requests if url.startswith("file:")}
        files = [Path(unquote(path)) for path in loaded]
        return sum(file.stat().st_size for file in files if file.is_file())  # else a complaint

    def foreign(self) -> list[str]:
        """Requests that left the disk."""
        return [url for url in self.requests if not url.startswith(("file:", "data:", "blob:"))]

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *error: object) -> None:
        self.context.close()
