"""Guidance said in plain values, as a command line and a card need it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from ddpmlib import zoo
from ddpmlib.denoiser import Denoiser
from ddpmlib.guidance import (
    ClassifierFree,
    ClassifierGuidance,
    DynamicThreshold,
    Unconditional,
    Weight,
    Wrapper,
    interval,
)
from ddpmlib.models import NoisyClassifier


@dataclass(frozen=True)
class GuidanceOptions:
    """Which wrappers go around a denoiser; by default none.

    Attributes:
        w: of classifier-free guidance, 0 for none (:class:`~ddpmlib.guidance.ClassifierFree`).
        classifier: name or folder of a noisy classifier, "" for none.
        strength: s of its gradient (:class:`~ddpmlib.guidance.ClassifierGuidance`).
        unconditional: the denoiser is not told the class, only the classifier is.
        low, high: times low ≤ t ≤ high are guided, others are not. By default all; with a
            classifier 1..9T/10, because at its noisiest times a trained one throws samples out of
            range.
        threshold: quantile of dynamic thresholding after guidance, 0 for none.
    """

    w: float = 0.0
    classifier: str = ""
    strength: float = 0.0
    unconditional: bool = False
    low: int | None = None
    high: int | None = None
    threshold: float = 0.0

    def __post_init__(self) -> None:
        if bool(self.classifier) != bool(self.strength):
            raise ValueError("guidance by a classifier needs both its name and a strength")
        if self.unconditional and self.w:
            raise ValueError(
                "classifier-free guidance needs the class that an unconditional model is not told"
            )
        if (self.low, self.high) != (None, None) and not (self.w or self.classifier):
            raise ValueError("an interval of times needs guidance: give w, or a classifier")

    def record(self) -> dict[str, Any]:
        """The values that differ from the defaults."""
        return {k: v for k, v in asdict(self).items() if v != getattr(GuidanceOptions, k)}

    def wrap(self, denoiser: Denoiser) -> Denoiser | Wrapper:
        """The guided denoiser; the denoiser itself if nothing is asked for.

        Raises:
            FileNotFoundError: if there is no such classifier.
            ValueError: if it is no noisy classifier or knows another process, the denoiser knows
                no classes, or a value is out of range.
        """
        guided: Denoiser | Wrapper = denoiser
        if self.unconditional:
            guided = Unconditional(guided)
        if self.w:
            guided = ClassifierFree(guided, self._weight(denoiser, self.w, denoiser.process.T))
        if self.classifier:
            high = 9 * denoiser.process.T // 10
            weight = self._weight(denoiser, self.strength, high)
            guided = ClassifierGuidance(guided, self._classifier(denoiser), weight)
        return DynamicThreshold(guided, self.threshold) if self.threshold else guided

    def _weight(self, denoiser: Denoiser, w: float, highest: int) -> Weight:
        low = 1 if self.low is None else self.low
        high = highest if self.high is None else self.high
        return w if (low, high) == (1, denoiser.process.T) else interval(w, low, high)

    def _classifier(self, denoiser: Denoiser) -> NoisyClassifier:
        device = next(nn.Module.parameters(denoiser)).device
        model, card = zoo.load(self.classifier, device)
        if not isinstance(model, NoisyClassifier):
            raise ValueError(
                f"{card.name} cannot guide: that takes a classifier of noisy images, trained by "
                "a recipe such as digits-noisy-classifier"
            )
        return model
