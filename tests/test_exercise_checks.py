"""The checks of the exercises can be failed: by the empty skeleton, and by plausible mistakes.

The solutions are run with the chapters. Here every exercise gets the answers that a hurried student
gives: a root forgotten, a bar dropped, a sign turned, an end point missed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from ddpmlib import data
from ddpmlib.process import Process
from ddpmlib.teaching import exercises
from scripts import notebooks
from tests.book.rules import skeletons

CHAPTERS = notebooks.chapters()
EXERCISES = exercises.keys()
WRONG: dict[str, dict[str, Any]] = {}


def chain(step: Callable[..., Any]) -> Callable[..., Any]:
    """A sampler of exercise 2.4 that draws with the noise that ``step(beta, a, t, s)`` allows."""

    def sampler(denoise: Any, process: Any, x: Any, times: Any, generator: Any) -> Any:
        a = process.alpha_bar.tolist()
        for t, s in pairwise(times):
            beta = 1 - a[t] / a[s]
            on_x_t = (a[t] / a[s]) ** 0.5 * (1 - a[s]) / (1 - a[t])
            x0 = denoise(x, t).x0
            noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
            x = on_x_t * x + a[s] ** 0.5 * beta / (1 - a[t]) * x0
            x = x + step(beta, a, t, s) * noise
        return x

    return sampler


def unseeded(denoise: Any, process: Any, x: Any, times: Any, generator: Any) -> Any:
    right = chain(lambda beta, a, t, s: beta**0.5 * (s > 0))
    return right(denoise, process, x, times, None)


WRONG["1.1"] = {
    "rounded down": lambda beta, r: int(math.log(r) / math.log(1 - beta)),
    "one too many": lambda beta, r: math.floor(math.log(r) / math.log(1 - beta)) + 1,
    "exponential for power": lambda beta, r: math.ceil(-math.log(r) / beta),
    "no whole number": lambda beta, r: math.log(r) / math.log(1 - beta),
    "not a number": lambda beta, r: math.nan,
}
WRONG["1.2"] = {
    "root forgotten": lambda a, b: b / a * (1 - a),
    "variance of the later": lambda a, b: math.sqrt(b / a) * (1 - b),
    "of the mean": lambda a, b: math.sqrt(a * b),
    "times exchanged": lambda a, b: math.sqrt(a / b) * (1 - b),
}
WRONG["1.3"] = {
    "beta of alpha": lambda T, first, last: torch.cat(
        [torch.zeros(1), 1 - torch.sigmoid(torch.linspace(first, last, T))]
    ),
    "straight in alpha_bar": lambda T, first, last: torch.linspace(0, 0.02, T + 1),
    "no entry for 0": lambda T, first, last: torch.linspace(0.01, 0.02, T),
}
WRONG["1.4"] = {
    "side for area": lambda a, k: a / (a + k * (1 - a)),
    "the other way": lambda a, k: a / (a + (1 - a) / k**2),
    "no shift": lambda a, k: a,
}


def kl(mixture: Any, t: int, reverse: bool = False, unit: float = 1.0, reach: float = 9) -> float:
    x = torch.linspace(-reach, reach, 20_001, dtype=torch.float64)
    log_q, log_n = mixture.log_prob(x, t), -0.5 * x**2 - 0.5 * math.log(2 * math.pi)
    first, second = (log_n, log_q) if reverse else (log_q, log_n)
    return float(torch.trapezoid(first.exp() * (first - second), x)) / unit


WRONG["1.5"] = {
    "the other direction": lambda mixture, t: kl(mixture, t, reverse=True),
    "in bits": lambda mixture, t: kl(mixture, t, unit=math.log(2)),
    "too narrow a grid": lambda mixture, t: kl(mixture, t, reach=1),
}
WRONG["2.1"] = {
    "betas": [0.1, 0.2, 0.3],
    "not zero first": [0.1, 0.071429, 0.169355],
    "inverted": [0.0, (1 - 0.72) / (1 - 0.9) * 0.2, (1 - 0.504) / (1 - 0.72) * 0.3],
    "two numbers": [0.071429, 0.169355],
}


def border(a_t: float, gain: float) -> float:
    """ᾱ_s whose signal-to-noise ratio lies above that of ᾱ_t by the gain."""
    snr = a_t / (1 - a_t) + gain
    return snr / (1 + snr)


WRONG["2.2"] = {
    "a constant": lambda a, c: 0.6,
    "c forgotten": lambda a, c: border(a, 1.0),
    "c not squared": lambda a, c: border(a, 1 / c),
    "c upside down": lambda a, c: border(a, c**2),
    "half the gain": lambda a, c: border(a, 0.5 / c**2),
    "sign": lambda a, c: abs(border(a, -1 / c**2)),
    "SNR for alpha_bar": lambda a, c: a / (1 - a) + 1 / c**2,
    "from clean data": lambda a, c: 1 / (1 + c**2),
    "clamped": lambda a, c: min(0.9, border(a, 1 / c**2)),
    "right for c = 1": lambda a, c: border(a, 1.0) if c == 1 else 0.5 * (1 + a),
    "NaN": lambda a, c: math.nan,
}


def gaussian_variance(v: float, a: float, b: float) -> float:
    """Var(x_s | x_t) of data N(0, v): the right answer of exercise 2.3."""
    var_s = b * v + 1 - b
    return var_s - a / b * var_s**2 / (a * v + 1 - a)


WRONG["2.3"] = {
    "always beta": lambda v, a, b: 1 - a / b,
    "always beta tilde": lambda v, a, b: (1 - b) / (1 - a) * (1 - a / b),
    "straight between": lambda v, a, b: (1 - a / b) * ((1 - v) * (1 - b) / (1 - a) + v),
    "clamped at beta": lambda v, a, b: min(gaussian_variance(v, a, b), 1 - a / b),
    "NaN": lambda v, a, b: math.nan,
}
WRONG["2.4"] = {
    "noise after the last step": chain(lambda beta, a, t, s: beta**0.5),
    "beta tilde": chain(lambda beta, a, t, s: (beta * (1 - a[s]) / (1 - a[t])) ** 0.5),
    "variance for deviation": chain(lambda beta, a, t, s: beta * (s > 0)),
    "no noise": chain(lambda beta, a, t, s: 0.0),
    "generator ignored": unseeded,
}


def ignorance(a: float, h: Any) -> Any:
    return (1 - a) / a * (1 + (1 - a) * h)


def best_variance(on_x0: Callable[..., Any], h: Callable[..., Any]) -> Callable[..., Any]:
    """A best variance of exercise 2.5 with these ways to weigh and to average."""

    def best(score: Any, a: float, b: float) -> Any:
        beta = 1 - a / b
        return (1 - b) / (1 - a) * beta + on_x0(a, b, beta) * ignorance(a, h(score))

    return best


def weight(a: float, b: float, beta: float) -> float:
    return b * beta**2 / (1 - a) ** 2


def power(score: Any) -> Any:
    return -(score**2).mean()


WRONG["2.5"] = {
    "sign": (lambda a, h: (1 - a) / a * (1 - (1 - a) * h), best_variance(weight, power)),
    "no mean": (lambda a, h: (1 - a) ** 2 / a * h, best_variance(weight, power)),
    "root": (lambda a, h: (1 - a) / a**0.5 * (1 + (1 - a) * h), best_variance(weight, power)),
    "weight not squared": (ignorance, best_variance(lambda *o: weight(*o) ** 0.5, power)),
    "curvature turned": (ignorance, best_variance(weight, lambda score: (score**2).mean())),
    "score not squared": (ignorance, best_variance(weight, lambda score: score.mean())),
    "beta": (ignorance, lambda score, a, b: 1 - a / b),
    "beta tilde": (ignorance, lambda score, a, b: (1 - b) / (1 - a) * (1 - a / b)),
}
WRONG["3.1"] = {"same": (1.0, 1.0), "root": (1.0, 0.7**0.5), "turned": (0.7, 1.0), "none": (0, 0.7)}
WRONG["3.2"] = {
    "sign": (
        lambda v, x, a: (1 - a) ** 0.5 * x - a**0.5 * v,
        lambda e, x, a: (e - (1 - a) ** 0.5 * x) / a**0.5,
    ),
    "x0 for eps": (
        lambda v, x, a: a**0.5 * x - (1 - a) ** 0.5 * v,
        lambda e, x, a: (a**0.5 * x - e) / (1 - a) ** 0.5,
    ),
    "no inverse": (
        lambda v, x, a: (1 - a) ** 0.5 * x + a**0.5 * v,
        lambda e, x, a: e - (1 - a) ** 0.5 * x,
    ),
}
WRONG["3.3"] = {
    "left to x0": lambda a, c: (1 - a) / (a * c**2 + 1 - a),
    "deviation for variance": lambda a, c: 1 - (1 - a) / (a * c + 1 - a),
    "unit data": lambda a, c: a,
}


def ddim(bar: Callable[..., Any], end: int = 0, noisy: float = 0.0) -> Callable[..., Any]:
    def run(eps_net: Any, x: Any, alpha_bar: Any, times: Any) -> Any:
        for t, s in pairwise(times):
            a, b = bar(alpha_bar, t, s)
            eps = eps_net(x, t)
            x0 = (x - (1 - a).sqrt() * eps) / a.sqrt()
            x = b.sqrt() * x0 + (1 - b).sqrt() * eps + noisy * torch.randn_like(x)
        return x

    return run


def update(**wrong: Any) -> Callable[..., Any]:
    """The update of exercise 3.4 with one thing changed."""

    def run(theta: Any, grad: Any, m: Any, v: Any, average: Any, n: int) -> Any:
        clip = wrong.get("clip", lambda g: g / max(1.0, float(g.norm())))
        grad, old = clip(grad), theta
        m, v = 0.9 * m + 0.1 * grad, 0.999 * v + 0.001 * grad**2
        k = n + wrong.get("count", 1)
        m_hat, v_hat = m / (1 - 0.9**k), v / (1 - 0.999**k)
        if wrong.get("uncorrected"):
            m_hat, v_hat = m, v
        root = v_hat if wrong.get("no_root") else v_hat.sqrt()
        theta = theta - wrong.get("sign", 1) * 0.01 * m_hat / (root + 1e-8)
        d = wrong.get("decay", lambda n: min(0.99, (1 + n) / (10 + n)))(n)
        return theta, m, v, d * average + (1 - d) * (old if wrong.get("old") else theta)

    return run


WRONG["3.4"] = {
    "no clipping": update(clip=lambda g: g),
    "always norm one": update(clip=lambda g: g / g.norm()),
    "by value": update(clip=lambda g: g.clamp(-1, 1)),
    "square of the norm": update(clip=lambda g: g / max(1.0, float(g.norm()) ** 2)),
    "uncorrected": update(uncorrected=True),
    "one update late": update(count=2),
    "no root": update(no_root=True),
    "uphill": update(sign=-1),
    "fixed decay": update(decay=lambda n: 0.99),
    "decay one late": update(decay=lambda n: min(0.99, (2 + n) / (11 + n))),
    "average of the old": update(old=True),
    "average turned": update(decay=lambda n: max(0.01, 9 / (10 + n))),
    "stands still": lambda theta, grad, m, v, average, n: (theta, m, v, average),
    "not a number": lambda theta, *rest: (theta * math.nan, *rest[1:4]),
    "stochastic gradient descent": lambda theta, grad, m, v, average, n: (
        theta - 0.01 * grad, m, v, average
    ),
}  # fmt: skip


def test_the_generator_of_answers_to_exercise_3_4_knows_the_right_one() -> None:
    exercises.check("3.4", update())


@cache
def moments() -> tuple[Any, Any, Any]:
    """Mean, covariance and correlation of the training scans."""
    x = data.to_float(data.load("digits").x_train).flatten(1)
    return x.mean(0), torch.cov(x.T), torch.corrcoef(x.T).nan_to_num()


def linear(**wrong: Any) -> Callable[..., Any]:
    """The linear denoiser of exercise 3.5 with one thing changed."""

    def run(x_t: Any, a: float) -> Any:
        mu, C, correlation = moments()
        mu = mu * wrong.get("mean", 1)
        C = torch.diag(C.diag()) if wrong.get("pixels_apart") else C
        C = correlation if wrong.get("correlation") else C
        inverse = torch.linalg.inv(a * C + wrong.get("noise", 1 - a) * torch.eye(64))
        K = (a if wrong.get("no_root") else a**0.5) * C @ inverse
        x0 = mu + (x_t.flatten(1) - wrong.get("shift", a**0.5) * mu) @ K.T
        return wrong.get("after", lambda x: x)(x0).reshape(x_t.shape)

    return run


def test_the_generator_of_answers_to_exercise_3_5_knows_the_right_one() -> None:
    exercises.check("3.5", (linear(), LINEAR, NETWORK))


LINEAR, NETWORK = 0.3705, 0.2345
WRONG["3.5"] = {
    "no mean": (linear(mean=0), LINEAR, NETWORK),
    "mean not scaled": (linear(shift=1.0), LINEAR, NETWORK),
    "pixels apart": (linear(pixels_apart=True), LINEAR, NETWORK),
    "correlation": (linear(correlation=True), LINEAR, NETWORK),
    "no root": (linear(no_root=True), LINEAR, NETWORK),
    "noise of one time": (linear(noise=0.5), LINEAR, NETWORK),
    "clamped": (linear(after=lambda x: x.clamp(-1, 1)), LINEAR, NETWORK),
    "the mean alone": (linear(after=lambda x: 0 * x), LINEAR, NETWORK),
    "not a number": (linear(after=lambda x: x * math.nan), LINEAR, NETWORK),
    "noisy image": (lambda x_t, a: x_t / a**0.5, LINEAR, NETWORK),
    "loss of ε": (linear(), 1.2, NETWORK),
    "loss on training scans": (linear(), 0.352, NETWORK),
    "no loss": (linear(), math.nan, NETWORK),
    "network without labels": (linear(), LINEAR, 0.3137),
    "network as good as linear": (linear(), LINEAR, LINEAR),
    "no network": (linear(), LINEAR, math.nan),
}
WRONG["4.1"] = {
    "nats for bits": (1900 / 784, 784 * math.log(256)),
    "turned": (784 * math.log(256), 3.496),
    "8 nats": (3.496, 784 * 8),
    "per image": (1900 / math.log(2), 8),
}


def snr(a: Any) -> Any:
    return a / (1 - a)


WRONG["4.2"] = {
    "no half": lambda a: snr(a[1:-1]) / snr(a[2:]) - 1,
    "difference": lambda a: 0.5 * (snr(a[1:-1]) - snr(a[2:])),
    "upside down": lambda a: 0.5 * (1 - snr(a[2:]) / snr(a[1:-1])),
    "with t = 1": lambda a: 0.5 * (snr(a[:-1]) / snr(a[1:]) - 1),
}
WRONG["4.3"] = {
    "of the step": lambda a, v: 1 - a,
    "of the data": lambda a, v: v,
    "deviation": lambda a, v: ((1 - a) * v / (a * v + 1 - a)) ** 0.5,
    "unit data": lambda a, v: (1 - a) * v,
}


def strided_bound(prior: float = 1, decoder: float = 1, last: float = 1) -> Callable[..., Any]:
    """Exercise 4.4 with the weight of one part changed."""

    def bound(eps_net: Any, x0: Any, alpha_bar: Any, times: Any, noise: Any) -> Any:
        a = alpha_bar[times[0]]
        total = prior * 0.5 * (a * x0**2 - a - torch.log(1 - a)).sum(1)
        for t, s in pairwise(times):
            a, b = alpha_bar[t], alpha_bar[s]
            error = ((noise[t] - eps_net(a.sqrt() * x0 + (1 - a).sqrt() * noise[t], t)) ** 2).sum(1)
            if s > 0:
                total = total + 0.5 * (snr(b) / snr(a) - 1) * error
                var = (1 - b) / (1 - a) * (1 - a / b)
            else:
                constant = 0.5 * x0.shape[1] * torch.log(2 * math.pi * var)
                total = total + last * 0.5 / snr(a) * error / var + decoder * constant
        return total

    return bound


WRONG["4.4"] = {
    "no prior": strided_bound(prior=0),
    "no constant": strided_bound(decoder=0),
    "no last error": strided_bound(last=0),
    "one number": lambda *parts: strided_bound()(*parts).mean(),
}
LATE = 2 / math.pi * math.atan(math.e**3)
WRONG["5.1"] = {
    "sign": (0.5, LATE, 2 * math.log(4)),
    "sides, not area": (0.5, LATE, -math.log(4)),
    "other end": (0.5, 1 - LATE, -2 * math.log(4)),
    "λ for λ/2": (0.5, 2 / math.pi * math.atan(math.e**6), -2 * math.log(4)),
}


def undone(bar_a: Any, bar_b: Any, kind: str = "") -> Any:
    """Exercise 5.2: the share of A's times in the cell of each level of B, with one mistake."""
    lam_a, lam_b = torch.logit(bar_a[1:]), torch.logit(bar_b[1:])
    middles = ((lam_b[1:] + lam_b[:-1]) / 2).tolist()
    edges = np.array([math.inf, *middles, -math.inf])
    u = (np.arange(len(lam_a)) + 0.5) / len(lam_a)
    below = np.interp(edges, lam_a.numpy()[::-1], 1 - u[::-1], left=0, right=1)
    share = torch.tensor(below[:-1] - below[1:])
    if kind == "clamped":
        return (share * len(lam_b)).clamp(max=2)
    if kind == "shifted":
        share = share.roll(20)
    if kind == "nan":
        share[-1] = math.nan
    if kind == "with t = 0":
        return torch.cat([share[:1], share]) * len(lam_b)
    return share if kind == "shares" else share * len(lam_b)


