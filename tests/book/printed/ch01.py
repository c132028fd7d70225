"""Chapter 1, the forward process."""

from __future__ import annotations

import inspect
import math

import numpy as np
import torch
from scipy import integrate, optimize

from ddpmlib.denoiser.oracle import FiniteData, Gaussian
from ddpmlib.process import DDPM
from ddpmlib.process.schedules import cosine, linear, log_snr
from tests.book.latex import At, Normal, Operator
from tests.book.printed import common
from tests.book.printed.common import (
    F64,
    MIXTURE,
    PROCESS,
    T,
    data_density,
    density,
    formula,
    process_names,
    s,
    t,
)


@formula("1.1", "1.2", "1.5", "1.6", "1.7", "1.8", "2.1")
def chain_names() -> dict:
    """A Gaussian is the list of its coefficients on independent sources: x_0 and the noises."""
    sources = torch.eye(T + 1, dtype=F64)
    x = [sources[0]]
    for i in range(1, T + 1):
        x.append(PROCESS.q_step(x[-1], i, sources[i]))

    def given(j: int) -> Normal:
        """The distribution of x_t for a known x_j."""
        mean, variance = x[j], 0.0
        for i in range(j + 1, t + 1):
            mean = PROCESS.q_step(mean, i, torch.zeros_like(mean))
            variance = float(PROCESS.alpha[i]) * variance + float(PROCESS.beta[i])
        return Normal(mean.numpy(), variance * np.eye(T + 1))

    def noise(j: int) -> torch.Tensor:
        rest = x[t] - torch.as_tensor(given(j).mean)
        return rest / rest.norm()

    return process_names() | {
        "I": np.eye(T + 1),
        "x": torch.stack(x),
        r"\varepsilon": sources,
        r"\bar\varepsilon": noise(t - 2),
        r"\bar\varepsilon_t": noise(0),
        r"\operatorname{distribution}": lambda value: Normal(
            0.0, float(value @ value) * np.eye(T + 1)
        ),
        r"q(x_t\mid x_{t-1})": given(t - 1).density(x[t].numpy()),
        r"q(x_t\mid x_s)": given(s).density(x[t].numpy()),
        r"q(x_t\mid x_0)": given(0).density(x[t].numpy()),
    }


@formula("1.3", "1.12")
def moment_names() -> dict:
    """Mean and covariance, step by step."""
    mean, cov = common.normal(3, seed=1), torch.cov(common.normal(3, 9, seed=2))
    mean_t, cov_t = mean, cov
    for i in range(1, t + 1):
        mean_t = PROCESS.q_step(mean_t, i, torch.zeros_like(mean_t))
        cov_t = PROCESS.alpha[i] * cov_t + PROCESS.beta[i] * torch.eye(3, dtype=F64)
    return process_names() | {
        r"\operatorname{Cov}[x_t]": cov_t,
        r"\operatorname{Cov}[x_0]": cov,
        r"\operatorname E[x_t]": mean_t,
        r"\operatorname E[x_0]": mean,
        r"\log\operatorname{SNR}": log_snr(PROCESS.alpha_bar),
        r"\operatorname{SNR}": log_snr(PROCESS.alpha_bar).exp(),
    }


@formula("1.4")
def sum_names() -> dict:
    return {
        "a": 0.7,
        "b": -1.8,
        r"\varepsilon": np.array([1.0, 0.0]),
        r"\varepsilon'": np.array([0.0, 1.0]),
        "I": np.eye(2),
        r"\operatorname{distribution}": lambda value: Normal(0.0, float(value @ value) * np.eye(2)),
    }


@formula("1.9", "1.10", rtol=1e-8)
def mixture_names() -> dict:
    """q(x_0) and q(x_t) of a mixture in one dimension."""
    return process_names() | {
        "I": 1.0,
        "x_t": 0.37,
        "x_0": -0.81,
        r"x_0\in": (-8.0, 8.0),
        "q(x_t)": density(MIXTURE, 0.37, t),
        "q(x_0)": At(lambda v: data_density(v("x_0"))),
        r"k\in": range(3),
        "w": MIXTURE.log_weights.exp(),
        "m": MIXTURE.means[:, 0],
        "s": MIXTURE.variances.sqrt(),
    }


