"""Chapter 06: the claims of its derivation, and its exercises."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import sympy as sp
import torch

from ddpmlib.denoiser import EPS, Denoiser, learned_var_mix, oracle
from ddpmlib.likelihood import continuous, decoder_floor, elbo, gaussian_kl
from ddpmlib.losses import ImportanceTimes, l_hybrid, l_vlb
from ddpmlib.models import MLP
from ddpmlib.prediction import Prediction
from ddpmlib.process import DDPM, schedules
from ddpmlib.samplers import linspace_times, quadratic_times, sample, uniform_times
from ddpmlib.teaching.exercises import ch06, check

PROCESS = DDPM(schedules.cosine(100))
PAIRS = [(2, 1), (50, 49), (60, 10), (100, 90), (100, 1)]


def symbols() -> tuple[sp.Symbol, ...]:
    return sp.symbols("a_t a_s c sigma2 error2", positive=True)


def ends(a_t: sp.Expr, a_s: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    beta = 1 - a_t / a_s
    return (1 - a_s) / (1 - a_t) * beta, beta


# ---- the best variance -------------------------------------------------------------------


@pytest.mark.equation("6.1")
def test_the_best_variance_minimises_the_divergence() -> None:
    a_t, a_s, _, sigma2, error2 = symbols()
    beta_tilde, beta = ends(a_t, a_s)
    on_x0 = sp.sqrt(a_s) * beta / (1 - a_t)
    kl = (beta_tilde + on_x0**2 * error2) / sigma2 - 1 - sp.log(beta_tilde / sigma2)
    best = beta_tilde + on_x0**2 * error2
    assert sp.simplify(sp.diff(kl / 2, sigma2).subs(sigma2, best)) == 0
    second = sp.simplify(sp.diff(kl / 2, sigma2, 2).subs(sigma2, best) * best**2)
    assert second == sp.Rational(1, 2)  # a minimum


@pytest.mark.equation("6.2")
@pytest.mark.parametrize("factor", [0.3, 0.9, 1.0, 1.5, 4.0])
def test_what_a_wrong_variance_costs(factor: float) -> None:
    """Against the divergence of the library, averaged over errors of known mean square."""
    beta_tilde, beta = PROCESS.variances(20, 15)
    error = torch.tensor([0.3, -0.3], dtype=torch.float64)  # x_0 − x̂_0
    a_t, a_s = PROCESS.alpha_bar[20], PROCESS.alpha_bar[15]
    shift = float(a_s.sqrt() * beta / (1 - a_t)) * error
    best = beta_tilde + float((shift**2).mean())

    def cost(variance: float) -> float:
        low, log_var = torch.tensor([beta_tilde, variance], dtype=torch.float64).log()
        return float(gaussian_kl(shift, low, torch.zeros(2).double(), log_var).mean())

    r = 1 / factor
    expected = 0.5 * (r - 1 - math.log(r))
    assert cost(factor * best) - cost(best) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.equation("6.3")
def test_beta_tilde_is_best_for_a_point_and_beta_for_a_standard_normal() -> None:
    a_t, a_s, c, _, _ = symbols()
    beta_tilde, beta = ends(a_t, a_s)
    unknown = c**2 * (1 - a_t) / (1 - a_t + a_t * c**2)  # Var(x_0 | x_t) for N(0, c²)
    best = beta_tilde + a_s * beta**2 / (1 - a_t) ** 2 * unknown
    closed = beta * (1 - a_s + a_s * c**2) / (1 - a_t + a_t * c**2)
    assert sp.simplify(best - closed) == 0
    assert sp.simplify(closed.subs(c, 0) - beta_tilde) == 0
    assert sp.simplify(closed.subs(c, 1) - beta) == 0
    rises = sp.factor(sp.simplify(sp.diff(closed, c) / (2 * c)))
    # the sign of the slope is that of (a_s − a_t): positive for s < t
    assert sp.simplify(rises - beta * (a_s - a_t) / (1 - a_t + a_t * c**2) ** 2) == 0


@pytest.mark.equation("6.3")
@pytest.mark.parametrize("c", [0.0, 0.4, 1.0, 1.7])
@pytest.mark.parametrize(("t", "s"), PAIRS)
def test_the_best_variance_for_gaussian_data_by_the_oracle(c: float, t: int, s: int) -> None:
    """Regression of x_s on x_t, from the covariance of the pair and nothing else."""
    a = PROCESS.alpha_bar
    var_s, var_t = (a[u] * c**2 + 1 - a[u] for u in (s, t))
    scale = (a[t] / a[s]).sqrt()
    conditional = var_s - (scale * var_s) ** 2 / var_t
    beta_tilde, beta = PROCESS.variances(t, s)
    assert float(beta * var_s / var_t) == pytest.approx(float(conditional), rel=1e-9)
    if c <= 1:
        assert beta_tilde * (1 - 1e-9) <= conditional <= beta * (1 + 1e-9)
    else:
        assert conditional > beta  # data wider than 1 leave the range


@pytest.mark.equation("6.4")
@pytest.mark.parametrize(("t", "s"), PAIRS)
def test_the_ratio_of_the_two_ends(t: int, s: int) -> None:
    beta_tilde, beta = PROCESS.variances(t, s)
    expected = float((1 - PROCESS.alpha_bar[s]) / (1 - PROCESS.alpha_bar[t]))
    assert beta_tilde / beta == pytest.approx(expected, rel=1e-12)
    assert PROCESS.beta_tilde[1] == 0  # why a logarithm needs the clipped β̃_2 there


@pytest.mark.equation("6.4")
def test_for_long_chains_the_ends_meet_early() -> None:
    share = []
    for T in (10, 100, 1000):
        chain = DDPM(schedules.cosine(T))
        ratio = chain.beta_tilde[1:] / chain.beta[1:]
        assert ratio[0] == 0 and bool((ratio < 1).all())
        share.append(float((ratio < 0.9).double().mean()))
    assert share[0] > 0.5 and share[1] < 0.2 and share[2] < 0.02


@pytest.mark.equation("6.6")
@pytest.mark.parametrize("c", [0.2, 0.6, 0.99])
def test_the_place_of_the_best_variance(c: float) -> None:
    t, s = 30, 10
    beta_tilde, beta = PROCESS.variances(t, s)
    a = PROCESS.alpha_bar
    best = float(beta * (1 - a[s] + a[s] * c**2) / (1 - a[t] + a[t] * c**2))
    v = math.log(best / beta_tilde) / math.log(beta / beta_tilde)
    assert 0 < v < 1
    assert PROCESS.posterior_std(t, s, v) ** 2 == pytest.approx(best, rel=1e-12)


@pytest.mark.equation("6.8")
def test_what_the_variance_half_learns_from() -> None:
    """∂L/∂v = ½ log(β/β̃) (1 − σ*²/σ²), by sympy and by autograd of the library."""
    v, low, high, best = sp.symbols("v beta_tilde beta best", positive=True)
    sigma2 = sp.exp(v * sp.log(high) + (1 - v) * sp.log(low))
    kl = (best / sigma2 - 1 - sp.log(low / sigma2)) / 2
    expected = sp.log(high / low) / 2 * (1 - best / sigma2)
    assert sp.simplify(sp.expand_log(sp.diff(kl, v) - expected, force=True)) == 0

    beta_tilde, beta = PROCESS.variances(5, 4)
    x0 = torch.tensor([[0.5]], dtype=torch.float64)
    x_t = PROCESS.q_sample(x0, 5, torch.tensor([[1.2]], dtype=torch.float64))
    place = torch.tensor([[0.3]], dtype=torch.float64, requires_grad=True)

    class Net(torch.nn.Module):
        def forward(self, x, t, y=None):  # type: ignore[no-untyped-def]
            return torch.cat([torch.zeros_like(x), 2 * place - 1], 1)

    eps = torch.tensor([[1.2]], dtype=torch.float64)
    learned = Denoiser(Net(), PROCESS, EPS, var_mix=None)
    loss = l_vlb(learned, x0, torch.tensor([5]), eps).sum() * math.log(2) / PROCESS.T
    (slope,) = torch.autograd.grad(loss, place)
    a_t, a_s = (float(PROCESS.alpha_bar[u]) for u in (5, 4))
    error = float(x0) - float(x_t) / a_t**0.5  # the network says ε̂ = 0
    sigma2 = PROCESS.posterior_std(5, 4, 0.3) ** 2
    best = beta_tilde + a_s * beta**2 / (1 - a_t) ** 2 * error**2
    by_hand = 0.5 * math.log(beta / beta_tilde) * (1 - best / sigma2)
    assert float(slope) == pytest.approx(by_hand, rel=1e-9)


# ---- how times are drawn -----------------------------------------------------------------


@pytest.mark.equation("6.10")
@pytest.mark.equation("6.11")
def test_mean_and_variance_of_the_weighted_estimate_by_enumeration() -> None:
    g = torch.Generator().manual_seed(0)
    T, kinds = 6, 4  # at each time four equally likely gradients in three dimensions
    gradient = (
        torch.randn(T, kinds, 3, generator=g).double() * torch.arange(1, T + 1)[:, None, None]
    )
    p = torch.rand(T, generator=g).double()
    p = p / p.sum()
    chance = (p / kinds)[:, None].expand(T, kinds)
    estimate = gradient / (T * p)[:, None, None]
    mean = (chance[..., None] * estimate).sum((0, 1))
    torch.testing.assert_close(mean, gradient.mean((0, 1)))
    variance = (chance * ((estimate - mean) ** 2).sum(2)).sum()
    square = (gradient**2).sum(2).mean(1)
    torch.testing.assert_close(variance, (square / (T**2 * p)).sum() - (mean**2).sum())


@pytest.mark.equation("6.12")
def test_the_best_probabilities_are_proportional_to_the_root_of_the_second_moment() -> None:
    g = torch.Generator().manual_seed(1)
    square = torch.rand(7, generator=g).double() ** 4 + 1e-3

    def noise(p: torch.Tensor) -> float:
        return float((square / (49 * p)).sum())

    best = square.sqrt() / square.sqrt().sum()
    assert noise(best) == pytest.approx(float(square.sqrt().mean()) ** 2, rel=1e-12)
    for _ in range(50):
        p = best * torch.exp(0.3 * torch.randn(7, generator=g).double())
        assert noise(p / p.sum()) >= noise(best)
    times = ImportanceTimes(7, memory=1, uniform=1e-9)
    times.update(torch.arange(1, 8), square.sqrt().float())
    torch.testing.assert_close(times.probabilities(), best, rtol=1e-5, atol=1e-8)


# ---- strides -----------------------------------------------------------------------------


@pytest.mark.equation("6.13")
@pytest.mark.parametrize("schedule", [schedules.linear, schedules.cosine, schedules.sigmoid])
@pytest.mark.parametrize("times", [uniform_times(1000, 7), linspace_times(1000, 9), [900, 300, 0]])
def test_a_stride_is_a_step_of_the_re_derived_chain(schedule, times: list[int]) -> None:  # type: ignore[no-untyped-def]
    """The posterior between two times, or a shorter β table: the same to twelve digits."""
    long = DDPM(schedule(1000))
    rising = long.alpha_bar[times[::-1]]
    beta = torch.cat([torch.zeros(1).double(), 1 - rising[1:] / rising[:-1]])
    short = DDPM(beta)
    torch.testing.assert_close(short.alpha_bar, rising, rtol=1e-12, atol=1e-15)
    g = torch.Generator().manual_seed(0)
    x, x0, noise, place = torch.randn(4, 5, 2, generator=g, dtype=torch.float64)
    for k, (t, s) in zip(range(short.T, 0, -1), pairwise(times), strict=True):
        assert long.variances(t, s)[0] == pytest.approx(float(short.beta_tilde[k]), rel=1e-12)
        assert long.variances(t, s)[1] == pytest.approx(float(short.beta[k]), rel=1e-12)
        for mix in (0.0, 1.0, 0.4, learned_var_mix(place)):
            for eta in (1.0, 0.5, 0.0):
                prediction = Prediction(x0, mix)
                a = long.step(x, prediction, t, s, eta, noise)
                b = short.step(x, prediction, k, k - 1, eta, noise)
                torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.equation("6.13")
def test_a_strided_sampler_with_a_learned_variance_is_the_short_chains_sampler() -> None:
    long, times = DDPM(schedules.cosine(200)), uniform_times(200, 6)
    rising = long.alpha_bar[times[::-1]]
    short = DDPM(torch.cat([torch.zeros(1).double(), 1 - rising[1:] / rising[:-1]]))

    def prediction(x, t, y=None):  # type: ignore[no-untyped-def]
        return Prediction(torch.tanh(x + t / 200), torch.sigmoid(3 * x))

    def prediction_of_short(x, k, y=None):  # type: ignore[no-untyped-def]
        return prediction(x, times[::-1][k])

    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    walks = [
        list(sample(d, p, x, ts, generator=torch.Generator().manual_seed(2)))
        for d, p, ts in ((prediction, long, times), (prediction_of_short, short, None))
    ]
    assert [s.t for s in walks[0]] == times
    for a, b in zip(*walks, strict=True):
        torch.testing.assert_close(a.x, b.x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("t", "s"), [(20, 10), (60, 40), (100, 50), (99, 3)])
def test_the_best_place_of_a_stride_is_that_of_a_small_step_inside_of_it(t: int, s: int) -> None:
    """Cauchy's mean value theorem, for Gaussian data; so a place need not be best at its end."""
    a = PROCESS.alpha_bar
    wide = 1 - a + a * 0.3**2

    def place(t: int, s: int) -> float:
        low, high = PROCESS.variances(t, s)
        return math.log(float(high * wide[s] / wide[t]) / low) / math.log(high / low)

    quotient = float((wide[t].log() - wide[s].log()) / ((1 - a[t]).log() - (1 - a[s]).log()))
    assert place(t, s) == pytest.approx(1 - quotient, rel=1e-9)
    small = [place(u, u - 1) for u in range(s + 1, t + 1)]
    assert min(small) <= place(t, s) <= max(small)


