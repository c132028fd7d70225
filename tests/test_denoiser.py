"""`ddpmlib.denoiser`: ε, x_0 and v describe one pair (x_0, ε) and lead back to it."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ddpmlib.denoiser import (
    EPS,
    PARAMETERIZATIONS,
    X0,
    Denoiser,
    FixedVariance,
    Parameterization,
    V,
    edm_output,
    edm_preconditioning,
    learned_var_mix,
)
from ddpmlib.prediction import Prediction
from ddpmlib.process import DDPM, EDM, schedules

T = 100
PROCESS = DDPM(schedules.cosine(T))
ALL = [EPS, X0, V]
by_name = pytest.mark.parametrize("p", ALL, ids=lambda p: p.name)
quick = settings(deadline=None, max_examples=60, derandomize=True)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Says(nn.Module):
    """A network that says one thing and remembers what it was asked."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        self.asked = (x, t, y)
        return self.output


# ---- parameterizations -------------------------------------------------------------------


def check_split(p: Parameterization, angle: float) -> None:
    scale, std = math.cos(angle), math.sin(angle)
    x0, eps = normal(7, 2), normal(7, 2, seed=1)
    x_t = scale * x0 + std * eps
    found_x0, found_eps = p.split(p.target(x0, eps, scale, std), x_t, scale, std)
    # Rounding in x_t is divided by scale (ε) or std (x_0).
    room = 1e-13 / min(scale, std)
    torch.testing.assert_close(found_x0, x0, rtol=0, atol=room)
    torch.testing.assert_close(found_eps, eps, rtol=0, atol=room)


@by_name
@quick
@given(angle=st.floats(0.01, 1.56))
def test_split_undoes_target(p: Parameterization, angle: float) -> None:
    check_split(p, angle)


@pytest.mark.equation("3.4")
@quick
@given(angle=st.floats(0.01, 1.56))
def test_x0_from_eps_undoes_the_kernel(angle: float) -> None:
    check_split(EPS, angle)


@pytest.mark.equation("3.6")
@quick
@given(angle=st.floats(0.01, 1.56))
def test_v_splits_into_the_pair_that_made_it(angle: float) -> None:
    check_split(V, angle)


@pytest.mark.parametrize("a", ALL, ids=lambda p: p.name)
@pytest.mark.parametrize("b", ALL, ids=lambda p: p.name)
@pytest.mark.parametrize("t", [1, 50, 99])
def test_each_output_becomes_each_other_and_back(
    a: Parameterization, b: Parameterization, t: int
) -> None:
    x_t, said = normal(5, 2), normal(5, 2, seed=1)
    scale, std = float(PROCESS.scale[t]), float(PROCESS.std[t])
    x0, eps = a.split(said, x_t, scale, std)
    torch.testing.assert_close(scale * x0 + std * eps, x_t, rtol=0, atol=1e-12)
    other = b.target(x0, eps, scale, std)
    back = a.target(*b.split(other, x_t, scale, std), scale, std)
    torch.testing.assert_close(back, said, rtol=0, atol=1e-12 / min(scale, std))


@pytest.mark.equation("3.4")
def test_x0_from_eps_by_hand() -> None:
    x0, eps = EPS.split(torch.tensor([0.5]).double(), torch.tensor([2.0]).double(), 0.8, 0.6)
    assert float(x0) == pytest.approx((2 - 0.6 * 0.5) / 0.8, rel=1e-14)
    assert float(eps) == 0.5


@pytest.mark.equation("3.6")
def test_v_is_the_velocity_along_the_arc() -> None:
    """Salimans & Ho (2022): x_φ = cos φ x_0 + sin φ ε and v = dx_φ/dφ, here by autograd."""
    x0, eps = normal(6), normal(6, seed=1)
    angle = torch.tensor(0.7, dtype=torch.float64)
    _, velocity = torch.autograd.functional.jvp(
        lambda phi: phi.cos() * x0 + phi.sin() * eps, angle, torch.ones_like(angle)
    )
    scale, std = math.cos(0.7), math.sin(0.7)
    torch.testing.assert_close(V.target(x0, eps, scale, std), velocity, rtol=0, atol=1e-14)
    found_x0, found_eps = V.split(velocity, scale * x0 + std * eps, scale, std)
    torch.testing.assert_close(found_x0, x0, rtol=0, atol=1e-14)
    torch.testing.assert_close(found_eps, eps, rtol=0, atol=1e-14)


def test_targets_at_the_two_ends() -> None:
    x0, eps = normal(4), normal(4, seed=1)
    assert torch.equal(V.target(x0, eps, 1.0, 0.0), eps)  # clean data: v is the noise
    assert torch.equal(V.target(x0, eps, 0.0, 1.0), -x0)  # pure noise: v is minus the data
    assert EPS.target(x0, eps, 0.3, 0.9) is eps and X0.target(x0, eps, 0.3, 0.9) is x0


def test_names() -> None:
    assert PARAMETERIZATIONS == {"eps": EPS, "x0": X0, "v": V}


