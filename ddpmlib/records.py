"""Dataclasses of plain values, as JSON keeps them: read as strictly as they are written.

Recipes, their parts, and how samples are drawn are such records. What is read from a file or a
command line has the known fields, all that are needed, and each of the kind that it is declared as.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
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
MOST = 2**63  # whole numbers lie below it, as in a tensor; JSON may hold any number of digits
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
DEVICES = {"con", "prn", "aux", "nul"} | {f"{d}{i}" for d in ("com", "lpt") for i in range(10)}


def check_plain_name(what: str, name: Any) -> None:
    """Whether a name is one that every file system, shell, terminal and page can bear.

    Checkpoints, recipes and data sets have such names: they become names of files, and stand in
    messages, cards and scripts.

    Args:
        what: what is called so.
        name: from a file or a caller.

    Raises:
        ValueError: unless it is 1 to 100 of the letters a to z in both cases, digits, full stops,
            hyphens and underscores, begins with no full stop or hyphen, ends with no full stop, and
            is no device of Windows (``nul``, ``com1``, ...), whatever its suffix.
    """
    plain = isinstance(name, str) and NAME.fullmatch(name) and not name.endswith(".")
    if not plain or name.split(".")[0].lower() in DEVICES:
        raise ValueError(
            f"a {what}'s name is a plain file name, got {name!r:.120}: up to 100 letters a-z, "
            "digits, '.', '_' and '-', no '.' or '-' first, and no device of Windows"
        )


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
        large = " below 2**63" if isinstance(value, int) and abs(value) >= MOST else ""
        raise ValueError(f"{name} must be {WORDS[kind]}{large}, got {value!r:.120}")


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


def check_sizes(record: Any, most: Mapping[str, int]) -> None:
    """Of a dataclass: that some whole numbers in it lie between 1 and the largest that is sensible.

    The shape of a network also comes from the card of a checkpoint that somebody else made, and a
    number there must not fill the memory before it is found to be wrong.

    Args:
        record: a dataclass.
        most: field -> its largest value.

    Raises:
        ValueError: naming the first that does not.
    """
    for name, limit in most.items():
        value = getattr(record, name)
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
        if value > limit:
            raise ValueError(f"{name} must be at most {limit:,}, got {value}")


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of one of the plain kinds; a whole number is a number, True is none.

    Whole numbers of 64 bits and more are of no kind: no field means one, and arithmetic with them
    fails late.
    """
    if kind in (float | None, int | None):
        return value is None or fits(value, float if kind == float | None else int)
    if kind in (tuple[int, ...], tuple[bool, ...]):
        return isinstance(value, list | tuple) and all(fits(v, get_args(kind)[0]) for v in value)
    if isinstance(value, bool) or kind is bool:  # Python counts True as a whole number
        return isinstance(value, bool) and kind is bool
    if isinstance(value, int) and abs(value) >= MOST:
        return False
    return isinstance(value, int | float if kind is float else kind)