# ---- the bound and the variance ----------------------------------------------------------


@pytest.mark.equation("6.1")
@pytest.mark.equation("6.2")
@pytest.mark.parametrize("c", [0.3, 1.0])
def test_the_bound_of_gaussian_data_is_lowest_at_the_best_variance(c: float) -> None:
    """And each fixed choice pays (6.2) per step, here with the exact denoiser."""
    exact = oracle.Gaussian(PROCESS, torch.zeros(1).double(), torch.full((1, 1), c**2).double())
    times = uniform_times(100, 5)
    x0 = c * torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0)).double()
    a = PROCESS.alpha_bar
    below = dict(pairwise(times))

    def bound(mix):  # type: ignore[no-untyped-def]
        def prediction(x, t, y=None):  # type: ignore[no-untyped-def]
            return Prediction(exact(x, t).x0, mix(t, below[t]) if below[t] else 0.5)

        g = torch.Generator().manual_seed(1)
        return elbo(prediction, PROCESS, x0, times, decoder=continuous, generator=g).steps.mean(0)

    def best(t: int, s: int) -> float:
        return float(
            PROCESS.variances(t, s)[1] * (1 - a[s] + a[s] * c**2) / (1 - a[t] + a[t] * c**2)
        )

    def place(t: int, s: int) -> float:
        low, high = PROCESS.variances(t, s)
        return math.log(best(t, s) / low) / math.log(high / low)

    least = bound(place)
    for fixed in (0.0, 1.0):
        r = [best(t, s) / PROCESS.variances(t, s)[int(fixed)] for t, s in pairwise(times) if s > 0]
        price = torch.tensor([0.5 * (x - 1 - math.log(x)) for x in r], dtype=torch.float64)
        torch.testing.assert_close(
            bound(lambda t, s, m=fixed: m) - least, price, rtol=0.05, atol=1e-3
        )


