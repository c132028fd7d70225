"""The live widgets: where they stand, and a browser without a network that drives them."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from bs4 import BeautifulSoup
from docutils import nodes
from matplotlib.image import imread
from playwright.sync_api import Browser, Locator, Page

from scripts import playground
from tests.book.built import ROOT, Visit

EXTENSION = ROOT / "book" / "_ext" / "alive.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("alive", EXTENSION)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["alive"] = module  # its dataclass looks for it
    spec.loader.exec_module(module)
    return module


alive = load()
PAGES = sorted(alive.PAGES)
LANDING = "book/intro.html"
# The statements of a module, which a browser refuses on file:// addresses; in a comment's prose
# the words are harmless.
MODULE = re.compile(r"(?m)^\s*(?:import|export)\b|\bimport\s*\(")


# ---- placing -----------------------------------------------------------------------------------


def test_widgets_stand_where_the_table_says(pages: dict[str, BeautifulSoup]) -> None:
    assert {"book/intro", "notebooks/03_ddpm", "notebooks/07_ddim"} < set(PAGES)
    for name, soup in pages.items():
        table = alive.PAGES.get(name.removesuffix(".html"), ())
        places = soup.find_all(class_="alive")
        assert len(places) == len(table), name
        for place, live in zip(places, table, strict=True):
            heading = place.find_next(["h1", "h2", "h3"]).find(string=True)
            assert (place.find(class_="alive-title").get_text(), heading) == (
                live.title,
                live.before,
            )
            assert place.find(attrs={"data-alive": live.widget})


def test_only_their_pages_load_their_scripts(pages: dict[str, BeautifulSoup]) -> None:
    for name, soup in pages.items():
        loaded = [
            one["src"].split("/")[-1].split("?")[0] for one in soup.select("script[src*=alive]")
        ]
        widgets = [live.widget for live in alive.PAGES.get(name.removesuffix(".html"), ())]
        wanted = [file for widget in dict.fromkeys(widgets) for file in alive.SCRIPTS[widget]]
        assert loaded == (["alive.js", *dict.fromkeys(wanted)] if widgets else []), name
        assert bool(soup.select("link[href*='alive.css']")) == bool(widgets), name


def test_scripts_are_classic_and_ask_for_nothing(html: Path) -> None:
    scripts = sorted((html / "_static" / "alive").glob("*.js"))
    assert {"alive.js", "diffusion.js", "playground.js"} <= {path.name for path in scripts}
    for path in scripts:
        text = path.read_text("utf-8")
        assert not MODULE.findall(text), f"{path.name} is a module"
        for word in ("fetch(", "XMLHttpRequest", "Worker("):
            assert word not in text, f"{path.name}: {word}"
        addresses = re.findall(r"\w+://\w[^\s\"'`]*", text)
        assert all("www.w3.org/" in address for address in addresses), (path.name, addresses)


@pytest.mark.parametrize(
    "statement",
    ["import './a.js'", "import { a } from 'a'", "  export const a = 1", "await import('a')"],
)
def test_a_module_is_recognised_by_its_statements(statement: str) -> None:
    assert MODULE.search(f"const b = 2;\n{statement};\n")
    assert not MODULE.search(f"/* Written by `{statement[:6]}`,\n * export of a network */")


def test_texts_hold_no_trace_of_the_widgets() -> None:
    for name in PAGES:
        sources = [path for path in ROOT.glob(f"{name}.*") if path.suffix in (".md", ".ipynb")]
        assert sources and all("data-alive" not in path.read_text("utf-8") for path in sources)


def test_a_section_that_is_gone_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(alive.logger, "warning", lambda text, *words: said.append(text % words))
    builder = SimpleNamespace(format="html", get_target_uri=lambda name: f"{name}.html")
    document = nodes.document(None, None)
    document += nodes.section("", nodes.title("", "Another title"))
    alive.place(SimpleNamespace(builder=builder), document, PAGES[0])
    assert said and alive.PAGES[PAGES[0]][0].before in said[0]


@pytest.mark.parametrize("name", playground.PICTURES)
def test_still_pictures_are_those_of_the_script(name: str, tmp_path: Path) -> None:
    playground.draw(name, tmp_path)
    committed, drawn = imread(playground.FOLDER / name), imread(tmp_path / name)
    assert committed.shape == drawn.shape and np.abs(committed - drawn).mean() < 0.01


def test_every_playground_has_its_picture() -> None:
    table = [live for page in alive.PAGES.values() for live in page]
    assert {one.picture for one in table if one.widget == "playground"} == set(playground.PICTURES)


# ---- a browser ---------------------------------------------------------------------------------


class Playground:
    """The playground of an open page."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.root = page.locator(".alive:has([data-alive=playground])")
        self.stage = self.root.locator(".alive-stage")

    def __getitem__(self, name: str) -> str:
        """What the widget tells in its data attributes."""
        return self.stage.get_attribute(f"data-{name}") or ""

    @property
    def place(self) -> float:
        return float(self["place"])

    def control(self, name: str) -> Locator:
        return self.stage.locator(f"[data-control={name}]")

    def open(self) -> Playground:
        """All controls in sight."""
        self.root.scroll_into_view_if_needed()
        if self.root.locator("details:not([open])").count():
            self.root.locator("summary").press("Enter")
        return self

    def slide(self, name: str, value: float) -> None:
        """Set a slider as a hand would; `steps` counts the choices."""
        self.control(name).fill(str(value))

    def picture(self) -> str:
        return str(self.stage.locator("canvas").evaluate("canvas => canvas.toDataURL()"))

    def state(self) -> tuple[str, str, str, str]:
        return self["place"], self["gap"], self["spread"], self.picture()

    def wait(self, condition: str) -> None:
        """Until a condition on `data`, the data attributes, holds."""
        stage = "document.querySelector('[data-alive=playground]')"
        self.page.wait_for_function(f"(data => {condition})({stage}.dataset)", timeout=20_000)


