"""Chapters 8 and 9, metrics and what they are worth."""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from scipy import integrate, linalg, optimize, special, stats

from ddpmlib.evaluation import Moments, frechet_distance, inception_score, kid, precision_recall
from ddpmlib.experiments import over_seeds, share_error, times_floor
from tests.book.latex import LOOSE, At, Operator
from tests.book.printed.common import F64, D, formula, normal

A, B = normal(9, D, seed=1), normal(7, D, seed=2) * 0.8 + 0.3
C_A, C_B = torch.cov(A.T).numpy(), torch.cov(B.T).numpy()
M_A, M_B = A.mean(0), B.mean(0)


def root(C: np.ndarray) -> np.ndarray:
    return np.real(linalg.sqrtm(C))


@formula("8.1")
def transport_names() -> dict:
    """On a line the best plan keeps the order; a linear programme finds it among all plans."""
    x, y = normal(6, 1, seed=1).numpy(), normal(6, 1, seed=2).numpy()

    def least(cost: np.ndarray) -> float:
        cost = cost.reshape(6, 6)
        return float(cost[optimize.linear_sum_assignment(cost)].mean())

    return {
        "W_2^2(P,Q)": float(np.mean((np.sort(x, 0) - np.sort(y, 0)) ** 2)),
        r"\min_{\pi}\; \mathbb E_{(x,y)\sim\pi}": Operator(least, LOOSE),
        "x": x[:, None, None],
        "y": y[None, None],
    }


@formula("8.2")
def coupling_names() -> dict:
    """Equally likely pairs."""
    x, y = A[:6], 0.5 * A[:6] + normal(6, D, seed=3)
    K = (x - x.mean(0)).T @ (y - y.mean(0)) / 6
    return {
        r"\mathbb E": Operator(np.mean, LOOSE),
        "x": x,
        "y": y,
        "m_a": x.mean(0),
        "m_b": y.mean(0),
        "C_a": torch.cov(x.T, correction=0),
        "C_b": torch.cov(y.T, correction=0),
        "K": K,
    }


@formula("8.3", rtol=1e-6)
def line_names() -> dict:
    """W_2² of two Gaussians on a line, by their quantiles."""
    m_a, s_a, m_b, s_b = 0.4, 1.3, -0.2, 0.5
    z = stats.norm.ppf((np.arange(400_000) + 0.5) / 400_000)
    z /= z.std()
    squared = float(np.mean((m_a + s_a * z - m_b - s_b * z) ** 2))
    return {"W_2^2": squared, "m_a": m_a, "m_b": m_b, r"\sigma_a": s_a, r"\sigma_b": s_b}


@formula("8.4", "8.5", "8.6", "8.7")
def gaussian_names() -> dict:
    """The largest trace is a sum of singular values; the best map has a twin form."""
    moments = [Moments.of(features) for features in (A, B)]
    singular = np.linalg.svd(root(C_A) @ root(C_B))[1]
    inner = root(root(C_B) @ C_A @ root(C_B))
    map_ = root(C_B) @ np.linalg.inv(inner) @ root(C_B)
    x = normal(D, seed=4)
    return {
        r"\max_\pi \operatorname{tr} K": float(singular.sum()),
        "W_2^2": frechet_distance(*moments),
        "C_a": C_A,
        "C_b": C_B,
        "m_a": M_A,
        "m_b": M_B,
        "T": map_,
        "x": x,
        "y": M_B.numpy() + map_ @ (x - M_A).numpy(),
    }


def score_names(logits: torch.Tensor) -> dict:
    p = torch.softmax(logits, 1)
    return {
        r"\mathrm{IS}": inception_score(logits, splits=1).mean,
        r"\log\mathrm{IS}": math.log(inception_score(logits, splits=1).mean),
        r"\mathbb E_x": Operator(np.mean),
        r"\mathrm{KL}": lambda a, b: special.rel_entr(a, b).sum(-1),
        "H": lambda a: special.entr(a).sum(-1),
        r"p(y\mid x)": p,
        "p(y)": p.mean(0),
        "K": logits.shape[1],
    }


@formula("8.8", "8.9")
def inception_names() -> dict:
    return score_names(normal(8, 4, seed=1) * 2)


@formula("8.10", rtol=1e-6)
def inception_range_names() -> list[dict]:
    """Nothing recognised at the lower end, every class once and for sure at the upper one."""
    ends = torch.zeros(4, 4, dtype=F64), 60 * torch.eye(4, dtype=F64)
    return [score_names(logits) for logits in (normal(8, 4, seed=1), *ends)]