def of_speeds(bar_a: Any, bar_b: Any) -> Any:
    """p_B/p_A: the speed of A over that of B, the wrong way around."""
    return 1 / undone(bar_a, bar_b).clamp(min=1e-9)


WRONG["5.2"] = {
    "the other way": lambda a, b: undone(b, a)[: len(b) - 1],
    "upside down": of_speeds,
    "none": lambda a, b: torch.ones(len(b) - 1),
    "shares": lambda a, b: undone(a, b, "shares"),
    "at the same t": lambda a, b: (
        (a[1:] / b[1:])[: len(b) - 1] if len(a) == len(b) else torch.ones(len(b) - 1)
    ),
    "clamped": lambda a, b: undone(a, b, "clamped"),
    "late": lambda a, b: undone(a, b, "shifted"),
    "a time too many": lambda a, b: undone(a, b, "with t = 0"),
    "NaN at the end": lambda a, b: undone(a, b, "nan"),
}


def levels(mean: float = 2.4, std: float = 2.4, shift: int = 1) -> Callable[..., Any]:
    """Exercise 5.3 with this distribution of λ, and this number of the first time."""

    def draw(alpha_bar: Any, n: int, generator: Any) -> Any:
        lam = mean + std * torch.randn(n, generator=generator, dtype=torch.float64)
        return (lam[:, None] - torch.logit(alpha_bar[1:])).abs().argmin(1) + shift

    return draw


