"""`ddpmlib.samplers`: chains whose distribution is known exactly, and the manners of the loops."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from ddpmlib.denoiser import EPS, Denoiser, V, oracle
from ddpmlib.prediction import Prediction
from ddpmlib.process import DDPM, schedules
from ddpmlib.samplers import (
    State,
    ddim_invert,
    draw,
    leading_times,
    linspace_times,
    quadratic_times,
    sample,
    slerp,
    uniform_times,
)

F64 = torch.float64
T = 40
PROCESS = DDPM(schedules.cosine(T))
SHAPES = [(3,), (3, 2), (3, 5, 3), (3, 1, 4, 4), (3, 2, 4, 5, 5)]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class SmoothNet(nn.Module):
    """A small nonlinear network with random weights that hears time and label; (B, 3) -> (B, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = normal(3, 8), normal(8, seed=1), normal(8, 3, seed=2)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        shift = t.double() / T + (0 if y is None else y)
        return torch.tanh(x @ self.a / 2 + self.b * shift[:, None]) @ self.c / 3


# ---- a point mass ------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("steps", [1, 7, T])
def test_who_always_says_the_same_gets_exactly_that(
    shape: tuple[int, ...], eta: float, steps: int
) -> None:
    """Ancestral, strided, DDIM, any η, any variance: not a last bit is left of the noise."""
    x0 = normal(*shape, seed=1)
    for var_mix in (0.0, 0.5, 1.0, torch.full(shape, 0.3, dtype=F64)):
        found = draw(
            lambda x, t, y, u=var_mix: Prediction(x0, u),
            PROCESS,
            normal(*shape),
            uniform_times(T, steps),
            eta=eta,
            generator=seeded(),
        )
        assert torch.equal(found, x0)


@pytest.mark.parametrize(
    "beta", [schedules.linear(50), schedules.cosine(50), torch.tensor([0, 0.5])]
)
def test_a_point_is_found_under_every_schedule_in_float32(beta: Tensor) -> None:
    x0 = torch.rand(2, 1, 4, 4, generator=seeded())
    found = draw(lambda x, t, y: Prediction(x0), DDPM(beta), torch.randn(2, 1, 4, 4))
    assert torch.equal(found, x0) and found.dtype == torch.float32


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_on_the_way_to_a_point_every_state_has_the_kernels_distribution(eta: float) -> None:
    """β̃ is the right variance for a point: each state is drawn from q(x_t|x_0), at any η."""
    n, point = 20_000, 1.5
    x = normal(n)
    chain = sample(
        lambda x, t, y: Prediction(torch.full_like(x, point)),
        PROCESS,
        float(PROCESS.scale[T]) * point + float(PROCESS.std[T]) * x,
        uniform_times(T, 8),
        eta=eta,
        generator=seeded(3),
    )
    for state in chain:
        mean, var = float(PROCESS.scale[state.t]) * point, float(PROCESS.std[state.t]) ** 2
        assert abs(float(state.x.mean()) - mean) <= 4.5 * math.sqrt(var / n)
        assert abs(float(state.x.var()) - var) <= 4.5 * var * math.sqrt(2 / n)


# ---- Gaussian data: the distribution of the output is computable ---------------------------

MEAN = torch.tensor([0.5, -1.0], dtype=F64)
COV = torch.tensor([[0.30, 0.10], [0.10, 0.08]], dtype=F64)


def marginal(process: DDPM, t: int) -> tuple[Tensor, Tensor]:
    a = process.alpha_bar[t]
    return a.sqrt() * MEAN, a * COV + (1 - a) * torch.eye(2, dtype=F64)


def moments(process: DDPM, times: list[int], eta: float, var_mix: float) -> tuple[Tensor, Tensor]:
    """Exact mean and covariance of the chain's output when it starts from the true q(x_T).

    With Gaussian data every step is affine in x_t and in its noise; feeding the origin and the unit
    vectors through the engine reads the matrices off.
    """
    exact = oracle.Gaussian(process, MEAN, COV)
    basis, none = torch.cat([torch.zeros(1, 2), torch.eye(2)]).double(), torch.zeros(3, 2).double()
    mean, cov = marginal(process, times[0])
    for t, s in pairwise(times):
        prediction = Prediction(exact(basis, t).x0, var_mix)
        out = process.step(basis, prediction, t, s, eta, none)
        matrix = (out[1:] - out[0]).T
        loud = process.step(none, Prediction(none, var_mix), t, s, eta, basis)[1:]
        mean = out[0] + matrix @ mean
        cov = matrix @ cov @ matrix.T + loud.T @ loud
    return mean, cov


@pytest.mark.parametrize(
    ("eta", "var_mix"), [(0.0, 0.0), (0.5, 0.0), (1.0, 0.0), (1.0, 1.0), (1.0, 0.5)]
)
def test_the_covariance_converges_at_first_order(eta: float, var_mix: float) -> None:
    """DDIM is Euler's method: the error halves when the steps double; so do all its relatives."""
    process, counts = DDPM(schedules.cosine(2048)), [128, 256, 512, 1024]
    ends = [moments(process, uniform_times(2048, n), eta, var_mix) for n in counts]
    for mean, _ in ends:  # the mean is carried without error at any number of steps
        torch.testing.assert_close(mean, MEAN, rtol=0, atol=1e-10)
    errors = [float((cov - COV).norm()) for _, cov in ends]
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert errors[-1] < 3e-3
    assert all(0.9 < a < b < 1.02 for a, b in pairwise(orders)), orders
    extrapolated = 2 * ends[-1][1] - ends[-2][1]  # what remains when a first order is removed
    assert float((extrapolated - COV).norm()) < 0.1 * errors[-1]


def test_ddim_has_the_covariance_of_the_recursion_by_hand() -> None:
    """Along an axis of variance λ one DDIM step multiplies the deviation by a known factor."""
    process, times = DDPM(schedules.linear(200)), uniform_times(200, 20)
    eigenvalues, basis = torch.linalg.eigh(COV)
    variances = []
    for value in eigenvalues.tolist():
        a = float(process.alpha_bar[200])
        v = a * value + 1 - a
        for t, s in pairwise(times):
            a_t, a_s = float(process.alpha_bar[t]), float(process.alpha_bar[s])
            var_t = a_t * value + 1 - a_t
            on_x0, on_eps = math.sqrt(a_t) * value / var_t, math.sqrt(1 - a_t) / var_t
            v *= (math.sqrt(a_s) * on_x0 + math.sqrt(1 - a_s) * on_eps) ** 2
        variances.append(v)
    expected = basis @ torch.diag(torch.tensor(variances, dtype=F64)) @ basis.T
    _, cov = moments(process, times, 0.0, 0.0)
    torch.testing.assert_close(cov, expected, rtol=1e-11, atol=1e-13)


def test_sample_and_moments_walk_the_same_chain() -> None:
    """The loop itself on unit vectors (η = 0), and by moments (η = 1), against the matrices."""
    process, times = DDPM(schedules.linear(100)), uniform_times(100, 10)
    exact = oracle.Gaussian(process, MEAN, COV)
    mean_T, cov_T = marginal(process, 100)
    basis = torch.cat([torch.zeros(1, 2), torch.eye(2)]).double()
    out = draw(exact, process, basis, times, eta=0.0)
    matrix = (out[1:] - out[0]).T
    mean, cov = moments(process, times, 0.0, 0.0)
    torch.testing.assert_close(out[0] + matrix @ mean_T, mean)
    torch.testing.assert_close(matrix @ cov_T @ matrix.T, cov)

    n, g = 40_000, seeded(1)
    x_T = exact.draw(n, 100, generator=g)
    found = draw(exact, process, x_T, times, eta=1.0, generator=g)
    mean, cov = moments(process, times, 1.0, 0.0)
    assert float((found.mean(0) - mean).abs().max()) < 4.5 * math.sqrt(0.3 / n)
    assert float((found.T.cov() - cov).abs().max()) < 4.5 * 0.3 * math.sqrt(2 / n)


def test_for_standard_normal_data_the_large_variance_is_exact_at_any_stride() -> None:
    """Ho et al. (2020, section 3.2): β is optimal for x_0 ~ N(0, I); q(x_s|x_t) is then exact."""
    exact = oracle.Gaussian(PROCESS, torch.zeros(1, dtype=F64), torch.eye(1, dtype=F64))
    one, zero = torch.ones(1, 1, dtype=F64), torch.zeros(1, 1, dtype=F64)
    for t, s in [(40, 39), (40, 1), (25, 10), (2, 1)]:
        keep = float(PROCESS.step(one, Prediction(exact(one, t).x0, 1.0), t, s, 1.0, zero))
        spread = float(PROCESS.step(zero, Prediction(zero, 1.0), t, s, 1.0, one))
        assert keep == pytest.approx(math.sqrt(PROCESS.alpha_bar[t] / PROCESS.alpha_bar[s]))
        assert keep**2 + spread**2 == pytest.approx(1, rel=1e-12)


# ---- mixtures: the whole distribution ----------------------------------------------------

WEIGHTS = torch.tensor([0.3, 0.7], dtype=F64)
MEANS = torch.tensor([-1.0, 1.2], dtype=F64)
STDS = torch.tensor([0.25, 0.1], dtype=F64)


def distance_to_mixture(x: Tensor) -> float:
    """Kolmogorov's distance between samples and the exact distribution function."""

    def cdf(value):
        parts = zip(WEIGHTS.tolist(), MEANS.tolist(), STDS.tolist(), strict=True)
        return sum(w * stats.norm.cdf(value, m, s) for w, m, s in parts)

    return float(stats.kstest(x.numpy(), cdf).statistic)


@pytest.mark.parametrize(
    ("steps", "eta", "limit"),
    # 4000 fair draws stay below 0.026 in 99 % of all cases; few steps add their own error.
    [(200, 1.0, 0.03), (200, 0.5, 0.03), (200, 0.0, 0.03), (50, 0.0, 0.05), (50, 1.0, 0.06)],
)
def test_samples_follow_the_mixture(steps: int, eta: float, limit: float) -> None:
    process = DDPM(schedules.cosine(200))
    exact = oracle.Mixture(process, WEIGHTS, MEANS, STDS)
    times = uniform_times(200, steps)
    found = draw(exact, process, normal(4000), times, eta=eta, generator=seeded(0))
    assert distance_to_mixture(found) < limit
    assert distance_to_mixture(-found) > 0.5  # what a wrong sign would look like


def test_samples_of_the_oracle_follow_the_mixture() -> None:
    exact = oracle.Mixture(PROCESS, WEIGHTS, MEANS, STDS)
    assert distance_to_mixture(exact.draw(4000, generator=seeded(0))) < 0.026


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_with_finite_data_every_chain_ends_on_a_point(eta: float) -> None:
    points = normal(5, 3, seed=4)
    process = DDPM(schedules.cosine(100))
    exact = oracle.FiniteData(process, points)
    found = draw(exact, process, normal(200, 3), eta=eta, generator=seeded())
    nearest, which = torch.cdist(found, points).min(1)
    assert float(nearest.max()) < 1e-3
    assert len(which.unique()) == 5


# ---- DDIM inversion ----------------------------------------------------------------------


@pytest.mark.equation("3.9")
@pytest.mark.parametrize("p", [EPS, V], ids=lambda p: p.name)
def test_encode_then_decode_comes_home_as_refine_grows(p) -> None:
    """A random smooth network: each further iteration gains digits, down to rounding error."""
    denoiser, x0 = Denoiser(SmoothNet(), PROCESS, p), normal(6, 3)
    times = [30, 24, 18, 12, 6, 0]
    gap = []
    for refine in (1, 2, 4, 8, 40):
        *_, top = ddim_invert(denoiser, PROCESS, x0, times, refine=refine)
        assert top.t == 30
        gap.append(float((draw(denoiser, PROCESS, top.x, times, eta=0.0) - x0).abs().max()))
    assert all(b < a for a, b in pairwise(gap)), gap
    assert gap[0] > 1e-2 and gap[-1] < 1e-6, gap


@pytest.mark.equation("3.9")
def test_encode_then_decode_with_an_oracle() -> None:
    process, times = DDPM(schedules.linear(100)), uniform_times(100, 50)
    exact = oracle.Gaussian(process, MEAN, COV)
    x0, gap = MEAN + 0.3 * normal(20, 2), []
    for refine in (1, 3, 10, 60):
        *_, top = ddim_invert(exact, process, x0, times, refine=refine)
        gap.append(float((draw(exact, process, top.x, times, eta=0.0) - x0).abs().max()))
    assert all(b < a for a, b in pairwise(gap)), gap
    assert gap[-1] < 1e-6, gap


@pytest.mark.equation("3.9")
def test_inversion_of_a_gaussian_is_its_closed_form() -> None:
    """Along every axis DDIM multiplies by (a_s a_t c + b_s b_t)/(a_t² c + b_t²): one unknown."""
    c, times, x = 0.3, [40, 30, 20, 10, 0], MEAN + normal(5, 2)
    exact = oracle.Gaussian(PROCESS, MEAN, c * torch.eye(2, dtype=F64))
    *states, last = ddim_invert(exact, PROCESS, x, times, refine=3)
    by_hand = x
    for s, t in pairwise(times[::-1]):
        (a, b), (p, q) = (map(float, (PROCESS.scale[u], PROCESS.std[u])) for u in (s, t))
        factor = (p**2 * c + q**2) / (a * p * c + b * q)
        by_hand = p * MEAN + factor * (by_hand - a * MEAN)
    torch.testing.assert_close(last.x, by_hand, rtol=0, atol=1e-9)
    assert states[0].residual is None and last.residual.shape == (5,)
    assert float(last.residual.max()) < 1e-9


def slope_net(slope: float) -> Denoiser:
    """A network whose noise is ``slope`` x, so that the fixed-point map is a straight line."""

    class Net(torch.nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return slope * x

    return Denoiser(Net(), PROCESS, EPS)


def test_inversion_converges_where_plain_iteration_runs_away(recwarn) -> None:
    t, s, x = 30, 20, normal(4, 3)
    (a, b), (p, q) = PROCESS.kernel(s, x), PROCESS.kernel(t, x)
    denoiser = slope_net(-2 / (q - p / a * b))  # the map's derivative is −2 everywhere
    plain = x
    for _ in range(20):
        plain = p / a * x + (q - p / a * b) * denoiser.net(plain, x)
    assert float(plain.abs().max()) > 1e4
    *_, up = ddim_invert(denoiser, PROCESS, x, [t, s], refine=3)
    back = draw(denoiser, PROCESS, up.x, [t, s], eta=0.0)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-9)
    assert not recwarn.list


def rough(x: Tensor, t: int, y: Tensor | None) -> Prediction:
    """Noise that turns over within less than a step: no iteration finds its way."""
    return Prediction(PROCESS.kernel(t, x)[0] * x + 0.6 * torch.sin(90 * x))


def test_inversion_that_does_not_converge_keeps_the_best_and_says_so_once() -> None:
    x, best = 0.3 * normal(8, 3), None
    for refine in (2, 4, 8, 16):
        with pytest.warns(UserWarning, match=f"within refine = {refine} calls per step") as seen:
            *_, up = ddim_invert(rough, PROCESS, x, [30, 20], refine=refine)
        assert len(seen) == 1 and "\n" not in str(seen[0].message)
        assert best is None or bool((up.residual <= best).all())  # more calls are never worse
        best = up.residual


def test_one_call_per_step_never_warns(recwarn) -> None:
    *_, up = ddim_invert(rough, PROCESS, 0.3 * normal(8, 3), [30, 20])
    assert float(up.residual.min()) > 0 and not recwarn.list


@pytest.mark.equation("3.9")
def test_decode_then_encode_finds_the_latent() -> None:
    denoiser, times = Denoiser(SmoothNet(), PROCESS, V), [30, 20, 10, 0]
    x_T = normal(6, 3)
    down = {state.t: state.x for state in sample(denoiser, PROCESS, x_T, times, eta=0.0)}
    up = {s.t: s.x for s in ddim_invert(denoiser, PROCESS, down[0], times, refine=200)}
    assert list(up) == [0, 10, 20, 30]
    for t in times:
        torch.testing.assert_close(up[t], down[t], rtol=0, atol=1e-9)


@pytest.mark.equation("3.9")
def test_one_iteration_is_the_usual_encoder() -> None:
    """Song et al. (2021, section 4.3): keep ε̂ found at the lower state, change scale and std."""
    net, x = SmoothNet(), normal(4, 3)
    denoiser = Denoiser(net, PROCESS, EPS)
    *_, found = ddim_invert(denoiser, PROCESS, x, [20, 9])
    eps = net(x, torch.full((4,), 20))
    x0 = (x - PROCESS.std[9] * eps) / PROCESS.scale[9]
    torch.testing.assert_close(found.x, PROCESS.scale[20] * x0 + PROCESS.std[20] * eps)
    assert found.t == 20


def test_inversion_counts_its_network_calls_and_passes_labels() -> None:
    asked, y = [], torch.tensor([1, 2])

    def denoiser(x: Tensor, t: int, labels: Tensor | None) -> Prediction:
        assert labels is y and not torch.is_grad_enabled()
        asked.append(t)
        return Prediction(0 * x)

    *_, top = ddim_invert(denoiser, PROCESS, normal(2, 3), [20, 10, 0], y=y, refine=3)
    assert asked == [10, 10, 10, 20, 20, 20] and top.t == 20


# ---- times -------------------------------------------------------------------------------


@settings(deadline=None, max_examples=100, derandomize=True)
@given(pair=st.integers(1, 2000).flatmap(lambda T: st.tuples(st.just(T), st.integers(1, T))))
def test_uniform_times_fall_evenly_from_T_to_zero(pair: tuple[int, int]) -> None:
    last, steps = pair
    times = uniform_times(last, steps)
    assert len(times) == steps + 1 and times[0] == last and times[-1] == 0
    gaps = [t - s for t, s in pairwise(times)]
    assert min(gaps) >= 1 and max(gaps) - min(gaps) <= 2
    assert all(abs(t - last * (1 - k / steps)) <= 0.5 + 1e-9 for k, t in enumerate(times))
    assert all(type(t) is int for t in times)


SPACINGS = [uniform_times, leading_times, linspace_times, quadratic_times]
each_spacing = pytest.mark.parametrize("spacing", SPACINGS, ids=lambda f: f.__name__)
some_steps = st.integers(1, 1500).flatmap(lambda T: st.tuples(st.just(T), st.integers(1, T)))


@each_spacing
@settings(deadline=None, max_examples=150, derandomize=True)
@given(pair=some_steps)
def test_every_spacing_falls_strictly_in_so_many_steps(spacing, pair: tuple[int, int]) -> None:
    last, steps = pair
    times = spacing(last, steps)
    assert len(times) == steps + 1 and all(type(t) is int for t in times)
    assert all(s < t for t, s in pairwise(times))
    assert times[-1] == 0 and last >= times[0]
    if spacing is leading_times:
        assert times[0] == 1 + (steps - 1) * (last // steps)
    else:
        assert times[0] == last
    if spacing in (leading_times, linspace_times) and steps > 1:
        assert times[-2] == 1  # both visit the cleanest time


@each_spacing
@pytest.mark.parametrize("last", [1, 2, 7, 40])
def test_as_many_steps_as_times_visit_every_time(spacing, last: int) -> None:
    assert spacing(last, last) == list(range(last, -1, -1))


@each_spacing
@pytest.mark.parametrize("steps", [1, 2, 7, 39, T])
def test_a_spacing_costs_exactly_its_steps_in_calls(spacing, steps: int) -> None:
    asked = []

    def denoiser(x: Tensor, t: int, y: Tensor | None) -> Prediction:
        asked.append(t)
        return Prediction(0 * x)

    draw(denoiser, PROCESS, torch.zeros(2), spacing(T, steps), eta=0.0)
    assert asked == spacing(T, steps)[:-1] and len(asked) == steps


def test_spacings_that_can_be_written_down() -> None:
    assert uniform_times(1000, 5) == [1000, 800, 600, 400, 200, 0]
    assert leading_times(1000, 5) == [801, 601, 401, 201, 1, 0]
    assert linspace_times(1001, 5) == [1001, 751, 501, 251, 1, 0]
    assert quadratic_times(1000, 5) == [1000, 640, 360, 160, 40, 0]
    assert [f(1000, 1) for f in SPACINGS] == [[1000, 0], [1, 0], [1000, 0], [1000, 0]]


@settings(deadline=None, max_examples=100, derandomize=True)
@given(pair=some_steps)
def test_quadratic_times_are_squares_where_those_are_far_enough_apart(
    pair: tuple[int, int],
) -> None:
    last, steps = pair
    rising = quadratic_times(last, steps)[::-1]
    for k, t in enumerate(rising):
        square = last * (k / steps) ** 2
        assert t >= square - 0.5 - 1e-9
        # further up only where the times below stand shoulder to shoulder
        crowded = rising[: k + 1] == list(range(k + 1))
        assert crowded or t - rising[k - 1] == 1 or abs(t - square) <= 0.5 + 1e-9


@each_spacing
@pytest.mark.parametrize("steps", [0, -1, 11])
def test_more_steps_than_times_are_refused(spacing, steps: int) -> None:
    with pytest.raises(ValueError, match=r"steps must lie in 1\.\.T = 1\.\.10"):
        spacing(10, steps)


# ---- slerp -------------------------------------------------------------------------------


def angle_between(a: Tensor, b: Tensor) -> Tensor:
    """(B,) in radians, stable at small angles: half-angle form of the unit vectors' distance."""
    a, b = (x.flatten(1) / x.flatten(1).norm(dim=1, keepdim=True) for x in (a, b))
    return 2 * torch.atan2((a - b).norm(dim=1), (a + b).norm(dim=1))


@pytest.mark.equation("7.15")
@pytest.mark.parametrize("shape", SHAPES[1:])
def test_slerp_starts_and_ends_where_it_should(shape: tuple[int, ...]) -> None:
    a, b = normal(*shape), normal(*shape, seed=1)
    torch.testing.assert_close(slerp(a, b, 0.0), a, rtol=0, atol=1e-14)
    torch.testing.assert_close(slerp(a, b, 1.0), b, rtol=0, atol=1e-14)
    torch.testing.assert_close(slerp(a, b, 0.3), slerp(b, a, 0.7), rtol=1e-12, atol=1e-14)


@pytest.mark.equation("7.15")
@settings(deadline=None, max_examples=60, derandomize=True)
@given(seed=st.integers(0, 10_000), w=st.floats(0, 1), radius=st.floats(0.01, 100))
def test_slerp_stays_on_the_sphere_and_divides_the_angle(
    seed: int, w: float, radius: float
) -> None:
    a, b = normal(4, 5, seed=seed), normal(4, 5, seed=seed + 1)
    a, b = (radius * x / x.norm(dim=1, keepdim=True) for x in (a, b))
    found, whole = slerp(a, b, w), angle_between(a, b)
    torch.testing.assert_close(found.norm(dim=1), torch.full((4,), radius, dtype=F64))
    torch.testing.assert_close(angle_between(a, found), w * whole, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(angle_between(found, b), (1 - w) * whole, rtol=1e-6, atol=1e-7)


@pytest.mark.equation("7.15")
def test_slerp_has_constant_speed_and_lerp_has_not() -> None:
    a, b = torch.tensor([[1.0, 0.0]], dtype=F64), torch.tensor([[-0.8, 0.6]], dtype=F64)
    weights = torch.linspace(0, 1, 11).tolist()
    arcs = [float(angle_between(slerp(a, b, u), slerp(a, b, v))) for u, v in pairwise(weights)]
    chords = [
        float(angle_between(torch.lerp(a, b, u), torch.lerp(a, b, v))) for u, v in pairwise(weights)
    ]
    assert max(arcs) == pytest.approx(min(arcs), rel=1e-6)
    assert max(chords) > 3 * min(chords)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("tilt", [0.0, 1e-9, 1e-6, 1e-4, 1e-3])
def test_between_parallel_vectors_slerp_is_lerp(tilt: float, dtype: torch.dtype) -> None:
    a = torch.tensor([[1.0, 2.0, -1.0]], dtype=dtype)
    b = 1.5 * (a + tilt * torch.tensor([[2.0, -1.0, 0.0]], dtype=dtype))
    for w in (0.0, 0.25, 1.0):
        torch.testing.assert_close(slerp(a, b, w), torch.lerp(a, b, w), rtol=1e-5, atol=1e-5)


def test_each_sample_may_have_its_own_weight() -> None:
    a, b, w = normal(3, 2, 4), normal(3, 2, 4, seed=1), torch.tensor([0.1, 0.5, 1.0])
    rows = [slerp(a[i : i + 1], b[i : i + 1], float(w[i])) for i in range(3)]
    torch.testing.assert_close(slerp(a, b, w), torch.cat(rows), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(slerp(a, b, torch.tensor(0.5)), slerp(a, b, 0.5))


@pytest.mark.parametrize(
    ("a", "b", "w", "message"),
    [
        (normal(2, 3), normal(2, 4), 0.5, "one shape"),
        (normal(3), normal(3), 0.5, "one shape"),
        (torch.zeros(2, 3), torch.ones(2, 3), 0.5, "neither zero nor opposite"),
        (normal(2, 3), -2 * normal(2, 3), 0.5, "neither zero nor opposite"),
        (normal(2, 3) * math.nan, normal(2, 3), 0.5, "neither zero nor opposite"),
        (normal(2, 3), normal(2, 3, seed=1), torch.ones(3), r"one per sample \(2,\)"),
        (normal(2, 3), normal(2, 3, seed=1), torch.ones(2, 1), r"one per sample \(2,\)"),
    ],
)
def test_slerp_refuses_what_has_no_great_circle(a, b, w, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        slerp(a, b, w)


@pytest.mark.equation("7.14", "7.15")
def test_between_noises_slerp_keeps_their_shell_and_lerp_leaves_it() -> None:
    """Norms of 784-dimensional interpolants against those of noise itself (Kolmogorov–Smirnov)."""
    d, n = 784, 500
    a, b, fresh = (normal(n, d, seed=s) for s in range(3))

    def distance(x: Tensor) -> float:
        return float(stats.ks_2samp(x.norm(dim=1).numpy(), fresh.norm(dim=1).numpy()).statistic)

    for w in (0.25, 0.5):
        # Averaging two radii narrows the shell a little; its radius stays.
        assert distance(slerp(a, b, w)) < 0.2
        assert distance(torch.lerp(a, b, w)) == pytest.approx(1)
        radius = float(torch.lerp(a, b, w).norm(dim=1).mean()) / math.sqrt(d)
        assert radius == pytest.approx(math.hypot(w, 1 - w), abs=0.01)
    # single coordinates look standard normal, too
    middle = slerp(a, b, 0.5).flatten()[:: d // 4]
    assert stats.kstest(middle.numpy(), "norm").pvalue > 1e-3


@pytest.mark.parametrize(
    "times", [[], [5], [5, 5], [T + 1, 0], [5, -1], [9, 3, 3, 0], [0, 5], [5, 7, 0]]
)
def test_times_that_do_not_fall_within_the_process_are_refused(times: list[int]) -> None:
    x = torch.zeros(2)
    with pytest.raises(ValueError, match=r"times must fall strictly within T = 40 \.\. 0"):
        list(ddim_invert(zero_prediction, PROCESS, x, times))
    if times in ([0, 5], [5, 7, 0]):  # these rise: a forward draw
        assert len(list(sample(zero_prediction, PROCESS, x, times))) == len(times)
        return
    for chain in (
        lambda: list(sample(zero_prediction, PROCESS, x, times)),
        lambda: draw(zero_prediction, PROCESS, x, times),
    ):
        with pytest.raises(ValueError, match=r"must change at every step within T = 40 \.\. 0"):
            chain()


def test_the_message_about_many_times_stays_short() -> None:
    with pytest.raises(ValueError, match=r"got \[40, 39, 38\] \.\.\. \[2, 1, 1\]$"):
        draw(zero_prediction, PROCESS, torch.zeros(2), [*range(40, 0, -1), 1])


def zero_prediction(x: Tensor, t: int, y: Tensor | None) -> Prediction:
    return Prediction(0 * x)


@pytest.mark.parametrize("eta", [-0.5, 1.5])
def test_eta_outside_its_range_is_refused(eta: float) -> None:
    with pytest.raises(ValueError, match=r"eta must lie in \[0, 1\]"):
        draw(zero_prediction, PROCESS, torch.zeros(2), [5, 0], eta=eta)


def test_refine_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="refine counts network calls per step"):
        list(ddim_invert(zero_prediction, PROCESS, torch.zeros(2), refine=0))


# ---- the loop ----------------------------------------------------------------------------


def test_states_come_in_order_with_the_prediction_that_led_there() -> None:
    x_T, said = normal(2, 3), []

    def denoiser(x: Tensor, t: int, y: Tensor | None) -> Prediction:
        said.append((t, x, Prediction(torch.tanh(x))))
        return said[-1][2]

    states = list(sample(denoiser, PROCESS, x_T, [30, 11, 2], eta=0.0))
    assert [s.t for s in states] == [30, 11, 2]
    assert states[0].x is x_T and states[0].x0 is None
    assert [t for t, _, _ in said] == [30, 11]  # asked at the departure, not at the arrival
    for before, after, (_, x, prediction) in zip(states, states[1:], said, strict=False):
        assert x is before.x and after.x0 is prediction.x0


def test_by_default_every_time_is_visited() -> None:
    states = list(sample(zero_prediction, PROCESS, torch.zeros(2)))
    assert [s.t for s in states] == list(range(T, -1, -1))
    up = list(ddim_invert(zero_prediction, PROCESS, torch.zeros(2)))
    assert [s.t for s in up] == list(range(T + 1))


def test_a_chain_may_start_and_stop_in_the_middle() -> None:
    denoiser = Denoiser(SmoothNet(), PROCESS)
    whole = {s.t: s.x for s in sample(denoiser, PROCESS, normal(2, 3), [30, 20, 10, 0], eta=0.0)}
    half = draw(denoiser, PROCESS, whole[20], (20, 10, 0), eta=0.0)
    assert torch.equal(half, whole[0])
    assert torch.equal(draw(denoiser, PROCESS, whole[30], range(30, 9, -10), eta=0.0), whole[10])


def test_the_caller_may_leave_early() -> None:
    calls = []

    def denoiser(x: Tensor, t: int, y: Tensor | None) -> Prediction:
        calls.append(t)
        return Prediction(0 * x)

    for state in sample(denoiser, PROCESS, torch.zeros(2)):
        if state.t == T - 3:
            break
    assert calls == [T, T - 1, T - 2]


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_one_seed_one_chain(eta: float) -> None:
    denoiser = Denoiser(SmoothNet(), PROCESS)

    def run(seed: int) -> Tensor:
        return draw(denoiser, PROCESS, normal(2, 3), eta=eta, generator=seeded(seed))

    assert torch.equal(run(1), run(1))
    assert float((run(1) - run(2)).abs().max()) > 1e-3


def test_the_generator_is_the_only_source_of_noise() -> None:
    denoiser, before = Denoiser(SmoothNet(), PROCESS), torch.get_rng_state()
    draw(denoiser, PROCESS, normal(2, 3), generator=seeded())
    assert torch.equal(torch.get_rng_state(), before)


def test_ddim_draws_nothing() -> None:
    generator = seeded()
    before = generator.get_state()
    denoiser = Denoiser(SmoothNet(), PROCESS)
    first = draw(denoiser, PROCESS, normal(2, 3), eta=0.0, generator=generator)
    assert torch.equal(generator.get_state(), before)
    assert torch.equal(draw(denoiser, PROCESS, normal(2, 3), eta=0.0), first)


def test_labels_reach_the_denoiser() -> None:
    denoiser, x = Denoiser(SmoothNet(), PROCESS), normal(2, 3)
    runs = [draw(denoiser, PROCESS, x, eta=0.0, y=y) for y in (None, torch.zeros(2), torch.ones(2))]
    assert torch.equal(runs[0], runs[1])
    assert float((runs[1] - runs[2]).abs().max()) > 1e-3


@pytest.mark.parametrize("shape", SHAPES)
def test_any_rank_walks_like_its_flat_self(shape: tuple[int, ...]) -> None:
    x = normal(*shape)

    def denoiser(x: Tensor, t: int, y: Tensor | None) -> Prediction:
        return Prediction(torch.tanh(x))

    walked = draw(denoiser, PROCESS, x, eta=0.5, generator=seeded())
    flat = draw(denoiser, PROCESS, x.reshape(-1), eta=0.5, generator=seeded())
    assert walked.shape == shape
    torch.testing.assert_close(walked.reshape(-1), flat)
    *_, up = ddim_invert(denoiser, PROCESS, x, [20, 0], refine=2)
    assert up.x.shape == shape


# ---- gradients ---------------------------------------------------------------------------


@pytest.mark.parametrize("loop", [sample, ddim_invert])
def test_no_graph_is_built_and_the_callers_mode_is_his_own(loop) -> None:
    denoiser = Denoiser(nn.Linear(3, 3), PROCESS)
    denoiser.raw = lambda x, t, y=None: (denoiser.net(x), 0.0)  # type: ignore[method-assign]
    for wanted in (True, False):
        with torch.set_grad_enabled(wanted):
            for state in loop(denoiser, PROCESS, torch.zeros(2, 3), [3, 2, 1, 0]):
                assert torch.is_grad_enabled() == wanted  # between the yields, too
                assert not state.x.requires_grad
            assert torch.is_grad_enabled() == wanted


def test_a_denoiser_may_take_gradients_inside() -> None:
    """Guidance: the prediction moves along a gradient that the denoiser computes for itself."""
    grad_was_on = []

    def guided(x: Tensor, t: int, y: Tensor | None) -> Prediction:
        grad_was_on.append(torch.is_grad_enabled())
        with torch.enable_grad():
            free = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad((free**3).sum(), free)
        return Prediction(slope)

    *_, last = sample(guided, PROCESS, torch.ones(2, 3), [3, 0], eta=0.0)
    assert grad_was_on == [False]
    torch.testing.assert_close(last.x, torch.full((2, 3), 3.0))


def test_the_states_are_ordinary_tensors() -> None:
    """`inference_mode` tensors could never again enter a graph."""
    for state in sample(zero_prediction, PROCESS, torch.ones(2, 3), [3, 2, 0], generator=seeded()):
        assert not state.x.is_inference()
        leaf = state.x.clone().requires_grad_()
        (leaf * state.x).sum().backward()
        assert leaf.grad is not None


def test_a_state_cannot_be_changed_behind_ones_back() -> None:
    with pytest.raises(AttributeError):
        State(1, torch.zeros(1)).t = 2  # type: ignore[misc]


@pytest.mark.parametrize("angle", [1e-2, 1e-3, 1e-5])
def test_slerp_at_small_angles(angle) -> None:
    a = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    b = torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)
    found = slerp(a, b, 0.3)
    expected = torch.tensor([[math.cos(0.3 * angle), math.sin(0.3 * angle)]], dtype=torch.float64)
    assert torch.allclose(found, expected, rtol=0, atol=1e-9)
