"""Chapter 7, DDIM."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import integrate

from ddpmlib.denoiser import Denoiser
from ddpmlib.denoiser.oracle import Gaussian
from ddpmlib.likelihood import gaussian_kl, prior_term
from ddpmlib.losses import weighted
from ddpmlib.prediction import Prediction
from ddpmlib.process import DDPM
from ddpmlib.samplers import ddim_invert, slerp
from tests.book.latex import LOOSE, At, Normal, Operator
from tests.book.printed.ch03 import Net, net
from tests.book.printed.common import (
    ALPHA_BAR,
    EPS,
    F64,
    NOISE,
    PROCESS,
    X0,
    X_S,
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

ETA = 0.6


def step(x_t: torch.Tensor, x0: torch.Tensor, t: int, s: int, noise: torch.Tensor) -> torch.Tensor:
    return PROCESS.step(x_t, Prediction(x0), t, s, ETA, noise)


def step_std(t: int, s: int) -> float:
    """What the step multiplies its noise with."""
    zero = torch.zeros(1, dtype=F64)
    return float(step(zero, zero, t, s, torch.ones(1, dtype=F64)))


@formula("7.1")
def weighted_names() -> dict:
    gamma = 0.3 + torch.arange(T + 1, dtype=F64) ** 2
    eps, total = normal(T + 1, 4, D, seed=2), 0.0
    x_t = [PROCESS.q_sample(X0.expand(4, D), i, eps[i]) for i in range(T + 1)]
    denoiser = Denoiser(Net(), PROCESS)
    for i in range(1, T + 1):
        times = torch.full((4,), i)
        loss = weighted(lambda process, t: gamma[t], denoiser, X0.expand(4, D), times, eps[i])
        total += float(loss.mean()) * D
    return process_names() | {
        r"L_\gamma(\theta)": total,
        r"\gamma": gamma,
        r"\mathbb E_{x_0,\;x_t\sim q(x_t\mid x_0)}": Operator(np.mean),
        r"\varepsilon": At(lambda v: eps[v("t")]),
        r"\varepsilon_\theta(x_t,t)": At(lambda v: net(x_t[v("t")], v("t"))),
        "x_t": At(lambda v: x_t[v("t")]),
        "x_0": X0,
    }


@formula("7.2", "7.3", "7.4", "7.5", "7.9")
def member_names() -> dict:
    return family(ETA)


@formula("7.6")
def markov_names() -> dict:
    """DDPM, the member whose chain is Markov."""
    return family(1.0)


def family(eta: float) -> dict:
    """Distribution of (x_s, x_t) given x_0 by what the step does to means, x_t and its noise."""
    zero, one = torch.zeros(1, dtype=F64), torch.ones(1, dtype=F64)
    on_x_t = float(PROCESS.step(one, Prediction(zero), t, s, eta, zero))
    std = float(PROCESS.step(zero, Prediction(zero), t, s, eta, one))
    mean = PROCESS.step(X_T, Prediction(X0), t, s, eta, torch.zeros_like(X_T))
    scale_t, std_t = PROCESS.kernel(t, X0)
    scale_s, _ = PROCESS.kernel(s, X0)
    var_s, cov = (on_x_t * std_t) ** 2 + std**2, on_x_t * std_t**2
    eye = np.eye(D)
    back = Normal(
        (scale_t * X0 + cov / var_s * (X_S - scale_s * X0)).numpy(),
        (std_t**2 - cov**2 / var_s) * eye,
    )
    return process_names() | data_names() | {
        r"\sigma": std,
        r"\eta": eta,
        r"\eta\in": (0.0, 1.0),
        r"\sigma_{t\to s}(\eta)": std,
        r"q_\sigma(x_s\mid x_t,x_0)": Normal(mean.numpy(), std**2 * eye),
        r"q_\sigma(x_t\mid x_0)": marginal(eta),
        r"t=1,\dots,T": True,
        r"\rho": cov / (std_t * math.sqrt(var_s)),
        r"\operatorname{Corr}(x_s,x_t\mid x_0)": cov / (std_t * math.sqrt(var_s)),
        r"q_\sigma(x_t|x_s,x_0)": back,
    }  # fmt: skip


def marginal(eta: float) -> Normal:
    """Distribution of x_t given x_0, walking down from x_T."""
    mean, variance = PROCESS.scale[T] * X0, float(PROCESS.std[T]) ** 2
    zero, one = torch.zeros(1, dtype=F64), torch.ones(1, dtype=F64)
    for i in range(T, t, -1):
        mean = PROCESS.step(mean, Prediction(X0), i, i - 1, eta, torch.zeros_like(X0))
        kept = float(PROCESS.step(one, Prediction(zero), i, i - 1, eta, zero))
        added = float(PROCESS.step(zero, Prediction(zero), i, i - 1, eta, one))
        variance = kept**2 * variance + added**2
    return Normal(mean.numpy(), variance * np.eye(D))


FIRST_STD = 0.15  # σ_1, of the decoder


def errors() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Per time: noisy data, a prediction about x_0, and the squared error of its noise."""
    eps, predictions = normal(T + 1, D, seed=2), normal(T + 1, D, seed=3)
    x_t = torch.stack([PROCESS.q_sample(X0, i, eps[i]) for i in range(T + 1)])
    said = torch.stack([PROCESS.eps_from_x0(x_t[i], predictions[i], i) for i in range(1, T + 1)])
    return x_t, predictions, ((said - eps[1:]) ** 2).sum(1)


