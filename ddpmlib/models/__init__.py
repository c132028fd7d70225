"""Networks: a perceptron for points, a U-Net for images, a classifier to judge the samples."""

from ddpmlib.models.classifier import Classifier, ClassifierConfig
from ddpmlib.models.mlp import MLP
from ddpmlib.models.unet import UNet, UNetConfig

__all__ = ["MLP", "Classifier", "ClassifierConfig", "UNet", "UNetConfig"]
