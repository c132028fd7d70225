"""What a browser can tell about a page of the built book, from one visit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from bs4 import BeautifulSoup
from playwright.sync_api import Browser

from tests.book.built import ROOT, Visit

LOAD_LIMIT = 2_000_000  # bytes; what live digits add when used is in test_live_digits.py
WIDE, PHONE = 1280, 390  # pixels

MATHS = """() => ({
    formulas: document.querySelectorAll('.math').length,
    rendered: document.querySelectorAll('.math mjx-container').length,
    // a macro that MathJax does not know is set in red
    errors: [...document.querySelectorAll('mjx-merror, mjx-assistive-mml [mathcolor=red]')].map(
        e => e.textContent),
    fonts: [...document.fonts].filter(f => /^MJX/.test(f.family) && f.status === 'loaded').length,
    failed: [...document.fonts].filter(f => f.status === 'error').map(f => f.family),
})"""
PICTURES = """async () => {
    const all = [...document.images];
    all.forEach(image => { image.loading = 'eager'; });
    await Promise.all(all.map(image => image.decode().catch(() => null)));
    return all.filter(image => !image.naturalWidth).map(image => image.src.slice(0, 100));
}"""
BARE_ICONS = """() => [...document.querySelectorAll('[class*="fa-"]')]
    .filter(e => getComputedStyle(e, '::before').content === 'none').map(e => e.className)"""
# Two frames: what follows a change of the width has then followed it.
SETTLED = """() => new Promise(
    done => requestAnimationFrame(() => requestAnimationFrame(() => done(null))))"""
OVERFLOW = """() => {
    const width = document.documentElement.clientWidth;
    if (document.documentElement.scrollWidth <= width) return [];
    return [...document.querySelectorAll('.bd-article *')]
        .filter(e => e.getBoundingClientRect().right > width + 1)
        .slice(0, 5).map(e => e.outerHTML.slice(0, 120));
}"""

# MathJax draws a formula from thousands of elements; beside them stands MathML, which is read out.
# axe leaves formulas out, yet it measures each of their elements: an empty box of the same size on
# the same baseline takes half the time.
BOXES = """() => {
    const drawn = [...document.querySelectorAll('mjx-container > mjx-math')];
    const probes = drawn.map(e => document.createElement('span'));
    probes.forEach((probe, i) => {
        probe.style.display = 'inline-block'; // its lower edge is the baseline
        drawn[i].before(probe);
    });
    const sizes = drawn.map(e => e.getBoundingClientRect());
    const lines = probes.map(probe => probe.getBoundingClientRect().bottom);
    probes.forEach(probe => probe.remove());
    window.emptied = drawn.map(e => [e, e.style.cssText, [...e.childNodes]]);
    drawn.forEach((e, i) => {
        e.replaceChildren();
        e.style.cssText += `;display:inline-block;box-sizing:border-box;width:${sizes[i].width}px;`
            + `height:${sizes[i].height}px;vertical-align:${lines[i] - sizes[i].bottom}px`;
    });
}"""
FORMULAS = """() => window.emptied.forEach(([e, style, children]) => {
    e.replaceChildren(...children);
    e.style.cssText = style;
})"""
# Colours are what the dark scheme changes: there, contrast alone is measured again.
AXE = ROOT / "tests" / "book" / "axe" / "axe.min.js"
RUN_AXE = """async rules => {
    const options = {resultTypes: ['violations']};
    if (rules.length) options.runOnly = rules;
    const found = await axe.run({exclude: ['mjx-container']}, options);
    return found.violations.filter(v => v.impact === 'serious' || v.impact === 'critical').map(
        v => `${v.id}: ${v.help}: ` + v.nodes.slice(0, 3).map(n => n.target.join(' ')).join(' | '));
}"""


def is_redirect(soup: BeautifulSoup) -> bool:
    return soup.find("meta", attrs={"http-equiv": re.compile("refresh", re.I)}) is not None


def real_pages(pages: dict[str, BeautifulSoup]) -> list[str]:
    """All but redirections, and of the pages that only show a module's source just one."""
    alike = {name for name in pages if name.startswith("_modules/")}
    alike.discard("_modules/ddpmlib/process.html")
    return [name for name, soup in pages.items() if name not in alike and not is_redirect(soup)]


def incomplete(visit: Visit) -> Iterator[str]:
    """What is not shown, though the page lies complete on the disk; a script's errors; weight."""
    maths = visit.page.evaluate(MATHS)
    yield from (f"picture without pixels: {one}" for one in visit.page.evaluate(PICTURES))
    yield from (f"asks for something from elsewhere: {one}" for one in visit.foreign())
    yield from (f"error in the console: {one}" for one in visit.complaints)
    if visit.weight() > LOAD_LIMIT:
        yield f"loads {visit.weight() / 1e6:.2f} MB"
    yield from (f"icon without a picture: {one}" for one in visit.page.evaluate(BARE_ICONS))
    yield from (f"formula with an error: {one}" for one in maths["errors"])
    yield from (f"font that fails: {one}" for one in maths["failed"])
    if maths["rendered"] != maths["formulas"]:
        yield f"{maths['rendered']} of {maths['formulas']} formulas are rendered"
    if (maths["fonts"] > 0) != (maths["formulas"] > 0):
        yield f"{maths['fonts']} fonts for {maths['formulas']} formulas"


def barriers(visit: Visit) -> list[str]:
    """Serious and critical findings of axe-core, in the light scheme and in the dark."""
    page = visit.page
    page.set_default_timeout(300_000)  # large pages on a busy machine
    page.evaluate(BOXES)
    page.add_script_tag(path=AXE)
    found = page.evaluate(RUN_AXE, [])
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("document.documentElement.dataset.theme !== 'light'")
    # Halfway from one scheme to the other a button has the colours of neither.
    page.wait_for_function("!document.getAnimations().some(a => a instanceof CSSTransition)")
    found += [f"dark: {one}" for one in page.evaluate(RUN_AXE, ["color-contrast"])]
    page.emulate_media(color_scheme="light")
    page.evaluate(FORMULAS)
    return found


def sticking_out(visit: Visit) -> Iterator[str]:
    """What is wider than a phone."""
    visit.page.set_viewport_size({"width": PHONE, "height": 900})
    visit.page.evaluate(SETTLED)
    width = visit.page.evaluate("document.documentElement.scrollWidth")
    if width > PHONE:
        yield f"{width} wide: {visit.page.evaluate(OVERFLOW)}"


def look(browser: Browser, path: Path) -> dict[str, list[str]]:
    """Everything that is wrong with a page, by what was looked for.

    The narrow window comes last: what scrolls there is reached by keyboard, also when it is wide
    again. No script of the book asks for the width only once, when it begins.
    """
    with Visit(browser, path, width=WIDE) as visit:
        return {
            "incomplete": list(incomplete(visit)),
            "barriers": barriers(visit),
            "sticking out": list(sticking_out(visit)),
        }