def step_divergences() -> torch.Tensor:
    """KL of each step t → t−1 from the model's, and −log p(x_0|x_1) without its constant."""
    x_t, predictions, _ = errors()
    terms = [((X0 - predictions[1]) ** 2).sum() / (2 * FIRST_STD**2)]
    for i in range(2, T + 1):
        zero = torch.zeros_like(X0)
        means = [step(x_t[i], x0, i, i - 1, zero) for x0 in (X0, predictions[i])]
        log_var = torch.tensor(2 * math.log(step_std(i, i - 1)), dtype=F64)
        terms.append(gaussian_kl(means[0], log_var, means[1], log_var).sum())
    return torch.stack(terms)


@formula("7.7", rtol=1e-7)
def bound_names() -> dict:
    """L_γ with the weights that the divergences have, and the bound from densities."""
    _, predictions, error = errors()
    weights = step_divergences() / error
    prior = float(prior_term(PROCESS, X0[None]))
    log_p = -0.5 * (((X0 - predictions[1]) / FIRST_STD) ** 2 + math.log(2 * math.pi * FIRST_STD**2))
    bound = prior + float(step_divergences()[1:].sum()) - float(log_p.sum())
    return process_names() | {
        r"J_\sigma": bound,
        r"L_\gamma": float((weights * error).sum()),
        "C": bound - float((weights * error).sum()),
        r"\mathrm{KL}(q(x_T\mid x_0)\Vert p(x_T))": prior,
        r"\sigma_1": FIRST_STD,
    }


@formula("7.8")
def weight_names() -> dict:
    _, _, error = errors()
    zero, one = torch.zeros(1, dtype=F64), torch.ones(1, dtype=F64)
    return process_names() | {
        r"\gamma_t": float((step_divergences() / error)[t - 1]),
        "a_t": float(step(zero, one, t, t - 1, zero)),
        r"\sigma_t": step_std(t, t - 1),
    }


def stretched(x: torch.Tensor, i: int) -> torch.Tensor:
    return x / PROCESS.scale[i]


R = ((1 - PROCESS.alpha_bar) / PROCESS.alpha_bar).sqrt()


@formula("7.10")
def euler_names() -> dict:
    x_s = PROCESS.step(X_T, Prediction(X0), t, s, 0.0)
    return {
        r"\bar x_s": stretched(x_s, s),
        r"\bar x_t": stretched(X_T, t),
        "r_s": R[s],
        "r_t": R[t],
        r"\hat\varepsilon(x_t,t)": PROCESS.eps_from_x0(X_T, X0, t),
    }


