"""Chapter 2, the reverse process."""

from __future__ import annotations

import numpy as np
import torch
from scipy import integrate, special

from ddpmlib.denoiser.oracle import FiniteData, Gaussian, Mixture
from ddpmlib.prediction import Prediction
from ddpmlib.process import DDPM
from tests.book.latex import At, Operator
from tests.book.printed.common import (
    EPS,
    F64,
    MIXTURE,
    NOISE,
    PROCESS,
    X0,
    X_S,
    X_T,
    D,
    T,
    column,
    data_names,
    density,
    formula,
    gaussian,
    normal,
    process_names,
    s,
    step_density,
    t,
)

X = 0.43  # a noisy number
GRID = np.linspace(-12, 12, 6001)


def joint_covariance(c2: float) -> np.ndarray:
    """Of (x_0, x_s, x_t) with Var(x_0) = c2, from the steps of the chain."""
    rows, x = {}, np.zeros(T + 1)
    x[0] = c2**0.5
    for i in range(T + 1):
        if i:
            x = float(PROCESS.alpha[i]) ** 0.5 * x
            x[i] += float(PROCESS.beta[i]) ** 0.5
        rows[i] = x.copy()
    chosen = np.stack([rows[0], rows[s], rows[t]])
    return chosen @ chosen.T


def conditional(cov: np.ndarray, i: int) -> tuple[float, float]:
    """Of the i-th on the last: slope of the mean, variance."""
    slope = cov[i, -1] / cov[-1, -1]
    return slope, cov[i, i] - slope * cov[i, -1]


@formula("2.2")
def bayes_names() -> dict:
    cov = joint_covariance(0.6)
    slope, variance = conditional(cov, 1)
    q = Gaussian(PROCESS, torch.zeros(1, dtype=F64), torch.tensor([[0.6]], dtype=F64))
    x_s, x_t = 0.8, -0.5
    gap = x_s - slope * x_t
    return {
        r"q(x_s\mid x_t)": np.exp(-(gap**2) / (2 * variance)) / np.sqrt(2 * np.pi * variance),
        r"q(x_t\mid x_s)": step_density(x_t, x_s),
        "q(x_s)": density(q, x_s, s),
        "q(x_t)": density(q, x_t, t),
    }


POINTS = normal(4, D, seed=5)


@formula("2.3", "2.15")
def points_names() -> dict:
    """The data set is the distribution; without an index x^(i) is all of it."""
    data = FiniteData(PROCESS, POINTS)
    square = ((X_T - PROCESS.scale[t] * POINTS) ** 2).sum(1)
    return (
        process_names()
        | data_names()
        | {
            "N": 4,
            "i": None,
            "x^{(i)}": At(lambda v: POINTS if v("i") is None else POINTS[v("i") - 1]),
            "q(x_s)": float(data.log_prob(X_S[None], s).exp()),
            r"\mathrm E[x_0\mid x_t]": data(X_T[None], t).x0[0],
            r"\mathrm{softmax}_i": Operator(special.softmax),
            "p": torch.softmax(-square / (2 * (1 - PROCESS.alpha_bar[t])), 0),
            "p_i": At(lambda v: shares(data, X_T)[v("i") - 1]),
        }
    )


def shares(data: FiniteData, x_t: torch.Tensor) -> torch.Tensor:
    """Which point a noisy one came from: how the prediction moves with each point's weight."""
    densities = [FiniteData(PROCESS, p[None]).log_prob(x_t[None], t).exp() for p in POINTS]
    return torch.cat(densities) / torch.cat(densities).sum()


def small_step(beta: float) -> tuple[DDPM, Mixture]:
    """A process that goes far in one step, and then makes a small one, t = 2."""
    process = DDPM(torch.tensor([0.0, 0.3, beta], dtype=F64))
    weights, means, stds = MIXTURE.log_weights.exp(), MIXTURE.means, MIXTURE.variances.sqrt()
    return process, Mixture(process, weights, means, stds)


@formula("2.4", near=1e-3)
def small_step_names() -> dict:
    beta, x_t = 1e-4, 1.3
    process, q = small_step(beta)
    x_s = x_t + 0.7 * beta**0.5
    posterior = step_density(x_t, x_s, 2, 1, process) * density(q, x_s, 1) / density(q, x_t, 2)
    return process_names(process, 2, 1) | {
        "I": 1.0,
        "x_t": x_t,
        "x_s": x_s,
        r"\nabla\log q(x_t)": float(q.score(column(x_t), 2)),
        r"q(x_s\mid x_t)": posterior,
    }