def test_a_prediction_cannot_be_changed_behind_ones_back() -> None:
    prediction = Prediction(torch.zeros(1))
    assert prediction.var_mix == 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        prediction.x0 = torch.ones(1)


# ---- Denoiser ----------------------------------------------------------------------------


@by_name
@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 5, 3), (3, 1, 4, 4), (3, 2, 4, 5, 5)])
@pytest.mark.parametrize("t", [1, 60, torch.tensor([1, 60, 99])])
def test_a_network_that_knows_the_truth_tells_x0(
    p: Parameterization, shape: tuple[int, ...], t: int | Tensor
) -> None:
    x0, eps = normal(*shape), normal(*shape, seed=1)
    scale, std = PROCESS.kernel(t, x0)
    net = Says(p.target(x0, eps, scale, std))
    prediction = Denoiser(net, PROCESS, p, var_mix=0.5)(PROCESS.q_sample(x0, t, eps), t)
    assert prediction.x0.shape == shape and prediction.var_mix == 0.5
    torch.testing.assert_close(prediction.x0, x0, rtol=0, atol=1e-11)


@by_name
def test_networks_that_agree_give_one_prediction(p: Parameterization) -> None:
    """The same (x_0, ε) said in three ways, at mixed times."""
    t, x_t, eps = torch.tensor([3, 50, 90]), normal(3, 2), normal(3, 2, seed=1)
    scale, std = PROCESS.kernel(t, x_t)
    x0, _ = EPS.split(eps, x_t, scale, std)
    found = Denoiser(Says(p.target(x0, eps, scale, std)), PROCESS, p)(x_t, t).x0
    torch.testing.assert_close(found, x0, rtol=1e-12, atol=1e-12)


def test_the_network_sees_the_state_int64_times_and_the_labels() -> None:
    net, x, y = Says(torch.zeros(3, 2)), torch.ones(3, 2), torch.tensor([4, 5, 6])
    denoiser = Denoiser(net, PROCESS)
    denoiser(x, 7, y)
    seen, t, labels = net.asked
    assert seen is x and labels is y
    assert t.dtype == torch.int64 and t.tolist() == [7, 7, 7]
    denoiser(x, torch.tensor([1, 2, 3]))
    assert net.asked[1].tolist() == [1, 2, 3] and net.asked[2] is None


def test_the_default_is_an_eps_network_with_the_small_variance() -> None:
    x, out = normal(3, 2), normal(3, 2, seed=1)
    found = Denoiser(Says(out), PROCESS)(x, 40)
    scale, std = PROCESS.scale[40], PROCESS.std[40]
    assert found.var_mix == 0
    torch.testing.assert_close(found.x0, (x - std * out) / scale)


@by_name
def test_a_half_precision_network_answers_in_the_precision_of_the_data(
    p: Parameterization,
) -> None:
    denoiser = Denoiser(Says(torch.zeros(3, 2, dtype=torch.bfloat16)), PROCESS, p)
    x = normal(3, 2, dtype=torch.float32)
    assert denoiser.raw(x, 5)[0].dtype == denoiser(x, 5).x0.dtype == torch.float32
    assert denoiser(x, torch.tensor([1, 2, 3])).x0.dtype == torch.float32


def test_v_and_x0_stay_finite_in_pure_noise() -> None:
    p = DDPM(torch.tensor([0.0, 0.5, 1.0]))
    x, out = normal(3, 2), normal(3, 2, seed=1)
    torch.testing.assert_close(Denoiser(Says(out), p, V)(x, 2).x0, -out)
    assert torch.equal(Denoiser(Says(out), p, X0)(x, 2).x0, out)


def test_a_denoiser_is_a_module_with_the_parameters_of_its_network() -> None:
    net = nn.Bilinear(2, 1, 2)
    denoiser = Denoiser(net, PROCESS, V)
    assert list(denoiser.state_dict()) == ["net.weight", "net.bias"]
    assert [*denoiser.parameters()] == [*net.parameters()]


@pytest.mark.parametrize("t", [-1, 101])
def test_a_time_outside_the_process_is_refused(t: int) -> None:
    with pytest.raises(ValueError, match=r"times must lie in 0\.\.100"):
        Denoiser(Says(torch.zeros(2)), PROCESS)(torch.zeros(2), t)


@pytest.mark.parametrize("u", [-0.1, 1.01, math.nan])
def test_a_variance_outside_its_range_is_refused(u: float) -> None:
    with pytest.raises(ValueError, match=r"var_mix must lie in \[0, 1\]"):
        Denoiser(nn.Identity(), PROCESS, var_mix=u)


# ---- a learned variance ------------------------------------------------------------------


