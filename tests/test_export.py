"""`torch.export` and ONNX of class-conditional networks: the same answers as the network's."""

import pytest
import torch
from torch.export import Dim

from ddpmlib import zoo
from ddpmlib.models import MLP, NoisyClassifier, NoisyClassifierConfig, UNet, UNetConfig

BATCH = Dim("batch", min=1, max=4096)
SHAPES = {"x": {0: BATCH}, "t": {0: BATCH}, "y": {0: BATCH}}


def images(n, shape, classes=11):
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(n, *shape, generator=generator)
    t = torch.randint(1, 1001, (n,), generator=generator)
    return x, t, torch.randint(0, classes, (n,), generator=generator)


def gap(program, net, inputs):
    with torch.no_grad():
        return float((program(*inputs) - net(*inputs)).abs().max())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "shape"), [("digits", (1, 8, 8)), ("mnist", (1, 28, 28))])
@pytest.mark.parametrize("strict", [False, True])
def test_a_shipped_network_is_exported_with_any_batch(name, shape, strict):
    net = zoo.load(name, "cpu")[0].net
    program = torch.export.export(
        net, images(3, shape), dynamic_shapes=SHAPES, strict=strict
    ).module()
    for n in (1, 3, 7):
        assert gap(program, net, images(n, shape)) < 1e-6  # the null label among them


def test_a_conditional_perceptron_is_exported():
    net = MLP(dim=2, width=8, depth=1, num_classes=3).eval()
    program = torch.export.export(net, images(2, (2,), 4), dynamic_shapes=SHAPES).module()
    assert gap(program, net, images(5, (2,), 4)) < 1e-6


def test_a_network_is_exported_without_labels():
    config = UNetConfig(width=8, mults=(1,), attention=(True,), heads=2, groups=4, num_classes=3)
    net = UNet(config).eval()
    torch.nn.init.normal_(net.out.weight)
    shapes = {"x": {0: BATCH}, "t": {0: BATCH}}
    program = torch.export.export(net, images(2, (1, 4, 4))[:2], dynamic_shapes=shapes).module()
    assert gap(program, net, images(5, (1, 4, 4))[:2]) < 1e-6


def test_a_noisy_classifier_is_exported():
    config = NoisyClassifierConfig(width=8, mults=(1,), attention=(False,), heads=2, groups=4)
    net = NoisyClassifier(config).eval()
    shapes = {"x": {0: BATCH}, "t": {0: BATCH}}
    program = torch.export.export(net, images(2, (1, 4, 4))[:2], dynamic_shapes=shapes).module()
    assert gap(program, net, images(5, (1, 4, 4))[:2]) < 1e-6


def test_labels_out_of_range_are_still_refused_outside_of_a_recording():
    net = MLP(dim=2, width=8, depth=1, num_classes=3)
    x, t, _ = images(2, (2,))
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.2"):
        net(x, t, torch.tensor([0, 4]))


@pytest.mark.slow
def test_a_shipped_network_is_the_same_in_onnx(tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="needs onnx, onnxscript and onnxruntime")
    pytest.importorskip("onnxscript")
    net, path = zoo.load("digits", "cpu")[0].net, tmp_path / "digits.onnx"
    names = ["x", "t", "y"]
    torch.onnx.export(
        net, images(3, (1, 8, 8)), path, input_names=names, dynamic_shapes=SHAPES, dynamo=True
    )
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for n in (1, 3, 7):
        inputs = images(n, (1, 8, 8))
        (found,) = session.run(None, {k: v.numpy() for k, v in zip(names, inputs, strict=True)})
        with torch.no_grad():
            assert float((torch.from_numpy(found) - net(*inputs)).abs().max()) < 1e-5
