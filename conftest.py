"""Settings of every pytest run: one thread per worker and per kernel, and what nbval overlooks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before torch is imported. Two threads on two busy cores are many times slower than one.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
# What the tests start speaks UTF-8 whatever the locale, as they expect.
os.environ.setdefault("PYTHONUTF8", "1")


def pytest_configure(config: pytest.Config) -> None:
    """`pytest --nbval` compares what a reader reads; pictures inside HTML are no text."""
    if getattr(config.option, "nbval", False):
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # chapters are executed on the CPU
        if not config.option.nbval_sanitize_with:
            config.option.nbval_sanitize_with = str(Path(__file__).parent / "tests" / "nbval.cfg")
