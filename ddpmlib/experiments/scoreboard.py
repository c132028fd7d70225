"""Tables and figures of the measured comparison, made of the rows in ``data/results`` alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from ddpmlib import plots
from ddpmlib.equations import equation
from ddpmlib.experiments.results import Row, markdown, pivot, rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes


METHODS = {
    "beta": "ancestral, β",
    "beta_tilde": "ancestral, β̃ (η = 1)",
    "learned": "ancestral, learned",
    "ddim_half": "DDIM, η = 0.5",
    "ddim": "DDIM, η = 0",
}
COLOURS = dict(zip(METHODS, plots.COLOURS, strict=False))
# Slides, CIFAR-10, 100 epochs: (rung, Inception Score, FID).
DECK = (
    ("DDPM, linear, T = 500", 1.42, 300),
    ("DDPM, linear, T = 1000", 1.58, 270),
    ("DDPM, linear, T = 2000", 1.88, 230),
    ("IDDPM", 2.38, 200),
    ("IDDPM + DDIM, linear", 2.3, 250),
    ("IDDPM + DDIM, sigmoid", 2.4, 200),
    ("IDDPM + DDIM, cosine", 2.6, 160),
    ("+ classifier-free guidance", 3.16, 184),
)


# ---- statistics ----------------------------------------------------------------------------------


@equation("9.1")
def share_error(share: float, n: int) -> float:
    """Standard error of a share of n independent samples, √(p (1−p) / n).

    Raises:
        ValueError: if the share leaves [0, 1] or n < 1.
    """
    if not 0 <= share <= 1 or n < 1:
        raise ValueError(f"need a share in [0, 1] of at least one sample, got {share} of {n}")
    return math.sqrt(share * (1 - share) / n)


@equation("9.3")
def times_floor(row: Row) -> float:
    """Fréchet distance of a row over that of as many real test images: 1 is as good as data."""
    return row["frechet"] / row["frechet_floor"]


@equation("9.4")
def over_seeds(values: Sequence[float]) -> tuple[float, float]:
    """Mean over training seeds and its standard error, s/√k; NaN where there is one seed only.

    Raises:
        ValueError: without any value.
    """
    if not values:
        raise ValueError("a mean over seeds needs at least one value")
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return fmean(values), error


# ---- tables --------------------------------------------------------------------------------------


def _distance(row: Row) -> str:
    low, high = row["frechet_interval"]
    return f"{row['frechet']:.2f} [{low:.2f}, {high:.2f}]"


def table(found: Iterable[Row], label: str = "run") -> str:
    """One line a row: net, sampler, calls, samples, and most of what was measured."""
    header = ("net", "sampler", "calls", "n", "Fréchet [95 %]", "floor", "IS", "recall",
              "agreement")  # fmt: skip
    lines = [
        (
            row[label], METHODS[row["method"]], row["steps"], f"{row['n']:,}", _distance(row),
            f"{row['frechet_floor']:.2f}", f"{row['inception_score']:.2f}",
            f"{row['recall']:.3f}", f"{row['class_agreement']:.1%}",
        )
        for row in found
    ]  # fmt: skip
    return markdown(header, lines)


def training_table() -> str:
    """The nets: what each differs in, and how many seeds there are of it."""
    nets: dict[str, list[Row]] = {}
    for row in rows("training"):
        nets.setdefault(_net(row["run"]), []).append(row)
    lines = []
    for name, found in nets.items():
        row = found[0]
        variance = "learned" if row["var_mix"] is None else "fixed"
        objective = f"L_{row['objective']}" + ", importance" * (row["times"] == "importance")
        dropout = f"{row['label_dropout']:.0%}"
        lines.append((name, row["schedule"], row["T"], variance, objective, dropout, len(found)))
    header = ("net", "schedule", "T", "variance", "objective", "label dropout", "seeds")
    return markdown(header, lines)


def _net(run: str) -> str:
    return run.split("-seed")[0]


def lengths_table() -> str:
    """T = 500, 1000, 2000: the same net and budget, sampled with few calls and with all."""
    return table(sorted(rows("lengths"), key=lambda r: (r["method"], r["steps"])))


def schedules_table() -> str:
    """Linear, sigmoid, cosine at several numbers of calls."""
    return table(sorted(rows("schedules"), key=lambda r: (r["method"], r["steps"])))


def variances_table() -> str:
    """Nets trained for L_simple, L_hybrid and L_vlb, at the same numbers of calls."""
    return table(sorted(rows("variances"), key=lambda r: r["steps"]))


def likelihood_table() -> str:
    """Bits per dimension of test images, whole chain."""
    lines = [
        (row["run"], METHODS[row["method"]].removeprefix("ancestral, ").removesuffix(" (η = 1)"),
         f"{row['bits_per_dim']:.3f} ± {row['se']:.3f}")
        for row in rows("likelihood")
    ]  # fmt: skip
    return markdown(("net", "variance", "bits/dim"), lines)


def gradient_noise_table() -> str:
    """Noise of minibatch gradients, tr Cov(g) / |E g|²."""
    lines = [
        (row["run"], f"L_{row['objective']}", row["times"], f"{row['noise_to_signal']:.2g}")
        for row in rows("gradient_noise")
    ]
    return markdown(("at the weights of", "objective", "times", "noise / signal"), lines)


def strides_table(run: str) -> str:
    """Fréchet distance by number of calls (lines) and sampler (columns)."""
    found = rows("strides", run=run)
    methods = [m for m in METHODS if any(row["method"] == m for row in found)]
    lines = []
    for k, cells in sorted(pivot(found, "steps", "method", "frechet").items(), reverse=True):
        some = next(row for row in found if row["steps"] == k)
        values = [f"{cells[m]:.2f}" if m in cells else "" for m in methods]
        lines.append((k, f"{some['n']:,}", *values, f"{some['frechet_floor']:.2f}"))
    return markdown(("calls", "n", *(METHODS[m] for m in methods), "floor"), lines)


def ladder() -> list[tuple[str, list[Row]]]:
    """The rungs of the ladder with one row per training seed."""
    names = {
        ("linear", None): "DDPM: linear, β̃, 250 calls",
        ("linear-hybrid", None): "IDDPM + DDIM: linear, learned variance, 50 calls",
        ("cosine-hybrid", None): "IDDPM + DDIM: cosine, 50 calls",
        ("cosine-hybrid", "classifier_conditional"): "+ classifier guidance: s = 1, 50 steps",
        ("cosine-hybrid", "classifier_free"): "+ classifier-free guidance: w = 1, 50 steps",
    }
    found: dict[tuple[str, str | None], list[Row]] = {rung: [] for rung in names}
    for row in rows("ladder"):
        found[_net(row["run"]), row.get("guidance")].append(row)
    return [(names[rung], same) for rung, same in found.items()]


# The slides' number for each rung of our ladder, None where they print none.
DECK_RUNGS = (DECK[1], DECK[4], DECK[6], None, DECK[7])


def ladder_table() -> str:
    """The ladder: mean over training seeds ± its standard error, and the slides' numbers."""
    lines = []
    for (name, rungs), deck in zip(ladder(), DECK_RUNGS, strict=True):
        cells: list[Any] = [len(rungs)]
        for key, digits in (("frechet", 2), ("inception_score", 2), ("recall", 3)):
            mean, error = over_seeds([row[key] for row in rungs])
            cells.append(f"{mean:.{digits}f}" + f" ± {error:.{digits}f}" * (len(rungs) > 1))
        mean, error = over_seeds([100 * row["class_agreement"] for row in rungs])
        cells.append(f"{mean:.1f}" + f" ± {error:.1f}" * (len(rungs) > 1) + " %")
        lines.append((name, *cells, *(deck[1:] if deck else ("–", "–"))))
    header = ("rung", "seeds", "Fréchet", "IS", "recall", "agreement", "slides: IS", "slides: FID")
    return markdown(header, lines)