@formula("7.11")
def curve_names() -> dict:
    """Data N(0, c²): DDIM's curve is x̄ ∝ √(c² + r²)."""
    c, r = 0.7, float(R[t])
    exact = Gaussian(PROCESS, torch.zeros(1, dtype=F64), torch.tensor([[c**2]], dtype=F64))

    def noise(x: float, time: int) -> float:
        x = torch.tensor([[x]], dtype=F64)
        return float(PROCESS.eps_from_x0(x, exact(x, int(time)).x0, int(time)))

    return {
        r"\bar x": 1.3 * math.hypot(c, r),
        r"\frac{\mathrm d\bar x}{\mathrm dr}": 1.3 * r / math.hypot(c, r),
        "r": r,
        "t": lambda at: int(torch.argmin((R - at).abs())),
        r"\hat\varepsilon": noise,
        r"\bar\alpha": ALPHA_BAR[t],
    }


@formula("7.12", near=2e-2)
def one_step_names() -> dict:
    """From a time where all but nothing is left of the data."""
    process = DDPM(torch.tensor([0.0, 0.5, 0.99999], dtype=F64))
    mean = torch.tensor([0.6], dtype=F64)
    exact = Gaussian(process, mean, torch.tensor([[0.5]], dtype=F64))
    x = torch.tensor([[0.8]], dtype=F64)
    prediction = exact(x, 2).x0
    return {
        r"x_0^{\text{one step}}": process.step(x, Prediction(prediction), 2, 0, 0.0)[0],
        r"\bar x_T": (x / process.scale[2])[0],
        "r_T": process.std[2] / process.scale[2],
        r"\hat\varepsilon(x_T,T)": process.eps_from_x0(x, prediction, 2)[0],
        r"\hat x_0(x_T,T)": prediction[0],
        r"\mathbb E[x_0\mid x_T]": exact(x, 2).x0[0],
        r"\mathbb E[x_0]": mean,
    }


@formula("7.13")
def encoder_names() -> dict:
    *_, end = ddim_invert(Denoiser(Net(), PROCESS), PROCESS, X_S[None], [t, s])
    return {
        r"\bar x_t": stretched(end.x[0], t),
        r"\bar x_s": stretched(X_S, s),
        "r_t": R[t],
        "r_s": R[s],
        r"\hat\varepsilon(x_s,\cdot)": net(X_S, t),
    }


@formula("7.14")
def chord_names() -> dict:
    """Twelve equally likely pairs whose coordinates have variance one and do not correlate."""
    q = np.linalg.qr(normal(12, 2 * D, seed=1).numpy())[0] * math.sqrt(12)
    return {"a": q[:, :D], "b": q[:, D:], "w": 0.3, "d": D, r"\mathbb E": Operator(np.mean, LOOSE)}


@formula("7.15")
def sphere_names() -> dict:
    a, b = EPS, NOISE
    cosine = float(a @ b / (a.norm() * b.norm()))
    return {
        r"\operatorname{slerp}(a,b;w)": slerp(a[None], b[None], 0.3)[0],
        "a": a,
        "b": b,
        "w": 0.3,
        r"\theta": math.acos(cosine),
    }


@formula("7.16", rtol=1e-7)
def restart_names() -> dict:
    """Noise back, then follow the curve of Gaussian data by quadrature of dlog x̄ / dr."""
    c, mean, excess = 0.7, 0.4, 0.3
    scale, std = (float(v) for v in PROCESS.kernel(t, X0))
    r = std / scale
    curve = math.exp(-integrate.quad(lambda q: q / (c**2 + q**2), 0, r)[0])
    variance = curve**2 * (c**2 * (1 + excess) + r**2)
    cov = np.array([[c**2, scale * c**2], [scale * c**2, (scale * c) ** 2 + std**2]])
    correlation = cov[0, 1] / math.sqrt(cov[0, 0] * cov[1, 1])
    return process_names() | {
        r"m_{\text{new}}": curve * mean,
        "m": mean,
        r"\delta_{\text{new}}": variance / c**2 - 1,
        r"\delta": excess,
        r"\lambda_t": correlation,
        r"\operatorname{Corr}(x_0,x_t)": correlation,
        "c": c,
    }
