"""Checks of chapter 08: measuring samples."""

from typing import Any

import torch
from torch import Tensor

from ddpmlib.evaluation.metrics import frechet_distance, precision_recall
from ddpmlib.teaching.exercises import exercise


def _covariance(dim: int, generator: torch.Generator) -> Tensor:
    mix = torch.randn(dim, 2 * dim, generator=generator, dtype=torch.float64)
    return mix @ mix.T / dim


@exercise(
    "8.1",
    hint="Deviations, not variances, in (8.3); in (8.9) one image of three has entropy log 2.",
)
def _(answer: Any) -> None:
    """The two measures by hand."""
    distance, score = (float(a) for a in answer)
    assert abs(distance - 10) < 1e-6, "The distance is not that."
    p = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]], dtype=torch.float64)
    entropy = -torch.xlogy(p, p).sum(1).mean()
    marginal = p.mean(0)
    right = float((-(marginal * marginal.log()).sum() - entropy).exp())
    assert abs(score - right) < 1e-3 * right, "The score is not that; did you take the exponential?"


@exercise("8.2", hint="FID_∞ + c/n for each model; at the tie the two are equal.")
def _(answer: Any) -> None:
    """The same n for both does not make the order right."""
    few, many, tie = answer

    def better(n: int) -> str:
        return "A" if 2.0 + 3000 / n < 2.6 + 1200 / n else "B"

    for n, name in ((1000, few), (50_000, many)):
        assert str(name).strip().upper() == better(n), f"At n = {n:,} the other one is lower."
    assert abs(float(tie) * (2.6 - 2.0) / (3000 - 1200) - 1) < 1e-3, "They do not tie there."


@exercise("8.3", hint="Equation (8.6): the inner root stands between two inverse roots of C_a.")
def _(answer: Any) -> None:
    """The cheapest map from one Gaussian to another."""
    g = torch.Generator().manual_seed(0)
    for dim in (1, 2, 5):
        a, b = _covariance(dim, g), _covariance(dim, g)
        kept = a.clone()
        found = answer(a, b)
        assert torch.equal(a, kept), "Your function changes its argument."
        assert found.shape == a.shape, "Return a matrix of the shape of C_a."
        assert torch.allclose(found @ a @ found.T, b, atol=1e-8), (
            f"In {dim} dimensions T C_a Tᵀ is not C_b."
        )
        symmetric = torch.allclose(found, found.T, atol=1e-8)
        assert symmetric and bool((torch.linalg.eigvalsh(found) > 0).all()), (
            "It maps the one Gaussian to the other, but not by the shortest way: the cheapest T is "
            "symmetric and positive definite."
        )


@exercise(
    "8.4", hint="The divisor is 2D − 1, but only two points lie on an axis: how far out are they?"
)
def _(answer: Any) -> None:
    """A perfect Fréchet distance without a single good sample."""
    g = torch.Generator().manual_seed(0)
    for dim in (8, 12):
        skew = torch.randn(400, dim, generator=g, dtype=torch.float64).exp()
        real = skew @ _covariance(dim, g)
        forged = answer(real)
        assert forged.shape == (2 * dim, dim), f"Return {2 * dim} vectors of {dim} features."
        scale = float(torch.cov(real.T).trace())
        distance = frechet_distance(forged.double(), real)
        assert distance < 1e-6 * scale, f"The distance is {distance / scale:.2g} of the variance."
        precision, _ = precision_recall(real, forged.double())
        assert precision < 0.5, f"A share of {precision:.0%} of them looks real."