@pytest.mark.slow
def test_a_small_network_finds_the_best_variance() -> None:
    """One dimension, c = 0.4, T = 8: L_hybrid puts σ² within 15 % of (6.3) at every t ≥ 2."""
    process, c = DDPM(schedules.cosine(8)), 0.4
    torch.manual_seed(0)
    learned = Denoiser(MLP(1, width=32, depth=1, outputs=2), process, EPS, var_mix=None)
    optimiser = torch.optim.Adam(learned.parameters(), lr=1e-2)
    g = torch.Generator().manual_seed(1)
    for step in range(400):
        for group in optimiser.param_groups:
            group["lr"] = 1e-2 * (1 - step / 400)
        x0 = c * torch.randn(256, 1, generator=g)
        t = torch.randint(1, 9, (256,), generator=g)
        eps = torch.randn(256, 1, generator=g)
        loss = l_hybrid(learned, x0, t, eps, decoder=continuous).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    a = process.alpha_bar
    for t in range(2, 9):
        x_t = process.q_sample(
            c * torch.randn(2000, 1, generator=g), t, torch.randn(2000, 1, generator=g)
        )
        with torch.no_grad():
            found = process.posterior_std(t, t - 1, learned(x_t, t).var_mix) ** 2
        best = process.beta[t] * (1 - a[t - 1] + a[t - 1] * c**2) / (1 - a[t] + a[t] * c**2)
        assert float(found.log().mean().exp() / best) == pytest.approx(1, abs=0.15)


