"""Chapter 10, scores, Langevin dynamics and classifier guidance."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import integrate
from torch import Tensor

from ddpmlib.denoiser.oracle import Gaussian
from ddpmlib.guidance import ClassifierGuidance, MeanShift, class_gradient
from ddpmlib.prediction import Prediction
from ddpmlib.samplers import langevin, step_size
from tests.book.latex import At, Derivative, Normal, Operator
from tests.book.printed.common import (
    F64,
    MIXTURE,
    PROCESS,
    bells,
    column,
    data_density,
    formula,
    process_names,
    s,
    t,
)

X, Y = 0.43, torch.tensor([1])
GRID = np.linspace(-6, 6, 4001)


def class_share(x: float) -> float:
    """p(y | x_0) of the class whose components are 1 and 2."""
    return 1 - bells(x, 0) / data_density(x)


def back_density(x0: float, x_t: float = X) -> float:
    """q(x_0 | x_t)."""
    scale, variance = float(PROCESS.scale[t]), float(PROCESS.std[t]) ** 2
    kernel = np.exp(-((x_t - scale * x0) ** 2) / (2 * variance)) / np.sqrt(2 * math.pi * variance)
    return data_density(x0) * kernel / sum(bells(x_t, k, t) for k in range(3))


def mean_given_x_t(value: np.ndarray, x_t: float = X) -> float:
    """E[f(x_0) | x_t] of values on the grid."""
    return float(integrate.simpson(value * back_density(GRID, x_t), x=GRID))


@formula("10.1", rtol=1e-8)
def score_names() -> dict:
    prediction = MIXTURE(column(X), t).x0
    return process_names() | {
        "x_t": X,
        r"\nabla\log q(x_t)": float(MIXTURE.score(column(X), t)),
        r"\hat x_0": float(prediction),
        r"\hat\varepsilon": float(PROCESS.eps_from_x0(column(X), prediction, t)),
        r"\mathbb E[x_0\mid x_t]": mean_given_x_t(GRID),
    }


@formula("10.2")
def langevin_names() -> dict:
    generator, h = torch.Generator().manual_seed(5), 0.07
    *_, after = langevin(MIXTURE, PROCESS, column(X), t, h, 1, generator=generator)
    z = torch.randn(1, 1, generator=generator.manual_seed(5), dtype=F64)
    return {
        "x": X,
        r"x\leftarrow": float(after.x),
        "h": h,
        r"\nabla\log p(x)": float(MIXTURE.score(column(X), t)),
        "z": float(z),
        "I": 1.0,
        r"\operatorname{distribution}": lambda value: Normal(0.0, 1.0),
    }


@formula("10.3", rtol=1e-6)
def fokker_planck_names() -> dict:
    """Langevin dynamics towards N(0, σ²) from N(1, v): mean and variance relax exponentially."""
    variance, v = 0.8, 0.3

    def bell(x: float, mean: float, variance: float) -> float:
        return math.exp(-((x - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)

    def moving(look: object) -> float:
        fade = math.exp(-look(r"\tau") / variance)
        return bell(look("x"), fade, variance + (v - variance) * fade**2)

    return {
        "x": 0.35,
        r"\tau": 0.4,
        r"p_\tau": At(moving),
        "p": At(lambda look: bell(look("x"), 0.0, variance)),
        r"\nabla": Derivative("x"),
        r"\nabla\cdot": Derivative("x"),
        r"\Delta": Derivative("x", 2),
        r"\partial_\tau": Derivative(r"\tau"),
    }


@formula("10.4")
def bias_names() -> dict:
    """The variance of a chain of steps, which are linear for a Gaussian."""
    data = Gaussian(PROCESS, torch.zeros(1, dtype=F64), torch.tensor([[0.4]], dtype=F64))
    variance = 0.4 * float(PROCESS.alpha_bar[t]) + 1 - float(PROCESS.alpha_bar[t])
    h, V = 0.3, 0.9
    factor = 1 + h * float(data.score(column(1.0), t))
    settled = V
    for _ in range(500):
        settled = factor**2 * settled + 2 * h
    return {
        "V": V,
        r"V\leftarrow": factor**2 * V + 2 * h,
        "h": h,
        r"h\in": (0.0, 2 * h / (1 - factor)),  # where the factor is −1
        r"\sigma": math.sqrt(variance),
        "V_h": settled,
    }


@formula("10.5")
def step_size_names() -> dict:
    return process_names() | {"h_t": step_size(PROCESS, t, 0.16), "r": 0.16, r"r\in": (0.0, 1.0)}


def conditional(x: float = X) -> float:
    return float(MIXTURE(column(x), t, Y).x0)


@formula("10.6", "10.8", "11.1")
def bayes_names() -> dict:
    slope = float(class_gradient(MIXTURE.class_logits, column(X), t, Y))
    return process_names() | {
        r"\nabla\log q(x_t\mid y)": float(MIXTURE.given(1).score(column(X), t)),
        r"\nabla\log q(x_t)": float(MIXTURE.score(column(X), t)),
        r"\nabla\log p(y\mid x_t)": slope,
        r"\nabla\log q(y\mid x_t)": slope,
        r"\mathbb E[x_0\mid x_t,y]": conditional(),
        r"\mathbb E[x_0\mid x_t]": float(MIXTURE(column(X), t).x0),
    }


@formula("10.7", rtol=1e-8)
def classifier_names() -> dict:
    return {
        r"p(y\mid x_t)": float(MIXTURE.class_logits(column(X), t).exp()[0, 1]),
        r"p(y\mid x_0,x_t)": At(lambda v: class_share(v("x_0"))),
        r"q(x_0\mid x_t)": At(lambda v: back_density(v("x_0"))),
        r"x_0\in": (-6.0, 6.0),
        "x_0": 0.0,
        "x_t": X,
        r"\mathbb E": Operator(lambda value, x_t: mean_given_x_t(value, x_t)),
        r"p(y\mid x_0)": class_share(GRID),
    }


@formula("10.9")
def guided_names() -> dict:
    strength, x = 1.7, column(X)
    before = MIXTURE(x, t).x0

    def unconditional(x: Tensor, t: int, y: Tensor | None = None) -> Prediction:
        return MIXTURE(x, t)

    unconditional.process = PROCESS
    after = ClassifierGuidance(unconditional, MIXTURE.class_logits, strength)(x, t, Y).x0
    return process_names() | {
        "s": strength,
        r"\hat\varepsilon": float(PROCESS.eps_from_x0(x, before, t)),
        r"\hat\varepsilon\leftarrow": float(PROCESS.eps_from_x0(x, after, t)),
        r"\hat x_0": float(before),
        r"\hat x_0\leftarrow": float(after),
        r"\nabla\log p(y\mid x_t)": float(class_gradient(MIXTURE.class_logits, x, t, Y)),
    }


def plain(var_mix: float) -> object:
    """The mixture's prediction without classes, with a variance."""

    def denoiser(x: Tensor, t: int, y: Tensor | None = None) -> Prediction:
        return Prediction(MIXTURE(x, t).x0, var_mix)

    denoiser.process = PROCESS
    return denoiser


