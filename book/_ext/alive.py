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
SCRIPTS = {"playground": ("diffusion.js", "mixtures.js", "playground.js")}

PAGES: dict[str, tuple[Live, ...]] = {
    "book/intro": (
        Live(
            "playground",
            before="One sentence carries everything",
            title="Try it here: from noise to data",
            words="Press <em>Play</em>. Five hundred points start as pure noise, and step by step "
            "each moves to where the data may be. Nothing is trained: for these data the best "
            "possible denoiser is known in closed form, and your browser computes it. Then choose "
            "other data, fewer steps, or <em>Density</em> to see where the points should be.",
            picture="playground_intro.png",
            alt="Four scatter plots from left to right: a round cloud of noise, two steps in which "
            "it gathers, and points that lie on two interleaved half circles",
            preset={"data": "moons", "steps": 50, "show": ["density"]},
        ),
    ),
    "notebooks/03_ddpm": (
        Live(
            "playground",
            before="The derivation",
            title="Try it here: ancestral sampling",
            words="The ring again, with its exact denoiser and the DDPM sampler, η = 1. Press "
            "<em>Play</em> and watch the noise level: most points choose their cluster within a "
            "short stretch of the chain, and before it they have hardly moved. Then take 5 steps "
            "instead of 250: the points still find the ring, but not the width of its clusters.",
            picture="playground_03_ddpm.png",
            alt="Four scatter plots of ancestral sampling: a cloud of noise that contracts onto a "
            "ring of six clusters",
            preset={"data": "ring", "steps": 250, "eta": 1, "show": ["density"]},
        ),
    ),
    "notebooks/07_ddim": (
        Live(
            "playground",
            before="The derivation",
            title="Try it here: few steps, and the dice off",
            words="Ten steps. Move η from 0 (DDIM) to 1 (DDPM) with <em>Paths</em> on: smooth "
            "paths become jagged, and with so few steps the points end farther from the data. At "
            "η = 0 the noise decides everything: change the number of steps, and each point still "
            "ends near the same place.",
            picture="playground_07_ddim.png",
            alt="Two plots of sixteen paths each from noise to a spiral: smooth curves with eta "
            "equal to 0, jagged lines with eta equal to 1",
            preset={"data": "spiral", "steps": 10, "eta": 0, "show": ["paths"]},
        ),
    ),
    "notebooks/11_classifier_free": (
        Live(
            "playground",
            before="The derivation",
            title="Try it here: turn up the guidance",
            words="The three overlapping clouds from above; each point was asked for one class, "
            "and its colour says which class it looks like. Raise <em>w</em>: soon all points look "
            "like what was asked for, and the clouds shrink and leave the data. Then choose one "
            "class, and <em>Score</em>, to see the arrows that push them there.",
            picture="playground_11_classifier_free.png",
            alt="Three scatter plots of points in three colours, for guidance weights 0, 1 and 4: "
            "the clouds overlap, then part, then shrink and move outwards",
            preset={"data": "clouds", "steps": 50, "class": "each", "w": 1},
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
