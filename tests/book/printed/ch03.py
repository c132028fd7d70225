"""Chapter 3, training and sampling."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ddpmlib.denoiser import EPS as SAYS_EPS
from ddpmlib.denoiser import X0 as SAYS_X0
from ddpmlib.denoiser import Denoiser
from ddpmlib.denoiser import V as SAYS_V
from ddpmlib.losses import l_simple
from ddpmlib.models.embedding import sinusoidal
from ddpmlib.models.unet import AdaGN, SelfAttention
from ddpmlib.prediction import Prediction
from ddpmlib.samplers import ddim_invert
from ddpmlib.textbook import algorithm_1_loss, ddim_update
from tests.book.latex import Operator
from tests.book.printed.common import (
    EPS,
    F64,
    NOISE,
    PROCESS,
    X0,
    X_S,
    X_T,
    D,
    data_names,
    formula,
    normal,
    process_names,
    s,
    t,
)


def net(x: Tensor, t: Tensor | int, y: Tensor | None = None) -> Tensor:
    """An ε-network of one line."""
    time = torch.as_tensor(t, dtype=F64).reshape(-1, *[1] * (x.ndim - 1)) if x.ndim > 1 else t
    return 0.3 * torch.sin(2 * x) + 0.05 * time


class Net(nn.Module):
    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return net(x, t)


def printed_net(x: np.ndarray, t: int) -> Tensor:
    return net(torch.as_tensor(x), t)


@formula("3.1")
def algorithm_names() -> dict:
    loss = algorithm_1_loss(net, X0[None], t, EPS[None], PROCESS.alpha_bar)
    return (
        process_names()
        | data_names()
        | {r"\ell_t(\theta)": float(loss), r"\varepsilon_\theta": printed_net}
    )


@formula("3.2")
def simple_loss_names() -> dict:
    x0, eps = normal(5, D, seed=6), normal(5, D, seed=7)
    times = torch.tensor([1, 3, 5, 7, 9])
    x_t = PROCESS.q_sample(x0, times, eps)
    loss = l_simple(Denoiser(Net(), PROCESS), x0, times, eps)  # a mean over dimensions
    return {
        r"L_{\text{simple}}(\theta)": float(loss.mean()) * D,
        r"\mathbb E_{t,x_0,\varepsilon}": Operator(np.mean),
        r"\varepsilon": eps,
        r"\varepsilon_\theta(x_t,t)": net(x_t, times),
    }


def prediction(eps: Tensor) -> Tensor:
    scale, std = PROCESS.kernel(t, X_T)
    return SAYS_EPS.split(eps, X_T, scale, std)[0]


@formula("3.3")
def ancestral_names() -> dict:
    eps = printed_net(X_T.numpy(), t)
    guess = Prediction(prediction(eps), 0.7)
    return (
        process_names()
        | data_names()
        | {
            "x_{t-1}": PROCESS.step(X_T, guess, t, t - 1, 1.0, NOISE),
            r"\varepsilon_\theta(x_t,t)": eps,
            r"\sigma_t": PROCESS.posterior_std(t, t - 1, 0.7),
        }
    )


@formula("3.4", "11.13")
def from_noise_names() -> dict:
    eps = printed_net(X_T.numpy(), t)
    return process_names() | data_names() | {r"\hat\varepsilon": eps, r"\hat x_0": prediction(eps)}


@formula("3.5")
def from_data_names() -> dict:
    scale, std = PROCESS.kernel(t, X_T)
    eps = SAYS_X0.split(NOISE, X_T, scale, std)[1]
    return process_names() | data_names() | {r"\hat\varepsilon": eps, r"\hat x_0": NOISE}


@formula("3.6")
def from_velocity_names() -> dict:
    x0, eps = SAYS_V.split(NOISE, X_T, *PROCESS.kernel(t, X_T))
    return (
        process_names()
        | data_names()
        | {r"\hat v": NOISE, r"\hat x_0": x0, r"\hat\varepsilon": eps}
    )


@formula("3.7")
def step_names() -> dict:
    eps = printed_net(X_T.numpy(), t)
    return (
        process_names()
        | data_names()
        | {
            "x_s": PROCESS.step(X_T, Prediction(prediction(eps), 0.3), t, s, 0.6, NOISE),
            r"\hat x_0": prediction(eps),
            r"\hat\varepsilon": eps,
            r"\eta": 0.6,
            r"\sigma_{t\to s}": PROCESS.posterior_std(t, s, 0.0),  # as η < 1
        }
    )


@formula("3.8")
def ddim_names() -> dict:
    sigma = torch.tensor(0.21, dtype=F64)
    a_t, a_s = PROCESS.alpha_bar[t], PROCESS.alpha_bar[s]
    eps = normal(D, seed=9)
    return (
        process_names()
        | data_names()
        | {
            "x_s": ddim_update(X_T, eps, a_t, a_s, sigma, NOISE),
            r"\hat\varepsilon": eps,
            r"\text{predicted }x_0": prediction(eps),
            r"\text{direction to }x_t": ddim_update(0 * X_T, eps, a_t, a_s, sigma, 0 * NOISE)
            - PROCESS.scale[s] * prediction(eps)
            + PROCESS.scale[s] / PROCESS.scale[t] * X_T,
            r"\sigma": sigma,
        }
    )


@formula("3.9", rtol=1e-8)
def inversion_names() -> dict:
    *_, end = ddim_invert(Denoiser(Net(), PROCESS), PROCESS, X_S[None], [t, s], refine=200)
    return process_names() | {
        "x_s": X_S,
        "x_t": end.x[0],
        r"\hat\varepsilon(x_t,t)": printed_net(end.x[0].numpy(), t),
    }


@formula("3.10", rtol=1e-4)
def embedding_names() -> dict:
    d = 8
    rates = torch.logspace(0, -4, d // 2 + 1, dtype=F64)[:-1]
    return {
        r"\operatorname{emb}": lambda time: sinusoidal(torch.tensor([time]), d)[0],
        r"\omega": rates,
        "t": 37,
        "k": 3,
        "d": d,
    }


@formula("3.11")
def modulation_names() -> dict:
    torch.manual_seed(0)
    block = AdaGN(2, 4, 5).double().requires_grad_(False)
    nn.init.normal_(block.film.weight)
    h, e = normal(1, 4, 2, 2, seed=1), normal(1, 5, seed=2)
    a, b = block.film(e)[:, :, None, None].chunk(2, dim=1)
    return {
        r"\operatorname{AdaGN}": lambda h, e: block(torch.as_tensor(h), torch.as_tensor(e)),
        r"\operatorname{GroupNorm}": lambda h: block.norm(torch.as_tensor(h)),
        "a": lambda e: a,
        "b": lambda e: b,
        "h": h,
        "e": e,
    }


@formula("3.12")
def attention_names() -> dict:
    """One head whose last map is the identity: what comes out, less what went in, is attention."""
    torch.manual_seed(0)
    layer = SelfAttention(4, 1, 2).double().requires_grad_(False)
    layer.out = nn.Identity()
    x = normal(1, 4, 2, 3, seed=1)
    columns = layer.qkv(layer.norm(x)).flatten(2)[0].T  # (pixels, 3·4)
    Q, K, V = columns.chunk(3, dim=1)
    return {
        r"\operatorname{Attention}(Q,K,V)": (layer(x) - x).flatten(2)[0].T,
        r"\operatorname{softmax}": lambda scores: torch.softmax(torch.as_tensor(scores), -1),
        "Q": Q,
        "K": K,
        "V": V,
        "d": 4,
    }
