"""A small convolutional classifier: reads samples, and is the source of features for FID."""

from dataclasses import dataclass

from torch import Tensor, nn

from ddpmlib.inputs import check_asked, check_floats
from ddpmlib.models.embedding import MOST_CLASSES
from ddpmlib.records import check_sizes

MOST = {"channels": 4096, "num_classes": MOST_CLASSES, "width": 8192, "features": 65_536}


@dataclass(frozen=True)
class ClassifierConfig:
    """Shape of a classifier.

    Attributes:
        channels: image channels.
        num_classes: number of classes.
        width: features after the first stage; the second has twice as many.
        features: length of the penultimate layer.
        dropout: rate before the last layer.
    """

    channels: int = 1
    num_classes: int = 10
    width: int = 32
    features: int = 64
    dropout: float = 0.3

    def __post_init__(self) -> None:
        check_sizes(self, MOST)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")


class Classifier(nn.Module):
    """(B, C, H, W) images in [-1, 1] -> (B, num_classes) logits; any side from 4 pixels up."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        w = config.width
        self.body = nn.Sequential(
            *_stage(config.channels, w), *_stage(w, 2 * w), nn.AdaptiveAvgPool2d(2), nn.Flatten()
        )
        self.neck = nn.Sequential(nn.Linear(8 * w, config.features), nn.SiLU())
        self.head = nn.Sequential(
            nn.Dropout(config.dropout), nn.Linear(config.features, config.num_classes)
        )

    def features(self, x: Tensor) -> Tensor:
        """The penultimate layer, (B, features): what the Fréchet distance compares.

        Raises:
            ValueError: if ``x`` is not (B, C, H, W) with the channels this network was built for.
        """
        check_floats(x, "x")
        c = self.config.channels
        if x.ndim != 4 or x.shape[1] != c or min(x.shape[2:]) < 4:
            raise ValueError(
                f"expected images of shape (B, {c}, H, W), sides >= 4, got {tuple(x.shape)}"
            )
        check_asked(x, None, next(self.body.parameters()))
        return self.neck(self.body(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def _stage(inp: int, out: int) -> list[nn.Module]:
    conv = [nn.Conv2d(inp, out, 3, padding=1), nn.BatchNorm2d(out), nn.SiLU()]
    return [
        *conv,
        nn.Conv2d(out, out, 3, padding=1),
        nn.BatchNorm2d(out),
        nn.SiLU(),
        nn.MaxPool2d(2),
    ]
