"""Live widgets in the built pages: plain JavaScript, no network, also from file:// addresses.

The texts hold no trace of them, so GitHub, JupyterLab and Colab show the chapters as they are. The
table ``PAGES`` says which page gets which widget and where; only these pages load the scripts.
Where scripts are off a still picture stands in the widget's place.

A widget is one script in ``book/_static/alive`` that calls ``Alive.register(name, mount)``; what it
may use stands in ``alive.js``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from html import escape
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.osutil import relative_uri

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Live:
    """A widget at its place in a page.

    Attributes:
        widget: a key of ``SCRIPTS``.
        before: the title of the section in front of which it stands.
        title: its name on the page.
        words: what to try and what to see, HTML.
        picture, alt: what stands there where scripts are off; a file in ``_static/alive``.
        preset: handed to the widget's script.
    """

    widget: str
    before: str
    title: str
    words: str
    picture: str
    alt: str
    preset: dict[str, Any] = field(default_factory=dict)


# In the order in which they are loaded, after alive.js.
NETWORK = ("diffusion.js", "unet.js", "images.js", "network.js")
SCRIPTS = {
    "playground": ("diffusion.js", "mixtures.js", "playground.js"),
    "digits": (*NETWORK, "digits.js"),
    "scrubber": (*NETWORK, "scrubber.js"),
}

PAGES: dict[str, tuple[Live, ...]] = {
    "book/intro": (
        Live(
            "playground",
            before="The idea: predict the clean image, then draw the next one",
            title="Try it: from noise to data",
            words="Five hundred points start as pure noise, and step by step each moves to where "
            "the data may be. Nothing is trained here: for these data the best possible denoiser "
            "is known in closed form, and your browser computes it. Choose other data, switch on "
            "<em>Score</em> to see what pushes the points, and find out how few steps will do.",
            picture="playground_intro.png",
            alt="Four scatter plots from left to right: a round cloud of noise, two moments in "
            "which it gathers, and points that lie on two interleaved half circles",
            preset={"data": "moons", "show": ["density"], "start": "noise", "autoplay": True},
        ),
        Live(
            "digits",
            before="What you will build",
            title="Try it here: draw digits",
            words="The book's own MNIST network, about 770,000 weights, runs in your browser: "
            "press <em>Draw</em>, and ten images of pure noise become ten digits, a network call "
            "for each image and step. Nothing leaves your machine. Then ask for ten sevens, "
            "allow only three steps, or take another seed. Chapter 3 builds this model, chapter "
            "7 makes it fast, and chapter 11 explains the guidance weight.",
            picture="digits_intro.png",
            alt="Ten generated handwritten digits from 0 to 9 in two rows, white on black",
        ),
    ),
    "notebooks/03_ddpm": (
        Live(
            "playground",
            before="Which loss, and what minimises it",
            title="Try it: ancestral sampling, with the exact denoiser",
            words="The ring once more. The colour of a point says which cluster it most likely "
            "belongs to. Press <em>Play</em> and watch when it stops changing: at t = 500 about "
            "half of the points have found their cluster, at t = 200 nearly all. Then take 5 steps "
            "instead of 250: points are left between the clusters, and the spread falls short of "
            "that of the data.",
            picture="playground_03_ddpm.png",
            alt="Four scatter plots of ancestral sampling from left to right: a cloud of noise "
            "that gathers in a ring of six clusters",
            preset={
                "data": "ring",
                "steps": 250,
                "show": ["density"],
                "first": ["steps", "eta", "data"],
                "start": "noise",
            },
        ),
        Live(
            "scrubber",
            before="How many network calls does a digit need?",
            title="Try it here: what the network predicts along the chain",
            words="One chain of the network on this card, computed in your browser: fifty "
            "ancestral steps. Move the slider from the noise (left end) to the digit (right "
            "end). Early on x̂₀ is a blur, an average of many threes; it has settled long before "
            "x<sub>t</sub> looks like it. ε̂ is the other side of the same prediction (3.5): what "
            "is not image must be noise.",
            picture="scrubber_03.png",
            alt="Three rows of eight pictures along a chain of fifty steps. Top, the state: from "
            "pure noise to a digit 3. Middle, the guessed image: a blur that sharpens into the 3 "
            "well before the state shows it. Bottom, the guessed noise",
            preset={"class": "3", "steps": 50, "eta": 1},
        ),
    ),
    "notebooks/07_ddim": (
        Live(
            "playground",
            before="Why a trained network fits more than one chain",
            title="Try it: few steps, and the noise switched off",
            words="Seven steps from noise to a spiral. Move η from 0 (DDIM) to 1 (DDPM): smooth "
            "paths become jagged, and the points end farther from the data. Back at η = 0 the "
            "noise at the start decides everything: change the number of steps, and each point "
            "still ends near its place.",
            picture="playground_07_ddim.png",
            alt="Two plots of paths from noise to a spiral in seven steps: smooth curves with eta "
            "equal to 0, jagged lines with eta equal to 1",
            preset={
                "data": "spiral",
                "steps": 7,
                "eta": 0,
                "show": ["paths"],
                "first": ["eta", "steps", "seed"],
            },
        ),
        Live(
            "scrubber",
            before="Does the last quarter of the chain do most of the work?",
            title="Try it here: ten steps, one straight look ahead each",
            words="The same network, ten deterministic steps. Each step keeps both predictions and "
            "only mixes them anew, more x̂₀ and less ε̂ (7.2 with σ = 0). Watch ε̂: with η = 0 "
            "it hardly changes, being nearly the noise that the chain began with. Under <em>More "
            "controls</em> set η to 1, and it is new at every step. With η back at 0, change the "
            "number of steps: the same seed still ends at nearly the same digit.",
            picture="scrubber_07.png",
            alt="Three rows of eight pictures along a chain of ten deterministic steps. Top, the "
            "state: from pure noise to a digit 5. Middle, the guessed image, a blur that sharpens "
            "into the 5. Bottom, the guessed noise, which stays nearly the same",
            preset={"class": "5", "steps": 10, "eta": 0, "place": 0.4},
        ),
    ),
    "notebooks/11_classifier_free": (
        Live(
            "playground",
            before="Deriving the guided prediction",
            title="Try it: turn up the guidance",
            words="The three clouds from above. A third of the points was asked for each class, "
            "and the colour says which class a point looks like. Raise <em>w</em>: at 1 nearly all "
            "look as asked, more than of the data themselves; further on the clouds shrink, leave "
            "their places, and the gap to the data grows. Then ask for a single class: the shading "
            "says where its data lie, and <em>Score</em> shows the arrows that drive the points "
            "out of there.",
            picture="playground_11_classifier_free.png",
            alt="Three scatter plots of points in three colours, for guidance weights 0, 1 and 4: "
            "the clouds overlap, then part, then shrink and move outwards",
            preset={
                "data": "clouds",
                "class": "each",
                "show": ["density"],
                "first": ["w", "class", "steps"],
            },
        ),
        Live(
            "digits",
            before="What goes wrong",
            title="Try it here: guide the digits",
            words="Ten sevens from ten noises, drawn in your browser by the MNIST network. Press "
            "<em>Draw</em> at w = 0, then at 1 and at 4: the noise stays, so each image can be "
            "compared with itself. Sevens become bolder and more alike; where the plain model drew "
            "something else, guidance makes it a seven. Every guided step calls the network twice.",
            picture="digits_11.png",
            alt="Three rows of ten generated sevens from the same ten noises, with guidance "
            "weights 0, 1 and 4: the sevens become bolder and more alike from row to row",
            preset={"class": "7", "w": 1, "steps": 10, "eta": 0},
        ),
    ),
}


def place(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Put the widgets of a page in front of their sections."""
    if app.builder.format != "html":
        return
    folder = relative_uri(app.builder.get_target_uri(docname), "_static/alive/")
    for number, live in enumerate(PAGES.get(docname, ())):
        section = _section(doctree, live.before)
        if section is None:
            logger.warning("alive: %s has no section %r for %s", docname, live.before, live.widget)
            continue
        html = markup(live, f"alive-{number + 1}", folder)
        section.parent.insert(section.parent.index(section), nodes.raw("", html, format="html"))


