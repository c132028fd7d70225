"""What is cut out of the finished book would not have been seen."""

from __future__ import annotations

import importlib.util
import io
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from bs4 import BeautifulSoup
from PIL import Image

from tests.book.built import ROOT


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lean", ROOT / "book" / "_ext" / "lean.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


lean = load()
CLASSES = lean.Classes(
    ['<p class="note big">', "<b class='x' data-class=\"no\">"],
    ["e.add('open'); const tip = 'bs-tip'"],
)


@pytest.mark.parametrize(
    ("css", "left"),
    [
        ("p{a:b}", "p{a:b}"),
        (".note{a:b}.gone{a:b}", ".note{a:b}"),
        (".gone,.note p,p .gone>a{a:b}", ".note p{a:b}"),
        (".note.gone{a:b}", ""),
        (".note:not(.gone){a:b}", ".note:not(.gone){a:b}"),
        (".open{a:b}.bs-tip-top{a:b}.open-top{a:b}", ".open{a:b}.bs-tip-top{a:b}"),
        ("@media print{.big{a:b}.gone{a:b}}", "@media print{.big{a:b}}"),
        ("@media print{.gone{a:b}}", ""),
        ("@font-face{font-family:x}", "@font-face{font-family:x}"),
        ('.big{a:".gone{}"}', '.big{a:".gone{}"}'),
    ],
)
def test_rules_go_that_no_element_can_match(css: str, left: str) -> None:
    assert lean.trimmed(css, CLASSES) == left


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def pixels(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"), int)


def test_a_figure_with_few_colours_becomes_smaller_and_stays_exact() -> None:
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (200, 3), np.uint8)
    figure = png(colours[rng.integers(0, 200, (80, 120))])
    small = lean.with_palette(figure)
    assert len(small) < 0.6 * len(figure)
    assert (pixels(small) == pixels(figure)).all()


def test_a_figure_with_many_colours_changes_less_than_can_be_seen() -> None:
    level, rng = np.arange(256).repeat(2)[:, None], np.random.default_rng(0)
    ramp = np.minimum(level + rng.integers(0, 2, (512, 400)), 255)
    figure = png(np.stack([ramp, level + 0 * ramp, 255 - level + 0 * ramp], -1).astype(np.uint8))
    small = lean.with_palette(figure)
    change = np.abs(pixels(small) - pixels(figure))
    assert len(small) < len(figure) and 0 < change.mean() <= lean.VISIBLE and change.max() < 8


def test_a_picture_that_would_suffer_stays_as_it_is() -> None:
    rng = np.random.default_rng(0)
    noise = png(rng.integers(0, 256, (64, 64, 3), np.uint8))
    clear = png(np.full((8, 8, 4), [255, 0, 0, 128], np.uint8))
    assert lean.with_palette(noise) == noise and lean.with_palette(clear) == clear


def test_names_and_punctuation_in_code_need_no_mark_for_their_colour(
    html: Path, pages: dict[str, BeautifulSoup]
) -> None:
    code = pages["notebooks/03_ddpm.html"].select_one(".highlight:has(.mi)")
    assert code is not None and not code.select(".n, .p")
    sheet = (html / "_static" / "pygments.css").read_text("utf-8")
    for theme in ("light", "dark"):
        rules = rf'"{theme}"\] \.highlight (?:\.[np] )?{{[^}}]*\bcolor: (#\w+)'
        colours = re.findall(rules, sheet)
        assert len(colours) == 3 and len(set(colours)) == 1