@pytest.mark.equation("6.2", "6.3")
def test_the_dear_end_depends_on_the_width_of_the_data() -> None:
    """Sums over a chain of 100 steps: β̃ is dear for wide data, β for narrow data."""
    chain = PROCESS
    a = chain.alpha_bar

    def paid(c: float) -> tuple[float, float]:
        wide = 1 - a + a * c**2
        best = chain.beta[2:] * wide[1:-1] / wide[2:]
        ratios = best / chain.beta_tilde[2:], best / chain.beta[2:]
        low, high = (float((0.5 * (r - 1 - r.log())).sum()) for r in ratios)
        return low, high

    for c in (1.0, 0.3, 0.1):
        assert paid(c)[0] > paid(c)[1]
    for c in (0.03, 0.01):
        assert paid(c)[1] > paid(c)[0]
    assert paid(1.0)[1] == pytest.approx(0, abs=1e-12)
    falling = [paid(c)[0] for c in (1.0, 0.3, 0.1, 0.03, 0.01)]
    assert all(x > y for x, y in pairwise(falling))


@pytest.mark.equation("6.6")
def test_far_out_the_best_place_is_that_of_one_peak_until_nothing_is_known() -> None:
    """Two peaks of width 0.2, total variance 1: at small t one is certain, at t = T none."""
    chain = DDPM(schedules.cosine(20))
    weights, means = torch.tensor([[0.4, 0.6], [-1.2, 0.8]], dtype=torch.float64)
    stds = torch.full((2,), 0.2, dtype=torch.float64)
    exact = oracle.Mixture(chain, weights, means[:, None], stds)
    grid = torch.linspace(-7, 7, 6001, dtype=torch.float64)[:, None]
    far = torch.tensor([[-4.5], [4.5]], dtype=torch.float64)

    def places(t: int) -> torch.Tensor:
        a, b = float(chain.alpha_bar[t]), float(chain.alpha_bar[t - 1])
        log_p = exact.log_prob(grid, 0) - (far - a**0.5 * grid[:, 0]) ** 2 / (2 * (1 - a))
        p = torch.softmax(log_p, 1)
        unknown = p @ grid**2 - (p @ grid) ** 2
        low, high = (float(v) for v in chain.variances(t, t - 1))
        best = low + b * high**2 / (1 - a) ** 2 * unknown
        return (best / low).log() / math.log(high / low)

    for t, expected in ((2, 0.73), (3, 0.51), (4, 0.35), (20, 1.0)):
        assert torch.allclose(places(t), torch.tensor(expected, dtype=torch.float64), atol=0.01)