@pytest.fixture
def still(browser: Browser, html: Path) -> Iterator[Playground]:
    """The playground of the landing page, for a reader who asked for less motion."""
    with Visit(browser, html / LANDING, reduced_motion="reduce") as visit:
        yield Playground(visit.page).open()
        assert visit.complaints == [] and visit.foreign() == []


@pytest.fixture
def moving(browser: Browser, html: Path) -> Iterator[Playground]:
    """The same for a reader who did not, in a low window."""
    low = {"width": 1280, "height": 500}
    with Visit(browser, html / LANDING, viewport=low, reduced_motion="no-preference") as visit:
        yield Playground(visit.page)
        assert visit.complaints == [] and visit.foreign() == []


LOOKS = """stage => {
    const canvas = stage.querySelector('canvas'), box = stage.closest('.alive');
    const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    const colours = new Set();
    for (let i = 0; i < pixels.length; i += 4) colours.add(pixels.slice(i, i + 4).join());
    const parts = text => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
    const light = text => parts(text).reduce((a, b) => a + b, 0) / 765;
    return {
        colours: colours.size,
        paper: light(getComputedStyle(canvas).backgroundColor),
        ink: light(getComputedStyle(box).color),
        wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
        inside: [...box.querySelectorAll('*')].every(e => e.matches('noscript, .alive-spoken')
            || e.getBoundingClientRect().right <= box.getBoundingClientRect().right + 1),
    };
}"""


@pytest.mark.parametrize("name", PAGES)
def test_it_fits_both_themes_and_a_phone_and_waits_if_asked_for_less_motion(
    browser: Browser, html: Path, name: str
) -> None:
    with Visit(browser, html / f"{name}.html", reduced_motion="reduce") as visit:
        one = Playground(visit.page).open()
        assert one["t"] == "0" and one["playing"] == "false" and frames(visit.page) == 0
        pictures = set()
        for theme in ("light", "dark"):
            visit.page.evaluate(f"document.documentElement.dataset.theme = {theme!r}")
            for width in (1280, 390):
                visit.page.set_viewport_size({"width": width, "height": 900})
                visit.page.wait_for_timeout(150)
                looks = one.stage.evaluate(LOOKS)
                assert looks["colours"] > 20 and looks["inside"] and looks["wide"] <= 0, (
                    theme,
                    width,
                )
                assert (looks["paper"] > 0.9 and looks["ink"] < 0.3) == (theme == "light")
                assert (looks["paper"] < 0.2 and looks["ink"] > 0.7) == (theme == "dark")
                pictures.add(one.picture())
        assert len(pictures) == 4
        assert visit.complaints == [] and visit.foreign() == []


CONTROLS = {"data", "schedule", "steps", "eta", "class", "w", "seed"}
LAYERS = {"density", "score", "paths"}
BUTTONS = {"play", "step", "restart"}


def test_every_control_does_something(still: Playground) -> None:
    names = still.stage.locator("[data-control]").evaluate_all(
        "all => all.map(e => e.dataset.control)"
    )
    assert set(names) == CONTROLS | LAYERS | BUTTONS | {"place"} and len(set(names)) == len(names)
    assert still.control("w").is_disabled()  # without a class there is nothing to be guided to
    for name, choice in (("data", "spiral"), ("schedule", "linear"), ("class", "2")):
        before = still.state()
        still.control(name).select_option(choice)
        assert still.state() != before, name
    for name in ("steps", "eta", "w", "seed", "place"):
        before, control = still.state(), still.control(name)
        control.focus()
        control.press("ArrowLeft" if name in ("steps", "eta", "place") else "ArrowRight")
        assert still.state() != before, name
    for name in sorted(LAYERS):
        before = still.picture()
        still.control(name).press("Space")
        assert still.picture() != before, name


def test_the_buttons_walk_along_the_chain(still: Playground) -> None:
    still.control("restart").press("Enter")
    assert still.place == 0 and still["t"] == "1000"
    still.control("step").press("Enter")
    assert still.place == 1 and still["t"] == "980"
    said = still.stage.locator("[aria-live=polite]")
    assert said.inner_text().startswith("Step 1 of 50. Gap to the data")
    still.control("play").press("Enter")
    still.wait("data.playing === 'true' && Number(data.place) > 2")
    assert still.control("play").inner_text() == "Pause"
    still.control("play").press("Enter")
    stopped = still.place
    still.page.wait_for_timeout(200)
    assert still["playing"] == "false" and 2 < still.place == stopped < 50
    still.control("place").press("End")
    assert still.place == 50 and still["t"] == "0"


