"""`ddpmlib.losses`: the simple loss, its weights, and the value that no network can beat."""

import math

import pytest
import torch
from torch import Tensor, nn

from ddpmlib import oracle, schedules
from ddpmlib.denoiser import EPS, X0, Denoiser, Parameterization, V
from ddpmlib.losses import l_simple
from ddpmlib.process import DDPM

T = 100
PROCESS = DDPM(schedules.cosine(T))
by_name = pytest.mark.parametrize("p", [EPS, X0, V], ids=lambda p: p.name)
SHAPES = [(3,), (3, 2), (3, 5, 3), (3, 1, 4, 4), (3, 2, 4, 5, 5)]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Believes(nn.Module):
    """Answers in the language of ``p`` for whoever believes in ``x0(x_t, t)``."""

    def __init__(self, x0, p: Parameterization) -> None:
        super().__init__()
        self.x0, self.p = x0, p

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        scale, std = PROCESS.kernel(t, x)
        x0 = self.x0(x, t)
        return self.p.target(x0, (x - scale * x0) / std, scale, std)


@by_name
@pytest.mark.parametrize("shape", SHAPES)
def test_the_truth_costs_nothing_at_any_rank(p: Parameterization, shape: tuple[int, ...]) -> None:
    x0, eps, t = normal(*shape), normal(*shape, seed=1), torch.tensor([2, 50, 99])
    loss = l_simple(Denoiser(Believes(lambda x, t: x0, p), PROCESS, p), x0, t, eps)
    assert loss.shape == (3,)
    assert float(loss.max()) < 1e-20
    wrong = l_simple(Denoiser(Believes(lambda x, t: x0 + 1, p), PROCESS, p), x0, t, eps)
    assert float(wrong.min()) > 1e-4


@pytest.mark.equation("3.2")
def test_l_simple_by_hand() -> None:
    """Two samples, two pixels, scale 0.8 and std 0.6: everything can be written out."""
    p = DDPM(torch.tensor([0.0, 0.36], dtype=torch.float64))
    x0 = torch.tensor([[1.0, 2.0], [0.0, -1.0]], dtype=torch.float64)
    eps = torch.tensor([[0.5, -0.5], [1.0, 2.0]], dtype=torch.float64)

    class Double(nn.Module):
        def forward(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
            return 2 * x

    errors = [[0.5 - 2 * 1.1, -0.5 - 2 * 1.3], [1 - 2 * 0.6, 2 - 2 * 0.4]]
    by_hand = [sum(e**2 for e in row) / 2 for row in errors]
    loss = l_simple(Denoiser(Double(), p, EPS), x0, torch.tensor([1, 1]), eps)
    assert loss.tolist() == pytest.approx(by_hand, rel=1e-14)


@pytest.mark.equation("3.2")
def test_one_belief_three_weights() -> None:
    """‖x_0 − x̂_0‖² costs 1 for x_0, SNR for ε and 1 + SNR for v (Salimans & Ho 2022, section 4)."""
    x0, eps, t = normal(4, 2), normal(4, 2, seed=1), torch.tensor([1, 20, 60, 98])

    def belief(x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(x + t[:, None] / T)

    loss = {
        p: l_simple(Denoiser(Believes(belief, p), PROCESS, p), x0, t, eps) for p in (EPS, X0, V)
    }
    x_t = PROCESS.q_sample(x0, t, eps)
    torch.testing.assert_close(loss[X0], ((x0 - belief(x_t, t)) ** 2).mean(1))
    snr = PROCESS.alpha_bar[t] / (1 - PROCESS.alpha_bar[t])
    torch.testing.assert_close(loss[EPS], snr * loss[X0])
    torch.testing.assert_close(loss[V], (1 + snr) * loss[X0])


@pytest.mark.equation("3.2")
@pytest.mark.parametrize("t", [5, 50, 95])
def test_the_oracle_reaches_the_least_possible_loss(t: int) -> None:
    """For data N(0, λ) the noise is uncertain by Var(ε|x_t) = ᾱλ/(ᾱλ + 1 − ᾱ), and no less."""
    variance, n = 0.3, 40_000
    exact = oracle.Gaussian(PROCESS, torch.zeros(1).double(), torch.full((1, 1), variance).double())
    x0, eps = variance**0.5 * normal(n, 1), normal(n, 1, seed=1)
    times = torch.full((n,), t)

    def risk(factor: float) -> float:
        net = Believes(lambda x, t: factor * exact(x, t).x0, EPS)
        return float(l_simple(Denoiser(net, PROCESS, EPS), x0, times, eps).mean())

    a = float(PROCESS.alpha_bar[t])
    least = a * variance / (a * variance + 1 - a)
    room = 4.5 * least * math.sqrt(2 / n)  # the errors are Gaussian with that variance
    assert risk(1.0) == pytest.approx(least, abs=room)
    assert risk(1.0) < risk(0.8) and risk(1.0) < risk(1.2)


def test_the_loss_teaches_every_parameter() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2, dtype=torch.float64)

        def forward(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
            return self.layer(torch.cat([x, t[:, None] / T + y[:, None]], 1))

    torch.manual_seed(0)
    net = Net()
    x0, eps, t, y = (
        normal(4, 2),
        normal(4, 2, seed=1),
        torch.tensor([1, 9, 50, 99]),
        torch.arange(4),
    )

    def loss() -> Tensor:
        return l_simple(Denoiser(net, PROCESS, V), x0, t, eps, y).mean()

    loss().backward()
    for p in net.parameters():
        flat, step = p.data.view(-1), 1e-5
        for i in range(len(flat)):
            kept = float(flat[i])
            flat[i] = kept + step
            above = float(loss().detach())
            flat[i] = kept - step
            below = float(loss().detach())
            flat[i] = kept
            slope = (above - below) / (2 * step)
            assert float(p.grad.view(-1)[i]) == pytest.approx(slope, abs=1e-8)


def test_bad_input_is_refused() -> None:
    denoiser = Denoiser(Believes(lambda x, t: x, EPS), PROCESS)
    x0, t = torch.zeros(2, 3), torch.tensor([1, 2])
    with pytest.raises(ValueError, match="eps must have the shape of the data"):
        l_simple(denoiser, x0, t, torch.zeros(2, 1))
    with pytest.raises(ValueError, match="one number per sample"):
        l_simple(denoiser, x0, torch.tensor([1]), x0)
    with pytest.raises(ValueError, match=r"times must lie in 0\.\.100, got 1\.\.101"):
        l_simple(denoiser, x0, torch.tensor([1, 101]), x0)
