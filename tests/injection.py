"""Run the tests that the museum names, once as they are and once with each bug in place.

    python tests/injection.py

prints one JSON object: bug (or "" for none) -> test -> "passed", or how it failed. One process for
all: a new one for each bug would spend most of its time on importing torch.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Sequence

import pytest

from ddpmlib.teaching import museum

QUIET = ["-q", "--no-header", "-p", "no:cacheprovider"]


class Outcomes:
    """A pytest plugin that notes how each test ended."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            self.found[report.nodeid] = f"{report.when}: {getattr(crash, 'message', 'failed')}"
        elif report.when == "call":
            self.found.setdefault(report.nodeid, report.outcome)


def outcomes(bug: str | None, tests: Sequence[str]) -> dict[str, str]:
    """How the tests end in a library with the bug."""
    plugin = Outcomes()
    with museum.injected(bug), contextlib.redirect_stdout(io.StringIO()) as said:
        code = pytest.main([*QUIET, *tests], plugins=[plugin])
        for name in [name for name in sys.modules if name.split(".")[0] == "tests"]:
            del sys.modules[name]  # they hold on to this copy of the library
    if code > pytest.ExitCode.TESTS_FAILED:
        raise SystemExit(f"{bug}: pytest could not run {tests}\n{said.getvalue()}")
    return plugin.found


def main() -> None:
    every = {bug: [*entry.caught_by, *entry.passed_by] for bug, entry in museum.BUGS.items()}
    report = {"": outcomes(None, sorted({test for tests in every.values() for test in tests}))}
    for bug, tests in every.items():
        report[bug] = outcomes(bug, tests)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
