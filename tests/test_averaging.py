"""The moving average against its definition, and what it must leave alone."""

import copy

import pytest
import torch
from torch import nn

from ddpmlib.training import Average


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()


def test_it_starts_at_the_weights_and_is_a_copy():
    model = net()
    average = Average(model, 0.9)
    before = copy.deepcopy(average.module.state_dict())
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    assert all(torch.equal(v, before[k]) for k, v in average.module.state_dict().items())


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
def test_after_n_updates_it_is_the_geometric_sum(decay):
    model = net()
    average = Average(model, decay)
    seen = [model[0].weight.detach().clone()]
    for _ in range(5):
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(torch.randn_like(p))
        seen.append(model[0].weight.detach().clone())
        average.update(model)
    n = len(seen) - 1
    weights = [decay**n] + [(1 - decay) * decay ** (n - k) for k in range(1, n + 1)]
    expected = sum(w * s for w, s in zip(weights, seen, strict=True))
    torch.testing.assert_close(average.module[0].weight.data, expected, rtol=1e-12, atol=1e-12)


def test_buffers_are_copied_not_averaged():
    model = net().train()
    average = Average(model, 0.9)
    model(torch.randn(8, 3, dtype=torch.float64))
    average.update(model)
    assert torch.equal(average.module[1].running_mean, model[1].running_mean)
    assert int(average.module[1].num_batches_tracked) == 1