WRONG["5.3"] = {
    "ln σ for λ": levels(-1.2, 1.2),
    "sign": levels(-2.4),
    "variance for deviation": levels(std=2.4**2),
    "deviation of ln σ": levels(std=1.2),
    "counted from 0": levels(shift=0),
    "uniform": lambda a, n, g: torch.randint(1, len(a), (n,), generator=g),
    "always one": lambda a, n, g: torch.full((n,), 300),
    "another generator": lambda a, n, g: levels()(a, n, None),
    "no whole numbers": lambda a, n, g: levels()(a, n, g).double(),
    "one table for all": lambda a, n, g: levels()(cosine_bar(len(a) - 1), n, g),
}


def cosine_bar(T: int) -> Any:
    u = torch.linspace(0, 1, T + 1, dtype=torch.float64)
    return torch.cos(math.pi / 2 * u).square().clamp(1e-9, 1 - 1e-9)


def path(lam: Any, m: Any, T: int, power: float = 0.5, widths: bool = True) -> Any:
    root = m**power
    pieces = 0.5 * (root[1:] + root[:-1]) * (lam[:-1] - lam[1:] if widths else 1)
    area = torch.cat([torch.zeros(1, dtype=m.dtype), pieces.cumsum(0)])
    return torch.tensor(np.interp(np.linspace(0, 1, T), area / area[-1], lam))


def summed_nodes(lam: Any, m: Any, T: int) -> Any:
    """Values at the nodes of a grid summed as if all cells were equally wide."""
    area = torch.cat([torch.zeros(1, dtype=m.dtype), m.sqrt()]).cumsum(0)[1:]
    area = (area - area[0]) / (area[-1] - area[0])
    return torch.tensor(np.interp(np.linspace(0, 1, T), area, lam))


