"""What the chapters' formulas share: a process, data, and a list of who gives which values.

Each chapter has a module here. Its functions give the printed names their values, taken from
``ddpmlib`` or worked out in another way than the formula's own, and say with :func:`formula` whose
names they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddpmlib.denoiser.oracle import Mixture
from ddpmlib.process import DDPM
from tests.book.latex import Normal, Scope, vocabulary

Names = Mapping[str, Any]
F64 = torch.float64


@dataclass(frozen=True)
class Formula:
    """How a tagged formula is held against numbers.

    Attributes:
        worlds: gives the names their values, in one or in several ways; the formula is true in all.
        rtol: relative error that "=" allows.
        near: the same for "≈".
    """

    worlds: Callable[[], Names | list[Names]]
    rtol: float
    near: float

    @cached_property
    def scopes(self) -> list[Scope]:
        worlds = self.worlds()
        return [vocabulary(names) for names in (worlds if isinstance(worlds, list) else [worlds])]


FORMULAS: dict[str, Formula] = {}


def formula(*tags: str, rtol: float = 1e-9, near: float = 1e-3) -> Callable[[Any], Any]:
    """The decorated function gives the names in these formulas their values."""

    def note(worlds: Callable[[], Names | list[Names]]) -> Any:
        for tag in tags:
            assert tag not in FORMULAS, f"({tag}) is read twice"
            FORMULAS[tag] = Formula(worlds, rtol, near)
        return worlds

    return note


# ---- a process, two of its times, and data -------------------------------------------------------

T, t, s, D = 9, 6, 3, 3


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def table(seed: int = 0) -> Tensor:
    """β of a process whose steps are all different."""
    draw = torch.rand(T, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return torch.cat([torch.zeros(1, dtype=F64), 0.05 + 0.25 * draw])


PROCESS = DDPM(table())
ALPHA_BAR = PROCESS.alpha_bar.numpy()
X0, EPS, NOISE = (normal(D, seed=seed) for seed in (1, 2, 3))
X_T, X_S = PROCESS.q_sample(X0, t, EPS), PROCESS.q_sample(X0, s, normal(D, seed=4))


def process_names(process: DDPM = PROCESS, t: int = t, s: int = s) -> dict[str, Any]:
    """The tables, and what belongs to the step from t to s."""
    beta_tilde, beta = process.variances(t, s)
    return {
        "T": process.T,
        "t": t,
        "s": s,
        "d": D,
        "D": D,
        "I": np.eye(D),
        r"\beta": process.beta,
        r"\alpha": process.alpha,
        r"\bar\alpha": process.alpha_bar,
        r"\tilde\beta": process.beta_tilde,
        r"\beta_{t\mid s}": beta,
        r"\alpha_{t\mid s}": 1 - beta,
        r"\tilde\beta_{t\to s}": beta_tilde,
        r"\operatorname{SNR}": process.alpha_bar / (1 - process.alpha_bar),
    }


def data_names() -> dict[str, Any]:
    """Clean and noisy data, vectors."""
    return {r"x_0": X0, r"\varepsilon": EPS, "x_t": X_T, "x_s": X_S, "z": NOISE}


# ---- data whose densities are known --------------------------------------------------------------

MIXTURE = Mixture(
    PROCESS,
    torch.tensor([0.2, 0.5, 0.3], dtype=F64),
    torch.tensor([[-1.2], [0.3], [1.4]], dtype=F64),
    torch.tensor([0.3, 0.4, 0.2], dtype=F64),
    torch.tensor([0, 1, 1]),
)


def column(x: Any) -> Tensor:
    """A number, or several, as a batch of one-dimensional data."""
    return torch.as_tensor(np.atleast_1d(x), dtype=F64)[:, None]


def density(q: Any, x: Any, t: int) -> Any:
    """q(x_t) of one-dimensional data at a number or an array."""
    value = q.log_prob(column(x), t).exp().numpy()
    return float(value[0]) if np.ndim(x) == 0 else value


def bells(x: float, component: int, t: int = 0) -> float:
    """One component's share of the density of MIXTURE at a number, without ddpmlib."""
    scale, variance = float(PROCESS.scale[t]), float(PROCESS.std[t]) ** 2
    gap = x - scale * float(MIXTURE.means[component])
    variance += scale**2 * float(MIXTURE.variances[component])
    weight = float(MIXTURE.log_weights[component].exp())
    return weight * np.exp(-(gap**2) / (2 * variance)) / np.sqrt(2 * math.pi * variance)


def data_density(x: float) -> float:
    return sum(bells(x, k) for k in range(3))


def step_density(x_t: Any, x_s: Any, t: int = t, s: int = s, process: DDPM = PROCESS) -> Any:
    """q(x_t | x_s) in one dimension, the steps in between one by one."""
    factor, variance = 1.0, 0.0
    for i in range(s + 1, t + 1):
        alpha, beta = float(process.alpha[i]), float(process.beta[i])
        factor, variance = factor * alpha**0.5, alpha * variance + beta
    return np.exp(-((x_t - factor * x_s) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)


def gaussian(mean: Any, std: Any) -> Normal:
    """N(mean, std² I) of vectors."""
    mean = torch.as_tensor(mean).numpy()
    return Normal(mean, float(std) ** 2 * np.eye(len(mean)))