@formula("8.11")
def discrepancy_names() -> dict:
    """Equally likely points; φ holds the features of the kernel (x·y + 1)²."""
    x, y = normal(4, 2, seed=1).numpy(), normal(5, 2, seed=2).numpy()

    def phi(p: np.ndarray) -> np.ndarray:
        a, b = np.sqrt(2) * p, p[:, :1] * p[:, 1:] * np.sqrt(2)
        return np.concatenate([p**2, b, a, np.ones((len(p), 1))], axis=1)

    return {
        r"\mathrm{MMD}": float(np.linalg.norm(phi(x).mean(0) - phi(y).mean(0))),
        r"\mathbb E": Operator(lambda value: value.mean(0) if value.ndim == 2 else value.mean()),
        r"\varphi": phi,
        "k": lambda p, q: ((p @ q.T + 1) ** 2).ravel(),
        "x": x,
        "y": y,
        "x'": x,
        "y'": y,
    }


def kernel(p: np.ndarray, q: np.ndarray) -> float:
    """Nothing for a point that is not there."""
    return float(np.nan_to_num((p @ q / D + 1) ** 3))


def kid_names(x: torch.Tensor, y: torch.Tensor, value: float) -> dict:
    """Indices run from 1 as far as the larger set; where a set ends, no points follow."""
    size = max(len(x), len(y))

    def padded(points: torch.Tensor) -> np.ndarray:
        rows = np.full((size + 1, D), np.nan)
        rows[1 : len(points) + 1] = points.numpy()
        return rows

    return {
        r"\mathrm{KID}": value,
        r"i\in": range(1, size + 1),
        r"j\in": range(1, size + 1),
        "k": kernel,
        "x": padded(x),
        "y": padded(y),
        "n": len(x),
        "m": len(y),
    }


@formula("8.12")
def kid_names_of_sets() -> list[dict]:
    """The library takes sets of one size; for others the means over pairs are taken one by one."""

    def mean(p: torch.Tensor, q: torch.Tensor) -> float:
        apart = [(a, b) for a in p.numpy() for b in q.numpy() if not (a == b).all()]
        return float(np.mean([kernel(a, b) for a, b in apart]))

    x, y, z = A[:5], B[:5], B[:7]
    unequal = mean(x, x) + mean(z, z) - 2 * mean(x, z)
    return [
        kid_names(x, y, kid(x, y, subsets=1, size=5).mean),
        kid_names(x, z, unequal),
    ]


@formula("8.13")
def precision_names() -> dict:
    real, fake, k = 3 + normal(6, D, seed=1), 3 + 0.7 * normal(8, D, seed=2), 2
    radii = torch.cdist(real, real).sort(1).values[:, k].numpy()
    return {
        r"\text{precision}": precision_recall(real, fake, k)[0],
        "m": len(fake),
        r"i\in": range(6),
        r"j\in": range(8),
        "x": real,
        "y": fake,
        "x_i": At(lambda v: real[v("i")]),
        r"\rho_k": lambda x: float(radii[int(np.argmin(((real.numpy() - x) ** 2).sum(1)))]),
    }


def order(rest: float) -> object:
    """O(…) is nothing to speak of, if what it stands for is really of the order of the rest."""

    def small(value: np.ndarray) -> float:
        ratio = abs(rest) / np.abs(value).max()
        return 0.0 if 0.02 < ratio < 50 else math.nan

    return small


@formula("8.14", rtol=1e-7)
def bias_names() -> dict:
    """On a line the mean of a sample's deviation is known: c₄(n) σ. Then c = 3/2 σ²."""
    n, sigma, true_sigma, gap = 10_000, 1.3, 0.9, 0.2
    c4 = math.exp(special.gammaln(n / 2) - special.gammaln((n - 1) / 2)) * math.sqrt(2 / (n - 1))
    c = sigma**2 + sigma * true_sigma / 2
    expected = gap**2 + sigma**2 / n + sigma**2 + true_sigma**2 - 2 * true_sigma * c4 * sigma
    return {
        r"\mathbb E\,\mathrm{FID}_n": expected,
        r"\mathrm{FID}_\infty": gap**2 + (sigma - true_sigma) ** 2,
        "c": c,
        "n": n,
        "O": order(expected - gap**2 - (sigma - true_sigma) ** 2 - c / n),
    }


@formula("8.15", rtol=1e-8)
def root_names() -> dict:
    r = np.array([0.5, 0.9, 1.4])
    E = 1e-3 * (normal(D, D, seed=1) + normal(D, D, seed=1).T).numpy()
    A = E / (r[:, None] + r)  # the root is diag(r) + A + B + …, order by order
    B = -(A @ A) / (r[:, None] + r)
    rest = np.trace(root(np.diag(r**2) + E)) - np.trace(np.diag(r) + A + B)
    return {
        "S": np.diag(r**2),
        "E": E,
        "E_{ii}": At(lambda v: E[v("i"), v("i")]),
        "E_{ij}": At(lambda v: E[v("i"), v("j")]),
        r"i\in": range(3),
        r"j\in": range(3),
        "r": r,
        "O": order(rest),
    }


