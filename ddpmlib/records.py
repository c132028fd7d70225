"""Dataclasses of plain values, as JSON keeps them: read as strictly as they are written.

Recipes, their parts, and how samples are drawn are such records. What is read from a file or a
command line has the known fields, all that are needed, and each of the kind that it is declared as.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar, get_args, get_type_hints

T = TypeVar("T")
WORDS: dict[Any, str] = {
    int: "a whole number",
    int | None: "a whole number or null",
    float: "a number",
    float | None: "a number or null",
    str: "a word",
    bool: "true or false",
    tuple[int, ...]: "a list of whole numbers",
    tuple[bool, ...]: "a list of true or false",
}
"""The kinds of plain fields, in words."""


def typed(cls: Callable[..., T], values: Any) -> T:
    """A dataclass from JSON values, and so each dataclass in its fields; lists become tuples.

    Raises:
        ValueError: for an unknown field, a missing one, or a value of another kind.
    """
    check_fields(cls, values)
    kinds = types(cls)
    return cls(**{name: _typed_value(name, kinds[name], v) for name, v in values.items()})


def _typed_value(name: str, kind: Any, value: Any) -> Any:
    if is_dataclass(kind):
        return value if isinstance(value, kind) else typed(kind, value)  # type: ignore[arg-type]
    check_kind(name, value, kind)
    return tuple(value) if isinstance(value, list) else value


def types(cls: Any) -> dict[str, Any]:
    """The types of a dataclass's fields.

    Asked of ``__init__``, which knows the names of its module wherever that module is: the museum
    works with copies of the library that are listed nowhere.
    """
    return {k: v for k, v in get_type_hints(cls.__init__).items() if k != "return"}


def check_fields(cls: Any, values: Any, needed: Collection[str] | None = None) -> None:
    """Of what was read: that it is a JSON object of known fields, the needed ones among them.

    Args:
        cls: the dataclass that it should become.
        values: what was read.
        needed: by default the fields that have no default.

    Raises:
        ValueError: naming the first field too many or too few.
    """
    if not isinstance(values, dict):
        raise ValueError(f"a {cls.__name__} is a JSON object with named fields, got {values!r}")
    own = {f.name: f.default is MISSING and f.default_factory is MISSING for f in fields(cls)}
    for name in values:
        if name not in own:
            raise ValueError(f"a {cls.__name__} has no field {name!r}")
    for name in own:
        wanted = own[name] if needed is None else name in needed
        if wanted and name not in values:
            raise ValueError(f"a {cls.__name__} needs the field {name!r}")


def check_kind(name: str, value: Any, kind: Any) -> None:
    """Raise ValueError, calling the value by ``name``, unless it is of a plain kind."""
    if kind in WORDS and not fits(value, kind):
        raise ValueError(f"{name} must be {WORDS[kind]}, got {value!r}")


def check_values(record: Any) -> None:
    """Of a dataclass: that each field holds a value of its kind, and no number is infinite.

    Raises:
        ValueError: naming the first that does not.
    """
    for name, kind in types(type(record)).items():
        value = getattr(record, name)
        check_kind(name, value, kind)
        if kind is float and not math.isfinite(value):
            raise ValueError(f"{name} must be a finite number, got {value!r}")


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of one of the plain kinds; a whole number is a number, True is none."""
    if kind in (float | None, int | None):
        return value is None or fits(value, float if kind == float | None else int)
    if kind in (tuple[int, ...], tuple[bool, ...]):
        return isinstance(value, list | tuple) and all(fits(v, get_args(kind)[0]) for v in value)
    if isinstance(value, bool) or kind is bool:  # Python counts True as a whole number
        return isinstance(value, bool) and kind is bool
    return isinstance(value, int | float if kind is float else kind)
