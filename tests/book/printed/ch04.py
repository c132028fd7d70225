"""Chapter 4, the bound."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from scipy import special

from ddpmlib.denoiser import EPS as SAYS_EPS
from ddpmlib.likelihood import (
    bits_per_dim,
    continuous,
    discretised,
    elbo,
    gaussian_kl,
    prior_term,
    reverse_step_term,
)
from ddpmlib.losses import vlb
from ddpmlib.prediction import Prediction
from tests.book.latex import LOOSE, At, Operator
from tests.book.printed.ch02 import conditional
from tests.book.printed.common import (
    ALPHA_BAR,
    F64,
    MIXTURE,
    PROCESS,
    X0,
    D,
    T,
    formula,
    normal,
    process_names,
    t,
)


class Chain:
    """T = 3 steps between three states, and a model of their reversal: everything is a sum.

    Paths are (x_1, x_2, x_3), given x_0 = ``start``. An ``exact`` model is the true reversal.
    """

    T, K = 3, 3

    def __init__(self, start: int, exact: bool) -> None:
        rng = np.random.default_rng(start)
        self.start = start
        self.q0 = rng.dirichlet(np.ones(self.K))
        self.Q = [None, *(rng.dirichlet(np.ones(self.K), self.K) for _ in range(self.T))]
        self.q = [self.q0]  # q(x_t)
        self.given = [np.eye(self.K)]  # q(x_t | x_0), a row for each x_0
        for step in self.Q[1:]:
            self.q.append(self.q[-1] @ step)
            self.given.append(self.given[-1] @ step)
        self.reverse = [None]  # q(x_{t-1} | x_t), a row for each x_t
        for i in range(1, self.T + 1):
            self.reverse.append((self.q[i - 1][:, None] * self.Q[i] / self.q[i]).T)
        self.P = [None, *(rng.dirichlet(np.ones(self.K), self.K) for _ in range(self.T))]
        self.prior = rng.dirichlet(np.ones(self.K))
        if exact:
            self.P, self.prior = self.reverse, self.q[-1]
        self.paths = list(itertools.product(range(self.K), repeat=self.T))

    def posterior(self, i: int, start: int) -> np.ndarray:
        """q(x_{i-1} | x_i, x_0), a row for each x_i."""
        before = self.given[i - 1][start]
        return (before[:, None] * self.Q[i] / self.given[i][start]).T

    def forward(self, start: int) -> np.ndarray:
        """q(x_{1:T} | x_0) of each path."""
        steps = [[start, *path] for path in self.paths]
        return np.array(
            [math.prod(self.Q[i][x[i - 1], x[i]] for i in range(1, self.T + 1)) for x in steps]
        )

    def model(self, start: int) -> np.ndarray:
        """p(x_{0:T}) of each path."""
        steps = [[start, *path] for path in self.paths]
        return np.array(
            [
                self.prior[x[-1]]
                * math.prod(self.P[i][x[i], x[i - 1]] for i in range(1, self.T + 1))
                for x in steps
            ]
        )

    def bound(self, start: int) -> float:
        q = self.forward(start)
        return float(q @ np.log(q / self.model(start)))


def kl(q: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Along the last axis; 0 log 0 = 0."""
    return special.rel_entr(q, p).sum(-1)


