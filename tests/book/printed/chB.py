"""Appendix B, other people's notation."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import integrate

from ddpmlib.denoiser import SCORE, edm_output, edm_preconditioning
from ddpmlib.denoiser.parameterization import linear as straight_answer
from ddpmlib.denoiser.parameterization import weight as weight_of
from ddpmlib.prediction import Prediction
from ddpmlib.process import (
    DDPM,
    EDM,
    VDM,
    VE,
    VP,
    Process,
    RectifiedFlow,
    beta_from_alpha_bar,
)
from ddpmlib.process import kernel as kernel_at
from ddpmlib.process.schedules import linear, log_snr
from tests.book.latex import Normal, Operator
from tests.book.printed.common import (
    EPS,
    F64,
    NOISE,
    PROCESS,
    X0,
    X_T,
    D,
    data_names,
    formula,
    process_names,
    s,
    t,
)

LAMBDA = log_snr(PROCESS.alpha_bar)


@formula("B.1", "B.2")
def translation_names() -> dict:
    """The book's noisy data on the straight line of rectified flows."""
    u, z = RectifiedFlow().from_book(LAMBDA[t : t + 1], X_T[None])
    a, b = RectifiedFlow().coefficients(u)
    log_snr, back = RectifiedFlow().to_book(u, z)
    return process_names() | data_names() | {
        "z": z[0],
        "x_t": back[0],
        "a": float(a),
        "b": float(b),
        r"\lambda": float(log_snr),
        r"\operatorname{distribution}": lambda value: Normal(0.0, np.eye(D)),
    }  # fmt: skip


@formula("B.3")
def level_names() -> dict:
    scale, std = kernel_at(LAMBDA[t])
    return {r"\lambda": LAMBDA[t], r"\bar\alpha": scale**2, "std": std}


@formula("B.4")
def target_names() -> dict:
    answer = straight_answer("some", lambda a, b: (-0.3, 1.2))
    said = answer.target(X0, EPS, 0.8, 0.5)
    return data_names() | {"F": said, "p": -0.3, "q": 1.2}


@formula("B.5")
def answer_names() -> dict:
    """What any answer stands for."""
    a, b, p, q = 0.8, 0.5, -0.3, 1.2
    answer = straight_answer("some", lambda a, b: (p, q))
    z = a * X0 + b * EPS
    x0, eps = answer.split(NOISE, z, a, b)
    return data_names() | {
        "F": NOISE,
        "z": z,
        r"\hat x_0": x0,
        r"\hat\varepsilon": eps,
        "a": a,
        "b": b,
        "p": p,
        "q": q,
    }


@formula("B.6")
def table_names() -> dict:
    return process_names() | {r"\beta": beta_from_alpha_bar(PROCESS.alpha_bar[1:])}


@formula("B.7")
def vdm_names() -> dict:
    """Their α and σ are our scale and std, their γ is −λ; the step is ours."""
    gamma = VDM().time_of(LAMBDA)
    lengths = torch.stack([LAMBDA[s], LAMBDA[t]])
    (a_s, a_t), (b_s, b_t) = VDM().coefficients(-lengths)
    ratio = PROCESS.variances(t, s)[1] / (1 - PROCESS.alpha_bar[t])
    return {
        "z_s": PROCESS.step(X_T, Prediction(X0), t, s, 1.0, NOISE),
        "z_t": X_T,
        "z'": NOISE,
        r"\hat\varepsilon": PROCESS.eps_from_x0(X_T, X0, t),
        r"\alpha_s": a_s,
        r"\alpha_t": a_t,
        r"\sigma_s": b_s,
        r"\sigma_t": b_t,
        r"\gamma_s": gamma[s],
        r"\gamma_t": gamma[t],
        "c": ratio,
    }


U = torch.tensor([0.37], dtype=F64)
LOW, HIGH = 0.2, 15.0


def rate(u: float) -> float:
    """β(u) of the VP SDE."""
    return LOW + (HIGH - LOW) * u


@formula("B.8")
def vp_names() -> dict:
    a, b = VP(LOW, HIGH).coefficients(U)
    total = integrate.quad(rate, 0, float(U))[0]
    return {
        "a(u)": float(a),
        "b(u)": float(b),
        "B(u)": -2 * math.log(float(a)),
        r"\int_0^u\beta": total,
        r"\beta_\text{min}": LOW,
        r"\beta_\text{max}": HIGH,
        "u": float(U),
    }


@formula("B.9", near=5e-6)
def riemann_names() -> dict:
    """At the end of a chain of small steps, where the two sums of β are equal."""
    T, first, last = 20, 1e-3, 2e-3
    process = DDPM(linear(T, first, last))
    beta = process.beta.numpy()
    higher = sum(float((beta**k).sum()) / k for k in range(3, 12))
    return process_names(process, T, T - 1) | {
        r"\dots": higher,
        "B": lambda u: T * (first * u + (last - first) / 2 * u**2),
    }


@formula("B.10", rtol=1e-8)
def ve_names() -> dict:
    low, high, h = 0.02, 30.0, 1e-3
    sde = VE(low, high)
    a, b = sde.coefficients(U)
    at = sde.coefficients(float(U) + h * torch.tensor([-2, -1, 1, 2], dtype=F64))[1] ** 2
    slope = float(at @ torch.tensor([1, -8, 8, -1], dtype=F64)) / (12 * h)
    return {
        "a": float(a),
        "b(u)": float(b),
        r"\sigma(u)": float(b),
        r"\sigma_\text{min}": low,
        r"\sigma_\text{max}": high,
        "u": float(U),
        "g(u)": math.sqrt(slope),
        r"\frac{\mathrm d\,\sigma(u)^2}{\mathrm du}": slope,
    }


