"""Small convolutional classifiers: they read samples, and are the source of features for FID.

Two architectures that share no layer but the last: conclusions that hold in the features of both
do not hang on one of them.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from ddpmlib.inputs import check_asked, check_floats
from ddpmlib.models.embedding import MOST_CLASSES
from ddpmlib.records import check_sizes

ARCHITECTURES = ("plain", "residual")
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
        architecture: "plain", four convolutions with batch normalisation and maxima of 2×2 pixels
            that end in a 2×2 grid; or "residual", nine convolutions with group normalisation and
            strides that end in means over the image.
    """

    channels: int = 1
    num_classes: int = 10
    width: int = 32
    features: int = 64
    dropout: float = 0.3
    architecture: str = "plain"

    def __post_init__(self) -> None:
        check_sizes(self, MOST)
        if self.architecture not in ARCHITECTURES:
            raise ValueError(
                f"a classifier's architecture is {' or '.join(ARCHITECTURES)}, got "
                f"{self.architecture!r:.40}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")


class Classifier(nn.Module):
    """(B, C, H, W) images in [-1, 1] -> (B, num_classes) logits; any side from 4 pixels up."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        body = _plain if config.architecture == "plain" else _residual
        layers, length = body(config.channels, config.width)
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.neck = nn.Sequential(nn.Linear(length, config.features), nn.SiLU())
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


def _plain(channels: int, width: int) -> tuple[list[nn.Module], int]:
    layers = [*_stage(channels, width), *_stage(width, 2 * width), nn.AdaptiveAvgPool2d(2)]
    return layers, 8 * width


def _residual(channels: int, width: int) -> tuple[list[nn.Module], int]:
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, stride=2, padding=1)]
    layers += [Residual(width), Residual(width)]
    layers += [nn.Conv2d(width, 2 * width, 2, stride=2), Residual(2 * width), Residual(2 * width)]
    layers += [nn.GroupNorm(1, 2 * width), nn.GELU(), nn.AdaptiveAvgPool2d(1)]
    return layers, 2 * width


class Residual(nn.Module):
    """(B, C, H, W) -> (B, C, H, W): what two convolutions find is added to what came in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.GroupNorm(1, width), nn.GELU(), nn.Conv2d(width, width, 3, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def _stage(inp: int, out: int) -> list[nn.Module]:
    conv = [nn.Conv2d(inp, out, 3, padding=1), nn.BatchNorm2d(out), nn.SiLU()]
    return [
        *conv,
        nn.Conv2d(out, out, 3, padding=1),
        nn.BatchNorm2d(out),
        nn.SiLU(),
        nn.MaxPool2d(2),
    ]
