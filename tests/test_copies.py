"""Copies of denoisers: by `copy`, by pickle, by `torch.save`, all with the same answers."""

import copy
import io
import pickle

import pytest
import torch

from ddpmlib import guidance
from ddpmlib.denoiser import (
    EPS,
    SCORE,
    VELOCITY,
    X0,
    Denoiser,
    FixedVariance,
    Translated,
    V,
    between_steps,
    edm_output,
    flow_matching_velocity,
)
from ddpmlib.models import MLP
from ddpmlib.process import DDPM, EDM, VE, VP, FlowMatching, RectifiedFlow, SubVP, schedules

CHAIN = DDPM(schedules.cosine(20))
MODELS = {
    "eps": (CHAIN, EPS, 0.0),
    "x0": (CHAIN, X0, 1.0),
    "v, learned": (CHAIN, V, None),
    "score": (VE(), SCORE, 0.0),
    "velocity": (RectifiedFlow(), VELOCITY, 0.0),
    "flow matching": (FlowMatching(0.1), flow_matching_velocity(0.1), 0.0),
    "edm": (EDM(), edm_output(0.7), 0.0),
    "vp": (VP(), V, 0.0),
    "sub-vp": (SubVP(), EPS, 0.5),
}


def model(name="eps"):
    process, parameterization, var_mix = MODELS[name]
    torch.manual_seed(0)
    net = MLP(dim=2, width=8, depth=1, num_classes=3, outputs=2 if var_mix is None else 1)
    return Denoiser(net, process, parameterization, var_mix).eval()


WRAPPERS = {
    "guided": lambda d: guidance.ClassifierFree(d, 2.0),
    "guided for a while": lambda d: guidance.ClassifierFree(d, guidance.interval(2.0, 3, 12)),
    "static": guidance.StaticThreshold,
    "dynamic": guidance.DynamicThreshold,
    "temperature": lambda d: guidance.Temperature(d, 0.9),
    "unconditional": guidance.Unconditional,
    "fixed": lambda d: FixedVariance(d, 0.3),
    "between": between_steps,
    "translated": lambda d: Translated(d, DDPM(schedules.linear(50))),
}


def unpickled(model):
    return pickle.loads(pickle.dumps(model))


def reloaded(model):
    file = io.BytesIO()
    torch.save(model, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=False)


each_way = pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, unpickled, reloaded])


def check(ours, theirs):
    t = ours.process.end if ours.process.times_are_whole else 0.4
    x, y = torch.randn(4, 2, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 3])
    assert theirs.process == ours.process
    for time in (t, torch.full((4,), t)):
        a, b = ours(x, time, y), theirs(x, time, y)
        assert torch.equal(a.x0, b.x0) and bool((torch.as_tensor(a.var_mix) == b.var_mix).all())


@each_way
@pytest.mark.parametrize("name", MODELS)
def test_a_copied_denoiser_says_the_same(name, copied):
    original = model(name)
    other = copied(original)
    assert other.parameterization == original.parameterization
    check(original, other)


@each_way
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_a_copied_wrapper_says_the_same(wrap, copied):
    original = wrap(model())
    original(torch.zeros(4, 2), 5, torch.zeros(4, dtype=torch.int64))  # as after some use
    check(original, copied(original))


@pytest.mark.parametrize("copied", [copy.deepcopy, unpickled, reloaded])
def test_a_copy_has_weights_of_its_own(copied):
    original = model()
    other = copied(original)
    with torch.no_grad():
        for p in original.parameters():
            p.zero_()
    assert any(bool(p.any()) for p in other.parameters())


@pytest.mark.parametrize("copied", [copy.deepcopy, unpickled])
def test_a_copied_chain_leaves_behind_what_lies_on_a_device(copied):
    """Else a process that was used on a GPU could not be opened on a machine without one."""
    chain = DDPM(schedules.linear(10, 0.1, 0.2))
    chain._on_device["scale", torch.device("meta")] = torch.zeros(11, device="meta")
    other = copied(chain)
    assert other == chain and not other._on_device
    assert torch.equal(other.table("scale", torch.device("cpu")), chain.scale)
    assert len(chain._on_device) == 1


def test_parameterizations_that_are_made_alike_are_equal():
    assert edm_output(0.5) == edm_output(0.5) != edm_output(0.6)
    assert flow_matching_velocity(0.1) == flow_matching_velocity(0.1) != flow_matching_velocity()
    assert len({EPS, X0, V, SCORE, VELOCITY, edm_output(), flow_matching_velocity()}) == 7


def test_the_weight_of_an_interval_is_equal_to_one_made_alike():
    assert guidance.interval(2.0, 1, 4) == guidance.interval(2.0, 1, 4)
    assert guidance.interval(2.0, 1, 4) != guidance.interval(2.0, 1, 5)