WRONG["5.4"] = {
    "no root": lambda lam, m, T: path(lam, m, T, 1.0),
    "inverse": lambda lam, m, T: path(lam, m, T, -0.5),
    "straight": lambda lam, m, T: torch.linspace(float(lam[0]), float(lam[-1]), T),
    "too short": lambda lam, m, T: path(lam, m, T)[:-1],
    "no widths": lambda lam, m, T: path(lam, m, T, widths=False),
    "summed nodes": summed_nodes,
    "upwards": lambda lam, m, T: path(lam, m, T).flip(0),
    "NaN": lambda lam, m, T: path(lam, m, T) * math.nan,
}


def even(low: float, high: float) -> float:
    return math.log(high / low) / (1 / low - 1 / high)


def width(a: float, b: float, mean: Callable[[float, float], float] = even) -> float:
    beta = 1 - a / b
    best = mean(beta * (1 - b) / (1 - a), beta)
    return ((best * (1 - a) - beta * (1 - b)) / (beta * b - best * a)) ** 0.5


WRONG["6.1"] = {
    "middle of the logarithms": (lambda low, high: (low * high) ** 0.5, width),
    "middle": (lambda low, high: (low + high) / 2, width),
    "an end": (lambda low, high: high, width),
    "width squared": (even, lambda a, b: width(a, b) ** 2),
    "times turned": (even, lambda a, b: width(b, a)),
    "of the middle": (even, lambda a, b: width(a, b, lambda x, y: (x * y) ** 0.5)),
    "one number": (even, lambda a, b: 0.05),
    "no number": (even, lambda a, b: math.nan),
}


def ends(a: Any, t: int, s: int) -> tuple[float, float]:
    beta = float(1 - a[t] / a[s])
    return float((1 - a[s]) / (1 - a[t])) * beta, beta


WRONG["6.2"] = {
    "straight": lambda a, t, s, v: (1 - v) * ends(a, t, s)[0] + v * ends(a, t, s)[1],
    "turned": lambda a, t, s, v: ends(a, t, s)[0] ** v * ends(a, t, s)[1] ** (1 - v),
    "single step": lambda a, t, s, v: ends(a, t, t - 1)[0] ** (1 - v) * ends(a, t, t - 1)[1] ** v,
    "deviation": lambda a, t, s, v: (ends(a, t, s)[0] ** (1 - v) * ends(a, t, s)[1] ** v) ** 0.5,
}


def analytic(power: int = 2, single: bool = False, low: bool = True) -> Callable[..., Any]:
    def run(denoiser: Any, process: Any, x0: Any, times: Any, noise: Any) -> list[float]:
        found = []
        for t, s in pairwise(times):
            tilde, beta = ends(process.alpha_bar, t, t - 1 if single else s)
            on_x0 = float(process.scale[s]) * beta / float(process.std[t]) ** 2
            error = x0 - denoiser(process.q_sample(x0, t, noise[t]), t).x0
            found.append(tilde * low + on_x0**power * float((error**2).mean()))
        return found

    return run


WRONG["6.3"] = {
    "A not squared": analytic(power=1),
    "single step": analytic(single=True),
    "no posterior": analytic(low=False),
    "last stride missing": lambda *given: analytic()(*given)[:-1],
    "turned": lambda *given: analytic()(*given)[::-1],
    "one for all": lambda *given: [analytic()(*given)[0]] * (len(given[3]) - 1),
    "no number": lambda *given: [math.nan] * (len(given[3]) - 1),
}


def hybrid(cut: bool = True, kind: str = "log", root: bool = False) -> Callable[..., Any]:
    def loss(output: Any, target: Any, place: Any, low: float, high: float, A: float, w: float):
        log_var = place * math.log(high) + (1 - place) * math.log(low)
        if kind == "straight":
            log_var = (place * high + (1 - place) * low).log()
        error = (output.detach() if cut else output) - target
        top = low + (A * error) ** (1 if root else 2)
        divergence = 0.5 * (top / log_var.exp() - 1 - math.log(low) + log_var)
        return ((output - target) ** 2 + w * divergence).mean()

    return loss


WRONG["6.4"] = {
    "no stop": hybrid(cut=False),
    "straight variance": hybrid(kind="straight"),
    "no square": hybrid(root=True),
    "no divergence": lambda output, target, *rest: ((output - target) ** 2).mean(),
}
WRONG["6.5"] = {
    "low end": lambda x, t: torch.zeros_like(x),
    "high end": lambda x, t: torch.ones_like(x),
    "middle": lambda x, t: torch.full_like(x, 0.5),
    "falls with t": lambda x, t: torch.full_like(x, 1 - t / 1000),
    "no number": lambda x, t: torch.full_like(x, math.nan),
    "one for all": lambda x, t: 0.5,
}
WRONG["7.1"] = {
    "lerp": lambda a, b, w: (1 - w) * a + w * b,
    "roots": lambda a, b, w: (1 - w) ** 0.5 * a + w**0.5 * b,
    "slerp": lambda a, b, w: math.cos(w * math.pi / 2) * a + math.sin(w * math.pi / 2) * b,
    "own spread": lambda a, b, w: ((1 - w) * a + w * b) / ((1 - w) * a + w * b).std(),
    "negative": lambda a, b, w: -((1 - w) * a + w * b) / ((1 - w) ** 2 + w**2) ** 0.5,
    "turned": lambda a, b, w: (w * a + (1 - w) * b) / ((1 - w) ** 2 + w**2) ** 0.5,
    "always half": lambda a, b, w: (a + b) / 2**0.5,
    "no number": lambda a, b, w: a * math.nan,
}


def forgetting(last: bool = False, mean: float = 1.0) -> Callable[..., Any]:
    def run(denoiser: Any, process: Any, x: Any, times: Any, noise: Any) -> Any:
        for t, s in pairwise(times):
            x = float(process.scale[s]) ** mean * denoiser(x, t).x0
            x = x + (float(process.std[s]) if s > 0 else 0.1 * last) * noise[s]
        return x

    return run


WRONG["7.2"] = {
    "noise at the end": forgetting(last=True),
    "no scale": forgetting(mean=0.0),
    "squared scale": forgetting(mean=2.0),
    "one step only": lambda denoiser, process, x, times, noise: denoiser(x, times[0]).x0,
}
WRONG["7.3"] = {
    "one step keeps all": (lambda r, c: c, lambda r, c: c),
    "no root": (lambda r, c: c**2 / (c**2 + r**2), lambda r, c: c),
    "arguments turned": (lambda r, c: r**2 / (c**2 + r**2) ** 0.5, lambda r, c: c),
    "one for all": (lambda r, c: c**2 / (c**2 + r**2) ** 0.5, lambda r, c: 1.0),
    "exact is the start": (
        lambda r, c: c**2 / (c**2 + r**2) ** 0.5,
        lambda r, c: (c**2 + r**2) ** 0.5,
    ),
}


