"""The live digits in a Chromium with the network cut: every control is driven and does its work."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from bs4 import BeautifulSoup
from playwright.sync_api import Browser, Locator
from torch import Tensor

from ddpmlib.data import to_uint8
from ddpmlib.denoiser import Denoiser
from ddpmlib.guidance import ClassifierFree
from ddpmlib.process import DDPM
from ddpmlib.samplers import State, uniform_times
from ddpmlib.teaching import web_export
from tests.book.built import Visit
from tests.book.looking import PICTURES
from tests.book.test_images_js import WEIGHTS, js

DIGITS = ("book/intro.html", "notebooks/11_classifier_free.html")
SCRUBBERS = ("notebooks/03_ddpm.html", "notebooks/07_ddim.html")
WEIGHT_LIMIT = 1_000_000  # bytes that the network and all widgets add to a page
USE_LIMIT = 3_000_000  # bytes of the whole page, all pictures, and the network when it is used
PATIENCE = 240_000  # milliseconds: a call takes 30 on an idle core
LEVELS = """canvas => Array.from(
    canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data
).filter((_, i) => i % 4 === 0)"""

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")


# ---- what the pictures should be: PyTorch with the noise of the page -----------------------------


@pytest.fixture(scope="module")
def model() -> Denoiser:
    return web_export.read(WEIGHTS)[0]


def reference(
    model: Denoiser, label: int, seed: int, steps: int, eta: float, w: float
) -> list[State]:
    """The chain of ddpmlib's own step, from the noise that the page draws for a seed."""
    drawn = "(g => Array.from({length: n}, () => g.normals(784)))(Diffusion.random(seed))"
    noises = torch.tensor(js(WEIGHTS, drawn, n=steps, seed=seed)).reshape(steps, 1, 1, 28, 28)
    process, guided = model.process, ClassifierFree(model, w)
    times, y = uniform_times(process.T, steps), torch.tensor([label])
    states = [State(times[0], noises[0])]
    for k, s in enumerate(times[1:]):
        before = states[-1]
        prediction = guided(before.x, before.t, y)
        noise = noises[k + 1] if s else None
        states.append(
            State(s, process.step(before.x, prediction, before.t, s, eta, noise), prediction.x0)
        )
    return states


def levels(canvas: Locator) -> Tensor:
    """Grey levels of a picture on the page, (28, 28)."""
    return torch.tensor(canvas.evaluate(LEVELS)).reshape(28, 28)


def same(canvas: Locator, image: Tensor | None) -> bool:
    """Whether the picture is the image (1, 1, 28, 28), to one grey level."""
    assert image is not None
    return int((levels(canvas) - to_uint8(image)[0, 0].int()).abs().max()) <= 1


# ---- the generator -----------------------------------------------------------------------------


class Widget:
    """One widget on an open page."""

    def __init__(self, visit: Visit, name: str) -> None:
        self.visit, self.page, self.name = visit, visit.page, name
        self.stage = visit.page.locator(f'[data-alive="{name}"]')
        self.stage.scroll_into_view_if_needed()

    def control(self, name: str) -> Locator:
        return self.stage.locator(f'[data-control="{name}"]')

    def data(self, name: str) -> str:
        return self.stage.get_attribute(f"data-{name}") or ""

    def press(self, name: str, *keys: str) -> None:
        """Drive a control by the keyboard alone."""
        self.control(name).focus()
        for key in keys:
            self.page.keyboard.press(key)

    def wait(self, state: str = "done") -> None:
        self.page.wait_for_function(
            "([name, state]) =>"
            " document.querySelector(`[data-alive=${name}]`).dataset.state === state",
            arg=[self.name, state],
            timeout=PATIENCE,
        )

    def pictures(self) -> list[Locator]:
        return self.stage.locator("canvas").all()

    def text(self) -> str:
        return self.stage.inner_text()

    def quiet(self) -> None:
        assert self.visit.foreign() == [] and self.visit.complaints == []


@pytest.fixture
def generator(browser: Browser, html: Path) -> Iterator[Widget]:
    with Visit(browser, html / DIGITS[0]) as visit:
        yield Widget(visit, "digits")


