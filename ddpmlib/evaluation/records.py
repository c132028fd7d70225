"""Records of plain values, which a card stores as JSON, read as strictly as they are written."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any, get_type_hints

KINDS: dict[Any, str] = {
    int: "a whole number",
    float: "a finite number",
    str: "a word",
    bool: "true or false",
    int | None: "a whole number or null",
}


def check_values(record: Any) -> None:
    """Of a dataclass: that every field of a plain kind holds a value of it.

    Raises:
        ValueError: naming the first that does not.
    """
    for name, kind in get_type_hints(type(record).__init__).items():
        if kind in KINDS and not _fits(value := getattr(record, name), kind):
            raise ValueError(f"{name} must be {KINDS[kind]}, got {value!r}")


def check_fields(what: str, values: Any, known: Collection[str], needed: Collection[str]) -> None:
    """Of what was read: that it is a JSON object of known fields, the needed ones among them.

    Raises:
        ValueError: naming the first field too many or too few.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{what} is a JSON object with named fields, got {values!r}")
    for name in values:
        if name not in known:
            raise ValueError(f"{what} has no field {name!r}")
    for name in needed:
        if name not in values:
            raise ValueError(f"{what} needs the field {name!r}")


def _fits(value: Any, kind: Any) -> bool:
    if isinstance(value, bool):  # Python counts True as a whole number
        return kind is bool
    if kind is float:
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, kind)
