"""Checks of chapter 09: the scoreboard."""

from typing import Any

import torch

from ddpmlib.teaching.exercises import exercise


@exercise("9.1", hint="Each agreement has the variance p (1 − p) / n; those of two models add.")
def _(answer: Any) -> None:
    """How far apart two agreements are."""
    apart, needed = (float(a) for a in answer)
    assert abs(apart - 1.92) < 0.02, "That is not the distance in standard errors."
    assert abs(needed / 12183 - 1) < 0.01, "With that many samples it is not three of them."


@exercise("9.2", hint="A mean over m measurements keeps 1/m of the drawing variance.")
def _(answer: Any) -> None:
    """Training noise and drawing noise, told apart."""
    g = torch.Generator().manual_seed(0)
    for between, within in ((2.0, 1.0), (0.5, 2.0)):
        shape = (4000, 4)
        network = between * torch.randn(shape[0], 1, generator=g, dtype=torch.float64)
        F = 10 + network + within * torch.randn(shape, generator=g, dtype=torch.float64)
        training, drawing = (float(v) for v in answer(F))
        assert abs(drawing / within**2 - 1) < 0.1, "The drawing variance is off."
        assert abs(training - between**2) < 0.1 * (between**2 + within**2), (
            "The training variance is off."
        )


@exercise("9.3", hint="Two standard errors of the difference, not of each mean.")
def _(answer: Any) -> None:
    """When a difference is a difference."""
    difference, error, clear = answer([1.0, 1.2, 1.1], [1.3, 1.5, 1.4])
    assert abs(float(difference) + 0.3) < 1e-9, "That is not the difference of the means."
    assert abs(float(error) - (2 * 0.01 / 3) ** 0.5) < 1e-9, "That is not its standard error."
    assert bool(clear), "0.3 is more than two standard errors here."
    few, many = [1.0, 2.0], [3.0, 3.1, 3.2, 3.3, 3.4]
    error = (0.5 / 2 + 0.025 / 5) ** 0.5
    assert abs(float(answer(few, many)[1]) - error) < 1e-9, "Lists of other lengths: not it."
    for errors, told in ((1.8, False), (2.2, True), (-1.8, False), (-2.2, True)):
        apart = [x - 1.7 - errors * error for x in many]  # the means differ by that many errors
        assert bool(answer(few, apart)[2]) == told, f"At {errors:g} standard errors: {not told}?"