def heun(average: bool = True, at_zero: bool = False) -> Callable[..., Any]:
    def run(eps_net: Any, x: Any, a: Any, times: Any) -> Any:
        for t, s in pairwise(times):
            r_t, r_s = (((1 - a[u]) / a[u]).sqrt() for u in (t, s))
            eps = eps_net(x, t)
            there = a[s].sqrt() * (x / a[t].sqrt() + (r_s - r_t) * eps)
            if s > 0 or at_zero:
                again = eps_net(there, max(s, 1))
                eps = (eps + again) / 2 if average else again
            x = a[s].sqrt() * (x / a[t].sqrt() + (r_s - r_t) * eps)
        return x

    return run


WRONG["7.4"] = {
    "Euler": ddim(lambda table, t, s: (table[t], table[s])),
    "second slope only": heun(average=False),
    "asks again at zero": heun(at_zero=True),
}
BACKS = range(100, 1000, 100)
WRONG["7.5"] = {
    "one number": dict.fromkeys(BACKS, 0.045),
    "falls": {back: 0.06 - 0.00004 * back for back in BACKS},
    "rises": {back: 0.02 + 0.00004 * back for back in BACKS},
    "times missing": {600: 0.025},
    "thousandths": {back: 25 + abs(back - 600) / 10 for back in BACKS},
    "best one step too low": {back: 0.025 + abs(back - 500) / 12_000 for back in BACKS},
    "no number": dict.fromkeys(BACKS, math.nan),
}
WRONG["8.1"] = {
    "variances for deviations": (9 + (4 - 1) ** 2, 2 ** (2 / 3)),
    "no square of the means": (3 + 1, 2 ** (2 / 3)),
    "logarithm": (10.0, 2 / 3 * math.log(2)),
    "entropy of all three": (10.0, 1.0),
}
WRONG["8.2"] = {
    "A twice": ("A", "A", 3000),
    "turned": ("A", "B", 3000),
    "other tie": ("B", "A", 7000),
}


def root_of(C: Any) -> Any:
    values, vectors = torch.linalg.eigh(C)
    return (vectors * values.sqrt()) @ vectors.T


WRONG["8.3"] = {
    "as if they commuted": lambda a, b: root_of(b) @ torch.linalg.inv(root_of(a)),
    "Cholesky": lambda a, b: torch.linalg.cholesky(b) @ torch.linalg.inv(torch.linalg.cholesky(a)),
    "there for back": lambda a, b: WRONG["8.3"]["as if they commuted"](b, a),
    "ratio": lambda a, b: b @ torch.linalg.inv(a),
}


def forged(divisor: float, centre: bool = True) -> Callable[..., Any]:
    def forge(real: Any) -> Any:
        values, vectors = torch.linalg.eigh(torch.cov(real.T))
        axes = (vectors * ((2 * len(values) - divisor) / 2 * values.clamp(min=0)).sqrt()).T
        return real.mean(0) * centre + torch.cat([axes, -axes])

    return forge


WRONG["8.4"] = {
    "divisor of all": forged(divisor=0),
    "no mean": forged(divisor=1, centre=False),
    "real ones": lambda real: real[: 2 * real.shape[1]],
    "too many": lambda real: real,
}
SPREAD = math.sqrt(0.972 * 0.028 + 0.978 * 0.022)
WRONG["9.1"] = {
    "errors added": (0.006 / (2 * math.sqrt(0.975 * 0.025 / 5000)), 12183),
    "of one model": (0.006 / math.sqrt(0.972 * 0.028 / 5000), 12183),
    "linear in n": (1.92, 5000 * 3 / 1.92),
    "two errors": (1.92, (2 * SPREAD / 0.006) ** 2),
}
WRONG["9.2"] = {
    "drawing left in": lambda F: (F.mean(1).var(), F.var(dim=1).mean()),
    "biased": lambda F: (F.mean(1).var() - F.var(dim=1).mean() / 4, F.var(1, correction=0).mean()),
    "turned": lambda F: (F.var(dim=1).mean(), F.mean(1).var()),
    "deviations": lambda F: (F.mean(1).std(), F.std(dim=1).mean()),
}


def verdict(factor: float = 2, joint: str = "root", sign: bool = True) -> Callable[..., Any]:
    def compare(a: list[float], b: list[float]) -> tuple[float, float, bool]:
        errors = [np.std(x, ddof=1) / len(x) ** 0.5 for x in (a, b)]
        error = math.hypot(*errors) if joint == "root" else sum(errors)
        if joint == "equal lengths":
            error = math.sqrt((np.var(a, ddof=1) + np.var(b, ddof=1)) / len(a))
        difference = np.mean(a) - np.mean(b)
        return difference, error, (abs(difference) if sign else difference) > factor * error

    return compare


WRONG["9.3"] = {
    "one error": verdict(factor=1),
    "three errors": verdict(factor=3),
    "errors added": verdict(joint="sum"),
    "equal lengths": verdict(joint="equal lengths"),
    "one-sided": verdict(sign=False),
}


def denoised(inside: float, outside: float, square: int = 2, sign: float = 1.0) -> Any:
    """Exercise B.1 with these powers of 1 + σ² below z and below the score; ½ is right."""

    def answer(score: Any, z: Any, sigma: float) -> Any:
        k2 = 1 + sigma**2
        return z + sign * sigma**square * score(z / k2**inside) / k2**outside

    return answer


WRONG["B.1"] = {
    "z itself": lambda score, z, sigma: z,
    "a constant": lambda score, z, sigma: torch.zeros_like(z),
    "score of z": denoised(0.0, 0.0),
    "input not scaled": denoised(0.0, 0.5),
    "gradient not scaled": denoised(0.5, 0.0),
    "divided twice": denoised(0.5, 1.0),
    "σ for σ²": denoised(0.5, 0.5, square=1),
    "sign": denoised(0.5, 0.5, sign=-1),
    "at x_t": lambda score, z, sigma: (
        z / (1 + sigma**2) ** 0.5 + sigma**2 * score(z / (1 + sigma**2) ** 0.5)
    ),
    "x_t's own Tweedie": lambda score, z, sigma: (
        z + sigma**2 / (1 + sigma**2) * score(z / (1 + sigma**2) ** 0.5)
    ),
    "clamped": lambda score, z, sigma: denoised(0.5, 0.5)(score, z, sigma).clamp(-0.5, 0.5),
    "right for small σ": lambda score, z, sigma: (
        denoised(0.5, 0.5)(score, z, sigma) if sigma < 1 else z
    ),
    "NaN": lambda score, z, sigma: z * math.nan,
}
WRONG["B.2"] = {
    "v itself": lambda v, x_t, scale, std: v,
    "sign turned": lambda v, x_t, scale, std: (scale + std) * v + (scale - std) * x_t,
    "noise alone": lambda v, x_t, scale, std: std * x_t + scale * v,
}


class Circle(Process):
    """An answer of exercise B.3, with the right cosine and sine."""

    def __init__(self, time_of: Callable[..., Any]) -> None:
        self.answer = time_of

    def coefficients(self, t: Any) -> Any:
        return torch.cos(math.pi / 2 * t), torch.sin(math.pi / 2 * t)

    def time_of(self, log_snr: Any) -> Any:
        return self.answer(log_snr)


QUARTER = math.pi / 2