# ---- exercises ---------------------------------------------------------------------------


def _even(low, high):  # type: ignore[no-untyped-def]
    return math.log(high / low) / (1 / low - 1 / high)


def _width(a_t, a_s, even=_even):  # type: ignore[no-untyped-def]
    beta = 1 - a_t / a_s
    best = even(beta * (1 - a_s) / (1 - a_t), beta)
    return math.sqrt((best * (1 - a_t) - beta * (1 - a_s)) / (beta * a_s - best * a_t))


def test_exercise_1() -> None:
    check("6.1", (_even, _width))
    for wrong in (
        (lambda low, high: (low * high) ** 0.5, _width),
        (lambda low, high: (low + high) / 2, _width),
        (_even, lambda a, b: _width(a, b) ** 2),
        (_even, lambda a, b: 0.3),
        (_even, lambda a, b: math.nan),
    ):
        with pytest.raises(AssertionError, match="Hint"):
            check("6.1", wrong)


def _variance(alpha_bar, t, s, v):  # type: ignore[no-untyped-def]
    beta = 1 - alpha_bar[t] / alpha_bar[s]
    beta_tilde = (1 - alpha_bar[s]) / (1 - alpha_bar[t]) * beta
    return beta**v * beta_tilde ** (1 - v)


def test_exercise_2() -> None:
    check("6.2", _variance)

    def not_in_the_logarithm(a, t, s, v):  # type: ignore[no-untyped-def]
        return v * _variance(a, t, s, 1.0) + (1 - v) * _variance(a, t, s, 0.0)

    for wrong in (
        not_in_the_logarithm,
        lambda a, t, s, v: _variance(a, t, s, 1 - v),
        lambda a, t, s, v: _variance(a, t, t - 1, v),
        lambda a, t, s, v: _variance(a, t, s, v) ** 0.5,
    ):
        with pytest.raises(AssertionError, match="Hint"):
            check("6.2", wrong)