def chain_names(chain: Chain) -> dict:
    c, x0 = chain, chain.start
    q, p = c.forward(x0), c.model(x0)
    terms = [
        float(c.given[1][x0] @ -np.log(c.P[1][:, x0])),
        *(float(c.given[i][x0] @ kl(c.posterior(i, x0), c.P[i])) for i in range(2, c.T + 1)),
    ]
    return {
        "T": c.T,
        "t": 2,
        r"p_\theta(x_0)": float(p.sum()),
        r"p_\theta(x_{0:T})": p,
        r"q(x_{1:T}\mid x_0)": q,
        r"p_\theta(x_{1:T}\mid x_0)": p / p.sum(),
        r"x_{1:T}\in": sum,
        r"\mathbb E_{q(x_{1:T}\mid x_0)}": Operator(lambda value: q @ value),
        r"\mathrm{KL}": kl,
        "L(x_0)": c.bound(x0),
        r"q(x_T\mid x_0)": c.given[-1][x0],
        "p(x_T)": c.prior,
        r"\mathbb E_{q(x_t\mid x_0)}": Operator(
            lambda v, value: c.given[v("t")][x0] @ value, scoped=True
        ),
        r"q(x_{t-1}\mid x_t,x_0)": At(lambda v: c.posterior(v("t"), x0)),
        r"p_\theta(x_{t-1}\mid x_t)": At(lambda v: c.P[v("t")]),
        r"\mathbb E_{q(x_1\mid x_0)}": Operator(lambda value: c.given[1][x0] @ value),
        r"p_\theta(x_0\mid x_1)": c.P[1][:, x0],
        "L_T": float(kl(c.given[-1][x0], c.prior)),
        "L_{t-1}": At(lambda v: terms[v("t") - 1]),
        "L_0": terms[0],
        r"\mathbb E_q": Operator(lambda value: c.q0 @ value),
        "L": np.array([c.bound(i) for i in range(c.K)]),
        "H(q)": float(special.entr(c.q0).sum()),
        "q(x_T)": c.q[-1],
        r"\mathbb E_{q(x_t)}": Operator(lambda v, value: c.q[v("t")] @ value, scoped=True),
        r"q(x_{t-1}\mid x_t)": At(lambda v: c.reverse[v("t")]),
    }


@formula("4.2", "4.3", "4.4", "4.6", "4.16")
def discrete_names() -> list[dict]:
    """An exact model reaches the bound."""
    exact = chain_names(Chain(2, exact=True)) | {r"\operatorname{tight}": 1e-9}
    return [chain_names(Chain(1, exact=False)), exact]


@formula("4.1")
def evidence_names() -> dict:
    """Here the densities of x_0 are tables of all states."""
    chain = Chain(1, exact=False)
    p = np.array([chain.model(i).sum() for i in range(chain.K)])
    return {
        r"\mathbb E_{q(x_0)}": Operator(lambda value: chain.q0 @ value),
        r"p_\theta(x_0)": p,
        "q(x_0)": chain.q0,
        "H(q)": float(special.entr(chain.q0).sum()),
        r"\mathrm{KL}": kl,
    }


@formula("4.5")
def markov_names() -> dict:
    """One path's numbers; the conditionals come from the joint table of (x_0, x_1, x_2)."""
    c, x0, x1, x2 = Chain(1, exact=False), 1, 0, 2
    joint = c.q0[:, None, None] * c.Q[1][:, :, None] * c.Q[2][None]
    return {
        r"q(x_t\mid x_{t-1})": joint.sum(0)[x1, x2] / joint.sum((0, 2))[x1],
        r"q(x_t\mid x_{t-1},x_0)": joint[x0, x1, x2] / joint.sum(2)[x0, x1],
        r"q(x_{t-1}\mid x_t,x_0)": joint[x0, x1, x2] / joint.sum(1)[x0, x2],
        r"q(x_t\mid x_0)": joint.sum(1)[x0, x2] / c.q0[x0],
        r"q(x_{t-1}\mid x_0)": joint.sum(2)[x0, x1] / c.q0[x0],
    }


@formula("4.7")
def divergence_names() -> dict:
    m_q, v_q, m_p, v_p = torch.tensor([0.4, 0.7, -0.3, 1.9], dtype=F64)
    return {
        r"\mathrm{KL}(q\Vert p)": gaussian_kl(m_q, v_q.log(), m_p, v_p.log()),
        "m_q": m_q,
        "v_q": v_q,
        "m_p": m_p,
        "v_p": v_p,
    }


@formula("4.8", rtol=1e-7)
def prior_names() -> dict:
    return process_names() | {
        "L_T": float(prior_term(PROCESS, X0[None])),
        "x_{0,i}": At(lambda v: X0[v("i") - 1]),
    }