@by_name
@pytest.mark.parametrize("shape", [(3, 2), (3, 5, 3), (3, 1, 4, 4), (3, 2, 4, 5, 5)])
def test_the_second_half_of_the_channels_is_the_variance(
    p: Parameterization, shape: tuple[int, ...]
) -> None:
    mean, place, x = normal(*shape), normal(*shape, seed=1), normal(*shape, seed=2)
    t = torch.tensor([1, 60, 99])
    denoiser = Denoiser(Says(torch.cat([mean, place], 1)), PROCESS, p, var_mix=None)
    output, var_mix = denoiser.raw(x, t)
    assert torch.equal(output, mean)
    torch.testing.assert_close(var_mix, (place + 1) / 2)
    found = denoiser(x, t)
    torch.testing.assert_close(found.x0, Denoiser(Says(mean), PROCESS, p)(x, t).x0)
    assert torch.equal(found.var_mix, var_mix)
    read = denoiser.read(output, var_mix, x, t)
    assert torch.equal(read.x0, found.x0) and read.var_mix is var_mix


@pytest.mark.equation("6.5")
def test_the_answer_minus_one_is_beta_tilde_and_one_is_beta() -> None:
    """And between them the logarithm of the variance runs on a straight line."""
    v = learned_var_mix(torch.linspace(-1, 1, 9, dtype=torch.float64))
    assert v[0] == 0 and v[-1] == 1
    for t, s in ((50, 49), (60, 20), (2, 1)):
        log_var = 2 * PROCESS.posterior_std(t, s, v).log()
        low, high = (2 * math.log(PROCESS.posterior_std(t, s, u)) for u in (0.0, 1.0))
        expected = torch.linspace(low, high, 9, dtype=torch.float64)
        torch.testing.assert_close(log_var, expected, rtol=0, atol=1e-12)
        outside = PROCESS.posterior_std(t, s, learned_var_mix(torch.tensor([-1.5, 1.5])))
        assert float(outside[0]) ** 2 < math.exp(low) and float(outside[1]) ** 2 > math.exp(high)


def test_a_learned_variance_is_answered_in_the_precision_of_the_data() -> None:
    denoiser = Denoiser(Says(torch.zeros(3, 4, dtype=torch.bfloat16)), PROCESS, V, var_mix=None)
    output, var_mix = denoiser.raw(normal(3, 2, dtype=torch.float32), 5)
    assert output.dtype == var_mix.dtype == torch.float32
    assert output.shape == var_mix.shape == (3, 2) and bool((var_mix == 0.5).all())


@pytest.mark.parametrize(
    ("var_mix", "data", "answer", "sentence"),
    [
        (None, (3, 2), (3, 2), r"answered \(3, 2\) to data of shape \(3, 2\).*twice the channels"),
        (None, (3, 1, 4, 4), (3, 1, 8, 4), r"twice the channels \(dimension 1\)"),
        (None, (3,), (6,), "twice the channels"),
        (
            0.0,
            (3, 2),
            (3, 4),
            r"answered \(3, 4\) to data of shape \(3, 2\); both must be the same",
        ),
        (1.0, (3, 2), (2, 3), "both must be the same"),
    ],
)
def test_an_answer_of_another_shape_is_refused(
    var_mix: float | None, data: tuple[int, ...], answer: tuple[int, ...], sentence: str
) -> None:
    denoiser = Denoiser(Says(torch.zeros(answer)), PROCESS, var_mix=var_mix)
    with pytest.raises(ValueError, match=sentence):
        denoiser(torch.zeros(data), 5)


class Labelled(nn.Module):
    """Answers each sample with its label."""

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return y[:, None].to(x).expand_as(x)


def test_a_replaced_variance_keeps_the_labels_and_the_prediction() -> None:
    denoiser = Denoiser(Labelled(), PROCESS, X0)
    x, y = torch.zeros(3, 2), torch.tensor([4, 0, 7])
    prediction = FixedVariance(denoiser, 0.25)(x, 5, y)
    assert torch.equal(prediction.x0, denoiser(x, 5, y).x0)
    assert prediction.x0[:, 0].tolist() == [4, 0, 7] and prediction.var_mix == 0.25


def test_half_a_time_is_refused_and_not_rounded_to_none() -> None:
    denoiser = Denoiser(torch.nn.Identity(), PROCESS, EPS)
    for t in (0.5, torch.tensor([0.5, 0.5])):
        with pytest.raises(ValueError, match="must be an int"):
            denoiser.raw(torch.zeros(2, 2), t)


@pytest.mark.parametrize("sigma_data", [0.5, 2.0])
def test_a_network_of_edm_sees_what_karras_gives_it(sigma_data: float) -> None:
    """c_in x and ¼ log σ go in, c_skip x + c_out F comes out (Karras et al. 2022, eq. 7)."""
    asked: list[tuple[Tensor, Tensor]] = []

    class Net(torch.nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            asked.append((x, t))
            return torch.sin(x)

    denoiser = Denoiser(Net(), EDM(), edm_output(sigma_data))
    x = torch.randn(3, 2, dtype=torch.float64)
    sigma = torch.tensor([0.01, 0.7, 60.0], dtype=torch.float64)
    found = denoiser(x, sigma).x0
    c_in, c_skip, c_out = (c[:, None] for c in edm_preconditioning(sigma, sigma_data))
    ((scaled, told),) = asked
    torch.testing.assert_close(scaled, c_in * x)
    torch.testing.assert_close(told, sigma.log() / 4)
    torch.testing.assert_close(found, c_skip * x + c_out * torch.sin(c_in * x))