@formula("10.10")
def mean_shift_names() -> dict:
    """The library asks its classifier at x_t: this one answers for the mean of the step."""
    strength, x, still = 1.7, column(X), torch.zeros(1, 1, dtype=F64)
    mean = PROCESS.step(x, plain(0.3)(x, t), t, s, 1.0, still)

    def classifier(at: Tensor, times: Tensor) -> Tensor:
        return MIXTURE.class_logits(mean + (at - x), s)

    guided = MeanShift(plain(0.3), classifier, strength, [t, s, 0])(x, t, Y)
    slope = float(class_gradient(MIXTURE.class_logits, mean, s, Y))
    covariance = PROCESS.posterior_std(t, s, 0.3) ** 2
    return {
        "x_{t'}": Normal(float(PROCESS.step(x, guided, t, s, 1.0, still)), covariance),
        r"\mu": float(mean),
        "s": strength,
        r"\Sigma": covariance,
        "g": slope,
        r"\nabla\log p(y\mid x_{t'})": slope,
        r"x_{t'}=\mu": True,
    }


def shift(wrapper: object) -> float:
    x, still = column(X), torch.zeros(1, 1, dtype=F64)
    predictions = wrapper(x, t, Y), MIXTURE(x, t)
    moved, before = (PROCESS.step(x, prediction, t, s, 1.0, still) for prediction in predictions)
    return float(moved - before)


@formula("10.11")
def forms_names() -> dict:
    def form_2(var_mix: float) -> float:
        return shift(MeanShift(plain(var_mix), MIXTURE.class_logits, 1.0, [t, s, 0]))

    form_1 = shift(ClassifierGuidance(plain(0.0), MIXTURE.class_logits, 1.0))
    return process_names() | {
        "t'": s,
        r"\text{shift of form 1}": form_1,
        r"\text{shift of form 2}": form_2(1.0),
        r"\text{and}": form_2(0.0) / form_1,
    }


# ---- what guided chains end at, by their differential equations ----------------------------------


def down_to_data(slopes: object, start: float = 1e6) -> np.ndarray:
    """(mean, variance) at u = 0 from (0, u) at u = start; ``slopes(u, mean, variance)`` per du.

    In y = log(1 + u), in which a long way is short.
    """

    def body(y: float, values: np.ndarray) -> np.ndarray:
        u = math.expm1(y)
        return np.array(slopes(u, *values)) * (1 + u)

    solved = integrate.solve_ivp(
        body, (math.log1p(start), 0), [0.0, start], rtol=1e-9, atol=1e-11, method="LSODA"
    )
    return solved.y[:, -1]


@formula("10.12", "10.13", "10.14", rtol=1e-4)
def variance_names() -> dict:
    c, strength, tau = 0.4, 2.3, 0.7

    def a(u: float) -> float:
        return strength / (c + u) - (strength - 1) / (1 + u)

    def cooler(u: float) -> float:
        return 1 / (tau * (c + u))

    tempered = np.exp(-(GRID**2) / (2 * c) / tau)
    ddim = down_to_data(lambda u, m, V: (0.0, a(u) * V))[1]
    ancestral = down_to_data(lambda u, m, V: (0.0, 2 * a(u) * V - 1))[1]
    cooled = down_to_data(lambda u, m, V: (0.0, 2 * cooler(u) * V - 1))[1]
    return {
        "c": c,
        "s": strength,
        r"\tau": tau,
        r"\operatorname{Var}_{\text{DDIM}}(s)": ddim,
        r"\operatorname{Var}_{\text{ancestral}}(s)": ancestral,
        r"\operatorname{Var}_{\text{ancestral}}(\tau)": cooled,
        r"\text{instead of}": float((tempered * GRID**2).sum() / tempered.sum()),
    }
