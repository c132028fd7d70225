"""The measurements on a card: which of them are of the same thing, and how one is added."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddpmlib.evaluation.sampling import Sampling
from ddpmlib.zoo.card import Card
from ddpmlib.zoo.checkpoints import writing

# What makes two entries of a card the same measurement; older entries lack some keys.
CELL: dict[str, Any] = dict.fromkeys(("metric", "n", "steps", "eta", "seed", "draws", "features"))
CELL |= {"spacing": "uniform", "step": "ancestral", "bf16": False, "guidance": None}
CELL |= {"streams": None}  # older samples had their noise from one stream, batch after batch


def note(path: Path, sha256: str, entry: dict[str, Any]) -> dict[str, Any]:
    """Add an entry to a card, beside all that others have noted there meanwhile.

    Args:
        path: of the weights.
        sha256: of the weights that were measured.
        entry: what was measured; see :func:`with_entry`.

    Returns:
        the entry as it stands there.

    Raises:
        ValueError: if the card speaks of other weights by now; it then stays as it is.
        OSError: if the card cannot be written, or somebody writes it for a minute.
    """
    with writing(path) as place:
        card = Card.read(place)
        if card.sha256 != sha256:
            raise ValueError(
                f"{path} holds other weights than when it was measured: the result is not noted; "
                "measure it again"
            )
        card.metrics[:], entry = with_entry(card.metrics, entry)
        card.write(place)
    return entry


def with_entry(
    known: Sequence[dict[str, Any]], entry: dict[str, Any]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The list with the entry in place of that of the same cell, and the entry as it stands there.

    The other metrics of that one are kept if the same extractor made them: the samples are the
    same.
    """
    for before in known:
        if _cell(before) == _cell(entry) and before.get("extractor") == entry.get("extractor"):
            entry = before | entry
    same = [i for i, m in enumerate(known) if _cell(m) == _cell(entry)]
    place = same[0] if same else len(known)
    others = [m for i, m in enumerate(known[place:], place) if i not in same]
    return [*known[:place], entry, *others], entry


def is_measured(entries: Sequence[dict[str, Any]], n: int, sampling: Sampling | None) -> bool:
    """Whether there is an entry of ``n`` samples drawn so, or without a sampling, of the bound.

    Whose features it compares does not matter.
    """
    asked = {"metric": "nll", "n": n}
    if sampling is not None:
        drawn = {"step": CELL["step"], "guidance": None} | sampling.record()
        asked = {"metric": "samples", "n": n} | drawn
    return any(all(m.get(k, CELL.get(k)) == v for k, v in asked.items()) for m in entries)


def _cell(entry: dict[str, Any]) -> list[Any]:
    return [entry.get(key, default) for key, default in CELL.items()]
