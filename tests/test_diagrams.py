"""The drawing of a U-Net says what a forward pass does: every shape, every skip connection."""

import re
from xml.etree import ElementTree

import pytest
import torch

from ddpmlib import plots
from ddpmlib.models import UNet, UNetConfig
from ddpmlib.zoo import RECIPES

SVG = "{http://www.w3.org/2000/svg}"
NETS = {
    "digits": (RECIPES["digits"].net, 8),
    "mnist": (RECIPES["mnist"].net, 28),
    "cifar10-small": (RECIPES["cifar10-small"].net, 32),
    "one level": (UNetConfig(width=8, mults=(1,), attention=(False,), heads=1), 6),
    "added": (UNetConfig(width=8, blocks=2, heads=2, conditioning="add"), 16),
}


def groups(config, side, kind):
    tree = ElementTree.fromstring(plots.unet(config, side))
    return [group for group in tree.iter(f"{SVG}g") if group.get("class") == kind]


def words(group):
    return " | ".join(text.text for text in group.iter(f"{SVG}text"))


@pytest.fixture(params=NETS)
def drawn(request):
    """A network that answered for two images, and what its layers got and gave."""
    config, side = NETS[request.param]
    torch.manual_seed(0)
    net, seen = UNet(config), {}

    def note(name):
        return lambda layer, given, out: seen.update({name: (given[0], out)})

    for name, layer in net.named_modules():
        layer.register_forward_hook(note(name))
    with torch.no_grad():
        net(torch.randn(2, config.channels, side, side), torch.tensor([1, 2]))
    return config, side, net, seen


def test_every_shape_is_that_of_a_forward_pass(drawn):
    config, side, net, seen = drawn
    found = groups(config, side, "layer")
    names = {"inp", "out", "mid.0", "mid.1"}
    names |= {f"down.{i}" for i in range(len(net.down))} | {f"up.{i}" for i in range(len(net.up))}
    assert len(found) == len(names) and {g.get("data-layer") for g in found} == names
    for group in found:
        given, out = seen[group.get("data-layer")]
        shape = " × ".join(str(n) for n in out.shape[1:])
        changed = f"{given.shape[1]} → " if given.shape[1] != out.shape[1] else ""
        assert group.get("data-shape") == shape
        assert words(group).endswith(f"| {changed}{shape}")


def test_attention_is_drawn_where_it_is_computed(drawn):
    config, side, _, seen = drawn
    attends = {name.removesuffix(".attention.qkv") for name in seen if name.endswith(".qkv")}
    drawn_so = {
        g.get("data-layer") for g in groups(config, side, "layer") if "attention" in words(g)
    }
    assert drawn_so == attends


def test_a_skip_connection_leads_from_the_layer_whose_features_arrive(drawn):
    config, side, net, seen = drawn
    skips = groups(config, side, "skip")
    blocks = [i for i, layer in enumerate(net.up) if hasattr(layer, "conv1")]
    assert {g.get("data-to") for g in skips} == {f"up.{i}" for i in blocks}
    for group in skips:
        handed_on, arrives = seen[group.get("data-from")][1], seen[group.get("data-to")][0]
        n = handed_on.shape[1]
        assert torch.equal(arrives[:, -n:], handed_on)
        assert f"skip: {n} features" in words(group)


def test_the_frame_names_image_output_and_embedding(drawn):
    config, side, _, seen = drawn
    text = plots.unet(config, side)
    image = f"{config.channels} × {side} × {side}"
    assert f"x: image {image}" in text and f"output {image}" in text
    assert f"embedding e, {seen['embed'][1].shape[1]} numbers" in text
    assert ("AdaGN" in text) == (config.conditioning == "adagn")
    assert ("patches" in text) == (config.patch > 1)


def test_it_stays_in_its_picture_and_layers_do_not_overlap(drawn):
    config, side, *_ = drawn
    tree = ElementTree.fromstring(plots.unet(config, side))
    width, height = (float(tree.get(key)) for key in ("width", "height"))
    boxes = []
    for group in tree.iter(f"{SVG}g"):
        if group.get("class") == "layer":
            box = group.find(f"{SVG}rect")
            boxes.append([float(box.get(key)) for key in ("x", "y", "width", "height")])
    for i, (x, y, w, h) in enumerate(boxes):
        assert min(x, y) >= 0 and x + w <= width and y + h <= height
        for other in boxes[:i]:
            apart = abs(x - other[0]) >= w or abs(y - other[1]) >= h
            assert apart
    assert all(float(t.get("font-size")) >= 12 for t in tree.iter(f"{SVG}text"))
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", plots.unet(config, side))


def test_sides_that_cannot_be_halved_are_refused():
    with pytest.raises(ValueError, match="multiples of 2"):
        plots.unet(RECIPES["digits"].net, 7)