def draw(widget: Widget) -> list[Tensor]:
    widget.press("draw", "Enter")
    widget.wait()
    return [levels(one) for one in widget.pictures()]


def test_ten_sevens_are_those_of_pytorch(generator: Widget, model: Denoiser) -> None:
    """Class, steps and seed set by keyboard; the pictures are ddpmlib's, pixel by pixel."""
    generator.control("class").select_option("7")
    generator.press("steps", "Home", "ArrowRight", "ArrowRight")
    generator.press("seed", "Home", "ArrowRight")
    generator.press("w", "ArrowRight", "ArrowRight")
    pictures = draw(generator)
    assert generator.data("calls") == str(10 * 3 * 2)
    for i in (0, 4, 9):
        chain = reference(model, label=7, seed=10 * 2 + i, steps=3, eta=1, w=0.5)
        assert same(generator.pictures()[i], chain[-1].x)
    assert len({one.numpy().tobytes() for one in pictures}) == 10
    assert [one.get_attribute("aria-label") for one in generator.pictures()] == [
        f"Image {i}: asked for a 7" for i in range(1, 11)
    ]
    assert "Done: 60 network calls" in generator.text()
    assert generator.page.locator(".alive-spoken", has_text="Done: 60").count() == 1
    generator.quiet()


def test_every_control_of_the_generator_matters(generator: Widget) -> None:
    generator.press("steps", "Home", "ArrowRight")  # two steps, so that there is noise to share
    before = draw(generator)
    changes = {
        "class": lambda: generator.control("class").select_option("4"),
        "w": lambda: generator.press("w", "End"),
        "steps": lambda: generator.press("steps", "ArrowLeft"),
        "seed": lambda: generator.press("seed", "ArrowRight"),
    }
    generator.press("eta", "Home")
    assert "0.00 (DDIM)" in generator.text()
    for name in ("eta", *changes):
        if name in changes:
            changes[name]()
        assert generator.data("state") == "idle" and "Press Draw" in generator.text()
        after = draw(generator)
        differ = [bool((a != b).any()) for a, b in zip(after, before, strict=True)]
        kept = 1 if name == "class" else 0  # the image that was asked for a 4 before
        assert sum(differ) == 10 - kept, name
        before = after
    generator.quiet()


def test_whichever_digit_knows_no_guidance(generator: Widget) -> None:
    generator.press("steps", "Home")
    generator.press("w", "End")
    generator.control("class").select_option("none")
    assert generator.control("w").is_disabled()
    draw(generator)
    assert generator.data("calls") == "10"
    generator.control("class").select_option("each")
    assert generator.control("w").is_enabled()


def test_noise_is_shown_first_and_the_page_stays_awake(generator: Widget) -> None:
    """The chain's own start is on the screen; while it runs, the page does other things too."""
    start = js(WEIGHTS, "Images.grey(Diffusion.random(10).normals(784))")
    assert levels(generator.pictures()[0]).flatten().tolist() == start
    generator.page.evaluate("window.ticks = 0; setInterval(() => { window.ticks += 1; }, 1)")
    generator.press("steps", "Home", "ArrowRight", "ArrowRight")
    generator.press("draw", "Enter")
    generator.wait("drawing")
    before = generator.page.evaluate("window.ticks")
    assert "Start again" in generator.control("draw").inner_text()
    generator.wait()
    assert generator.page.evaluate("window.ticks") - before > 10
    assert "Draw" in generator.control("draw").inner_text()


def test_a_change_while_drawing_starts_anew(generator: Widget, model: Denoiser) -> None:
    generator.press("draw", "Enter")
    generator.wait("drawing")
    generator.press("steps", "Home")
    generator.wait()
    assert generator.data("calls") == "10"
    chain = reference(model, label=3, seed=13, steps=1, eta=1, w=0)
    assert same(generator.pictures()[3], chain[-1].x)