@formula("2.5", near=0.03)
def shape_names() -> dict:
    """The divergence of q(x_s|x_t) from the Gaussian with its moments, by quadrature."""
    beta, x_t, h = 1e-3, 0.9, 0.02
    process, q = small_step(beta)
    x = x_t + beta**0.5 * np.linspace(-9, 9, 4001)
    p = step_density(x_t, x, 2, 1, process) * density(q, x, 1)
    p /= integrate.simpson(p, x=x)
    mean = integrate.simpson(p * x, x=x)
    variance = integrate.simpson(p * (x - mean) ** 2, x=x)
    g = np.exp(-((x - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
    third = np.log(density(q, x_t + h * np.array([-2, -1, 1, 2]), 2)) @ [-0.5, 1, -1, 0.5] / h**3
    return process_names(process, 2, 1) | {
        r"\mathrm{KL}(q(x_s\mid x_t)\Vert g)": integrate.simpson(p * np.log(p / g), x=x),
        r"\gamma": beta**1.5 * third,
        r"\partial^3_x\log q(x_t)": third,
    }


@formula("2.6", "2.7", "2.8", "2.9", "2.10")
def posterior_names() -> dict:
    mean, std = PROCESS.posterior(X_T, X0, t, t - 1)
    long_mean, long_std = PROCESS.posterior(X_T, X0, t, s)
    return (
        process_names()
        | data_names()
        | {
            r"\tilde\mu_t": mean,
            r"\tilde\mu_t(x_t,x_0)": mean,
            r"\tilde\beta_t": std**2,
            r"q(x_s\mid x_t,x_0)": gaussian(long_mean, long_std).density(X_S.numpy()),
        }
    )


def mean_of_x_s(q: Mixture, x_t: float) -> float:
    """E[x_s | x_t] by quadrature."""
    p = step_density(x_t, GRID) * density(q, GRID, s)
    return integrate.simpson(p * GRID, x=GRID) / integrate.simpson(p, x=GRID)


@formula("2.11", rtol=1e-7)
def linear_mean_names() -> dict:
    points = torch.tensor([-1.1, 0.2, 0.9], dtype=F64)
    gaps = (X - PROCESS.scale[t] * points) / PROCESS.std[t]
    kernel = torch.exp(-(gaps**2) / 2).numpy()
    one, zero = torch.ones(1, dtype=F64), torch.zeros(1, dtype=F64)
    return {
        r"\mathrm E[x_s\mid x_t]": mean_of_x_s(FiniteData(PROCESS, points[:, None]), X),
        r"\mathrm E": Operator(lambda value, x_t: float(kernel @ value / kernel.sum())),
        "A": float(PROCESS.posterior(zero, one, t, s)[0]),
        "B": float(PROCESS.posterior(one, zero, t, s)[0]),
        "x_0": points,
        "x_t": X,
    }


@formula("2.12")
def covariance_names() -> dict:
    cov = joint_covariance(0.6)
    return process_names() | {
        "I": 1.0,
        r"\mathrm{Cov}(x_s\mid x_t)": conditional(cov, 1)[1],
        r"\mathrm{Cov}(x_0\mid x_t)": conditional(cov, 0)[1],
    }


@formula("2.13")
def range_names() -> list[dict]:
    """Data that are a point reach the lower end, a standard normal the upper one."""
    name = r"\mathrm E_{x_t}[\mathrm{Var}(x_s\mid x_t)]"
    variances = [conditional(joint_covariance(c2), 1)[1] for c2 in (0.0, 0.4, 1.0)]
    return [process_names() | {name: variance} for variance in variances]


@formula("2.14")
def learned_variance_names() -> dict:
    std = PROCESS.posterior_std(t, s, 0.3)
    return process_names() | {r"\sigma_{t\to s}": std, r"v_\theta": 0.3, r"v_\theta\in": (0.0, 1.0)}


@formula("2.16", "2.17", "2.18", rtol=1e-8)
def mixture_names() -> dict:
    V = (MIXTURE.variances * PROCESS.alpha_bar[t] + 1 - PROCESS.alpha_bar[t]).numpy()
    centres = float(PROCESS.scale[t]) * MIXTURE.means[:, 0].numpy()
    p = MIXTURE.log_weights.exp().numpy() * np.exp(-((X - centres) ** 2) / (2 * V)) / np.sqrt(V)
    return process_names() | {
        "x_t": X,
        r"k\in": range(3),
        "p_k(x_t)": At(lambda v: (p / p.sum())[v("k")]),
        "m": MIXTURE.means[:, 0],
        "v": MIXTURE.variances,
        "V": V,
        r"\mathrm E[x_0\mid x_t]": float(MIXTURE(column(X), t).x0),
        r"\mathrm E[x_s\mid x_t]": mean_of_x_s(MIXTURE, X),
        r"\nabla\log q(x_t)": float(MIXTURE.score(column(X), t)),
    }


@formula("2.19")
def step_names() -> dict:
    guess = Prediction(X0 + 0.1 * EPS, 0.3)
    return (
        process_names()
        | data_names()
        | {
            "x_s": PROCESS.step(X_T, guess, t, s, 1.0, NOISE),
            r"\hat x_0(x_t,t)": guess.x0,
            r"\sigma_{t\to s}": PROCESS.posterior_std(t, s, 0.3),
        }
    )
