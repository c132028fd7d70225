"""Chapters 10 and 11, the price of fidelity: strength, kind of guidance, thresholding."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ddpmlib import plots
from ddpmlib.evaluation import Guidance
from ddpmlib.experiments import figures, measuring, runs
from ddpmlib.experiments.cells import Cell, Experiment
from ddpmlib.experiments.results import Row, markdown, rows
from ddpmlib.experiments.tables import GUIDED_HEADER, floor_columns, guided_columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DATASETS = ("mnist", "fashion_mnist")
LABELS = {
    "classifier_free": "classifier-free",
    "classifier": "classifier",
    "classifier_conditional": "classifier, on the conditional net",
    "clean_classifier": "classifier that never saw noise",
}
COLOURS = dict(zip(LABELS, plots.COLOURS, strict=False))
SWEPT = ("classifier_free", "classifier")  # the others are measured at two strengths
WEIGHTS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
QUANTILE = 0.995
HOW = {"steps": 20, "eta": 1.0, "n": 5000}


def _cells(dataset: str) -> list[Cell]:
    grid = [(m, w, threshold) for threshold in (False, True) for m in SWEPT for w in WEIGHTS]
    grid += [("classifier_conditional", w, False) for w in (1.0, 4.0)]
    if dataset == "mnist":
        grid += [("clean_classifier", w, False) for w in (1.0, 4.0)]
    return [{"dataset": dataset, "method": m, "w": w, "threshold": th} | HOW for m, w, th in grid]


def options(method: str, w: float, threshold: bool = False, dataset: str = "mnist") -> Guidance:
    """The guidance that a row's fields name; w is s where a classifier guides."""
    quantile = QUANTILE if threshold else 0.0
    if method == "classifier_free":
        return Guidance(w=w, threshold=quantile)
    clean = method == "clean_classifier"
    classifier = str(runs.CLEAN) if clean else f"{dataset}-noisy-classifier"
    return Guidance(
        classifier=classifier if w else "",
        strength=w,
        unconditional=method != "classifier_conditional",
        threshold=quantile,
    )


def measure(cell: Cell) -> Row:
    """Samples of the shipped checkpoint of a data set, guided."""
    dataset = cell["dataset"]
    chosen = options(cell["method"], cell["w"], cell["threshold"], dataset)
    return measuring.guided(cell, dataset, chosen, cell["eta"])


# ---- the table and the figures -----------------------------------------------------------------


def table(dataset: str, method: str) -> str:
    """One line per strength, without and with dynamic thresholding, and one of test images."""
    found = rows("guidance", dataset=dataset, method=method)
    symbol = "w" if method == "classifier_free" else "s"
    lines = [
        (f"{row['w']:g}", "yes" if row["threshold"] else "", *guided_columns(row))
        for row in sorted(found, key=lambda r: (r["w"], r["threshold"]))
    ]
    lines += [("test images", "", *floor_columns(row)) for row in found[:1]]
    return markdown((symbol, "threshold", *GUIDED_HEADER), lines)


def figure(dataset: str, ax: Axes, key: str = "frechet", threshold: bool = True) -> Axes:
    """A measurement over w or s, one line per method; dashed with dynamic thresholding.

    Bars are 95 % intervals, for the Inception Score standard deviations over splits.
    """
    for method in SWEPT:
        for thresholded in (False, True)[: 1 + threshold]:
            found = _by_strength(dataset, method, thresholded)
            label = LABELS[method] + ", thresholded" * thresholded
            style: dict[str, Any] = {"ls": "--" if thresholded else "-", "label": label}
            figures.curve(ax, found, "w", key, color=COLOURS[method], **style)
    if f"{key}_floor" in found[0]:
        ax.axhline(found[0][f"{key}_floor"], color=plots.GREY, ls=":", label="real test images")
    _strengths_axis(ax, sorted({row["w"] for row in rows("guidance", dataset=dataset)}))
    return ax


def _by_strength(dataset: str, method: str, threshold: bool) -> list[Row]:
    found = rows("guidance", dataset=dataset, method=method, threshold=threshold)
    return sorted(found, key=lambda r: r["w"])


def _strengths_axis(ax: Axes, weights: list[float]) -> None:
    ax.set_xscale("symlog", linthresh=0.5, base=2)
    ax.set(xlabel="w, or s of the classifier", xticks=weights, xlim=(-0.1, 1.15 * weights[-1]))
    ax.set_xticklabels([f"{w:g}" for w in weights])
    ax.minorticks_off()


def tradeoff_figure(dataset: str, ax: Axes) -> Axes:
    """Precision over recall, one curve per method, each point labelled with its w or s."""
    for method in SWEPT:
        found = _by_strength(dataset, method, False)
        recall, precision = ([row[k] for row in found] for k in ("recall", "precision"))
        ax.plot(recall, precision, "o-", ms=4, color=COLOURS[method], label=LABELS[method])
        for row in found:
            place = (row["recall"], row["precision"])
            ax.annotate(f"{row['w']:g}", place, (3, 3), textcoords="offset points", fontsize=7)
    real = found[0]["recall_floor"], found[0]["precision_floor"]
    ax.plot(*real, "*", ms=10, color=plots.GREY, label="real test images")
    ax.set(xlabel="recall (diversity)", ylabel="precision (fidelity)")
    return ax


def _distance_figure(dataset: str, ax: Axes) -> Axes:
    return figures.log_distance(figure(dataset, ax))


EXPERIMENT = Experiment(
    "guidance",
    [cell for dataset in DATASETS for cell in _cells(dataset)],
    measure,
    {
        f"guidance_{dataset}_{method}": partial(table, dataset, method)
        for dataset in DATASETS
        for method in (*SWEPT, "classifier_conditional")
    },
    {f"guidance_{dataset}": partial(_distance_figure, dataset) for dataset in DATASETS},
)