def markup(live: Live, name: str, folder: str) -> str:
    """The widget's place in the page; its script fills the stage."""
    return f"""
<section class="alive" id="{name}" aria-labelledby="{name}-title">
<p class="alive-title" id="{name}-title">{escape(live.title)}</p>
<p class="alive-words">{live.words}</p>
<div class="alive-stage" data-alive="{live.widget}"
 data-preset="{escape(json.dumps(live.preset), quote=True)}"></div>
<noscript>
<img class="alive-picture" src="{folder}{live.picture}" alt="{escape(live.alt, quote=True)}">
<p class="alive-words">With JavaScript switched on, this picture moves and has controls.</p>
</noscript>
</section>
"""


def add_scripts(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: object
) -> None:
    """Load what the widgets of this page need, and nothing on other pages."""
    widgets = dict.fromkeys(live.widget for live in PAGES.get(pagename, ()))
    if widgets:
        app.add_css_file("alive/alive.css")
        scripts = ["alive.js", *(name for widget in widgets for name in SCRIPTS[widget])]
        for script in dict.fromkeys(scripts):
            app.add_js_file(f"alive/{script}", loading_method="defer")


def _section(doctree: nodes.document, title: str) -> nodes.section | None:
    sections = doctree.findall(nodes.section)
    return next((s for s in sections if s[0].astext() == title), None)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("doctree-resolved", place)
    app.connect("html-page-context", add_scripts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