def along(turning: bool, sign: float = 1, turn: float = QUARTER) -> Callable[..., Any]:
    """A sampler of exercise B.3: Euler's method, or the turn."""

    def sampler(denoise: Any, z: Any, labels: Any) -> Any:
        for u, then in pairwise(labels):
            a, b = torch.cos(QUARTER * u), torch.sin(QUARTER * u)
            v, angle = (a * z - denoise(z, u)) / b, sign * turn * (then - u)
            z = torch.cos(angle) * z + torch.sin(angle) * v if turning else z + angle * v
        return z

    return sampler


FLOW, TURN = along(False), along(True)


def exact_time(lam: Any) -> Any:
    return torch.atan(torch.exp(-lam / 2)) / QUARTER


def circle(
    time_of: Callable[..., Any], factor: float, flow: Any = FLOW, turn: Any = TURN
) -> tuple[Any, ...]:
    return Circle(time_of), factor, flow, turn


def stay(denoise: Any, z: Any, labels: Any) -> Any:
    return z


WRONG["B.3"] = {
    "factor forgotten": circle(lambda lam: torch.atan(torch.exp(-lam / 2)) / (math.pi / 2), 1.0),
    "whole λ": circle(lambda lam: torch.atan(torch.exp(-lam)) / (math.pi / 2), math.pi / 2),
    "sign of λ": circle(lambda lam: torch.atan(torch.exp(lam / 2)) / (math.pi / 2), math.pi / 2),
    "no samplers": (Circle(exact_time), QUARTER),
    "Euler twice": circle(exact_time, QUARTER, turn=FLOW),
    "turn twice": circle(exact_time, QUARTER, flow=TURN),
    "no factor in the step": circle(exact_time, QUARTER, flow=along(False, turn=1.0)),
    "away from the data": circle(exact_time, QUARTER, flow=along(False, sign=-1)),
    "turned away": circle(exact_time, QUARTER, turn=along(True, sign=-1)),
    "half a turn": circle(exact_time, QUARTER, turn=along(True, turn=QUARTER / 2)),
    "no step": circle(exact_time, QUARTER, flow=stay, turn=stay),
    "NaN": circle(exact_time, math.nan),
}


def left(**wrong: Any) -> Callable[..., Any]:
    """The two shares of exercise D.1 with one thing changed."""

    def run(updates: int, decay: float) -> Any:
        n = range(wrong.get("first", 0), updates + wrong.get("first", 0))
        growing = [min(wrong.get("most", decay), (1 + k) / (10 + k)) for k in n]
        return wrong.get("after", lambda a, b: (a, b))(
            decay ** (updates + wrong.get("more", 0)), math.prod(growing)
        )

    return run


WRONG["D.1"] = {
    "turned": left(after=lambda a, b: (b, a)),
    "counted from one": left(first=1),
    "counted from minus one": left(first=-1),
    "one update less": left(more=-1),
    "one update more": left(more=1),
    "grows without end": left(most=1.0),
    "what is forgotten": left(after=lambda a, b: (1 - a, 1 - b)),
    "one for both": left(after=lambda a, b: (a, a)),
    "none": left(after=lambda a, b: (0.0, 0.0)),
    "exponential": left(after=lambda a, b: (math.exp(-1), b)),
    "not a number": left(after=lambda a, b: (a, math.nan)),
}


def compared(**wrong: Any) -> Callable[..., Any]:
    """The interval of exercise D.2 with one thing changed."""

    def run(ours: Any, theirs: Any) -> Any:
        a, b = np.array(ours), np.array(theirs)
        n = len(a)
        spread = (a - b).std(ddof=wrong.get("free", 1))
        if wrong.get("apart"):
            spread = (a.var(ddof=1) + b.var(ddof=1)) ** 0.5
        quantile = wrong.get("quantile", {3: 4.3027, 5: 2.7764})[n]
        half = quantile * spread / n ** wrong.get("root", 0.5)
        return wrong.get("after", lambda m, h: (m, h))((a - b).mean(), half)

    return run


WRONG["D.2"] = {
    "sign": compared(after=lambda m, h: (-m, h)),
    "not paired": compared(apart=True),
    "of the population": compared(free=0),
    "of one seed": compared(root=0.0),
    "divided by n": compared(root=1.0),
    "normal": compared(quantile={3: 1.96, 5: 1.96}),
    "one more free": compared(quantile={3: 3.182, 5: 2.571}),
    "one-sided": compared(quantile={3: 2.920, 5: 2.132}),
    "right for three alone": compared(quantile={3: 4.303, 5: 4.303}),
    "whole width": compared(after=lambda m, h: (m, 2 * h)),
    "ends": compared(after=lambda m, h: (m - h, m + h)),
    "a constant": compared(after=lambda m, h: (m, 0.01)),
    "not a number": compared(after=lambda m, h: (m, math.nan)),
}


def quadratic(
    last: Callable[..., Any] = lambda r: r / (2 - r),
    averaged: Callable[..., Any] | None = None,
    decay: Callable[..., Any] | None = None,
) -> Any:
    """The answer of exercise D.3 with one part changed."""

    def right(r: float, d: float) -> float:
        keep = d * (1 - r)
        return r / (2 - r) * (1 - d) / (1 + d) * (1 + keep) / (1 - keep)

    def solved(r: float, k: float) -> float:
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            below = right(r, middle) < r / k / (2 - r / k)
            low, high = (low, middle) if below else (middle, high)
        return low

    return last, averaged or right, decay or solved


WRONG["D.3"] = {
    "small rates alone": quadratic(last=lambda r: r / 2),
    "no noise in the step": quadratic(last=lambda r: r**2),
    "deviation for variance": quadratic(last=lambda r: (r / (2 - r)) ** 0.5),
    "weights as if independent": quadratic(averaged=lambda r, d: r / (2 - r) * (1 - d) / (1 + d)),
    "average is the last": quadratic(averaged=lambda r, d: r / (2 - r)),
    "once too often": quadratic(
        averaged=lambda r, d: r / (2 - r) * (1 - d) / (1 + d) / (1 - d * (1 - r))
    ),
    "small rates": quadratic(averaged=lambda r, d: r / 2 * (1 - d) / (1 - d + r)),
    "nothing left": quadratic(averaged=lambda r, d: 0.0),
    "rule of thumb": quadratic(decay=lambda r, k: 1 - r / (k - 1)),
    "one minus": quadratic(decay=lambda r, k: 1 - quadratic()[2](r, k)),
    "no average": quadratic(decay=lambda r, k: 0.0),
    "a constant": quadratic(decay=lambda r, k: 0.99),
    "right for ten alone": quadratic(decay=lambda r, k: quadratic()[2](r, 10)),
    "all of it": quadratic(decay=lambda r, k: 1.0),
    "not a number": quadratic(last=lambda r: math.nan),
}


def test_the_generators_of_answers_to_page_D_know_the_right_ones() -> None:
    exercises.check("D.1", left())
    exercises.check("D.2", compared())
    exercises.check("D.3", quadratic())


