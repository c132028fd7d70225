"""Guidance: a prediction is edited by wrapping a denoiser in a denoiser; no sampler knows of it."""

from ddpmlib.guidance.classifier import Classifier, ClassifierGuidance, MeanShift, class_gradient
from ddpmlib.guidance.classifier_free import ClassifierFree, interval
from ddpmlib.guidance.thresholding import DynamicThreshold, StaticThreshold, Temperature
from ddpmlib.guidance.wrapper import Unconditional, Weight, Wrapper

__all__ = [
    "Classifier",
    "ClassifierFree",
    "ClassifierGuidance",
    "DynamicThreshold",
    "MeanShift",
    "StaticThreshold",
    "Temperature",
    "Unconditional",
    "Weight",
    "Wrapper",
    "class_gradient",
    "interval",
]