def test_less_motion(browser: Browser, html: Path) -> None:
    """For those who asked for it, nothing changes between the noise and the digits."""
    with Visit(browser, html / DIGITS[0], reduced_motion="reduce") as visit:
        widget = Widget(visit, "digits")
        last = widget.pictures()[-1]
        noise = levels(last)
        widget.press("steps", "Home", "ArrowRight")
        widget.press("draw", "Enter")
        visit.page.wait_for_function(
            "document.querySelector('[data-alive=digits] progress').value > 0.3", timeout=PATIENCE
        )
        assert (levels(last) == noise).all()
        widget.wait()
        assert (levels(last) != noise).any()


LOSE = """() => {
    const { element } = Alive;
    Alive.element = (tag, given, ...children) =>
        element(tag, tag === "script" ? { src: "missing.js" } : given, ...children);
    window.find = () => { Alive.element = element; };
}"""


def test_lost_weights_are_said_and_another_attempt_may_succeed(
    browser: Browser, html: Path
) -> None:
    with Visit(browser, html / DIGITS[1]) as visit:
        widget = Widget(visit, "digits")
        visit.page.evaluate(LOSE)
        widget.press("draw", "Enter")
        widget.wait("failed")
        assert "The network's weights could not be loaded." in widget.text()
        visit.page.evaluate("find()")
        widget.press("steps", "Home")
        draw(widget)


# ---- the scrubber ------------------------------------------------------------------------------


@pytest.fixture
def scrubber(browser: Browser, html: Path) -> Iterator[Widget]:
    with Visit(browser, html / SCRUBBERS[1]) as visit:
        widget = Widget(visit, "scrubber")
        widget.stage.locator("summary").click()
        widget.wait()
        yield widget


def panel(widget: Widget, name: str) -> Locator:
    return widget.stage.locator(f'[data-panel="{name}"]')


def test_the_scrubbed_chain_is_that_of_pytorch(scrubber: Widget, model: Denoiser) -> None:
    """At every place of the slider: x_t, the guessed image and the guessed noise."""
    chain = reference(model, label=5, seed=1, steps=10, eta=0, w=0)
    scrubber.press("place", "Home")
    for k in range(10):
        assert scrubber.data("t") == str(chain[k].t)
        assert f"{k} of 10, t = {chain[k].t}" in scrubber.text()
        assert same(panel(scrubber, "x"), chain[k].x)
        assert same(panel(scrubber, "x0"), chain[k + 1].x0)
        eps = noise_of(model.process, chain[k], chain[k + 1])
        assert same(panel(scrubber, "eps"), eps / 3)
        rms = float((chain[k + 1].x0 - chain[-1].x).square().mean().sqrt())  # type: ignore[operator]
        assert float(scrubber.data("gap")) == pytest.approx(rms, abs=6e-4)
        scrubber.press("place", "ArrowRight")
    assert scrubber.data("t") == "0" and same(panel(scrubber, "x"), chain[-1].x)
    scrubber.quiet()


def noise_of(process: DDPM, before: State, after: State) -> Tensor:
    assert after.x0 is not None
    return process.eps_from_x0(before.x, after.x0, before.t)


def test_the_chain_ends_at_its_last_guess(scrubber: Widget) -> None:
    scrubber.press("place", "End")
    assert (levels(panel(scrubber, "x")) == levels(panel(scrubber, "x0"))).all()
    assert scrubber.data("gap") == "0.000" and scrubber.data("std") == "0.000"
    scrubber.press("place", "Home")
    assert (levels(panel(scrubber, "x")) != levels(panel(scrubber, "x0"))).any()
    assert float(scrubber.data("gap")) > 0.2
    assert float(scrubber.data("std")) > 0.999 and float(scrubber.data("start")) > 0.99


def test_noise_is_kept_at_eta_zero_and_new_at_eta_one(scrubber: Widget) -> None:
    """What chapter 7 says beside it: at η = 0 the guessed noise stays nearly that of the start."""
    scrubber.press("place", "End", "ArrowLeft")
    assert float(scrubber.data("start")) > 0.9
    scrubber.press("eta", "End")
    scrubber.wait()
    assert "1.00 (DDPM)" in scrubber.text() and abs(float(scrubber.data("start"))) < 0.2


