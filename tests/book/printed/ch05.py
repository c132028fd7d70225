"""Chapter 5, schedules and weightings."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import integrate

from ddpmlib.denoiser import EPS as SAYS_EPS
from ddpmlib.denoiser import V as SAYS_V
from ddpmlib.denoiser.parameterization import edm_preconditioning
from ddpmlib.likelihood import reverse_step_term
from ddpmlib.prediction import Prediction
from ddpmlib.process import DDPM, VP
from ddpmlib.process.schedules import BETA_FIRST, BETA_LAST, T_REFERENCE, cosine, log_snr, sigmoid
from tests.book.latex import LOOSE, At, Normal, Operator
from tests.book.printed.common import (
    EPS,
    F64,
    PROCESS,
    X0,
    X_T,
    D,
    T,
    data_names,
    formula,
    normal,
    process_names,
    s,
    t,
)


@formula("5.1")
def sigmoid_names() -> dict:
    first, last = 0.02, 0.35
    return process_names(DDPM(sigmoid(T, first, last))) | {
        r"\beta_{\text{first}}": first,
        r"\beta_{\text{last}}": last,
        "u_t": np.linspace(-6, 6, T)[t - 1],
    }


@formula("5.2")
def log_snr_names() -> dict:
    lam = log_snr(PROCESS.alpha_bar)
    names = process_names() | data_names()
    alpha_bar = PROCESS.alpha_bar[t]
    return names | {
        r"\lambda": lam[t],
        r"\lambda_t": lam[t],
        r"\bar\alpha": alpha_bar,
        r"\bar\alpha_t": alpha_bar,
    }


@formula("5.3")
def limit_names() -> dict:
    first, last, steps = BETA_FIRST, BETA_LAST, T_REFERENCE
    u = 0.37
    a, _ = VP().coefficients(torch.tensor([u], dtype=F64))
    return {
        r"\bar\alpha(u)": float(a**2),
        "b": lambda r: steps * (first + (last - first) * r),
        "u": u,
    }


@formula("5.4", "5.5", rtol=1e-7)
def density_names() -> dict:
    """The cosine path: how densely u covers the log-SNR, by differences."""
    process = DDPM(cosine(10, offset=0.0, max_beta=1.0))
    u, h = 0.3, 1e-4
    lam = float(log_snr(process.alpha_bar)[3])

    def back(value: float) -> float:
        return 2 / math.pi * math.atan(math.exp(-value / 2))

    def forth(u: float) -> float:
        return float(log_snr(torch.tensor(math.cos(math.pi * u / 2) ** 2, dtype=F64)))

    slope = (back(lam + h) - back(lam - h)) / (2 * h)
    return {
        r"p(\lambda)": abs(slope),
        r"\frac{\mathrm du}{\mathrm d\lambda}": slope,
        r"\lambda'(u)": (forth(u + h) - forth(u - h)) / (2 * h),
        r"\lambda(u)": lam,
        r"\lambda": lam,
        "u": u,
    }


@formula("5.6")
def step_names() -> dict:
    x0, eps, prediction = X0.expand(5, D), normal(5, D, seed=8), normal(5, D, seed=9)
    x_t = PROCESS.q_sample(x0, t, eps)
    term = reverse_step_term(PROCESS, x0, x_t, Prediction(prediction, 0.0), t, s)
    return process_names() | {
        r"L_{t\to s}": float(term.sum(1).mean()),
        r"\mathrm E": Operator(np.mean, LOOSE),
        "x_0": x0,
        r"\hat x_0(x_t,t)": prediction,
    }


class Path:
    """λ(u) = 4 − 7u − u² and data N(0, c²), whose errors are known at every noise level."""

    c, high, low = 0.8, 4.0, -4.0

    def at(self, u: float) -> float:
        return self.high - 7 * u - u**2

    def slope(self, u: float) -> float:
        return -7 - 2 * u

    def back(self, lam: float) -> float:
        return (-7 + math.sqrt(49 + 4 * (self.high - lam))) / 2

    def mse(self, snr: float) -> float:
        """Var(x_0 | x_t): a gain g = c²·snr/(1 + c²·snr) leaves (1−g)² c² + g²/snr."""
        gain = self.c**2 * snr / (1 + self.c**2 * snr)
        return (1 - gain) ** 2 * self.c**2 + gain**2 / snr

    def noise_error(self, lam: float) -> float:
        return math.exp(lam) * self.mse(math.exp(lam))

    def fourth(self, lam: float) -> float:
        return 3 * self.noise_error(lam) ** 2

    def over_u(self, f: object) -> float:
        return integrate.quad(f, 0, 1, epsabs=1e-12)[0]


@formula("5.7", "5.8", "5.9", "5.10", "5.11", "5.12")
def path_names() -> dict:
    path = Path()
    bound = path.over_u(lambda u: -0.5 * path.slope(u) * path.noise_error(path.at(u)))
    second = path.over_u(lambda u: 0.25 * path.slope(u) ** 2 * path.fourth(path.at(u)))
    root = path.over_u(lambda u: -path.slope(u) * path.fourth(path.at(u)) ** 0.5)
    best = path.over_u(lambda u: -path.slope(u) * path.fourth(path.at(u)) ** 0.5 * root) / 4
    lam, u = 0.9, np.linspace(0, 1, 2001)

    def weight(lam: float) -> float:
        return 1 / (1 + math.exp(lam - 1))

    levels = [path.at(one) for one in u]
    return {
        "c": path.c,
        r"L_\infty": bound,
        r"\operatorname{mse}": path.mse,
        r"\operatorname{SNR}_{\min}": math.exp(path.low),
        r"\operatorname{SNR}_{\max}": math.exp(path.high),
        r"\lambda_{\min}": path.low,
        r"\lambda_{\max}": path.high,
        r"\lambda'": path.slope,
        r"\lambda": lam,
        r"\lambda\in": (path.low, path.high),
        "u": None,
        r"\mathrm E\lVert\varepsilon-\hat\varepsilon\rVert^2": At(
            lambda v: path.noise_error(v(r"\lambda") if v("u") is None else path.at(v("u")))
        ),
        "m": path.fourth,
        "p": lambda lam: -1 / path.slope(path.back(lam)),
        r"\operatorname{Var}": second - bound**2,
        r"p^*(\lambda)": path.fourth(lam) ** 0.5 / root,
        r"\int\sqrt m": root,
        r"\operatorname{Var}_{\min}": best - bound**2,
        "L_w": path.over_u(lambda u: weight(path.at(u)) * path.noise_error(path.at(u))),
        r"\mathrm E_u": Operator(lambda value: integrate.simpson(value, x=u)),
        "w": np.array([weight(one) for one in levels]),
        r"\lVert\varepsilon-\hat\varepsilon\rVert^2": np.array(
            [path.noise_error(one) for one in levels]
        ),
        r"w(\lambda)": At(lambda v: weight(v(r"\lambda"))),
    }


@formula("5.13")
def error_names() -> dict:
    """One prediction, said in three ways."""
    scale, std = PROCESS.kernel(t, X_T)
    answer = normal(D, seed=9)
    prediction = SAYS_EPS.split(answer, X_T, scale, std)[0]
    return data_names() | {
        r"\hat\varepsilon": answer,
        r"\hat x_0": prediction,
        "v": SAYS_V.target(X0, EPS, scale, std),
        r"\hat v": SAYS_V.target(prediction, answer, scale, std),
        r"\operatorname{SNR}": log_snr(PROCESS.alpha_bar)[t].exp(),
        r"\bar\alpha": PROCESS.alpha_bar[t],
    }


@formula("5.14")
def shift_names() -> dict:
    """Averaging n × n pixels multiplies the SNR by n²: at the shifted level it is the old one."""
    n, alpha_bar = 3, PROCESS.alpha_bar[t]
    snr = alpha_bar / (1 - alpha_bar) / n**2
    return {
        "n": n,
        r"\lambda(u)": log_snr(alpha_bar),
        r"\lambda'(u)": snr.log(),
        r"\bar\alpha": alpha_bar,
        r"\bar\alpha'": snr / (1 + snr),
    }


@formula("5.15")
def brightness_names() -> dict:
    """A start z goes to the brightness with as many deviations as z has in q(x_T)."""
    m, tau, pixels, alpha_bar = 0.3, 0.4, 64, 0.01
    V = alpha_bar * pixels * tau**2 + 1 - alpha_bar

    def brightness(z: float) -> float:
        return m + tau * (z - math.sqrt(alpha_bar * pixels) * m) / math.sqrt(V)

    return {
        r"\text{brightness}": Normal(brightness(0), (brightness(1) - brightness(0)) ** 2),
        "m": m,
        r"\tau": tau,
        "V": V,
        "D": pixels,
        r"\bar\alpha_T": alpha_bar,
    }


@formula("5.16")
def terminal_names() -> dict:
    """The straight line that keeps the first amplitude and makes the last one zero."""
    a = PROCESS.scale.numpy()
    slope, shift = np.linalg.solve([[a[1], 1], [a[T], 1]], [a[1], 0])
    return process_names() | {r"\bar\alpha_t'": (slope * a[t] + shift) ** 2}


@formula("5.17")
def preconditioned_names() -> dict:
    """Karras et al.: the answer F and its target F* of one prediction, through the output type."""
    scale, std = PROCESS.kernel(t, X_T)
    prediction = SAYS_EPS.split(normal(D, seed=9), X_T, scale, std)[0]
    deviation, lam = 0.7, float(log_snr(PROCESS.alpha_bar)[t])
    sigma, z = math.exp(-lam / 2), X_T / scale
    _, skip, out = edm_preconditioning(sigma, deviation)
    return data_names() | {
        "F": (prediction - skip * z) / out,
        "F^*": (X0 - skip * z) / out,
        r"\hat x_0": prediction,
        r"c_{\text{out}}": out,
        r"\lambda": lam,
        "s": deviation,
        r"\hat\varepsilon": (X_T - scale * prediction) / std,
    }
