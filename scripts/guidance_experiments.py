"""Run the experiments of chapters 10 and 11: draw guided samples, write ``data/results``.

    python scripts/guidance_experiments.py train             what the comparison still lacks
    python scripts/guidance_experiments.py measure [NAME …]  the missing cells

Every measured cell is one row of a JSON file, written at once, so an interrupted command goes on
where it stopped. The nets are shipped checkpoints and those of ``scripts/experiments.py train``.
Real MNIST and Fashion-MNIST are needed (``DDPMLIB_DATA``).
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import torch
from experiments import RUNS, SEEDS, load, measure, missing, seeded, train

from ddpmlib import zoo
from ddpmlib.evaluation import Guidance

DATASETS = ("mnist", "fashion_mnist")
WEIGHTS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
QUANTILE = 0.995
METRICS = ("agreement", "fid", "is", "pr", "saturation")
CLEAN = Path("runs/guidance/mnist-clean-classifier")
HOW = {"steps": 20, "eta": 1.0, "n": 5000}
DROPOUT_RUNS = {0.0: "dropout-0", 0.1: "cosine-hybrid", 0.2: "dropout-20", 0.5: "dropout-50"}
INTERVALS = ((1, 333), (334, 666), (667, 1000), (1, 666))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=("train", "measure"))
    parser.add_argument("names", nargs="*", help="only these experiments, or only these data sets")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.verb == "train":
        return _train_clean()
    jobs = {
        "ladder": _ladder,
        "guidance_dropout": _dropout,
        "guidance_interval": _interval,
        "guidance_clipped": _clipped,
    } | {dataset: partial(_sweep, dataset) for dataset in DATASETS}
    for name, work in jobs.items():
        if not args.names or name in args.names:
            work()


def _train_clean() -> None:
    """The twin of the noisy classifier that never sees noise: a quarter of the updates."""
    train("mnist-noisy-classifier", CLEAN, "--set", "noisy=false", "--steps", "1500")


# ---- what is measured --------------------------------------------------------------------------


def options(method: str, w: float, threshold: bool = False, dataset: str = "mnist") -> Guidance:
    """The guidance that a row's fields name; w is s where a classifier guides."""
    quantile = QUANTILE if threshold else 0.0
    if method == "classifier_free":
        return Guidance(w=w, threshold=quantile)
    classifier = str(CLEAN) if method == "clean_classifier" else f"{dataset}-noisy-classifier"
    alone = method != "classifier_conditional"
    if w == 0:
        return Guidance(unconditional=alone, threshold=quantile)
    return Guidance(classifier=classifier, strength=w, unconditional=alone, threshold=quantile)


def _sweep(dataset: str) -> None:
    """Strength × method × threshold, on the shipped checkpoint of a data set."""
    methods = ("classifier_free", "classifier")
    grid = [(m, w, th) for th in (False, True) for m in methods for w in WEIGHTS]
    grid += [("classifier_conditional", w, False) for w in (1.0, 4.0)]
    if dataset == "mnist" and (CLEAN / zoo.MODEL).exists():
        grid += [("clean_classifier", w, False) for w in (1.0, 4.0)]
    cells: list[dict[str, Any]] = [
        {"dataset": dataset, "method": m, "w": w, "threshold": th, **HOW} for m, w, th in grid
    ]
    for cell in missing("guidance", cells):
        guidance = options(cell["method"], cell["w"], cell["threshold"], dataset)
        _measure("guidance", cell, dataset, guidance)


def _interval() -> None:
    """Classifier-free guidance at some of the times only; at all of them is in the sweep."""
    cells: list[dict[str, Any]] = [
        {"dataset": dataset, "w": 4.0, "low": low, "high": high, **HOW}
        for dataset in reversed(DATASETS)
        for low, high in INTERVALS
    ]
    for cell in missing("guidance_interval", cells):
        guidance = Guidance(w=cell["w"], low=cell["low"], high=cell["high"])
        _measure("guidance_interval", cell, cell["dataset"], guidance)


def _clipped() -> None:
    """The other threshold, at some weights, beside the sweep's rows for none and dynamic."""
    cells: list[dict[str, Any]] = [
        {"dataset": dataset, "method": "classifier_free", "w": w, "clip": True, **HOW}
        for w in (1.0, 4.0)
        for dataset in DATASETS
    ]
    for cell in missing("guidance_clipped", cells):
        guidance = Guidance(w=cell["w"], clip=True)
        _measure("guidance_clipped", cell, cell["dataset"], guidance)


def _dropout() -> None:
    """The small net of the comparison, trained with other shares of dropped labels."""
    cells: list[dict[str, Any]] = [
        {"run": run, "label_dropout": p, "w": w, **HOW}
        for w in (0.0, 1.0, 4.0)
        for p, run in DROPOUT_RUNS.items()
    ]
    for cell in missing("guidance_dropout", cells):
        guidance = Guidance(w=cell["w"])
        _measure("guidance_dropout", cell, RUNS / cell["run"], guidance)


def _ladder() -> None:
    """The last rungs of chapter 09's ladder: its best net, guided."""
    cells: list[dict[str, Any]] = [
        {"run": seeded("cosine-hybrid", seed), "method": "ddim", "steps": 50, "n": 5000}
        | {"guidance": guidance, "w": 1.0}
        for seed in SEEDS
        for guidance in ("classifier_conditional", "classifier_free")
    ]
    for cell in missing("ladder", cells):
        _measure("ladder", cell, RUNS / cell["run"], options(cell["guidance"], cell["w"]))


# ---- measuring ---------------------------------------------------------------------------------


def _measure(name: str, cell: dict[str, Any], net: str | Path, guidance: Guidance) -> None:
    denoiser, card = load(net)
    measure(name, cell, guidance.wrap(denoiser, card), card, cell.get("eta", 0.0), metrics=METRICS)


if __name__ == "__main__":
    main()