WRONG["10.1"] = {
    "h is ε": (lambda s, e: 2 * s**4 / (2 * s**2 - e), lambda s: 2 * s**2),
    "exact": (lambda s, e: s**2, lambda s: 4 * s**2),
    "deviation in the bound": (lambda s, e: 4 * s**4 / (4 * s**2 - e), lambda s: 4 * s),
    "first order": (lambda s, e: s**2 + e / 4, lambda s: 4 * s**2),
    "right for σ = 1 alone": (lambda s, e: 4 / (4 - e), lambda s: 4.0),
    "not a number": (lambda s, e: math.nan, lambda s: 4 * s**2),
    "no bound": (lambda s, e: 4 * s**4 / (4 * s**2 - e), lambda s: math.inf),
}


def two_sides(x: Any, abar: float, w: float, m: float, c: float, bug: str) -> Any:
    var, centre = abar * c + 1 - abar, (abar if bug == "no root" else abar**0.5) * m
    if bug == "overflow":
        right = w * torch.exp(-((x - centre) ** 2) / (2 * var))
        left = (1 - w) * torch.exp(-((x + centre) ** 2) / (2 * var))
        return ((right - left) / (right + left) * centre - x) / var
    logit = 0.0 if bug == "even weights" else math.log(w / (1 - w))
    half = 1 if bug == "half slope" else 2
    return ((2 * torch.sigmoid(logit + half * centre * x / var) - 1) * centre - x) / var


WRONG["10.2"] = {
    bug: lambda *given, bug=bug: two_sides(*given, bug)
    for bug in ("no root", "overflow", "even weights", "half slope")
}
WRONG["10.2"] |= {
    "sign": lambda *given: -two_sides(*given, ""),
    "clamped x": lambda x, *given: two_sides(x.clamp(-4, 4), *given, ""),
    "clamped score": lambda *given: two_sides(*given, "").clamp(-1000, 1000),
    "sides swapped": lambda x, abar, w, m, c: two_sides(x, abar, w, -m, c, ""),
    "one mode": lambda x, abar, w, m, c: (abar**0.5 * m * x.sign() - x) / (abar * c + 1 - abar),
    "nothing": lambda x, *given: torch.zeros_like(x),
    "not a number": lambda x, *given: torch.full_like(x, math.nan),
}


def guided(
    root: float = 0.5,
    sign: float = -1,
    normalise: bool = True,
    classes: Callable[..., Any] = lambda y: y,
    own: bool = True,
) -> Callable[..., Any]:
    def guide(net: Any, classifier: Any, x_t: Any, t: int, y: Any, abar: float, s: float) -> Any:
        y = classes(y)
        with torch.enable_grad():
            x = x_t.detach().requires_grad_() if own else x_t.requires_grad_()
            logits = classifier(x, t)
            log_p = logits.log_softmax(1) if normalise else logits
            (slope,) = torch.autograd.grad(log_p[torch.arange(len(y)), y].sum(), x)
        return net(x_t, t) + sign * s * (1 - abar) ** root * slope

    return guide


WRONG["10.3"] = {
    "sign": guided(sign=1),
    "no root": guided(root=1),
    "score for noise": guided(root=0),
    "logits": guided(normalise=False),
    "no gradient": lambda net, classifier, x_t, t, y, abar, s: net(x_t, t),
    "strength forgotten": lambda n, c, x_t, t, y, abar, s: guided()(n, c, x_t, t, y, abar, 1.0),
    "classes turned round": guided(classes=lambda y: y.flip(0)),
    "class 0 for all": guided(classes=lambda y: 0 * y),
    "marks x_t": guided(own=False),
    "not a number": lambda net, classifier, x_t, t, y, abar, s: math.nan * x_t,
}
WRONG["10.4"] = {
    "the same": lambda s, c: s,
    "sign": lambda s, c: math.log(s / c - s + 1) / math.log(c),
    "logarithm of s": lambda s, c: math.log(s) / math.log(1 / c) + 1,
    "ancestral at s = 2": lambda s, c: math.log(c**2 + c * (1 - c) ** 2 / 3) / math.log(c),
    "never above 1": lambda s, c: min(1.0, -math.log(s / c - s + 1) / math.log(c)),
    "constant": lambda s, c: 1.0,
    "not a number": lambda s, c: math.nan,
}


def doubled(c: float) -> float:
    return c**2 + c * (1 - c) ** 2 / 3


def calibrated(
    k: Callable[..., float] = lambda s, a, c: 1 - s + s / (a * c + 1 - a),
    loud: Callable[..., float] = lambda eta, a, b: eta**2 * (1 - b) / (1 - a) * (1 - a / b),
) -> Callable[..., float]:
    """An answer to exercise 10.5 with this guided score and this variance of a step's noise."""

    def left(strength: float, c: float, alpha_bar: Any, times: Any, eta: float) -> float:
        var = 1.0
        for t, then in pairwise(times):
            a, b = float(alpha_bar[t]), float(alpha_bar[then])
            own, noise = k(strength, a, c), loud(eta, a, b)
            on_x0 = (b / a) ** 0.5 * (1 - (1 - a) * own)
            gain = on_x0 + max(1 - b - noise, 0) ** 0.5 * (1 - a) ** 0.5 * own
            var = gain**2 * var + noise
        return var

    def calibrate(s: float, c: float, alpha_bar: Any, times: Any, eta: float) -> float:
        low, high = 0.0, float(s)
        for _ in range(50):
            middle = (low + high) / 2
            if left(middle, c, alpha_bar, times, eta) > 1 / (s / c - s + 1):
                low = middle
            else:
                high = middle
        return low

    return calibrate


def test_the_generator_of_answers_to_exercise_10_5_knows_the_right_one() -> None:
    exercises.check("10.5", (doubled, calibrated()))


WRONG["10.5"] = {
    "DDIM": (lambda c: c**2, calibrated()),
    "tilted distribution": (lambda c: c / (2 - c), calibrated()),
    "exponent": (doubled, lambda s, *_: s),
    "fine DDIM": (doubled, lambda s, c, *_: -math.log(s / c - s + 1) / math.log(c)),
    "clean class": (doubled, calibrated(k=lambda s, a, c: 1 - s + s / c)),
    "s for s + 1": (doubled, calibrated(k=lambda s, a, c: -s + (s + 1) / (a * c + 1 - a))),
    "deviation for variance": (doubled, calibrated(loud=lambda eta, a, b: eta * (1 - b))),
    "beta": (doubled, calibrated(loud=lambda eta, a, b: eta**2 * (1 - a / b) * (b < 1))),
    "η ignored": (doubled, calibrated(loud=lambda eta, a, b: (1 - b) / (1 - a) * (1 - a / b))),
    "DDIM always": (doubled, calibrated(loud=lambda eta, a, b: 0.0)),
    "times ignored": (
        doubled,
        lambda s, c, ab, times, eta: calibrated()(s, c, ab, range(len(ab) - 1, -1, -1), eta),
    ),
    "not a number": (doubled, lambda *_: math.nan),
}


def imagen(eps_c: Any, eps_null: Any, scale: float) -> Any:
    return eps_null + scale * (eps_c - eps_null)