def _analytic(denoiser, process, x0, times, noise, root=False, single=False):  # type: ignore[no-untyped-def]
    found = []
    for t, s in pairwise(times):
        s = t - 1 if single else s
        error = x0 - denoiser(process.q_sample(x0, t, noise[t]), t).x0
        low, beta = process.variances(t, s)
        on_x0 = float(process.scale[s]) * float(beta) / float(process.std[t]) ** 2
        square = float((error**2).mean())
        found.append(float(low) + (on_x0 if root else on_x0**2) * square)
    return found


def test_exercise_3() -> None:
    check("6.3", _analytic)
    for wrong in (
        lambda *a: _analytic(*a, root=True),
        lambda *a: _analytic(*a, single=True),
        lambda *a: _analytic(*a)[:-1],
        lambda *a: [_analytic(*a)[0]] * (len(a[3]) - 1),
        lambda *a: [math.nan] * (len(a[3]) - 1),
        lambda d, p, x0, times, noise: [p.variances(t, s)[0] for t, s in pairwise(times)],
    ):
        with pytest.raises(AssertionError, match="Hint"):
            check("6.3", wrong)


def _hybrid(output, target, place, beta_tilde, beta, on_x0, share):  # type: ignore[no-untyped-def]
    simple = (output - target) ** 2
    log_var = place * math.log(beta) + (1 - place) * math.log(beta_tilde)
    best = beta_tilde + (on_x0 * (output.detach() - target)) ** 2
    kl = 0.5 * (best / log_var.exp() - 1 - math.log(beta_tilde) + log_var)
    return (simple + share * kl).mean()


def test_exercise_4() -> None:
    check("6.4", _hybrid)

    def no_stop(output, target, place, low, high, on_x0, share):  # type: ignore[no-untyped-def]
        log_var = place * math.log(high) + (1 - place) * math.log(low)
        kl = (low + (on_x0 * (output - target)) ** 2) / log_var.exp() - 1 - math.log(low) + log_var
        return ((output - target) ** 2 + share * kl / 2).mean()

    for wrong in (
        no_stop,
        lambda *a: ((a[0] - a[1]) ** 2).mean(),
        lambda *a: _hybrid(*a[:-1], 2 * a[-1]),
        lambda *a: _hybrid(*a).detach(),
    ):
        with pytest.raises(AssertionError, match="Hint"):
            check("6.4", wrong)


def _tabulated():  # type: ignore[no-untyped-def]
    """A table of the best variance over x_t at each of the six times."""
    process, times = DDPM(schedules.cosine(1000)), quadratic_times(1000, 6)
    data, floor = ch06._three_peaks(process), decoder_floor(process, times)
    g, edges = torch.Generator().manual_seed(0), torch.linspace(-3, 3, 61, dtype=torch.float64)
    x0, table = data.draw(40_000, generator=g), {}
    for t, s in pairwise(times):
        x_t = process.q_sample(x0, t, torch.randn(x0.shape, generator=g, dtype=torch.float64))
        low, high = (float(v) for v in process.variances(t, s))
        on_x0 = float(process.scale[s]) * high / float(process.std[t]) ** 2
        single = low + (on_x0 * (x0 - data(x_t, t).x0)) ** 2
        k = torch.bucketize(x_t[:, 0], edges)
        total = torch.bincount(k, single[:, 0], 62) + single.mean()
        mean = total / (torch.bincount(k, minlength=62) + 1)
        low = low or floor
        table[t] = (mean / low).log() / math.log(high / low)
    return lambda x, t: table[t][torch.bucketize(x, edges)]


