"""What several figures share: a curve with error bars, and the axis of a distance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ddpmlib.experiments.results import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def curve(ax: Axes, found: list[Row], x: str, key: str, **style: Any) -> None:
    """A measurement over a field: 95 % intervals, else standard deviations, where on record."""
    values = [row[key] for row in found]
    look: dict[str, Any] = {"marker": "o", "ms": 4, "capsize": 2} | style
    ax.errorbar([row[x] for row in found], values, _bars(found, key), **look)


def _bars(found: list[Row], key: str) -> Any:
    if f"{key}_interval" in found[0]:
        ends = [(row[key], *row[f"{key}_interval"]) for row in found]
        below = [max(0.0, value - low) for value, low, _ in ends]
        above = [max(0.0, high - value) for value, _, high in ends]
        return [below, above]
    if f"{key}_std" in found[0]:
        return [row[f"{key}_std"] for row in found]
    return None


def log_distance(ax: Axes) -> Axes:
    """Name the axis of a Fréchet distance, make it logarithmic, and add a legend."""
    ax.legend(fontsize=7)
    ax.set(ylabel="Fréchet distance", yscale="log")
    return ax