def test_every_control_of_the_scrubber_matters(scrubber: Widget) -> None:
    scrubber.press("place", "Home", *["ArrowRight"] * 4)
    before = [levels(panel(scrubber, name)) for name in ("x", "x0", "eps")]
    changes = {
        "class": lambda: scrubber.control("class").select_option("8"),
        "w": lambda: scrubber.press("w", "End"),
        "eta": lambda: scrubber.press("eta", "ArrowRight"),
        "seed": lambda: scrubber.press("seed", "ArrowRight"),
        "steps": lambda: scrubber.press("steps", "ArrowRight"),
    }
    for name, change in changes.items():
        change()
        scrubber.wait()
        after = [levels(panel(scrubber, one)) for one in ("x", "x0", "eps")]
        assert all(bool((a != b).any()) for a, b in zip(after, before, strict=True)), name
        before = after
    assert "6 of 15, t = 600" in scrubber.text()  # as far along as before: 4 of 10
    scrubber.quiet()


def test_nothing_is_loaded_before_the_reader_comes(browser: Browser, html: Path) -> None:
    with Visit(browser, html / SCRUBBERS[0]) as visit:
        visit.page.wait_for_timeout(500)
        assert not any("mnist_weights" in url for url in visit.requests)
        Widget(visit, "scrubber").wait()
        assert any("mnist_weights" in url for url in visit.requests)


# ---- all places --------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [*DIGITS, *SCRUBBERS])
@pytest.mark.parametrize("look", ["light", "dark"])
def test_it_works_on_every_page_and_a_phone(
    browser: Browser, html: Path, page: str, look: str
) -> None:
    with Visit(browser, html / page, width=390, color_scheme=look) as visit:
        widget = Widget(visit, "digits" if page in DIGITS else "scrubber")
        if page in DIGITS:
            widget.press("steps", "Home")
            draw(widget)
        widget.wait()
        boxes = widget.stage.locator("canvas, button, input, select, output").all()
        rights = [box["x"] + box["width"] for one in boxes if (box := one.bounding_box())]
        assert len(rights) > 5 and max(rights) <= 390
        widget.quiet()
        alive = {url for url in visit.requests if "_static/alive/" in url}
        assert any(url.endswith("mnist_weights.js") for url in alive)
        loaded = sum(size_of(url) for url in alive)
        assert loaded < WEIGHT_LIMIT, f"the widgets of {page} load {loaded / 1e6:.2f} MB"
        assert visit.page.evaluate(PICTURES) == []  # whoever reads on meets them all
        assert visit.weight() < USE_LIMIT, f"{page} in use loads {visit.weight() / 1e6:.2f} MB"


def size_of(url: str) -> int:
    return Path(url.removeprefix("file://").split("?")[0]).stat().st_size


@pytest.mark.parametrize("page", [*DIGITS, *SCRUBBERS])
def test_every_control_has_a_name(browser: Browser, html: Path, page: str) -> None:
    with Visit(browser, html / page) as visit:
        widget = Widget(visit, "digits" if page in DIGITS else "scrubber")
        for control in widget.stage.locator("input, select, progress, canvas").all():
            name = control.evaluate(
                "e => e.ariaLabel || [...(e.labels || [])].map(l => l.textContent).join()"
            )
            assert name.strip(), control.evaluate("e => e.outerHTML")


@pytest.mark.parametrize("page", [*DIGITS, *SCRUBBERS])
def test_a_picture_stands_there_without_scripts(browser: Browser, html: Path, page: str) -> None:
    name = "digits" if page in DIGITS else "scrubber"
    with Visit(browser, html / page, java_script_enabled=False) as visit:
        picture = visit.page.locator(f'.alive-picture[src*="{name}_"]')
        picture.scroll_into_view_if_needed()
        box = picture.bounding_box()
        assert box and box["width"] > 200 and box["height"] > 60
        assert len(picture.get_attribute("alt") or "") > 40


def test_presets_name_settings_that_exist(pages: dict[str, BeautifulSoup]) -> None:
    known = {"class", "w", "steps", "eta", "seed", "place"}
    for page in (*DIGITS, *SCRUBBERS):
        for stage in pages[page].select('[data-alive="digits"], [data-alive="scrubber"]'):
            preset: dict[str, Any] = json.loads(str(stage["data-preset"]))
            assert set(preset) <= known, page
