"""`records`: what is read is of the declared kinds, or one sentence says what is not."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any

import pytest

from ddpmlib import records


@dataclass(frozen=True)
class Inner:
    sides: tuple[int, ...] = (1, 2)
    flags: tuple[bool, ...] = (True,)


@dataclass(frozen=True)
class Outer:
    name: str
    rate: float
    inner: Inner = field(default_factory=Inner)
    count: int | None = None
    share: float | None = None
    on: bool = False


GOOD = Outer("a", 1, Inner((3, 4), (False, True)), 5, 0.5, True)


def test_json_and_back() -> None:
    assert records.typed(Outer, json.loads(json.dumps(asdict(GOOD)))) == GOOD
    assert records.typed(Outer, {"name": "b", "rate": 2.5}) == Outer("b", 2.5)
    assert records.types(Outer)["inner"] is Inner and "return" not in records.types(Outer)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"name": 3}, "name must be a word, got 3"),
        ({"rate": "fast"}, "rate must be a number, got 'fast'"),
        ({"rate": True}, "rate must be a number, got True"),
        ({"rate": None}, "rate must be a number, got None"),
        ({"count": 1.0}, "count must be a whole number or null, got 1.0"),
        ({"count": False}, "count must be a whole number or null, got False"),
        ({"share": "x"}, "share must be a number or null, got 'x'"),
        ({"on": 1}, "on must be true or false, got 1"),
        ({"inner": {"sides": [1, "2"]}}, "sides must be a list of whole numbers"),
        ({"inner": {"sides": 3}}, "sides must be a list of whole numbers, got 3"),
        ({"inner": {"flags": [1]}}, "flags must be a list of true or false"),
        ({"inner": {"depth": 1}}, "a Inner has no field 'depth'"),
        ({"inner": [1]}, "a Inner is a JSON object with named fields"),
        ({"speed": 1}, "a Outer has no field 'speed'"),
    ],
)
def test_what_does_not_fit_is_one_sentence(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        records.typed(Outer, asdict(GOOD) | change)
    assert "\n" not in str(caught.value)


def test_needed_fields_are_missed() -> None:
    with pytest.raises(ValueError, match="a Outer needs the field 'rate'"):
        records.typed(Outer, {"name": "a"})
    with pytest.raises(ValueError, match="a Outer needs the field 'count'"):
        records.check_fields(Outer, {"name": "a", "rate": 1.0}, needed=("count",))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_of_a_record_are_finite(value: float) -> None:
    records.check_values(GOOD)
    with pytest.raises(ValueError, match="rate must be a finite number"):
        records.check_values(Outer("a", value))


# ---- names, and numbers from far outside ---------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["mnist", "a", "7", "_x", "mnist-32_v2.1", "X" * 100, "com10", "console", "nul-"]
)
def test_a_plain_name_is_taken(name: str) -> None:
    records.check_plain_name("recipe", name)


HARMFUL = ("", ".", "..", "../victim/evil", "/etc/x", "a/b", "a\\b", ".hidden", "-x", "a b", "a.")
SIGNS = ("*/alert(1)/*", "</script>", "a\x1b[2J", "a\x9b2J", "a\u202eb", "a\n", "ä", "a:b", "a$b")
DEVICES = ("nul", "NUL", "con.txt", "Com1", "lpt9.tar.gz", "aux")


@pytest.mark.parametrize("name", [*HARMFUL, *SIGNS, *DEVICES, "X" * 101, None, 3, ["mnist"], {}])
def test_any_other_name_is_one_sentence_without_control_characters(name: Any) -> None:
    with pytest.raises(ValueError, match="a recipe's name is a plain file name") as caught:
        records.check_plain_name("recipe", name)
    said = str(caught.value)
    assert said.isprintable() and len(said) < 350


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("field", "kind"), [("count", "whole number or null"), ("rate", "number"), ("share", "number")]
)
def test_a_number_of_400_digits_is_none_that_a_field_means(
    field: str, kind: str, sign: int
) -> None:
    values = asdict(GOOD) | {field: sign * 10**400}
    with pytest.raises(ValueError, match=rf"{field} must be a {kind}.* below 2\*\*63") as caught:
        records.typed(Outer, values)
    assert len(str(caught.value)) < 250
    assert records.typed(Outer, asdict(GOOD) | {field: sign * (2**63 - 1)})
