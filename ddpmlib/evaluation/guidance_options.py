"""Guidance said in plain values, as a command line and a card need it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from ddpmlib import zoo
from ddpmlib.denoiser.denoiser import Denoiser, FixedVariance
from ddpmlib.guidance.classifier import ClassifierGuidance
from ddpmlib.guidance.classifier_free import ClassifierFree, interval
from ddpmlib.guidance.thresholding import DynamicThreshold, StaticThreshold
from ddpmlib.guidance.wrapper import Unconditional, Weight, Wrapper
from ddpmlib.models.noisy_classifier import NoisyClassifier
from ddpmlib.process.process import Process
from ddpmlib.records import check_values
from ddpmlib.zoo.card import Card


@dataclass(frozen=True)
class Guidance:
    """Which wrappers go around a denoiser; by default none.

    Attributes:
        w: of classifier-free guidance, 0 for none, see
            :class:`~ddpmlib.guidance.classifier_free.ClassifierFree`.
        classifier: name or folder of a noisy classifier, "" for none.
        strength: s of its gradient (:class:`~ddpmlib.guidance.classifier.ClassifierGuidance`).
        unconditional: the denoiser is not told the class, only the classifier is.
        low, high: times low ≤ t ≤ high are guided, others are not. By default all; with a
            classifier 1..9T/10, because at its noisiest times a trained one throws samples out of
            range.
        threshold: quantile of dynamic thresholding after guidance, 0 for none.
        clip: static thresholding after guidance, to [−1, 1].
    """

    w: float = 0.0
    classifier: str = ""
    strength: float = 0.0
    unconditional: bool = False
    low: int | None = None
    high: int | None = None
    threshold: float = 0.0
    clip: bool = False

    def __post_init__(self) -> None:
        check_values(self)
        if bool(self.classifier) != bool(self.strength):
            raise ValueError("guidance by a classifier needs both its name and a strength")
        if self.unconditional and self.w:
            raise ValueError(
                "classifier-free guidance needs the class that an unconditional model is not told"
            )
        if self.threshold and self.clip:
            raise ValueError("thresholding is either dynamic or static: give a quantile, or clip")
        if (self.low, self.high) != (None, None) and not (self.w or self.classifier):
            raise ValueError("an interval of times needs guidance: give w, or a classifier")

    def record(self) -> dict[str, Any]:
        """The values that differ from the defaults."""
        return {k: v for k, v in asdict(self).items() if v != getattr(Guidance, k)}

    def wrap(
        self, denoiser: Denoiser | FixedVariance | Wrapper, card: Card | None = None
    ) -> Denoiser | FixedVariance | Wrapper:
        """The guided denoiser; the denoiser itself if nothing is asked for.

        Args:
            denoiser: to guide.
            card: of the denoiser; then a classifier is checked to be of its data.

        Raises:
            FileNotFoundError: if there is no such classifier.
            ValueError: if it is no noisy classifier, or one of other data or of another process,
                the denoiser knows no classes, or a value is out of range.
        """
        process, guided = denoiser.process, denoiser
        if self.unconditional:
            guided = Unconditional(guided)
        if self.w:
            guided = ClassifierFree(guided, self._weight(self.w, process, 1.0))
        if self.classifier:
            weight = self._weight(self.strength, process, 0.9)
            guided = ClassifierGuidance(guided, self._classifier(denoiser, card), weight)
        if self.clip:
            return StaticThreshold(guided)
        return DynamicThreshold(guided, self.threshold) if self.threshold else guided

    def _weight(self, w: float, process: Process, share: float) -> Weight:
        """w within the interval, by default the first ``share`` of a chain's times."""
        if not process.times_are_whole:
            if self.low is not None or self.high is not None:
                raise ValueError(f"an interval counts the times of a chain, not of {process}")
            return w
        T = process.end
        low = 1 if self.low is None else self.low
        high = max(low, int(share * T)) if self.high is None else self.high
        if not 1 <= low <= high <= T:
            raise ValueError(
                f"the interval of guided times must lie in 1..{T} and not be empty, got {low} to "
                f"{high}"
            )
        return w if (low, high) == (1, T) else interval(w, low, high)

    def _classifier(self, denoiser: nn.Module, card: Card | None) -> NoisyClassifier:
        model, theirs = zoo.load(self.classifier, next(denoiser.parameters()).device)
        if not isinstance(model, NoisyClassifier):
            raise ValueError(
                f"{theirs.name} cannot guide: that takes a classifier of noisy images, trained by "
                "a recipe such as digits-noisy-classifier"
            )
        if card is not None and theirs.recipe["data"] != card.recipe["data"]:
            raise ValueError(
                f"{theirs.name} was trained on {theirs.recipe['data']}, and {card.name} on "
                f"{card.recipe['data']}: a classifier guides models of its own data"
            )
        return model
