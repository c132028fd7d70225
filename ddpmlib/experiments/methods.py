"""The samplers that are compared: how each draws a step, what it is called, how it looks."""

from __future__ import annotations

from dataclasses import dataclass

from ddpmlib import plots


@dataclass(frozen=True)
class Method:
    """A way to draw the next state.

    Attributes:
        label: its name in tables and figures.
        colour: of its curves.
        eta: η, 1 for ancestral sampling and 0 for DDIM.
        var_mix: place of the variance between β̃ (0) and β (1); None: as the network learned it.
    """

    label: str
    colour: str
    eta: float
    var_mix: float | None


METHODS = {
    "beta": Method("ancestral, β", plots.BLUE, 1.0, 1.0),
    "beta_tilde": Method("ancestral, β̃ (η = 1)", plots.ORANGE, 1.0, 0.0),
    "learned": Method("ancestral, learned", plots.GREEN, 1.0, None),
    "ddim_half": Method("DDIM, η = 0.5", plots.RED, 0.5, 0.0),
    "ddim": Method("DDIM, η = 0", plots.PURPLE, 0.0, 0.0),
}
ANCESTRAL = ("beta", "beta_tilde", "learned")