@formula("1.11")
def product_names() -> list[dict]:
    """The bound is tight where β is small."""
    small = DDPM(torch.cat([torch.zeros(1, dtype=F64), torch.full((T,), 1e-6, dtype=F64)]))
    return [process_names(), process_names(small) | {r"\operatorname{tight}": 1e-9}]


@formula("1.13")
def linear_names() -> dict:
    return process_names(DDPM(linear(T, 0.03, 0.4)))


@formula("1.14")
def cosine_names() -> dict:
    offset = inspect.signature(cosine).parameters["offset"].default

    def f(time: float) -> float:
        return math.cos((time / T + offset) / (1 + offset) * math.pi / 2) ** 2

    return process_names(DDPM(cosine(T))) | {"s": offset, "f": f}


@formula("1.15", "1.16")
def spectrum_names() -> dict:
    """One frequency of a power law; signal and noise there are ± their root mean square."""
    C, gamma, f = 1.7, 2.3, 0.6
    x0, eps = np.sqrt(C * f**-gamma) * np.array([1, 1, -1, -1]), np.array([1, -1, 1, -1])
    scale, std = PROCESS.kernel(t, torch.zeros(1))
    snr = PROCESS.alpha_bar / (1 - PROCESS.alpha_bar)
    seen = optimize.brentq(lambda g: float(snr[t]) * C * g**-gamma - 1, 1e-3, 1e3, xtol=1e-13)
    return process_names() | {
        "S(f)": float(np.mean(x0**2)),
        r"\operatorname E": Operator(np.mean),
        r"\hat x_t(f)": scale * x0 + std * eps,
        r"\operatorname{SNR}_t(f)": np.mean((scale * x0) ** 2) / np.mean((std * eps) ** 2),
        "C": C,
        r"\gamma": gamma,
        "f_t": seen,
    }


@formula("1.17")
def divergence_names() -> dict:
    mean, cov = common.normal(3, seed=1), torch.cov(common.normal(3, 9, seed=2))
    q = Gaussian(PROCESS, mean, cov)
    scale, std = PROCESS.kernel(t, mean)
    along = scale**2 * torch.linalg.eigvalsh(cov) + std**2
    return process_names() | {
        r"\mathrm{KL}(q(x_t)\|\mathcal N(0,I))": q.kl_to_prior(t),
        "v": torch.cat([torch.zeros(1, dtype=F64), along]),
        r"\mu": mean,
    }


def _bounds(t: int, s: int) -> dict:
    """D independent coordinates, each one of two points: everything is D times one integral."""
    points, D = np.array([-0.9, 0.7]), 3
    q = FiniteData(PROCESS, common.column(points))
    scale, std = PROCESS.kernel(t, torch.zeros(1))
    x = np.linspace(-9, 9, 4001)
    joint = np.exp(-((x - scale * points[:, None]) ** 2) / (2 * std**2)) / (2 * std)
    joint /= math.sqrt(2 * math.pi)  # with q(x_0) = 1/2
    q_t, prior = density(q, x, t), np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    kl = integrate.simpson(q_t * np.log(q_t / prior), x=x)
    mutual = integrate.simpson((joint * np.log(2 * joint / q_t + 1e-300)).sum(0), x=x)
    kernels = integrate.simpson(2 * joint * np.log(2 * joint / prior + 1e-300), x=x)
    return process_names(PROCESS, t, s) | {
        "D": D,
        "L": D * kernels.mean(),
        r"\mathrm I(x_0;x_t)": D * mutual,
        r"\mathrm{KL}(q(x_t)\|\mathcal N(0,I))": D * kl,
        r"\mathrm{KL}(q(x_t\mid x_0)\|\mathcal N(0,I))": D * kernels,
        r"\operatorname E_{x_0}": Operator(np.mean),
        r"\operatorname E": Operator(np.mean),
        "x_0": np.repeat(points[:, None], D, axis=1),
    }


@formula("1.18", rtol=1e-7)
def bound_names() -> list[dict]:
    return [_bounds(t, s), _bounds(1, 0)]