WRONG["11.1"] = {
    "right at scale 1 alone": (lambda scale: 0.0, imagen),
    "constant": (lambda scale: scale - 1, lambda c, n, scale: 0 * c),
    "clamped": (lambda scale: max(scale - 1, 0.0), imagen),
    "not a number": (lambda scale: scale - 1, lambda c, n, scale: c * math.nan),
    "not shifted": (lambda scale: scale, imagen),
    "shifted up": (lambda scale: scale + 1, imagen),
    "our formula": (lambda scale: scale - 1, lambda c, n, scale: (1 + scale) * c - scale * n),
    "turned": (lambda scale: scale - 1, lambda c, n, scale: imagen(n, c, scale)),
}


def asks_twice(denoiser: Any, x_t: Any, t: int, y: Any, z: Any, w: float) -> Any:
    towards, against = denoiser(x_t, t, y).x0, denoiser(x_t, t, z).x0
    return towards + w * (towards - against)


def away(weigh: Callable[..., Any]) -> Callable[..., Any]:
    def run(denoiser: Any, x_t: Any, t: int, y: Any, z: Any, w: float) -> Any:
        both = denoiser(torch.cat([x_t, x_t]), t, torch.cat([y, z])).x0
        return weigh(*both.chunk(2), w)

    return run


WRONG["11.2"] = {
    "asks twice": asks_twice,
    "clamped": away(lambda y, z, w: (y + w * (y - z)).clamp(-1, 1)),
    "constant": away(lambda y, z, w: 0 * y),
    "no weight": away(lambda y, z, w: y),
    "not a number": away(lambda y, z, w: y * math.nan),
    "turned": away(lambda y, z, w: z + w * (z - y)),
    "scale for weight": away(lambda y, z, w: z + w * (y - z)),
    "both batches": lambda d, x, t, y, z, w: d(torch.cat([x, x]), t, torch.cat([y, z])).x0,
}
WRONG["11.3"] = {
    "constant": (lambda m, c, C: 4 / 3, lambda c, C: 0.5),
    "sign": (lambda m, c, C: m / (1 - c / C), lambda c, C: math.log(2) / math.log(c / C)),
    "not a number": (lambda m, c, C: math.nan, lambda c, C: math.nan),
    "for C = 1 alone": (lambda m, c, C: m / (1 - c), lambda c, C: math.log(2) / math.log(C / c)),
    "the class": (lambda m, c, C: m, lambda c, C: math.log(2) / math.log(C / c)),
    "sum turned": (lambda m, c, C: m * (1 + c / C), lambda c, C: math.log(2) / math.log(C / c)),
    "half of everything": (lambda m, c, C: m / (1 - c / C), lambda c, C: 1 / 2),
    "base": (lambda m, c, C: m / (1 - c / C), lambda c, C: 1 / math.log(C / c)),
}


def inside(c: float, C: float, w: float, low: float, high: float, bug: str = "") -> float:
    if bug == "everywhere":
        low, high = 0.0, math.inf
    ratio = (c + low) / (C + low) * ((C + high) / (c + high) if math.isfinite(high) else 1.0)
    if bug == "upper end forgotten":
        ratio = (c + low) / (C + low)
    return c * ratio ** (w + 1 if bug == "w + 1" else w)


WRONG["11.4"] = {
    bug: lambda *given, bug=bug: inside(*given, bug)
    for bug in ("everywhere", "upper end forgotten", "w + 1")
}
WRONG["11.4"] |= {
    "the class": lambda c, C, w, low, high: c,
    "not a number": lambda c, C, w, low, high: math.nan,
    "sign of w": lambda c, C, w, low, high: inside(c, C, -w, low, high),
    "ends turned": lambda c, C, w, low, high: (
        inside(c, C, w, high, low) if low else c * (c / C) ** w
    ),
}
KEPT = {1.0: 0.528, 4.0: 0.578}  # beyond 0.65 in the tilted density


def tilted_x0(bug: str = "") -> Callable[..., Any]:
    """Exercise 11.5, with a slip."""

    def predict(x: Any, a: float, b: float, points: Any, p: Any, L: Any, s: float) -> Any:
        if bug == "constant":
            return 0 * x
        power = {"weight for scale": s - 1, "class alone": 1.0}.get(bug, s)
        far = ((x[:, None] - (1 if bug == "no scale" else a) * points) ** 2).sum(2)
        log = (0 if bug == "no p" else p.log()) + power * L.log()
        log = log - far / (b**2 if bug == "no half" else 2 * b**2)
        if bug == "of a product of exponentials":
            log = torch.exp(log)
            return log @ points / log.sum(1, keepdim=True)
        if bug == "guided":
            plain = torch.softmax(p.log() - far / (2 * b**2), 1) @ points
            given = torch.softmax(p.log() + L.log() - far / (2 * b**2), 1) @ points
            return plain + s * (given - plain)
        mean = torch.softmax(log, 0 if bug == "other axis" else 1) @ points
        return mean.clamp(-1, 1) if bug == "clamped" else mean

    return predict


WRONG["11.5"] = {
    bug: (tilted_x0(bug), KEPT)
    for bug in (
        "constant", "weight for scale", "class alone", "no scale", "no p", "no half", "guided",
        "other axis", "clamped", "of a product of exponentials",
    )
}  # fmt: skip
WRONG["11.5"] |= {
    "shares of the guided chain": (tilted_x0(), {1.0: 0.80, 4.0: 1.0}),
    "shares of the class": (tilted_x0(), {1.0: 0.5, 4.0: 0.5}),
    "shares turned": (tilted_x0(), {1.0: 1 - 0.528, 4.0: 1 - 0.578}),
    "no shares": (tilted_x0(), {1.0: math.nan, 4.0: math.nan}),
}


def test_every_exercise_has_wrong_answers() -> None:
    assert list(WRONG) == EXERCISES
    assert all(len(answers) >= 3 for answers in WRONG.values())


@pytest.mark.parametrize(
    ("key", "mistake"), [(key, mistake) for key, answers in WRONG.items() for mistake in answers]
)
def test_a_plausible_mistake_gets_the_hint(key: str, mistake: str) -> None:
    with pytest.raises(AssertionError) as failure:
        exercises.check(key, WRONG[key][mistake])
    assert re.match(rf"✗ {re.escape(key)} (?!No answer).* Hint: ", str(failure.value), re.DOTALL)
    assert "The answer raised" not in str(failure.value)


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.name)
def test_the_skeleton_of_an_exercise_fails_its_check(chapter: notebooks.Chapter) -> None:
    """Run the empty cell with the `#` taken off its last line, as a student would."""
    found = skeletons(notebooks.from_text(chapter))
    number = chapter.number.lstrip("0")
    assert list(found) == [key for key in EXERCISES if key.split(".")[0] == number]
    for key, source in found.items():
        answers = re.sub(r"(?m)^# (?=exercises\.check)", "", source)
        code = compile("from __future__ import annotations\n" + answers, key, "exec")
        with pytest.raises(AssertionError, match=f"✗ {re.escape(key)} No answer yet. Hint: "):
            exec(code, {"exercises": exercises})
