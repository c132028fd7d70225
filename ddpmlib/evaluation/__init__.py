"""Drawing samples and measuring them: features, distances, intervals, whole checkpoints."""

from ddpmlib.evaluation.accuracy import accuracy_under_noise
from ddpmlib.evaluation.bits_per_dim import nll
from ddpmlib.evaluation.checkpoint import METRICS, evaluate
from ddpmlib.evaluation.drawing import (
    class_names,
    classes_in_turn,
    generate,
    label_of,
    sample_batches,
    samples,
)
from ddpmlib.evaluation.entries import is_measured
from ddpmlib.evaluation.guidance_options import Guidance
from ddpmlib.evaluation.images import EXTRACTORS, available, images_of, network_of
from ddpmlib.evaluation.intervals import bootstrap, share_interval
from ddpmlib.evaluation.memorisation import (
    copied,
    denoising_gap,
    measure_memorisation,
    nearer_to_training,
    nearest_distances,
)
from ddpmlib.evaluation.metrics import (
    Moments,
    class_agreement,
    density_coverage,
    frechet_distance,
    inception_score,
    kid,
    matched_contrast,
    precision_recall,
    saturation,
)
from ddpmlib.evaluation.sample_quality import OF_SAMPLES, Reference, measure_samples, reference
from ddpmlib.evaluation.sampling import SPACINGS, STEPS, Sampling
from ddpmlib.evaluation.untrained import PixelComponents, RandomConvolutions

__all__ = [
    "EXTRACTORS",
    "METRICS",
    "OF_SAMPLES",
    "SPACINGS",
    "STEPS",
    "Guidance",
    "Moments",
    "PixelComponents",
    "RandomConvolutions",
    "Reference",
    "Sampling",
    "accuracy_under_noise",
    "available",
    "bootstrap",
    "class_agreement",
    "class_names",
    "classes_in_turn",
    "copied",
    "denoising_gap",
    "density_coverage",
    "evaluate",
    "frechet_distance",
    "generate",
    "images_of",
    "inception_score",
    "is_measured",
    "kid",
    "label_of",
    "matched_contrast",
    "measure_memorisation",
    "measure_samples",
    "nearer_to_training",
    "nearest_distances",
    "network_of",
    "nll",
    "precision_recall",
    "reference",
    "sample_batches",
    "samples",
    "saturation",
    "share_interval",
]
