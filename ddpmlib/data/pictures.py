"""One picture from a file: upright, on white, eight bits a channel, and of the size that is asked.

Only the formats in :data:`FORMATS` are opened, by Pillow's own decoders.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".pgm", ".ppm", ".pnm")
)  # of the names of files in these formats
ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)  # of EXIF: width and height change places
SIXTEEN = 65535


class BrokenPicture(ValueError):
    """A file that should hold a picture and cannot be read as one; says why, without its name."""


def upright_size(path: Path) -> tuple[int, int]:
    """Height and width of a picture as it is meant to be looked at; reads the head of the file.

    Raises:
        BrokenPicture: if there is none.
    """
    with _opened(path) as image:
        width, height = image.size
        turned = image.getexif().get(ORIENTATION) in TURNED
    return (width, height) if turned else (height, width)


def frames(path: Path) -> int:
    """Number of pictures in the file, which is more than 1 for animations.

    Raises:
        BrokenPicture: if there is none.
    """
    with _opened(path) as image:
        return int(getattr(image, "n_frames", 1))


def read_picture(path: Path, size: tuple[int, int], grey: bool | None = None) -> np.ndarray:
    """A picture as uint8 numbers.

    It is turned as its EXIF data say; laid on white where it is transparent; palettes and CMYK
    become RGB; 16-bit grey becomes 8-bit by its whole range 0..65535; of several frames the first
    is taken. Then it is cut and scaled, never distorted: see :func:`resized`.

    Args:
        path: the file.
        size: height and width.
        grey: one channel or three; None for whichever the picture needs.

    Returns:
        (H, W), or (H, W, 3) if ``grey`` is False, or None and the picture has colours.

    Raises:
        BrokenPicture: saying why it cannot be read.
    """
    with _opened(path) as image:
        if image.format in ("JPEG", "MPO"):  # half a photograph's pixels are enough, and quick
            image.draft(None, (2 * max(size), 2 * max(size)))
        picture = resized(plain(image), size)
        if grey:
            return np.asarray(picture.convert("L"))
        pixels = np.asarray(picture.convert("RGB"))
    colourless = grey is None and bool((pixels == pixels[..., :1]).all())
    return pixels[..., 0] if colourless else pixels


def resized(image: Any, size: tuple[int, int]) -> Any:
    """The middle of a picture, scaled to (H, W) by Pillow's Lanczos filter, which is antialiased.

    The largest part of the right proportions is taken, so that the shorter side is seen whole. A
    picture that has the size already stays as it is, to the bit.
    """
    from PIL import Image

    height, width = size
    if image.size == (width, height):
        return image
    scale = max(height / image.height, width / image.width)
    w, h = min(width / scale, image.width), min(height / scale, image.height)
    left, top = (image.width - w) / 2, (image.height - h) / 2
    box = (left, top, left + w, top + h)
    return image.resize((width, height), Image.Resampling.LANCZOS, box=box)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd metadata; but what is too large is not opened:
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(path, formats=FORMATS) as image:
                yield image
        except BrokenPicture:
            raise
        except Exception as error:  # decoders of damaged files raise whatever they come across
            raise BrokenPicture(_reason(error)) from error


def _reason(error: Exception) -> str:
    from PIL import Image, UnidentifiedImageError

    bombs = Image.DecompressionBombWarning, Image.DecompressionBombError
    if isinstance(error, bombs):
        return f"more than {Image.MAX_IMAGE_PIXELS:,} pixels"
    if isinstance(error, UnidentifiedImageError):
        return "no picture in a known format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return " ".join(str(error).split()) or type(error).__name__


def plain(image: Any) -> Any:
    """A Pillow image as :func:`read_picture` sees it: upright, on white, eight bits, L or RGB.

    Raises:
        BrokenPicture: for pixels whose range is not known.
    """
    from PIL import Image, ImageOps

    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        return _eight_bits(image)
    if image.mode == "F":
        raise BrokenPicture("floating-point pixels, whose range is not known")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _eight_bits(image: Any) -> Any:
    """A grey picture of 16 bits, by its whole range: 0..65535 -> 0..255."""
    from PIL import Image

    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > SIXTEEN:
        raise BrokenPicture(f"grey values beyond 0..{SIXTEEN}")
    return Image.fromarray(np.rint(values * (255 / SIXTEEN)).astype(np.uint8))
