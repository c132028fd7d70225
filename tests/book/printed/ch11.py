"""Chapter 11, classifier-free guidance."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import integrate
from torch import Tensor

from ddpmlib.denoiser import V as SAYS_V
from ddpmlib.denoiser import score
from ddpmlib.denoiser.oracle import Mixture
from ddpmlib.guidance import ClassifierFree, DynamicThreshold, StaticThreshold
from ddpmlib.prediction import Prediction
from ddpmlib.process import DDPM
from tests.book.latex import LOOSE, At, Derivative, Operator
from tests.book.printed.ch10 import (
    GRID,
    X,
    Y,
    back_density,
    class_share,
    down_to_data,
    mean_given_x_t,
)
from tests.book.printed.common import (
    F64,
    MIXTURE,
    PROCESS,
    D,
    bells,
    column,
    data_density,
    formula,
    normal,
    t,
)


@formula("11.2", "11.3")
def guided_names() -> dict:
    w, x = 1.7, column(X)
    predictions = {
        "": ClassifierFree(MIXTURE, w)(x, t, Y).x0,
        "_c": MIXTURE(x, t, Y).x0,
        r"_\varnothing": MIXTURE(x, t).x0,
    }
    names: dict = {"w": w}
    for which, x0 in predictions.items():
        eps = PROCESS.eps_from_x0(x, x0, t)
        names[rf"\hat\varepsilon{which}"] = float(eps)
        names[rf"\hat x{which or '_0'}"] = float(x0)
        names[rf"\hat v{which}"] = float(SAYS_V.target(x0, eps, *PROCESS.kernel(t, x)))
    return names


@formula("11.4")
def dropout_names() -> dict:
    """Every sample with both falls of its coin."""
    eps, told, untold, p = (*(normal(6, D, seed=k) for k in (1, 2, 3)), 0.2)
    loss = 0.0
    for i in range(6):
        for kept, answer in ((1 - p, told), (p, untold)):
            loss += kept * float(((eps[i] - answer[i]) ** 2).sum()) / 6
    return {
        r"L(\theta)": loss,
        "p": p,
        r"\mathbb E": Operator(np.mean, LOOSE),
        r"\varepsilon": eps,
        r"\varepsilon_\theta(x_t,t,y)": told,
        r"\varepsilon_\theta(x_t,t,\varnothing)": untold,
    }


def mean_noise(label: int | None) -> float:
    """E[ε | x_t], or given the class too, by quadrature over x_0."""
    scale, std = float(PROCESS.scale[t]), float(PROCESS.std[t])
    weights = back_density(GRID)
    if label is not None:
        weights = weights * (class_share(GRID) if label else 1 - class_share(GRID))
    eps = (X - scale * GRID) / std
    return float(integrate.simpson(eps * weights, x=GRID) / integrate.simpson(weights, x=GRID))


def best_noise(label: int | None) -> float:
    y = None if label is None else torch.tensor([label])
    return float(PROCESS.eps_from_x0(column(X), MIXTURE(column(X), t, y).x0, t))


@formula("11.5", rtol=1e-8)
def optimum_names() -> dict:
    shares = MIXTURE.class_logits(column(X), t).exp()[0]
    return {
        "c": 1,
        r"c\in": range(2),
        r"\varepsilon^*(x_t,c)": At(lambda v: best_noise(v("c"))),
        r"\varepsilon^*(x_t,\varnothing)": best_noise(None),
        r"\mathbb E[\varepsilon\mid x_t,y=c]": At(lambda v: mean_noise(v("c"))),
        r"\mathbb E[\varepsilon\mid x_t]": mean_noise(None),
        r"q(c\mid x_t)": At(lambda v: shares[v("c")]),
    }


def tilted() -> np.ndarray:
    """p_w from its score, (1+w) times the class's less w times everybody's, integrated."""
    of_class, of_all = (q.score(column(GRID), 0)[:, 0].numpy() for q in (MIXTURE.given(1), MIXTURE))
    return np.exp(integrate.cumulative_simpson((1 + W) * of_class - W * of_all, x=GRID, initial=0))


W = 1.4


@formula("11.6", rtol=1e-5)
def tilt_names() -> dict:
    some = slice(1500, 2600, 50)
    return {
        "w": W,
        "s": 1 + W,
        r"p_w(x_0\mid y)": tilted()[some],
        r"p(x_0\mid y)": (bells(GRID, 1) + bells(GRID, 2))[some] / 0.8,
        "p(x_0)": data_density(GRID)[some],
        "L(x_0)": class_share(GRID)[some],
    }


@formula("11.7", rtol=1e-6)
def not_commuting_names() -> dict:
    """q_w is the noised tilt, its slope by differences; the guided score is the library's."""
    scale, std = float(PROCESS.scale[t]), float(PROCESS.std[t])
    tilt = data_density(GRID) * class_share(GRID) ** (1 + W)

    def log_noised(x: float) -> float:
        kernel = np.exp(-((x - scale * GRID) ** 2) / (2 * std**2))
        return math.log(integrate.simpson(tilt * kernel, x=GRID))

    h = 1e-4
    return {
        "s": 1 + W,
        "x_t": X,
        r"\nabla": Derivative("x _ t"),
        r"\nabla\log q_w(x_t)": (log_noised(X + h) - log_noised(X - h)) / (2 * h),
        r"\text{guided score}": float(score(ClassifierFree(MIXTURE, W), column(X), t, Y)),
        r"\mathbb E": Operator(mean_given_x_t),
        "L(x_0)": class_share(GRID),
    }


