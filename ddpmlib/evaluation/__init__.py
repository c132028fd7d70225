"""Drawing samples and measuring them: features, distances, intervals, whole checkpoints."""

from ddpmlib.evaluation.checkpoint import METRICS, accuracy_under_noise, evaluate, network_of, nll
from ddpmlib.evaluation.generate import SPACINGS, classes_in_turn, generate
from ddpmlib.evaluation.guidance_options import GuidanceOptions
from ddpmlib.evaluation.intervals import bootstrap, share_interval
from ddpmlib.evaluation.judged import OF_SAMPLES, Reference, judged, reference
from ddpmlib.evaluation.metrics import (
    Moments,
    class_agreement,
    frechet_distance,
    inception_score,
    kid,
    precision_recall,
    saturation,
)

__all__ = [
    "METRICS",
    "OF_SAMPLES",
    "SPACINGS",
    "GuidanceOptions",
    "Moments",
    "Reference",
    "accuracy_under_noise",
    "bootstrap",
    "class_agreement",
    "classes_in_turn",
    "evaluate",
    "frechet_distance",
    "generate",
    "inception_score",
    "judged",
    "kid",
    "network_of",
    "nll",
    "precision_recall",
    "reference",
    "saturation",
    "share_interval",
]