GUIDED = {
    "classifier_free": "classifier-free",
    "classifier": "classifier",
    "classifier_conditional": "classifier, on the conditional net",
    "clean_classifier": "classifier that never saw noise",
}
GUIDED_COLOURS = dict(zip(GUIDED, plots.COLOURS, strict=False))


def _guided_cells(row: Row) -> tuple[str, ...]:
    return (
        _distance(row),
        f"{row['inception_score']:.2f} ± {row['inception_score_std']:.2f}",
        f"{row['precision']:.3f}", f"{row['recall']:.3f}", f"{row['class_agreement']:.1%}",
        f"{row['saturation']:.1%}", f"{row['out_of_range']:.1%}",
    )  # fmt: skip


GUIDED_HEADER = (
    "Fréchet [95 %]", "IS", "precision", "recall", "agreement", "white", "out of range",
)  # fmt: skip


def _floor_cells(row: Row) -> tuple[str, ...]:
    """What real test images reach; agreement has no floor, and none of their pixels is clipped."""
    floor = {k: row[f"{k}_floor"] for k in ("frechet", "inception_score", "precision", "recall")}
    return (
        f"{floor['frechet']:.2f}", f"{floor['inception_score']:.2f}", f"{floor['precision']:.3f}",
        f"{floor['recall']:.3f}", "", f"{row['saturation_floor']:.1%}", "",
    )  # fmt: skip


