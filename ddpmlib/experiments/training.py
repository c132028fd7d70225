"""Chapter 9's table of networks: what each was trained with, from the cards of the runs."""

from __future__ import annotations

from ddpmlib import zoo
from ddpmlib.experiments import runs
from ddpmlib.experiments.cells import Cell, Experiment
from ddpmlib.experiments.results import Row, markdown, rows

FIELDS = ("schedule", "T", "var_mix", "objective", "times", "label_dropout")


def measure(cell: Cell) -> Row:
    """What the card of a run says."""
    card = zoo.Card.read((runs.folder(cell["run"]) / zoo.MODEL).with_suffix(".json"))
    recipe, how = card.recipe, card.training
    row = cell | {key: recipe[key] for key in FIELDS}
    row |= {"seed": recipe["settings"]["seed"], "updates": recipe["settings"]["steps"]}
    row |= {"parameters": card.parameters, "sha256": card.sha256}
    return row | {key: how[key] for key in ("images_seen", "command", "hardware", "torch")}


def table() -> str:
    """The networks: what each differs in, and how many seeds there are of it."""
    networks: dict[str, list[Row]] = {}
    for row in rows("training"):
        networks.setdefault(runs.unseeded(row["run"]), []).append(row)
    header = ("net", "schedule", "T", "variance", "objective", "label dropout", "seeds")
    return markdown(header, [_line(name, found) for name, found in networks.items()])


def _line(name: str, found: list[Row]) -> tuple[object, ...]:
    row = found[0]
    variance = "learned" if row["var_mix"] is None else "fixed"
    objective = f"L_{row['objective']}" + ", importance" * (row["times"] == "importance")
    dropout = f"{row['label_dropout']:.0%}"
    return name, row["schedule"], row["T"], variance, objective, dropout, len(found)


EXPERIMENT = Experiment(
    "training", [{"run": run} for run in runs.comparison()], measure, {"training": table}
)
