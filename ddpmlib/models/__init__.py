"""Networks: a perceptron for points, a U-Net for images, classifiers to measure and to guide."""

from ddpmlib.models.classifier import Classifier, ClassifierConfig
from ddpmlib.models.mlp import MLP
from ddpmlib.models.noisy_classifier import NoisyClassifier, NoisyClassifierConfig
from ddpmlib.models.unet import UNet, UNetConfig

__all__ = [
    "MLP",
    "Classifier",
    "ClassifierConfig",
    "NoisyClassifier",
    "NoisyClassifierConfig",
    "UNet",
    "UNetConfig",
]