def test_exercise_5() -> None:
    place = _tabulated()
    check("6.5", place)
    for wrong in (
        lambda x, t: torch.zeros_like(x),
        lambda x, t: torch.ones_like(x),
        lambda x, t: torch.full_like(x, 0.5),
        lambda x, t: torch.full_like(x, math.nan),
        lambda x, t: 1 - place(x, t),
        lambda x, t: place(x, 1000),
        lambda x, t: place(x, t).mean().expand(x.shape),
        lambda x, t: place(x, t)[:, 0],
    ):
        with pytest.raises(AssertionError, match="Hint"):
            check("6.5", wrong)


@pytest.mark.parametrize("key", ["6.1", "6.2", "6.3", "6.4", "6.5"])
def test_the_skeletons_fail(key: str) -> None:
    with pytest.raises(AssertionError, match="No answer yet"):
        check(key, ...)


# ---- proofs by algebra -------------------------------------------------------------------


@pytest.mark.equation("6.1")
@pytest.mark.equation("6.2")
def test_a_wrong_variance_costs_delta_and_nothing_else() -> None:
    tilde, error, sigma2 = sp.symbols("tilde error sigma2", positive=True)

    def divergence(s: sp.Expr) -> sp.Expr:  # (4.7), averaged: error is A² E(x_0 − x̂_0)²
        return (tilde / s - 1 - sp.log(tilde) + sp.log(s) + error / s) / 2

    best = tilde + error
    r = best / sigma2
    cost = (r - 1 - sp.log(best) + sp.log(sigma2)) / 2
    assert sp.simplify(divergence(sigma2) - divergence(best) - cost) == 0


@pytest.mark.equation("6.5")
@pytest.mark.equation("6.6")
def test_the_place_of_a_variance_between_its_ends() -> None:
    v, beta, tilde, best = sp.symbols("v beta tilde best", positive=True)
    log_variance = v * sp.log(beta) + (1 - v) * sp.log(tilde)
    (place,) = sp.solve(sp.Eq(log_variance, sp.log(best)), v)
    printed = sp.log(best / tilde) / sp.log(beta / tilde)
    assert sp.simplify(place - sp.expand_log(printed, force=True)) == 0


@pytest.mark.equation("6.10")
@pytest.mark.equation("6.11")
@pytest.mark.equation("6.12")
def test_importance_weights_by_symbols() -> None:
    """Any three losses, any probabilities: the mean, the variance, and what the best p saves."""
    g = sp.symbols("g_1:4", positive=True)
    p1, p2 = sp.symbols("p_1 p_2", positive=True)
    p = (p1, p2, 1 - p1 - p2)
    estimates = [a / (3 * b) for a, b in zip(g, p, strict=True)]
    mean = sum(b * e for b, e in zip(p, estimates, strict=True))
    assert sp.simplify(mean - sum(g) / 3) == 0
    variance = sum(b * (e - mean) ** 2 for b, e in zip(p, estimates, strict=True))
    printed = sum(a**2 / (9 * b) for a, b in zip(g, p, strict=True)) - (sum(g) / 3) ** 2
    assert sp.simplify(variance - printed) == 0
    # a sum of squares that vanishes exactly where p is proportional to g
    squares = sum(
        (g[i] * p[j] - g[j] * p[i]) ** 2 / (9 * p[i] * p[j]) for i in range(3) for j in range(i)
    )
    assert sp.simplify(printed - squares) == 0


@pytest.mark.equation("6.13")
def test_the_products_of_the_short_chain_are_those_of_the_long_one() -> None:
    a = [sp.Integer(1), *sp.symbols("a_1:5", positive=True)]  # ᾱ at the times that are kept
    betas = [1 - a[k] / a[k - 1] for k in range(1, 5)]
    assert sp.simplify(sp.prod(1 - beta for beta in betas) - a[4]) == 0
