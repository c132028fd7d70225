"""The built book loads nothing from anywhere else.

Jupyter Book always brings `sphinx_thebe`, whose script fetches a live-code client from a content
delivery network. This extension unplugs it, and warns (the build then fails, for warnings are
errors) when a page would load any other script or style sheet from outside.
"""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx
from sphinx.util import logging

UNPLUGGED = "sphinx_thebe"

logger = logging.getLogger(__name__)


def unplug(app: Sphinx, config: object) -> None:
    """Take the handlers of the unwanted extension off every event."""
    for listeners in app.events.listeners.values():
        listeners[:] = [one for one in listeners if not _unwanted(one.handler)]


def _unwanted(handler: object) -> bool:
    return getattr(handler, "__module__", "").split(".")[0] == UNPLUGGED


def check_assets(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: object
) -> None:
    """Drop the style sheet that was registered before, name every asset from outside."""
    for kind in ("script_files", "css_files"):
        assets = [one for one in context.get(kind, []) if "sphinx-thebe" not in _address(one)]
        context[kind] = assets
        for address in filter(lambda one: "//" in one, map(_address, assets)):
            logger.warning("offline: %s would load %s", pagename, address)


def _address(asset: object) -> str:
    return str(getattr(asset, "filename", asset) or "")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx, after everything else."""
    app.connect("config-inited", unplug, priority=999)
    app.connect("html-page-context", check_assets, priority=999)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
