"""Chapter 6, learned variances and importance sampling."""

from __future__ import annotations

import numpy as np
import torch
from scipy import optimize
from torch import Tensor, nn

from ddpmlib.denoiser import Denoiser, learned_var_mix
from ddpmlib.likelihood import continuous, gaussian_kl, reverse_step_term
from ddpmlib.losses import ImportanceTimes, l_hybrid, l_simple, l_vlb
from ddpmlib.losses.objectives import VLB_SHARE
from ddpmlib.prediction import Prediction
from tests.book.latex import LOOSE, At, Operator
from tests.book.printed.ch02 import conditional, joint_covariance
from tests.book.printed.common import (
    F64,
    PROCESS,
    D,
    T,
    formula,
    normal,
    process_names,
    s,
    t,
)


def on_sources(c: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x_0, x_s and x_t of data N(0, c²), as coefficients on independent sources."""
    root = np.linalg.cholesky(joint_covariance(c**2))
    return root[0], root[1], root[2]


@formula("6.1")
def best_variance_names() -> dict:
    """A prediction that is not the best one, x̂_0 = 0.7 x_t: what the step misses on average."""
    x0, x_s, x_t = on_sources(0.8)
    prediction = 0.7 * x_t
    mean, _ = PROCESS.posterior(torch.as_tensor(x_t), torch.as_tensor(prediction), t, s)
    return process_names() | {
        r"\sigma^{*2}": float(((x_s - mean.numpy()) ** 2).sum()),
        r"\mathbb E": Operator(np.sum, LOOSE),
        "x_0": x0,
        r"\hat x_0": prediction,
    }


@formula("6.2")
def price_names() -> dict:
    best, used = torch.tensor([0.3, 0.45], dtype=F64)
    zero = torch.zeros((), dtype=F64)
    return {
        r"\Delta": gaussian_kl(zero, best.log(), zero, used.log()),
        "r": best / used,
        r"\sigma^{*2}": best,
        r"\sigma": used.sqrt(),
    }


@formula("6.3", "6.4")
def gaussian_names() -> dict:
    c = 0.8
    return process_names() | {
        "c": c,
        r"\sigma^{*2}": conditional(joint_covariance(c**2), 1)[1],
    }


@formula("6.5")
def interpolation_names() -> dict:
    answer = torch.tensor(-0.3, dtype=F64)
    place = learned_var_mix(answer)
    return process_names() | {
        "v'": answer,
        "v": place,
        r"\sigma_\theta": PROCESS.posterior_std(t, s, place),
    }


@formula("6.6")
def best_place_names() -> dict:
    low, high = PROCESS.variances(t, s)
    best = 0.3 * low + 0.7 * high
    place = optimize.brentq(lambda v: PROCESS.posterior_std(t, s, v) ** 2 - best, 0, 1, xtol=1e-14)
    return process_names() | {r"\sigma^{*2}": best, "v^*": place}


class Net(nn.Module):
    """Says the noise and the place of the variance."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(0.3, dtype=F64))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return torch.cat([self.mean * torch.sin(x), 0.2 * x], dim=1)


def batch(times: Tensor) -> tuple[Tensor, Tensor]:
    return normal(len(times), D, seed=6), normal(len(times), D, seed=7)


@formula("6.7")
def vlb_names() -> dict:
    denoiser, times = Denoiser(Net(), PROCESS, var_mix=None), torch.arange(1, T + 1)
    x0, eps = batch(times)
    with torch.no_grad():
        loss = l_vlb(denoiser, x0, times, eps, decoder=continuous)
        x_t = PROCESS.q_sample(x0, times, eps)
        prediction = denoiser(x_t, times)
        term = reverse_step_term(PROCESS, x0, x_t, prediction, times, times - 1, continuous).sum(1)
    return process_names() | {
        r"\ell^{\text{vlb}}_t": At(lambda v: loss[v("t") - 1]),
        "L_{t-1}": At(lambda v: term[v("t") - 1]),
        r"L_0+L_1+\dots+L_{T-1}": float(term.sum()),
    }


@formula("6.8")
def slope_names() -> dict:
    """One number; the slope by autograd."""
    place = torch.tensor([[0.4]], dtype=F64, requires_grad=True)
    x0, prediction, x_t = (torch.tensor([[v]], dtype=F64) for v in (0.3, -0.2, 0.5))
    reverse_step_term(PROCESS, x0, x_t, Prediction(prediction, place), t, s).sum().backward()
    one, zero = torch.ones(1, dtype=F64), torch.zeros(1, dtype=F64)
    return process_names() | {
        r"\frac{\partial L_{t-1}}{\partial v}": place.grad.item(),
        "A": float(PROCESS.posterior(zero, one, t, s)[0]),
        "x_0": float(x0),
        r"\hat x_0": float(prediction),
        r"\sigma_\theta": PROCESS.posterior_std(t, s, float(place.detach())),
    }


@formula("6.9")
def hybrid_names() -> dict:
    """A loss and its slope by the parameter of the mean, which stopgrad holds back."""
    times = torch.tensor([2, 4, 6, 8])
    x0, eps = batch(times)

    def loss_and_slope(loss: object) -> np.ndarray:
        net = Net()
        denoiser = Denoiser(net, PROCESS, var_mix=None)
        value = loss(denoiser, x0, times, eps).mean()
        value.backward()
        return np.array([value.item(), net.mean.grad.item()])

    value, slope = loss_and_slope(l_vlb)

    def vlb(mean: float, variance: float) -> np.ndarray:
        return np.array([value, mean * slope]) if variance == 0.25 else np.full(2, np.nan)

    return {
        r"L_{\text{hybrid}}": loss_and_slope(l_hybrid),
        r"L_{\text{simple}}": loss_and_slope(l_simple),
        r"L_{\text{vlb}}": vlb,
        r"\operatorname{stopgrad}": lambda mean: 0.0,
        r"\hat\mu": 1.0,
        r"\sigma_\theta": 0.5,
        r"\lambda": VLB_SHARE,
    }


P = np.array([0.1, 0.4, 0.2, 0.3])  # of four times


def each(table: np.ndarray) -> At:
    """The entry of the time t; of all times where t has no value."""
    return At(lambda v: table if v("t") is None else table[v("t") - 1])


@formula("6.10")
def importance_names() -> dict:
    return {
        "T": 4,
        "t": None,
        r"\mathbb E_{t\sim p}": Operator(lambda value: P @ value),
        r"\ell_t": each(np.array([0.7, 1.9, 0.4, 1.1])),
        "p_t": each(P),
    }


@formula("6.11")
def gradient_names() -> dict:
    """At each time one of three gradients, equally often: a table (time, draw, parameter)."""
    g = normal(4, 3, 2, seed=5).numpy()

    def variance(value: np.ndarray) -> float:
        weights = P[:, None, None] / 3
        mean = (weights * value).sum((0, 1))
        return float((weights * (value - mean) ** 2).sum())

    return {
        "T": 4,
        "t": None,
        r"\operatorname{Var}": Operator(variance),
        r"\mathbb E": Operator(np.mean, LOOSE),
        "g_t": each(g),
        "p_t": each(P[:, None, None]),
        r"\bar g": g.mean((0, 1)),
    }


@formula("6.12", rtol=1e-6)
def learned_times_names() -> dict:
    times = ImportanceTimes(4, memory=5, uniform=1e-9)
    history = normal(4, 5, seed=3).abs()
    for k in range(5):
        times.update(torch.arange(1, 5), history[:, k])
    return {
        "p_t": times.probabilities()[:, None],
        r"\mathbb E": Operator(lambda value: value.mean(-1), LOOSE),
        r"\ell_t": history[:, None],
    }


@formula("6.13")
def stride_names() -> dict:
    S, k = np.array([0, 2, 5, 9]), 2
    beta_tilde, beta = PROCESS.variances(int(S[k]), int(S[k - 1]))
    return process_names() | {
        "S": S,
        "k": k,
        r"\beta'_k": beta,
        r"\tilde\beta'_k": beta_tilde,
    }