def guidance_table(dataset: str, method: str) -> str:
    """One line per strength, without and with dynamic thresholding, and one of test images."""
    found = rows("guidance", dataset=dataset, method=method)
    symbol = "w" if method == "classifier_free" else "s"
    lines = [
        (f"{row['w']:g}", "yes" if row["threshold"] else "", *_guided_cells(row))
        for row in sorted(found, key=lambda r: (r["w"], r["threshold"]))
    ]
    lines += [("test images", "", *_floor_cells(row)) for row in found[:1]]
    return markdown((symbol, "threshold", *GUIDED_HEADER), lines)


THRESHOLDS = ("none", "static", "dynamic")


def thresholds_table(dataset: str) -> str:
    """Classifier-free guidance without a threshold, clipped, and with the dynamic one."""
    clipped = rows("guidance_clipped", dataset=dataset)
    sweep = rows("guidance", dataset=dataset, method="classifier_free")
    found = clipped + [row for row in sweep if row["w"] in {r["w"] for r in clipped}]
    lines = [
        (f"{row['w']:g}", _threshold(row), *_guided_cells(row))
        for row in sorted(found, key=lambda r: (r["w"], THRESHOLDS.index(_threshold(r))))
    ]
    return markdown(("w", "threshold", *GUIDED_HEADER), lines)


def _threshold(row: Row) -> str:
    if "clip" in row:
        return "static"
    return "dynamic" if row["threshold"] else "none"


def interval_table(dataset: str) -> str:
    """Classifier-free guidance at some times only, beside the sweep's rows for none and all."""
    found = rows("guidance_interval", dataset=dataset)
    strengths = {0.0, *(row["w"] for row in found)}
    sweep = rows("guidance", dataset=dataset, method="classifier_free", threshold=False)
    lines = [
        (f"{row['w']:g}", _times(row), *_guided_cells(row))
        for row in [row for row in sweep if row["w"] in strengths] + found
    ]
    return markdown(("w", "times", *GUIDED_HEADER), lines)


def _times(row: Row) -> str:
    if row["w"] == 0:
        return "none"
    return f"{row['low']}–{row['high']}" if "low" in row else "all"


def dropout_table() -> str:
    """Small nets trained with different shares of dropped labels, each guided."""
    found = sorted(rows("guidance_dropout"), key=lambda r: (r["w"], r["label_dropout"]))
    lines = [(f"{r['label_dropout']:.0%}", f"{r['w']:g}", *_guided_cells(r)) for r in found]
    return markdown(("label dropout", "w", *GUIDED_HEADER), lines)


def deck_table() -> str:
    """The ladder of the slides, as printed there."""
    return markdown(("rung (slides, CIFAR-10)", "IS", "FID"), DECK)


# ---- figures -------------------------------------------------------------------------------------


def strides_figure(run: str, ax: Axes, key: str = "frechet") -> Axes:
    """A measurement over the number of calls, one line per sampler, 95 % intervals where known."""
    for method, label in METHODS.items():
        found = sorted(rows("strides", run=run, method=method), key=lambda r: r["steps"])
        if found:
            _line(ax, found, "steps", key, label=label, color=COLOURS[method])
    found = rows("strides", run=run)
    steps = sorted({row["steps"] for row in found})
    floors = {row["steps"]: row[f"{key}_floor"] for row in found if f"{key}_floor" in row}
    if floors:  # an agreement has none
        values = [floors[k] for k in steps]
        ax.plot(steps, values, color=plots.GREY, ls=":", label="real test images")
    ax.set(xlabel="network calls", xscale="log", xticks=steps, xticklabels=steps)
    ax.minorticks_off()
    return ax


