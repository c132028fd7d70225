"""Networks drawn as they are built: every shape in a drawing comes from a forward pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

import torch
from torch import Tensor, nn

from ddpmlib.models.unet import Block, Downsample, SelfAttention, UNet, UNetConfig, Upsample

WIDTH, BOX, TALL, ROW = 760, 224, 38, 54  # of the drawing, a layer, a layer, a row
LEFT, MIDDLE, RIGHT, TOP = 8, (WIDTH - BOX) / 2, WIDTH - BOX - 8, 8
FONT = 'font-family="DejaVu Sans, Verdana, sans-serif"'
COLOURS = {
    "3×3 convolution": "#ececec",
    "residual block": "#cfe4f3",
    "residual block, attention": "#9fc9e6",
    "downsampling": "#f7dfa8",
    "upsampling": "#bfe5d8",
}
Point = tuple[float, float]


@dataclass(frozen=True)
class Layer:
    """A layer as it is drawn.

    Attributes:
        name: where it stands in the network: "down.0".
        kind: in words.
        given: (F, H, W) that it is handed.
        shape: (F, H, W) that it hands on.
    """

    name: str
    kind: str
    given: tuple[int, ...]
    shape: tuple[int, ...]


def unet(config: UNetConfig, side: int) -> str:
    """The U-Net of a configuration, with the shape of what each of its layers hands on.

    The shapes are those that hooks see while such a network answers for one image (a tensor without
    data, so that large networks cost nothing). Each layer is a group with its name in
    ``data-layer`` and its shape in ``data-shape``.

    Args:
        config: of the network.
        side: of its images, in pixels.

    Returns:
        an SVG, for a file or for ``IPython.display.SVG``.

    Raises:
        ValueError: if the levels cannot halve that side.
    """
    layers = {layer.name: layer for layer in observed(config, side)}
    sources = [name for name in layers if name == "inp" or name.startswith("down")]
    way_up = [name for name in layers if name.startswith("up")]
    goals = [name for name in way_up if layers[name].kind != "upsampling"][::-1]
    skips = list(zip(sources, goals, strict=True))
    places, bottom = _places(skips, way_up, config.blocks + 1)
    way = [*sources, "mid.0", "mid.1", *way_up, "out"]
    arrows = [_arrow(_route(places[a], places[b])) for a, b in pairwise(way)]
    for source, goal in skips:
        y = places[source][1] + TALL / 2
        features = layers[source].shape[0]
        skip = _arrow([(LEFT + BOX, y), (RIGHT, y)], dashed=True)
        skip += _text(WIDTH / 2, y - 5, f"skip: {features} features")
        arrows.append(f'<g class="skip" data-from="{source}" data-to="{goal}">{skip}</g>')
    boxes = [_box(layers[name], places[name]) for name in way]
    return _svg([*arrows, *boxes, *_frame(config, side, layers, bottom)], bottom + 70)


def observed(config: UNetConfig, side: int) -> list[Layer]:
    """The layers of the network in the order in which a forward pass comes to them."""
    found: list[Layer] = []

    def watch(name: str) -> None:
        def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            given, shape = tuple(inputs[0].shape[1:]), tuple(output.shape[1:])
            found.append(Layer(name, _kind(layer), given, shape))

        net.get_submodule(name).register_forward_hook(note)

    with torch.device("meta"):
        net = UNet(config)
        parts = {"down": net.down, "mid": net.mid, "up": net.up}
        for name in (f"{part}.{i}" for part, held in parts.items() for i in range(len(held))):
            watch(name)
        for name in ("embed", "inp", "out", ""):  # the last is the network itself
            watch(name)
        net(torch.zeros(1, config.channels, side, side), torch.zeros(1))
    return found


def _kind(layer: nn.Module) -> str:
    if isinstance(layer, Block):
        attends = isinstance(layer.attention, SelfAttention)
        return "residual block" + ", attention" * attends
    names = {Downsample: "downsampling", Upsample: "upsampling", nn.Conv2d: "3×3 convolution"}
    return names.get(type(layer), type(layer).__name__)


# ---- where things stand --------------------------------------------------------------------------


def _places(
    skips: Sequence[tuple[str, str]], way_up: Sequence[str], rows: int
) -> tuple[dict[str, Point], float]:
    """Upper left corners: a skip connects two layers of one row; and where the levels end."""
    places: dict[str, Point] = {"out": (RIGHT, TOP + ROW)}
    for i, (source, goal) in enumerate(skips):
        y = TOP + ROW * (2 + i + i // rows)  # between two levels a row for upsampling
        places |= {source: (LEFT, y), goal: (RIGHT, y)}
        if i % rows == 0 and i:
            places[way_up[way_up.index(goal) + 1]] = (RIGHT, y - ROW)
    bottom = places[skips[-1][0]][1] + ROW
    places |= {"mid.0": (MIDDLE - BOX / 2 - 8, bottom), "mid.1": (MIDDLE + BOX / 2 + 8, bottom)}
    return places, bottom + ROW


def _route(a: Point, b: Point) -> list[Point]:
    """From layer to layer: straight within a column, else around one corner or along the row."""
    (xa, ya), (xb, yb) = a, b
    if xa == xb:
        up = yb < ya
        return [(xa + BOX / 2, ya + TALL * (not up)), (xb + BOX / 2, yb + TALL * up)]
    if ya == yb:
        return [(xa + BOX, ya + TALL / 2), (xb, yb + TALL / 2)]
    if yb > ya:  # down into the middle
        return [(xa + BOX / 4, ya + TALL), (xa + BOX / 4, yb + TALL / 2), (xb, yb + TALL / 2)]
    corner = xb + 3 * BOX / 4
    return [(xa + BOX, ya + TALL / 2), (corner, ya + TALL / 2), (corner, yb + TALL)]


# ---- what is drawn -------------------------------------------------------------------------------


def _box(layer: Layer, place: Point) -> str:
    x, y = place
    wider = f"{layer.given[0]} → " if layer.given[0] != layer.shape[0] else ""
    kind = "GroupNorm, SiLU, 3×3 conv." if layer.name == "out" else layer.kind
    return (
        f'<g class="layer" data-layer="{layer.name}" data-shape="{_times(layer.shape)}">'
        f'<rect x="{x}" y="{y}" width="{BOX}" height="{TALL}" rx="5" '
        f'fill="{COLOURS[layer.kind]}" stroke="#444"/>'
        + _text(x + BOX / 2, y + 15, kind)
        + _text(x + BOX / 2, y + 31, wider + _times(layer.shape), weight="bold")
        + "</g>"
    )


def _frame(config: UNetConfig, side: int, layers: dict[str, Layer], bottom: float) -> Iterable[str]:
    """Image, answer and embedding at the top, and below what a residual block is made of."""
    emb, first = layers["embed"].shape[0], layers["inp"].given
    image = f"x: image {_times((config.channels, side, side))}"
    patches = f", as patches {_times(first)}" if config.patch > 1 else ""
    yield _text(LEFT, TOP + ROW + 24, image + patches, anchor="start")
    yield _arrow([(LEFT + BOX / 2, TOP + ROW + 30), (LEFT + BOX / 2, TOP + 2 * ROW)])
    out = f"output {_times(layers[''].shape)}"
    yield _text(RIGHT + BOX / 2, TOP + ROW - 24, out)
    yield _arrow([(RIGHT + BOX / 2, TOP + ROW), (RIGHT + BOX / 2, TOP + ROW - 18)])
    said = "t and y" if config.num_classes else "t"
    yield _text(WIDTH / 2, TOP + 18, f"{said} → embedding e, {emb} numbers → every residual block")
    add = "AdaGN(e)" if config.conditioning == "adagn" else "+ e, GroupNorm"
    yield _text(
        WIDTH / 2,
        bottom + 26,
        f"residual block: x + [GroupNorm → SiLU → 3×3 conv. → {add} → SiLU → 3×3 conv.]",
    )
    yield _text(
        WIDTH / 2,
        bottom + 46,
        "where the number of features changes, x passes a 1×1 convolution",
    )


def _times(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


def _text(x: float, y: float, words: str, anchor: str = "middle", weight: str = "normal") -> str:
    return (
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-weight="{weight}" '
        f'font-size="13" {FONT} fill="#111">{escape(words)}</text>'
    )


def _arrow(points: Sequence[Point], dashed: bool = False) -> str:
    way = " ".join(f"{x},{y}" for x, y in points)
    look = 'stroke="#0072B2" stroke-dasharray="5 4"' if dashed else 'stroke="#333"'
    return (
        f'<polyline points="{way}" fill="none" {look} stroke-width="1.4" marker-end="url(#tip)"/>'
    )


def _svg(parts: Iterable[str], height: float) -> str:
    tip = (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="#333"/></marker></defs>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" '
        f'width="{WIDTH}" height="{height:g}"><rect width="100%" height="100%" fill="#fff"/>'
        + tip + "".join(parts) + "</svg>"
    )  # fmt: skip
