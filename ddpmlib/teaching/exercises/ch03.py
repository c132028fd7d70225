"""Checks of chapter 03: train a network, sample from it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ddpmlib import data, zoo
from ddpmlib.denoiser import oracle
from ddpmlib.process import schedules
from ddpmlib.process.ddpm import DDPM
from ddpmlib.teaching.exercises import exercise
from ddpmlib.training.averaging import Average


@exercise(
    "3.1", hint="Put 0 for the network's answer: the loss is then the mean square of the target."
)
def _(answer: Any) -> None:
    """What the untrained network loses."""
    eps_loss, x0_loss = (float(a) for a in answer)
    assert abs(eps_loss - 1) < 1e-9, "The ε-network's loss is not that."
    assert abs(x0_loss - 0.7) < 1e-9, "The x₀-network's loss is not that."


@exercise("3.2", hint="Equation (3.6), right half; then solve it for v.")
def _(answer: Any) -> None:
    """From velocity to noise and back."""
    eps_from_v, v_from_eps = answer
    g = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 100, generator=g, dtype=torch.float64)
    for a in (0.99, 0.5, 0.01):
        x_t, v = a**0.5 * x0 + (1 - a) ** 0.5 * eps, a**0.5 * eps - (1 - a) ** 0.5 * x0
        assert torch.allclose(eps_from_v(v, x_t, a), eps), (
            f"eps_from_v is wrong at alpha_bar = {a}."
        )
        assert torch.allclose(v_from_eps(eps, x_t, a), v), (
            f"v_from_eps is wrong at alpha_bar = {a}."
        )


@exercise("3.3", hint="Which covariance have ε and x_t, and which variance has x_t?")
def _(answer: Any) -> None:
    """The loss that no network can go below, for Gaussian data."""
    g = torch.Generator().manual_seed(0)
    eps, x0 = torch.randn(2, 400_000, generator=g, dtype=torch.float64)
    for alpha_bar, c in ((0.9, 1.0), (0.5, 0.3), (0.2, 2.0)):
        x_t = alpha_bar**0.5 * c * x0 + (1 - alpha_bar) ** 0.5 * eps
        best = (eps * x_t).mean() / (x_t**2).mean() * x_t  # regression measured on samples
        measured = float(((eps - best) ** 2).mean())
        assert abs(float(answer(alpha_bar, c)) - measured) < 0.01, (
            f"For alpha_bar = {alpha_bar}, c = {c} the floor measures {measured:.2f}."
        )


def _by_pytorch(grads: list[Tensor], theta: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Weights and their average after each update, by Adam of PyTorch and :class:`Average`."""
    model = nn.Module()
    model.theta = nn.Parameter(theta.clone())
    average, adam = Average(model, 0.99), torch.optim.Adam(model.parameters(), lr=0.01)
    found = []
    for n, grad in enumerate(grads):
        model.theta.grad = grad.clone()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        average.update(model, n)
        found.append(
            (model.theta.detach().clone(), average.module.get_parameter("theta").detach().clone())
        )
    return found


@exercise("3.4", hint="In which order: clip, both means, their corrections, the step, the average?")
def _(answer: Any) -> None:
    """One update by hand: clipping, Adam, and the average of the weights."""
    g = torch.Generator().manual_seed(0)
    theta = torch.randn(7, generator=g, dtype=torch.float64)
    sizes = (10 ** torch.linspace(-1.5, 1.5, 30)).roll(11)  # norms below and above 1
    grads = [s * (torch.randn(7, generator=g, dtype=torch.float64) + 0.2) for s in sizes]
    own, average = theta.clone(), theta.clone()
    m, v = torch.zeros_like(theta), torch.zeros_like(theta)
    for n, (weights, mean) in enumerate(_by_pytorch(grads, theta)):
        own, m, v, average = answer(own, grads[n], m, v, average, n)
        assert torch.allclose(own, weights, rtol=0, atol=1e-6), (
            f"After {n + 1} updates the weights differ from PyTorch's."
        )
        assert torch.allclose(average, mean, rtol=0, atol=1e-6), (
            f"The weights are right, but after {n + 1} updates their average is not."
        )


_TIMES = range(50, 1000, 100)


def _scans() -> tuple[Tensor, Tensor]:
    digits = data.load("digits")
    return data.to_float(digits.x_train), data.to_float(digits.x_test)


def _mean_loss(guess: Callable[[Tensor, int], Tensor], x0: Tensor, process: DDPM) -> float:
    total = 0.0
    for t in _TIMES:
        eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(t))
        left = 1 - float(process.alpha_bar[t])
        total += float(((guess(process.q_sample(x0, t, eps), t) - x0) ** 2).mean()) / left
    return total / len(_TIMES)


@exercise("3.5", hint="Project x_0 on x_t: Cov(x_0, x_t) Cov(x_t)⁻¹. Which mean is taken off?")
def _(answer: Any) -> None:
    """How much of denoising is linear: most of it."""
    linear, of_linear, of_network = answer
    process, (train, new) = DDPM(schedules.cosine(1000)), _scans()
    pixels = train.flatten(1).double()
    exact = oracle.Gaussian(process, pixels.mean(0), torch.cov(pixels.T))
    for t in (1, 100, 400, 700, 990):
        eps = torch.randn(new.shape, generator=torch.Generator().manual_seed(t))
        x_t = process.q_sample(new, t, eps)
        best = exact(x_t.flatten(1).double(), t).x0.reshape(x_t.shape)
        yours = linear(x_t, float(process.alpha_bar[t]))
        assert yours.shape == x_t.shape, "Return x̂_0 in the shape of x_t."
        assert float((yours.double() - best).abs().max()) < 0.02, (
            f"At t = {t} there is a linear function with less error."
        )
    least = _mean_loss(lambda x, t: linear(x, float(process.alpha_bar[t])), new, process)
    assert abs(float(of_linear) - least) < 0.005, "Your function is right, its loss is not."
    trained, _ = zoo.load("digits", "cpu")
    y = data.load("digits").labels("test")
    shipped = _mean_loss(lambda x, t: trained(x, t, y).x0, new, process)
    assert abs(float(of_network) - shipped) < 0.03, (
        "The loss of the network is not that: unseen scans, the averaged weights, and the labels?"
    )