def _line(ax: Axes, found: list[Row], x: str, key: str, **style: Any) -> None:
    values = [row[key] for row in found]
    bars: Any = None
    if f"{key}_interval" in found[0]:
        ends = [row[f"{key}_interval"] for row in found]
        bars = [
            [max(0.0, v - low) for v, (low, _) in zip(values, ends, strict=True)],
            [max(0.0, high - v) for v, (_, high) in zip(values, ends, strict=True)],
        ]
    elif f"{key}_std" in found[0]:
        bars = [row[f"{key}_std"] for row in found]
    look: dict[str, Any] = {"marker": "o", "ms": 4, "capsize": 2} | style
    ax.errorbar([row[x] for row in found], values, bars, **look)


def guidance_figure(dataset: str, ax: Axes, key: str = "frechet", threshold: bool = True) -> Axes:
    """A measurement over w or s, one line per method; dashed with dynamic thresholding.

    Bars are 95 % intervals, for the Inception Score standard deviations over splits.
    """
    for method in ("classifier_free", "classifier"):
        for thresholded in (False, True)[: 1 + threshold]:
            found = rows("guidance", dataset=dataset, method=method, threshold=thresholded)
            label = GUIDED[method] + ", thresholded" * thresholded
            style: dict[str, Any] = {"ls": "--" if thresholded else "-", "label": label}
            found = sorted(found, key=lambda r: r["w"])
            _line(ax, found, "w", key, color=GUIDED_COLOURS[method], **style)
    if f"{key}_floor" in found[0]:
        ax.axhline(found[0][f"{key}_floor"], color=plots.GREY, ls=":", label="real test images")
    weights = sorted({row["w"] for row in rows("guidance", dataset=dataset)})
    ax.set_xscale("symlog", linthresh=0.5, base=2)
    ax.set(xlabel="w, or s of the classifier", xticks=weights, xlim=(-0.1, 1.15 * weights[-1]))
    ax.set_xticklabels([f"{w:g}" for w in weights])
    ax.minorticks_off()
    return ax


def tradeoff_figure(dataset: str, ax: Axes) -> Axes:
    """Precision over recall, one curve per method, each point labelled with its w or s."""
    for method in ("classifier_free", "classifier"):
        found = rows("guidance", dataset=dataset, method=method, threshold=False)
        found = sorted(found, key=lambda r: r["w"])
        recall, precision = ([row[k] for row in found] for k in ("recall", "precision"))
        ax.plot(recall, precision, "o-", ms=4, color=GUIDED_COLOURS[method], label=GUIDED[method])
        for row in found:
            place = (row["recall"], row["precision"])
            ax.annotate(f"{row['w']:g}", place, (3, 3), textcoords="offset points", fontsize=7)
    real = found[0]["recall_floor"], found[0]["precision_floor"]
    ax.plot(*real, "*", ms=10, color=plots.GREY, label="real test images")
    ax.set(xlabel="recall (diversity)", ylabel="precision (fidelity)")
    return ax


def chain_figure(ax: Axes, key: str = "frechet") -> Axes:
    """A measurement of x̂_0 over the share of network calls that are done."""
    for row in rows("chain"):
        curve: list[dict[str, Any]] = row["curve"]
        T = curve[0]["t"]
        x = [100 * (1 - point["t"] / T) for point in curve]
        style = "-" if row["method"] == "ddim" else "--"
        colour = plots.BLUE if row["run"].startswith("cosine") else plots.ORANGE
        label = f"{row['run'].split('-')[0]}, {METHODS[row['method']]}"
        ax.plot(x, [point[key] for point in curve], style, color=colour, label=label)
    ax.set(xlabel="share of the chain that is done (%)")
    return ax


def ladder_figure(ax: Axes) -> Axes:
    """Distance of each rung over its floor, one dot per training seed."""
    for i, (_, rungs) in enumerate(ladder()):
        ratios = [times_floor(row) for row in rungs]
        ax.plot([i] * len(ratios), ratios, "o", color=plots.BLUE, alpha=0.6)
        ax.plot([i - 0.2, i + 0.2], [over_seeds(ratios)[0]] * 2, color=plots.ORANGE, lw=2)
    ax.axhline(1, color=plots.GREY, ls=":")
    names = [name.replace(": ", "\n").replace(", ", "\n") for name, _ in ladder()]
    ax.set(xticks=range(len(names)), xticklabels=names, ylabel="Fréchet distance / floor")
    ax.set_ylim(bottom=0)
    return ax
