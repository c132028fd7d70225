"""Features without labels: principal components, random convolutions."""

import pytest
import torch

from ddpmlib import data
from ddpmlib.evaluation import features
from ddpmlib.evaluation.untrained import PixelComponents, RandomConvolutions, identity


def some(n=200, channels=1, side=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (n, channels, side, side), generator=g, dtype=torch.uint8)
    x[:, :, 0] = x[:, :, 1]  # two rows that vary together
    return data.Dataset(f"some{seed}", x[: n - 20], None, x[n - 20 :], None)


def test_components_are_those_of_a_singular_value_decomposition():
    images = some()
    pca = PixelComponents.of(images)
    x = data.to_float(images.x_train).flatten(1).double()
    _, s, vt = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    assert pca.basis.shape == (36, 18)  # a tenth of 180 images
    assert torch.allclose(
        (pca.basis.double().T @ vt[:18].T).abs(), torch.eye(18).double(), atol=1e-4
    )
    h, logits = features.extract(pca, images.x_train)
    assert logits.shape == (180, 0) and h.double().mean(0).abs().max() < 1e-5
    assert torch.allclose(h.double().var(0), s[:18] ** 2 / 179, rtol=1e-4)


def test_few_large_images_have_the_same_components_by_the_other_product():
    """30 images of 36 pixels are fewer images than pixels; the variances must be those of all."""
    images = some(50)
    pca = PixelComponents.of(images)
    x = data.to_float(images.x_train).flatten(1).double()
    s = torch.linalg.svdvals(x - x.mean(0))
    h = features.extract(pca, images.x_train)[0].double()
    assert h.shape == (30, 3) and torch.allclose(h.var(0), s[:3] ** 2 / 29, rtol=1e-4)
    assert torch.allclose(pca.basis.T @ pca.basis, torch.eye(3), atol=1e-5)


def test_components_keep_distances_within_their_space_and_reduce_large_images():
    images = some()
    pca = PixelComponents.of(images)
    x = pca.mean + torch.randn(5, 18) @ pca.basis.T
    h = pca.features(x.view(5, 1, 6, 6))
    assert torch.allclose(torch.cdist(h, h), torch.cdist(x, x), atol=1e-4)
    large = PixelComponents.of(some(40, 3, 64))
    assert large.mean.shape == (3 * 32 * 32,)
    x = torch.rand(2, 3, 64, 20)
    halves = (x[:, :, ::2] + x[:, :, 1::2]) / 2
    assert torch.allclose(PixelComponents.flat(x), halves.flatten(1))


def test_random_convolutions_are_those_of_every_machine():
    """The sum of the first weights, and one response, by the formula."""
    net = RandomConvolutions(1)
    again = RandomConvolutions(1)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))
    w, b = net.layers[0].weight, net.layers[0].bias
    g = torch.Generator().manual_seed(0)
    assert torch.allclose(w, (2 / 9) ** 0.5 * torch.randn(w.shape, generator=g))
    assert torch.allclose(b, 0.5 * torch.randn(b.shape, generator=g))
    flat = torch.full((1, 1, 8, 8), 0.3)
    first = torch.relu(0.3 * w.sum((1, 2, 3)) + b)
    assert torch.allclose(net.layers[:2](flat).mean((0, 2, 3)), first, atol=1e-6)


def test_random_convolutions_are_scaled_to_the_data():
    images = some(300, 3, 12)
    net = RandomConvolutions.of(images)
    h, logits = features.extract(net, images.x_train)
    assert h.shape == (280, 64) and logits.shape == (280, 0)
    assert float(h.double().var(0).sum()) == pytest.approx(64, rel=1e-3)


def test_random_convolutions_see_grain_that_components_do_not():
    """Noise of the finest grain on smooth images: what each is for."""
    g = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.interpolate(
        torch.rand(400, 1, 3, 3, generator=g), 12, mode="bilinear"
    )
    x = data.to_uint8(smooth * 1.6 - 0.8)
    images = data.Dataset("smooth", x[:300], None, x[300:], None)
    clean = data.to_float(images.x_test)
    noisy = clean + 0.1 * torch.randn(clean.shape, generator=g)
    moved = []
    for net in (PixelComponents.of(images), RandomConvolutions.of(images)):
        a, b, c = (features.extract(net, v)[0] for v in (clean, noisy, images.x_train))
        moved.append(float((a.mean(0) - b.mean(0)).square().sum() / c.var(0).sum()))
    assert moved[1] > 3 * moved[0]


def test_identities_tell_kinds_and_data_apart():
    names = {
        identity(k, some(seed=s)) for k in (PixelComponents, RandomConvolutions) for s in (0, 1)
    }
    assert len(names) == 4 and all(len(name) == 64 for name in names)