@formula("B.11")
def edm_names() -> dict:
    sigma, width = float(EDM().time_of(LAMBDA[t])), 0.6
    _, c_skip, c_out = edm_preconditioning(sigma, width)
    return data_names() | {
        "F": edm_output(width).target(X0, EPS, 1.0, sigma),
        "z": X0 + sigma * EPS,
        r"c_\text{skip}": c_skip,
        r"c_\text{out}": c_out,
        r"\sigma": sigma,
        "s": width,
    }


def slopes(convention: Process) -> tuple[float, float]:
    """a′ and b′ by differences."""
    h = 1e-3
    ends = convention.coefficients(float(U) + h * torch.tensor([-2, -1, 1, 2], dtype=F64))
    weights = torch.tensor([1, -8, 8, -1], dtype=F64) / (12 * h)
    return float(ends[0] @ weights), float(ends[1] @ weights)


@formula("B.12", "B.13", rtol=1e-7)
def flow_names() -> dict:
    sde = VP(LOW, HIGH)
    (a, b), (da, db) = sde.coefficients(U), slopes(sde)
    flow = sde.velocity(U, X0[None], EPS[None])[0]
    return {
        "V(z,u)": flow,
        "V": flow,
        r"\mathbb E\left[\frac{\mathrm dz}{\mathrm du}\,\Big|\,z\right]": flow,
        r"a'(u)": da,
        r"b'(u)": db,
        r"\hat x_0": X0,
        r"\hat\varepsilon": EPS,
        "a": float(a),
        "b": float(b),
        "f": -rate(float(U)) / 2,
        "g": math.sqrt(rate(float(U))),
        "z": float(a) * X0 + float(b) * EPS,
        r"\nabla\log p(z)": SCORE.target(X0, EPS, float(a), float(b)),
    }


@formula("B.14")
def weight_names() -> dict:
    """Two predictions about the same z."""
    a, b, p, q = 0.8, 0.5, -0.3, 1.2
    answer = straight_answer("some", lambda a, b: (p, q))
    z = a * X0 + b * EPS
    prediction = NOISE
    return data_names() | {
        r"\hat F": answer.target(prediction, (z - a * prediction) / b, a, b),
        "F": answer.target(X0, EPS, a, b),
        "w": float(weight_of(answer, a, b)),
        r"\hat x_0": prediction,
        "a": a,
        "b": b,
        "p": p,
        "q": q,
    }


@formula("B.15", rtol=1e-8)
def straight_names() -> dict:
    """On the line of rectified flows; the end is DDIM's step of the same pair."""
    (a, b), (da, db) = RectifiedFlow().coefficients(U), slopes(RectifiedFlow())
    end = torch.tensor([0.12], dtype=F64)
    a_s, b_s = RectifiedFlow().coefficients(end)
    return {
        "z": float(a) * X0 + float(b) * EPS,
        "u": float(U),
        "u_s": float(end),
        "a": float(a),
        "b": float(b),
        "a'": da,
        "b'": db,
        "a(u_s)": float(a_s),
        "b(u_s)": float(b_s),
        r"\hat x_0": X0,
        r"\hat\varepsilon": EPS,
    }


@formula("B.16", "B.17")
def log_snr_names() -> dict:
    """Ho & Salimans' λ and λ′ are those of t and s; the moments and the step are ours."""
    v = 0.3
    mean, _ = PROCESS.posterior(X_T, X0, t, s)
    beta_tilde, beta = PROCESS.variances(t, s)
    return {
        r"\lambda": LAMBDA[t],
        r"\lambda'": LAMBDA[s],
        r"\alpha_\lambda": PROCESS.scale[t],
        r"\alpha_{\lambda'}": PROCESS.scale[s],
        r"\sigma_\lambda": PROCESS.std[t],
        r"\sigma_{\lambda'}": PROCESS.std[s],
        r"z_\lambda": X_T,
        r"z_{\lambda'}": PROCESS.step(X_T, Prediction(X0, v), t, s, 1.0, NOISE),
        r"\tilde x": X0,
        r"\tilde\mu_{\lambda'\mid\lambda}": mean,
        r"\tilde\sigma_{\lambda'\mid\lambda}": math.sqrt(beta_tilde),
        r"\sigma_{\lambda\mid\lambda'}": math.sqrt(beta),
        "v": v,
        "z'": NOISE,
    }


@formula("B.18")
def training_level_names() -> dict:
    """An angle whose cosine is the scale runs evenly from one end to the other."""
    low, high, u = -9.0, 7.0, float(U)
    first, last = (math.acos(float(kernel_at(torch.tensor(v, dtype=F64))[0])) for v in (high, low))
    angle = (1 - u) * first + u * last
    return {
        r"\lambda": math.log(math.cos(angle) ** 2 / math.sin(angle) ** 2),
        r"\lambda_\text{max}": high,
        r"\lambda_\text{min}": low,
        r"\arctan": Operator(np.arctan),
        "a": last - first,
        "b": first,
        "u": u,
    }
