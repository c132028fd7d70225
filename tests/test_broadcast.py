"""`ddpmlib.broadcast`: one number per sample against data of any rank."""

import pytest
import torch

from ddpmlib.broadcast import expand, flat_mean, weighted_sum

SHAPES = [(3,), (3, 2), (3, 5, 3), (3, 1, 4, 4), (3, 2, 4, 5, 5)]


@pytest.mark.parametrize("shape", SHAPES)
def test_expand_multiplies_each_sample_with_its_own_number(shape: tuple[int, ...]) -> None:
    v, x = torch.tensor([2.0, -1.0, 0.5]), torch.randn(shape)
    wide = expand(v, x)
    assert wide.shape == (3, *[1] * (len(shape) - 1))
    by_hand = torch.stack([v[i] * x[i] for i in range(3)])
    assert torch.equal(wide * x, by_hand)


def test_expand_is_not_fooled_by_a_last_axis_as_long_as_the_batch() -> None:
    v, x = torch.tensor([1.0, 2.0, 3.0]), torch.ones(3, 3)
    assert torch.equal(expand(v, x) * x, torch.tensor([[1.0] * 3, [2.0] * 3, [3.0] * 3]))


@pytest.mark.parametrize("v", [torch.ones(2), torch.ones(4), torch.ones(1), torch.ones(3, 1)])
def test_expand_refuses_anything_but_one_number_per_sample(v: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"one number per sample, shape \(3,\), but got shape"):
        expand(v, torch.zeros(3, 2))


def test_expand_refuses_a_single_number() -> None:
    with pytest.raises(ValueError, match=r"got shape \(\)"):
        expand(torch.tensor(1.0), torch.zeros(3, 2))


@pytest.mark.parametrize("shape", SHAPES)
def test_flat_mean_averages_everything_but_the_batch(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64)
    by_hand = [sum(row.reshape(-1).tolist()) / row.numel() for row in x]
    assert flat_mean(x).shape == (3,)
    assert flat_mean(x).tolist() == pytest.approx(by_hand, abs=1e-14)


@pytest.mark.parametrize("a", [1, 0.3, torch.tensor([[2.0], [-1.0], [0.5]])])
@pytest.mark.parametrize("b", [-0.7, torch.tensor([[0.1], [3.0], [0.0]])])
def test_weighted_sum_is_what_it_says(a: float | torch.Tensor, b: float | torch.Tensor) -> None:
    x, y = torch.randn(3, 4), torch.randn(3, 4)
    torch.testing.assert_close(weighted_sum(a, x, b, y), a * x + b * y)