def bias_by_differences() -> float:
    """c of Gaussian samples: second differences of the distance, times the moments' covariance.

    n Cov(Ĉ_ij, Ĉ_km) = C_ik C_jm + C_im C_jk, and n Cov(m̂) = C.
    """
    h, size = 1e-3, len(C_A)

    def distance(C: np.ndarray) -> float:
        return float(np.trace(C) - 2 * np.trace(root(root(C_B) @ C @ root(C_B))))

    def bump(i: int, j: int) -> np.ndarray:
        E = np.zeros((size, size))
        E[i, j] += h / 2
        E[j, i] += h / 2
        return E

    c, pairs = float(np.trace(C_A)), [(i, j) for i in range(size) for j in range(size)]
    for i, j in pairs:
        for k, m in pairs:
            a, b = bump(i, j), bump(k, m)
            corners = [distance(C_A + p * a + q * b) * p * q for p in (1, -1) for q in (1, -1)]
            second = sum(corners) / (4 * h * h)
            c += 0.5 * second * (C_A[i, k] * C_A[j, m] + C_A[i, m] * C_A[j, k])
    return c


@formula("8.16", "8.17", rtol=1e-4)
def bias_constant_names() -> dict:
    values, vectors = np.linalg.eigh(root(C_B) @ C_A @ root(C_B))
    z = vectors.T @ root(C_B) @ C_A @ root(C_B) @ vectors  # their covariance, diagonal
    return {
        "c": bias_by_differences(),
        "C_a": C_A,
        "r": np.sqrt(values),
        r"i\in": range(D),
        r"j\in": range(D),
        r"\operatorname{Var}(z_iz_j)": At(
            lambda v: z[v("i"), v("i")] * z[v("j"), v("j")] + z[v("i"), v("j")] ** 2
        ),
    }


@formula("8.18")
def floor_names() -> list[dict]:
    """n samples that hold the leading n − 1 directions exactly reach the bound."""
    n, d = 3, 5
    features = normal(20, d, seed=3)
    C = torch.cov(features.T)
    values, vectors = torch.linalg.eigh(C)
    kept = vectors[:, -(n - 1) :] * values[-(n - 1) :]
    kept = kept @ vectors[:, -(n - 1) :].T
    mean = torch.zeros(d, dtype=F64)
    best = _distance(Moments.known(n, mean, kept), Moments.known(20, mean, C))
    lam = values.flip(0).numpy()
    names = {
        "n": n,
        "d": d,
        r"i\in": range(1, d + 1),
        r"\lambda": np.array([0.0, *lam]),
        "C_b": C,
    }
    names[r"\lambda_i(C_b)"] = At(lambda v: float(lam[v("i") - 1]))
    some = _distance(Moments.of(features[:n]), Moments.known(20, mean, C))
    return [names | {r"\mathrm{FID}_n": value} for value in (best, some)]


def _distance(a: Moments, b: Moments) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few samples, which is the point
        return frechet_distance(a, b)


# ---- chapter 9 -----------------------------------------------------------------------------------


@formula("9.1")
def share_names() -> dict:
    """The deviation of a binomial share, from all its values."""
    n, p = 12, 0.3
    k = np.arange(n + 1)
    weights = stats.binom.pmf(k, n, p)
    deviation = math.sqrt(weights @ (k / n - p) ** 2)
    assert math.isclose(deviation, share_error(p, n))
    return {r"\operatorname{se}(\hat p)": deviation, "p": p, "n": n}


@formula("9.2")
def two_sources_names() -> dict:
    """A table of trainings r and draws j, all equally likely."""
    F = normal(3, 4, seed=1).numpy()
    return {
        r"\operatorname{Var}": Operator(np.var),
        r"F_{rj}": F,
        "m_r": F.mean(1),
        r"\operatorname{Var}(F_{rj}\mid r)": F.var(1),
        r"\mathbb E": Operator(np.mean),
    }


@formula("9.3")
def floor_ratio_names() -> dict:
    """The scoreboard's ratio, of a row with these two distances."""
    distances = {(1.0, 3.0): 2.6, (2.0, 3.0): 0.7}
    row = {"frechet": distances[1.0, 3.0], "frechet_floor": distances[2.0, 3.0]}
    return {
        r"\rho": times_floor(row),
        "F": lambda a, b: distances.get((float(a), float(b)), math.nan),
        r"\text{samples}_n": 1.0,
        r"\text{test images}_n": 2.0,
        r"\text{training set}": 3.0,
    }


@formula("9.4")
def seeds_names() -> dict:
    F = normal(5, seed=1)
    return {
        r"\operatorname{se}(\bar F)": over_seeds(F.tolist())[1],
        "s": float(F.std()),
        "k": 5,
        r"r\in": range(5),
        "F": F,
        r"\bar F": float(F.mean()),
    }


@formula("9.5")
def curse_names() -> dict:
    sigma = 0.7

    def least(k: int) -> float:
        def body(z: float) -> float:
            bell = math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
            return z * k * bell * special.ndtr(-z) ** (k - 1)

        return sigma * integrate.quad(body, -10, 10, epsabs=1e-12)[0]

    return {
        r"\mathbb E\min": lambda *z: least(len(set(z))),
        "Z_1": 1,
        "Z_2": 2,
        "Z_3": 3,
        r"\sigma": sigma,
    }
