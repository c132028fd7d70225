"""Figures in one visual style: grids of images, point clouds, curves and films.

Colours are Okabe and Ito's, which readers with any colour vision can tell apart.
"""

from __future__ import annotations

import base64
import io
import sys
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ddpmlib.data.scale import to_uint8
from ddpmlib.diagrams import unet as unet
from ddpmlib.files import write_atomically
from ddpmlib.inputs import as_images, as_values

if TYPE_CHECKING:
    from IPython.display import HTML
    from matplotlib.axes import Axes
    from PIL.Image import Image

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW = COLOURS = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442",
)  # fmt: skip
GREY = "#707070"  # for what is only there to compare with


def style() -> None:
    """Set matplotlib's defaults to the book's style; in a notebook, store small pictures."""
    import matplotlib as mpl
    from cycler import cycler

    mpl.rcParams.update(
        {
            "figure.figsize": (6.4, 3.2),
            "figure.dpi": 90,
            "figure.constrained_layout.use": True,
            "axes.prop_cycle": cycler(color=COLOURS),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "image.cmap": "gray",
            "legend.frameon": False,
            "font.size": 10,
            "savefig.facecolor": "white",
        }
    )
    _few_colours()


def _few_colours(most: int = 128) -> None:
    """A notebook's figures as PNG with a palette: a third of the bytes, to the eye the same."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None or not hasattr(shell, "kernel"):
        return
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure

    plt.switch_backend(plt.get_backend())  # only now is there the notebook's printer of figures
    formatter = shell.display_formatter.formatters["image/png"]
    before = formatter.for_type(Figure)
    if before is None or hasattr(before, "most"):
        return

    def printed(figure: Figure) -> Any:
        picture = before(figure)
        return _reduced(picture, most) if isinstance(picture, str) else picture

    printed.most = most  # type: ignore[attr-defined]
    formatter.for_type(Figure, printed)


def _reduced(picture: str, most: int) -> str:
    """A PNG in base64, with at most so many colours."""
    from PIL import Image

    full = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    buffer = io.BytesIO()
    full.quantize(most, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def sheet(images: Tensor, ncol: int = 10, pad: int = 1) -> np.ndarray:
    """Tile images into one, row by row.

    Args:
        images: (N, C, H, W), uint8, or float in [-1, 1] (clipped beyond), tensor or array of NumPy;
            one channel is grey, three are colours, and of any other number each is shown in grey,
            side by side.
        ncol: images per row.
        pad: white pixels between them.

    Returns:
        uint8 (rows, columns, 3).

    Raises:
        ValueError: if ``images`` is not such a batch, holds NaN or pixels 0..255 as floats, or for
            ``ncol`` < 1 or ``pad`` < 0.
    """
    images = as_images(images)
    if ncol < 1 or pad < 0:
        raise ValueError(f"need ncol >= 1 and pad >= 0, got {ncol} and {pad}")
    x = rgb(images)
    n, h, w, _ = x.shape
    ncol = min(ncol, n)
    nrow = -(-n // ncol)
    out = np.full((nrow * (h + pad) - pad, ncol * (w + pad) - pad, 3), 255, np.uint8)
    for i, image in enumerate(x):
        top, left = i // ncol * (h + pad), i % ncol * (w + pad)
        out[top : top + h, left : left + w] = image
    return out


def rgb(images: Tensor) -> np.ndarray:
    """Images as files hold them.

    Args:
        images: as for :func:`sheet`.

    Returns:
        uint8 (N, H, W, 3); with another number of channels than 1 or 3 (N, H, C·W, 3).

    Raises:
        ValueError: if ``images`` is not such a batch.
    """
    if images.ndim != 4 or not images.numel():
        raise ValueError(f"expected images (N, C, H, W), at least one, got {tuple(images.shape)}")
    pixels = images if images.dtype == torch.uint8 else to_uint8(images)
    pixels = pixels.detach().cpu()
    if pixels.shape[1] not in (1, 3):
        pixels = pixels.transpose(1, 2).flatten(2)[:, None]  # (N, 1, H, C·W)
    return pixels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()


def png(pixels: np.ndarray) -> bytes:
    """The content of a PNG file.

    Args:
        pixels: uint8, (H, W, 3) or grey (H, W).
    """
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def grid(images: Tensor, ncol: int = 10, ax: Axes | None = None, title: str = "") -> Axes:
    """Show images (N, C, H, W) as a grid; see :func:`sheet`. Returns the axes."""
    import matplotlib.pyplot as plt

    tiles = sheet(images, ncol)
    if ax is None:
        width = 6.4 * min(1.0, tiles.shape[1] / 200 + 0.3)
        _, ax = plt.subplots(
            figsize=(width, width * tiles.shape[0] / tiles.shape[1] + 0.3 * bool(title))
        )
    ax.imshow(tiles, interpolation="nearest")
    ax.set_axis_off()
    if title:
        ax.set_title(title)
    return ax


def rows(named: Mapping[str, Tensor], ax: Axes | None = None, title: str = "") -> Axes:
    """Show one row of images (N, C, H, W) for each name, the name on its left. Returns the axes.

    Raises:
        ValueError: without rows, for rows of several lengths, or as :func:`sheet`.
    """
    lengths = {len(images) for images in named.values()}
    if len(lengths) != 1:
        raise ValueError(f"need rows of one length, at least one, got lengths {sorted(lengths)}")
    ax = grid(torch.cat(list(named.values())), lengths.pop(), ax, title)
    height = next(iter(named.values())).shape[-2] + 1
    for row, name in enumerate(named):
        at = (-0.15 * height, height * (row + 0.5) - 1)
        ax.text(*at, name, ha="right", va="center", fontsize=9)
    return ax


def save_grid(images: Tensor, path: Path | str, ncol: int = 10, least_width: int = 600) -> None:
    """Write a grid of images as a PNG at least ``least_width`` pixels wide (whole-pixel zoom).

    An older file is replaced in one go, so that nobody ever sees half a picture.

    Raises:
        OSError: if the file cannot be written; the older one then stays as it was.
    """
    write_atomically(path, png(np.asarray(_zoomed(sheet(images, ncol), least_width))))


def scatter(points: Tensor, ax: Axes | None = None, reach: float = 2.5, **options: Any) -> Axes:
    """Show points (N, 2) in the square [-reach, reach]². Returns the axes."""
    import matplotlib.pyplot as plt

    points = as_values(points, "points")
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"expected points (N, 2), got {tuple(points.shape)}")
    if ax is None:
        _, ax = plt.subplots(figsize=(3.2, 3.2))
    xy = points.detach().cpu().numpy()
    looks: dict[str, Any] = {"s": 4, "alpha": 0.5, "linewidths": 0, "color": BLUE}
    ax.scatter(xy[:, 0], xy[:, 1], **(looks | options))
    ax.set(
        xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xlabel="$x_1$", ylabel="$x_2$"
    )
    return ax


def film(
    frames: Sequence[Tensor] | Sequence[np.ndarray],
    alt: str,
    *,
    ncol: int = 10,
    seconds: float = 4.0,
    hold: float = 1.5,
    width: int = 480,
) -> HTML:
    """An animation inside the page: plays anywhere, offline, without a script.

    Args:
        frames: image batches (N, C, H, W), tiled like :func:`sheet`, or finished uint8 pictures
            (H, W, 3), for example from :func:`picture`.
        alt: what it shows, for those who cannot see it.
        ncol: images per row.
        seconds: length of the motion.
        hold: how long the last frame stands.
        width: shown width in pixels.

    Raises:
        ValueError: without frames, for frames of several sizes or of another kind, or without an
            alternative text.
    """
    from IPython.display import HTML

    if not alt.strip():
        raise ValueError("a film needs an alternative text that says what it shows")
    pictures = _pictures(frames, ncol, width)
    # Tiles are blocks of one colour each, which lossless coding makes smaller as well as sharper.
    data = _animated(pictures, seconds, hold, lossless=not _is_picture(frames[0]))
    source = "data:image/webp;base64," + base64.b64encode(data).decode()
    return HTML(
        f'<img class="film" width="{width}" alt="{escape(alt, quote=True)}" src="{source}">'
    )


def save_film(
    pictures: Sequence[np.ndarray], path: Path | str, seconds: float = 4.0, hold: float = 1.5
) -> None:
    """Write finished pictures as an animation that repeats.

    Args:
        pictures: uint8 (H, W, 3), all of one size.
        path: a .gif, which plays nearly everywhere, shows greys as they are and at most 256 colours
            in each picture; or a .webp, which plays in browsers and is exact.
        seconds: length of the motion.
        hold: how long the last picture stands.

    Raises:
        ValueError: without pictures, for another kind of file, or pictures of several sizes.
        OSError: if the file cannot be written; an older one then stays as it was.
    """
    kind = Path(path).suffix.lower()
    if kind not in (".gif", ".webp"):
        raise ValueError(f"a film is a .gif or a .webp file, got {path}")
    frames = _pictures(pictures, ncol=1, width=1)
    if kind == ".gif" and all(bool((p == p[..., :1]).all()) for p in pictures):
        frames = [frame.convert("L") for frame in frames]  # of colours it would choose some
    content = _animated(frames, seconds, hold, lossless=True, kind=kind[1:].upper())
    write_atomically(path, content)


def picture(figure: Any) -> np.ndarray:
    """A matplotlib figure as uint8 (H, W, 3), closed afterwards: a frame for :func:`film`."""
    import matplotlib.pyplot as plt

    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
    plt.close(figure)
    return pixels


def curve(
    log: dict[str, list[float]] | Sequence[tuple[int, float]],
    ax: Axes | None = None,
    label: str = "",
) -> Axes:
    """Loss over steps from a run's log (:func:`ddpmlib.zoo.log.read_log`) or a card's pairs."""
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots()
    if not isinstance(log, dict):
        log = {"step": [step for step, _ in log], "loss": [loss for _, loss in log]}
    ax.plot(log["step"], log["loss"], label=label or None)
    ax.set(xlabel="training step", ylabel="loss", yscale="log")
    return ax


def _is_picture(frame: Any) -> bool:
    """Whether a frame is a finished picture, and no batch of images."""
    return isinstance(frame, np.ndarray) and frame.ndim != 4


def _pictures(frames: Sequence[Any], ncol: int, width: int) -> list[Image]:
    if not len(frames):
        raise ValueError("a film needs at least one frame")
    arrays = [f if _is_picture(f) else sheet(f, ncol) for f in frames]
    for a in arrays:
        if a.dtype != np.uint8 or a.ndim != 3 or a.shape[2] != 3 or a.shape != arrays[0].shape:
            raise ValueError(
                f"finished pictures are uint8 (H, W, 3), all of one size, got {a.dtype} {a.shape}"
            )
    return [_zoomed(a, width) for a in arrays]


def _animated(
    pictures: Iterable[Image], seconds: float, hold: float, lossless: bool, kind: str = "WEBP"
) -> bytes:
    first, *rest = pictures
    each = max(20, round(1000 * seconds / (len(rest) + 1)))
    durations = [each] * len(rest) + [round(1000 * hold)]
    buffer = io.BytesIO()
    first.save(
        buffer,
        kind,
        save_all=True,
        append_images=rest,
        duration=durations,
        loop=0,
        lossless=lossless,
        quality=55,
        method=4,
    )
    return buffer.getvalue()


def _zoomed(pixels: np.ndarray, least_width: int) -> Image:
    from PIL import Image

    zoom = max(1, -(-least_width // pixels.shape[1]))
    return Image.fromarray(pixels).resize(
        (pixels.shape[1] * zoom, pixels.shape[0] * zoom), Image.Resampling.NEAREST
    )
