"""What several tables share: columns of samples, plain and guided."""

from __future__ import annotations

from collections.abc import Iterable

from ddpmlib.experiments.methods import METHODS
from ddpmlib.experiments.results import Row, markdown

FRECHET = "Fréchet [95\N{NO-BREAK SPACE}%]"
SAMPLED_HEADER = (
    "net", "sampler", "calls", "n", FRECHET, "floor", "IS", "recall", "agreement",
)  # fmt: skip
GUIDED_HEADER = (
    FRECHET, "IS", "precision", "recall", "agreement", "white", "out of range",
)  # fmt: skip


def sampled_table(found: Iterable[Row]) -> str:
    """One line a row: network, sampler, calls, samples, and most of what was measured."""
    lines = [
        (
            row["run"], METHODS[row["method"]].label, row["steps"], f"{row['n']:,}",
            distance(row), f"{row['frechet_floor']:.2f}", f"{row['inception_score']:.2f}",
            f"{row['recall']:.3f}", f"{row['class_agreement']:.1%}",
        )
        for row in found
    ]  # fmt: skip
    return markdown(SAMPLED_HEADER, lines)


def distance(row: Row) -> str:
    """The Fréchet distance with its 95 % interval, which no line end shall break."""
    low, high = row["frechet_interval"]
    return f"{row['frechet']:.2f} [{low:.2f},\N{NO-BREAK SPACE}{high:.2f}]"


def guided_columns(row: Row) -> tuple[str, ...]:
    """What :data:`GUIDED_HEADER` names."""
    return (
        distance(row),
        f"{row['inception_score']:.2f} ± {row['inception_score_std']:.2f}",
        f"{row['precision']:.3f}", f"{row['recall']:.3f}", f"{row['class_agreement']:.1%}",
        f"{row['saturation']:.1%}", f"{row['out_of_range']:.1%}",
    )  # fmt: skip


def floor_columns(row: Row) -> tuple[str, ...]:
    """What real test images reach; agreement has no floor, and none of their pixels is clipped."""
    floor = {k: row[f"{k}_floor"] for k in ("frechet", "inception_score", "precision", "recall")}
    return (
        f"{floor['frechet']:.2f}", f"{floor['inception_score']:.2f}", f"{floor['precision']:.3f}",
        f"{floor['recall']:.3f}", "", f"{row['saturation_floor']:.1%}", "",
    )  # fmt: skip
