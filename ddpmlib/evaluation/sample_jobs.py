"""What is measured on the samples of a checkpoint: by each kind of features, and for copies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from torch import Tensor

from ddpmlib.denoiser.denoiser import Denoiser
from ddpmlib.evaluation.drawing import classes_in_turn, generate
from ddpmlib.evaluation.features import FeatureExtractor
from ddpmlib.evaluation.images import (
    EXTRACTORS,
    TRAINED,
    UNTRAINED,
    available,
    network_of,
    training_of,
)
from ddpmlib.evaluation.memorisation import measure_memorisation
from ddpmlib.evaluation.opened import Opened
from ddpmlib.evaluation.sample_quality import NEED_CLASSES, OF_SAMPLES, measure_samples
from ddpmlib.evaluation.sampling import Sampling

Job = Callable[[], dict[str, Any]]
MEASURED = (*OF_SAMPLES, "memorisation")
ALL = "all"


@dataclass(frozen=True)
class Drawing:
    """How samples are drawn, and by which bootstrap their numbers get intervals.

    Attributes:
        sampling: see :class:`ddpmlib.evaluation.sampling.Sampling`.
        n: samples.
        batch_size, compile: see :func:`ddpmlib.evaluation.drawing.generate`.
        draws: of the bootstrap.
    """

    sampling: Sampling
    n: int
    batch_size: int
    compile: bool
    draws: int


def of_samples(
    found: Opened, metrics: Sequence[str] | None, extractor: str, drawing: Drawing
) -> list[Job]:
    """One piece of work for each kind of features, and one for memorisation; drawn once for all."""
    asked = MEASURED if metrics is None else metrics
    drawn = _Drawn(found, drawing)
    jobs: list[Job] = []
    if chosen := [m for m in OF_SAMPLES if m in asked]:
        networks = _networks(found, extractor, drawn.remarks)
        spaces, remark = _spaces(found, list(networks), chosen, metrics is not None)
        drawn.remarks.extend([remark] if remark else [])
        jobs += [partial(_samples, drawn, k, *networks[k], usable) for k, usable in spaces.items()]
    if "memorisation" in asked:
        jobs.append(partial(_memorisation, drawn))
    return jobs


def _networks(
    found: Opened, extractor: str, remarks: list[str]
) -> dict[str, tuple[FeatureExtractor, str]]:
    """All networks that are asked for, before the long part; of "all" those that fit the images."""
    images, folder = found.images, found.path.parent
    networks = {}
    for kind in available(images, folder) if extractor == ALL else [extractor]:
        try:
            networks[kind] = network_of(kind, images, found.device, folder)
        except ValueError as error:
            if extractor != ALL:
                raise
            remarks.append(f"not measured by {kind}: {error}")
    return networks


def _spaces(
    found: Opened, kinds: list[str], metrics: list[str], asked: bool
) -> tuple[dict[str, list[str]], str]:
    """Whose features, each with the metrics that it can give; and a remark on what none gives."""
    without, remark = [m for m in metrics if m not in NEED_CLASSES], ""
    spaces = {k: without if k in UNTRAINED or k == "inception" else metrics for k in kinds}
    for kind in kinds[1:]:  # what asks no features is said once
        spaces[kind] = [m for m in spaces[kind] if m != "saturation"]
    lost = [m for m in metrics if m in NEED_CLASSES]
    if lost and not any(set(lost) <= set(usable) for usable in spaces.values()):
        name, hint = found.images.name, _hint(found)
        if asked:
            raise ValueError(f"{' and '.join(lost)} of {name} need a classifier: {hint}")
        remark = f"measured by {' and '.join(kinds)}, without {' and '.join(lost)} ({hint})"
    return {kind: usable for kind, usable in spaces.items() if usable}, remark


def _hint(found: Opened) -> str:
    """How to come by what features without classes cannot give."""
    if found.images.num_classes < 2:
        return "they are of one kind, so there can be no classifier"
    if "classifier" in available(found.images, found.path.parent):
        return "--features classifier gives them"
    return f"{training_of(found.images, 'classifier')} trains one"


@dataclass(frozen=True)
class _Drawn:
    """Samples that several measurements share, and what is to be said when they are drawn."""

    found: Opened
    how: Drawing
    remarks: list[str] = field(default_factory=list)

    @cached_property
    def y(self) -> Tensor | None:
        return classes_in_turn(self.found.card, self.how.n)

    @cached_property
    def x0(self) -> Tensor:
        model, card, how = self.found.model, self.found.card, self.how
        assert isinstance(model, Denoiser)
        x0 = generate(
            model, card.image_shape, self.y, how.sampling,
            n=how.n, card=card, batch_size=how.batch_size, compile=how.compile,
        )  # fmt: skip
        for remark in self.remarks:
            print(remark)
        return x0

    def entry(self, metric: str) -> dict[str, Any]:
        return {"metric": metric, "n": self.how.n} | self.how.sampling.record()


def _samples(
    drawn: _Drawn,
    kind: str,
    network: FeatureExtractor,
    sha256: str,
    metrics: Sequence[str],
) -> dict[str, Any]:
    """The entry of all that is measured on samples by one kind of features."""
    images = drawn.found.images
    trained = kind not in EXTRACTORS or kind in TRAINED
    name = f"{images.name}-{kind if kind in TRAINED else 'classifier'}" if trained else kind
    whose = {"metric": "samples", "features": name, "extractor": sha256[:12]}  # read first
    found = measure_samples(network, drawn.x0, drawn.y, images, metrics, drawn.how.draws)
    return whose | drawn.entry("samples") | found


def _memorisation(drawn: _Drawn) -> dict[str, Any]:
    """The entry of the comparison with training images and with others."""
    return drawn.entry("memorisation") | measure_memorisation(drawn.x0, drawn.found.images)
