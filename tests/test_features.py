"""`ddpmlib.features`: the judge sees images in their range, whatever type they come in."""

import pytest
import torch

from ddpmlib import data, features
from ddpmlib.models import Classifier, ClassifierConfig


@pytest.fixture
def judge():
    torch.manual_seed(0)
    return Classifier(ClassifierConfig(width=4, features=6, num_classes=3)).eval()


def images(n=7):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (n, 1, 8, 8), generator=generator, dtype=torch.uint8)


def test_features_and_logits_are_the_classifiers_own(judge):
    x = data.to_float(images())
    found, logits = features.judge(judge, x)
    assert found.shape == (7, 6) and logits.shape == (7, 3)
    assert torch.allclose(found, judge.features(x)) and torch.allclose(logits, judge(x))
    assert not found.requires_grad and not logits.requires_grad


def test_uint8_and_float_images_are_the_same_images(judge):
    for a, b in zip(
        features.judge(judge, images()),
        features.judge(judge, data.to_float(images())),
        strict=True,
    ):
        assert torch.equal(a, b)


def test_samples_are_clipped_to_the_range_of_images(judge):
    x = data.to_float(images())
    wild = torch.where(x > 0.5, 9.0, x)
    tame = torch.where(x > 0.5, 1.0, x)
    assert torch.equal(features.judge(judge, wild)[0], features.judge(judge, tame)[0])
    assert not torch.equal(features.judge(judge, tame)[0], features.judge(judge, x)[0])


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_batches_do_not_matter(judge, batch_size):
    whole, _ = features.judge(judge, images())
    parts, _ = features.judge(judge, images(), batch_size)
    assert torch.allclose(whole, parts, atol=1e-6)


def test_another_shape_is_refused(judge):
    with pytest.raises(ValueError, match=r"expected images of shape \(B, 1, H, W\)"):
        features.judge(judge, torch.zeros(2, 3, 8, 8))