def test_the_same_seed_draws_the_same_points(still: Playground) -> None:
    first = still.state()
    still.slide("seed", 7)
    other = still.state()
    still.slide("seed", 1)
    assert still.state() == first != other


def test_few_steps_miss_the_data(still: Playground) -> None:
    gap = {}
    for choice in (1, 3, 9):  # 2, 4 and 30 steps
        still.slide("steps", choice)
        gap[choice] = float(still["gap"])
    assert gap[1] > 1.5 * gap[3] > 2 * gap[9]


def test_guidance_pays_fidelity_with_diversity(still: Playground) -> None:
    still.control("data").select_option("clouds")
    still.control("class").select_option("each")
    assert still.control("w").is_enabled()
    rows = []
    for w in (0, 1, 4):
        still.slide("w", w)
        rows.append(
            (float(still["share"].rstrip(" %")), float(still["spread"]), float(still["gap"]))
        )
    shares, spreads, gaps = zip(*rows, strict=True)
    assert 70 < shares[0] < 90 < shares[1] <= shares[2]
    assert spreads[0] > spreads[1] > spreads[2] and gaps[0] < gaps[1] < gaps[2]


def test_a_data_set_without_the_class_asks_for_none(still: Playground) -> None:
    still.control("data").select_option("ring")
    still.control("class").select_option("5")
    assert still["share"] == "100 %"
    still.control("data").select_option("moons")
    assert still.control("class").input_value() == "none" and still.control("w").is_disabled()


def test_controls_have_names_and_a_visible_focus(still: Playground) -> None:
    for control in still.stage.locator("[data-control]").all():
        name = control.evaluate("e => e.labels.length ? e.labels[0].innerText : e.innerText")
        assert name.strip() and control.is_visible()
    still.control("play").focus()
    reached = set()
    for _ in range(15):
        still.page.keyboard.press("Tab")
        focus = "(e => [e.dataset.control, parseFloat(getComputedStyle(e).outlineWidth)])"
        name, outline = still.page.evaluate(f"{focus}(document.activeElement)")
        assert outline >= 2 or name is None
        reached.add(name)
    # The slider without a class is switched off; the summary of the other controls has no name.
    assert reached >= (CONTROLS | LAYERS | BUTTONS | {"place"}) - {"w", "play"}


# ---- motion ------------------------------------------------------------------------------------


def frames(page: Page, milliseconds: int = 300) -> int:
    """How many frames the page asks for in a while."""
    page.evaluate("""() => {
        const ask = window.requestAnimationFrame;
        window.asked = 0;
        window.requestAnimationFrame = f => { window.asked += 1; return ask(f); };
    }""")
    page.wait_for_timeout(milliseconds)
    return int(page.evaluate("window.asked"))


def test_it_starts_when_it_is_seen_and_rests_when_it_is_not(moving: Playground) -> None:
    assert moving["seen"] == "false" and moving.place == 0 and frames(moving.page) == 0
    moving.root.scroll_into_view_if_needed()
    moving.wait("Number(data.place) > 1")
    moving.page.evaluate("window.scrollTo(0, 0)")
    moving.wait("data.seen === 'false'")
    place = moving.place
    assert frames(moving.page) == 0 and moving.place == place < 50
    moving.root.scroll_into_view_if_needed()
    moving.wait(f"Number(data.place) > {place}")


def test_it_rests_while_another_tab_is_in_front(moving: Playground) -> None:
    moving.root.scroll_into_view_if_needed()
    moving.wait("Number(data.place) > 0")
    hide = "Object.defineProperty(document, 'hidden', {configurable: true, get: () => %s});"
    hide += "document.dispatchEvent(new Event('visibilitychange'))"
    moving.page.evaluate(hide % "true")
    place = moving.place
    assert frames(moving.page) == 0 and moving.place == place
    moving.page.evaluate(hide % "false")
    moving.wait(f"Number(data.place) > {place}")


def test_it_comes_to_its_end_and_stops(moving: Playground) -> None:
    moving.open().slide("steps", 0)  # one step
    moving.control("play").press("Enter")
    moving.control("restart").press("Enter")
    moving.control("play").press("Enter")
    moving.wait("data.playing === 'false' && Number(data.place) === 1")
    assert frames(moving.page) == 0


def test_without_scripts_there_is_a_picture(browser: Browser, html: Path) -> None:
    for name in PAGES:
        with Visit(browser, html / f"{name}.html", java_script_enabled=False) as visit:
            picture = visit.page.locator(".alive img.alive-picture").first
            picture.scroll_into_view_if_needed()
            box = picture.bounding_box()
            assert picture.is_visible() and box is not None and box["width"] > 300, name
            assert visit.page.locator(".alive-stage *").count() == 0