def step_names(var_mix: float) -> dict:
    """The term of one step, averaged over noisy data and predictions."""
    x0, eps, answer = X0.expand(5, D), normal(5, D, seed=8), normal(5, D, seed=9)
    x_t = PROCESS.q_sample(x0, t, eps)
    prediction = SAYS_EPS.split(answer, x_t, *PROCESS.kernel(t, x_t))[0]
    term = reverse_step_term(PROCESS, x0, x_t, Prediction(prediction, var_mix), t, t - 1)
    variance = PROCESS.posterior_std(t, t - 1, var_mix) ** 2
    ratio = float(PROCESS.beta_tilde[t]) / variance
    return process_names() | {
        "L_{t-1}": float(term.sum(1).mean()),
        r"\mathbb E": Operator(np.mean, LOOSE),
        r"\tilde\mu_t": PROCESS.posterior(x_t, x0, t, t - 1)[0],
        r"\mu_\theta": PROCESS.posterior(x_t, prediction, t, t - 1)[0],
        r"\sigma_t": variance**0.5,
        r"\varepsilon": eps,
        r"\varepsilon_\theta(x_t,t)": answer,
        r"\text{const}": D / 2 * (ratio - 1 - math.log(ratio)),
        r"\mathrm{SNR}": lambda i: ALPHA_BAR[int(i)] / (1 - ALPHA_BAR[int(i)]),
        "x_0": x0,
        r"\hat x_0(x_t,t)": prediction,
    }


@formula("4.9", "4.10")
def any_variance_names() -> dict:
    return step_names(0.4)


@formula("4.11")
def posterior_variance_names() -> dict:
    return step_names(0.0)


@formula("4.12")
def weight_names() -> dict:
    return step_names(0.0) | {"w_t": float(vlb(PROCESS, torch.tensor([t])))}


@formula("4.13", rtol=1e-7)
def decoder_names() -> dict:
    """Three of the 254 inner grey levels."""
    x0 = torch.tensor([101, 128, 77], dtype=F64) * 2 / 255 - 1
    mean, sigma = torch.tensor([-0.2, 0.01, -0.41], dtype=F64), 0.02
    log_p = discretised(x0, mean, torch.tensor(2 * math.log(sigma), dtype=F64))
    return {
        r"p_\theta(x_0\mid x_1)": float(log_p.sum().exp()),
        r"\Phi": special.ndtr,
        "x_{0,i}": At(lambda v: x0[v("i") - 1]),
        r"\mu": torch.cat([torch.zeros(1, dtype=F64), mean]),
        r"\sigma": sigma,
        "d": 3,
    }


@formula("4.14")
def bits_names() -> dict:
    return {
        r"\text{bits/dim}": bits_per_dim(7.3, D),
        r"L(x_0)\ \text{in nats, summed over the } d \text{ dimensions}": 7.3,
        "d": D,
    }


@formula("4.15")
def random_time_names() -> dict:
    generator = torch.Generator().manual_seed(0)
    x0 = torch.tensor([[0.4]], dtype=F64)
    bound = elbo(MIXTURE, PROCESS, x0, decoder=continuous, generator=generator)
    return process_names() | {
        "L(x_0)": float(bound.total),
        "L_T": float(bound.prior),
        r"\mathbb E_t": Operator(np.mean),
        "L_{t-1}(x_0)": torch.cat([bound.decoder[0:1], bound.steps[0].flip(0)]),
    }


@formula("4.17")
def gaussian_names() -> dict:
    """x_{t-1} and x_t as sums of independent sources."""
    v = 0.6
    V = [v]
    for i in range(1, T + 1):
        V.append(float(PROCESS.alpha[i]) * V[-1] + float(PROCESS.beta[i]))
    root = float(PROCESS.alpha[t]) ** 0.5
    cov = np.array([[V[t - 1], root * V[t - 1]], [root * V[t - 1], V[t]]])
    return process_names() | {
        r"\mathrm{Var}(x_{t-1}\mid x_t)": conditional(cov, 0)[1],
        "V": np.array(V),
    }


def gap(beta: float, v: float = 0.7) -> float:
    """The sum (4.16) for Gaussian data, with equal steps and β̃_2 in place of β̃_1 = 0."""
    steps = round(20 / beta)
    alpha_bar = (1 - beta) ** np.arange(steps + 1)
    V = alpha_bar * v + 1 - alpha_bar
    tilde = beta * (1 - alpha_bar[:-1]) / (1 - alpha_bar[1:])
    tilde[0] = tilde[1]
    r = beta * V[:-1] / V[1:] / tilde
    return 0.5 * float((r - 1 - np.log(r)).sum())


@formula("4.18", rtol=5e-4)
def gap_names() -> dict:
    """The limit of small steps, by extrapolation; Euler's constant is NumPy's."""
    limit = 2 * gap(4e-5) - gap(8e-5)
    return {
        r"\lim_{T\to\infty}\ \text{gap}_{\tilde\beta}": limit,
        r"\gamma": np.euler_gamma,
        r"\text{ bits per dimension}": math.log(2) / limit,
    }