M, SMALL, LARGE = 0.6, 0.4, 1.3  # the class is N(m, c), everything N(0, C)


def gaussian_names(w: float) -> dict:
    return {"w": w, "m": M, "c": SMALL, r"\rho": SMALL / LARGE}


@formula("11.8", rtol=1e-8)
def tilted_gaussian_names() -> dict:
    w, x = 1.4, np.linspace(-9, 9, 4001)
    log_p = -(1 + w) * (x - M) ** 2 / (2 * SMALL) + w * x**2 / (2 * LARGE)
    p = np.exp(log_p - log_p.max())
    mean = (p * x).sum() / p.sum()
    return gaussian_names(w) | {
        r"\text{mean}": mean,
        r"\text{variance}": (p * (x - mean) ** 2).sum() / p.sum(),
    }


def guided_score(w: float) -> tuple[object, object]:
    """−a(u) x̄ + b(u), the score of x̄ that guidance follows."""
    return (
        lambda u: (1 + w) / (SMALL + u) - w / (LARGE + u),
        lambda u: (1 + w) * M / (SMALL + u),
    )


@formula("11.9", rtol=2e-3)
def ddim_names() -> dict:
    a, b = guided_score(1.4)
    mean, variance = down_to_data(lambda u, m, V: ((a(u) * m - b(u)) / 2, a(u) * V), start=1e9)
    return gaussian_names(1.4) | {r"\mu": mean, "V": variance}


@formula("11.10", rtol=1e-4)
def ancestral_names() -> dict:
    a, b = guided_score(2)
    mean, variance = down_to_data(lambda u, m, V: (a(u) * m - b(u), 2 * a(u) * V - 1))
    rho = SMALL / LARGE
    return gaussian_names(2) | {
        r"\mu": mean,
        "V": variance,
        r"1+\rho+\dots+\rho^{w}": sum(rho**k for k in range(3)),
    }


def said(*predictions: float) -> object:
    """A denoiser with these predictions, for the class 0, for the class 1 and for no class."""

    def denoiser(x: Tensor, t: int, y: Tensor | None = None) -> Prediction:
        return Prediction(torch.tensor(predictions, dtype=F64)[y][:, None])

    denoiser.process = PROCESS
    denoiser.without = lambda y: torch.full_like(y, len(predictions) - 1)
    return denoiser


@formula("11.11")
def range_names() -> list[dict]:
    """The ends are reached where the class is sure of what the others exclude."""
    worlds = []
    for w, predictions in (
        (2.5, (0.0, 1.0, -1.0)),
        (2.5, (0.0, -1.0, 1.0)),
        (0.5, (0.0, 0.9, 0.3)),
    ):
        guided = ClassifierFree(said(*predictions), w)(column(X), t, Y).x0
        reached = {r"\operatorname{tight}": 1e-9} if w == 2.5 else {}
        worlds.append({r"\hat x_0": float(guided), "w": w} | reached)
    return worlds


def fixed(x0: Tensor) -> object:
    def denoiser(x: Tensor, t: int, y: Tensor | None = None) -> Prediction:
        return Prediction(x0)

    denoiser.process = PROCESS
    return denoiser


@formula("11.12")
def threshold_names() -> list[dict]:
    """A prediction that leaves the range, and one that stays inside."""
    worlds = []
    for size in (1.7, 0.4):
        x0 = size * normal(1, 40, seed=5)
        ordered = x0.abs().sort().values[0]
        high = ordered[38] + 0.805 * (ordered[39] - ordered[38])  # 0.995 · 39 = 38.805
        worlds.append(
            {
                r"\hat x_0": x0[0],
                r"\text{static:}": StaticThreshold(fixed(x0))(x0, t).x0[0],
                r"\text{dynamic:}": DynamicThreshold(fixed(x0))(x0, t).x0[0],
                "b": max(1.0, float(high)),
                r"\max": max,
                r"\operatorname{clip}": lambda x, low, high: np.minimum(np.maximum(x, low), high),
                r"Q_{99.5\,\%}": lambda x: np.quantile(x, 0.995),
            }
        )
    return worlds


@formula("11.14", near=1e-2)
def first_prediction_names() -> dict:
    """From a time where all but nothing is left of the data."""
    process = DDPM(torch.tensor([0.0, 0.5, 0.99999], dtype=F64))
    weights, means, stds = MIXTURE.log_weights.exp(), MIXTURE.means, MIXTURE.variances.sqrt()
    data = Mixture(process, weights, means, stds, MIXTURE.labels)
    guided = ClassifierFree(data, 1.7)(column(X), 2, Y).x0
    p = data_density(GRID)
    of_class = p * class_share(GRID)
    mean = float((GRID * p).sum() / p.sum())
    mean_of_class = float((GRID * of_class).sum() / of_class.sum())
    chosen = MIXTURE.labels == 1
    return {
        r"\hat x_0(x_T)": float(guided),
        "w": 1.7,
        r"\mu": float(weights @ means[:, 0]),
        r"\mu_c": float(weights[chosen] @ means[chosen, 0] / weights[chosen].sum()),
        r"\mathbb E[x_0]": mean,
        r"\mathbb E[x_0\mid y=c]": mean_of_class,
    }
