"""What decides how samples look, in one record: for the command line, functions and cards.

>>> from ddpmlib.evaluation import Guidance, Sampling
>>> Sampling(steps=20, eta=1.0, guidance=Guidance(w=2.0)).record()["guidance"]
{'w': 2.0}

How samples are run, in which batches and compiled or not, is no part of it: that changes their
rounding and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ddpmlib import samplers
from ddpmlib.denoiser.denoiser import Denoiser, FixedVariance
from ddpmlib.evaluation.guidance_options import Guidance
from ddpmlib.guidance.wrapper import Wrapper
from ddpmlib.process.process import Process, check_eta
from ddpmlib.records import check_fields, check_values, typed
from ddpmlib.zoo.card import Card

SPACINGS: dict[str, Callable[[int, int], list[int]]] = {
    "uniform": samplers.uniform_times,
    "leading": samplers.leading_times,
    "linspace": samplers.linspace_times,
    "quadratic": samplers.quadratic_times,
}
STREAMS = "per sample"
"""How noise follows from a seed. Cards written before it was so name nothing here."""


@dataclass(frozen=True)
class Sampling:
    """How samples are drawn.

    Attributes:
        steps: from noise to data, in 1..T.
        spacing: of the times that they visit, one of :data:`SPACINGS`.
        eta: of the ancestral step, 0 for DDIM, 1 for DDPM.
        step: how the next state is drawn, one of :data:`STEPS`.
        seed: of the noise, 0 ≤ seed < 2³². Sample number i of a seed has noise of its own, see
            :class:`ddpmlib.samplers.noise.SampleNoise`.
        bf16: run the network in bfloat16 by autocast; states stay float32.
        guidance: see :class:`~ddpmlib.evaluation.guidance_options.Guidance`.

    Raises:
        ValueError: for a value that is unknown, out of range, or not of its kind.
    """

    steps: int = 50
    spacing: str = "uniform"
    eta: float = 0.0
    step: str = "ancestral"
    seed: int = 0
    bf16: bool = False
    guidance: Guidance = field(default_factory=Guidance)

    def __post_init__(self) -> None:
        check_values(self)
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        check_eta(self.eta)
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must lie in 0..2**32 - 1, got {self.seed}")
        for what, value, known in (("spacing", self.spacing, SPACINGS), ("step", self.step, STEPS)):
            if value not in known:
                raise ValueError(f"{what} must be among {', '.join(known)}, got {value!r}")
        if self.step != "ancestral" and self.eta:
            raise ValueError(f"eta is of the ancestral step, and step {self.step!r} has none")
        if not isinstance(self.guidance, Guidance):
            raise ValueError(f"guidance must be a Guidance, got {self.guidance!r}")

    def times(self, process: Process) -> list[Any]:
        """The times that samples visit, from pure noise to clean data.

        Raises:
            ValueError: if a chain has fewer than ``steps``, or the times of a continuous process
                are to be spaced otherwise than evenly.
        """
        if process.times_are_whole:
            return list(SPACINGS[self.spacing](process.end, self.steps))
        if self.spacing != "uniform":
            raise ValueError(f"spacing {self.spacing!r} is that of a chain, not of {process}")
        return list(samplers.even_times(process, self.steps))

    def next_state(self) -> samplers.Step:
        """How :func:`ddpmlib.samplers.loop.sample` draws the next state."""
        return STEPS[self.step](self)

    def wrap(
        self, denoiser: Denoiser | FixedVariance | Wrapper, card: Card | None = None
    ) -> Denoiser | FixedVariance | Wrapper:
        """The guided denoiser, see :meth:`~ddpmlib.evaluation.guidance_options.Guidance.wrap`."""
        return self.guidance.wrap(denoiser, card)

    def record(self) -> dict[str, Any]:
        """What a card keeps: plain values, ``step`` and ``guidance`` only where they are others
        than the default, and ``streams``, how the noise follows from the seed."""
        found = {k: getattr(self, k) for k in ("steps", "eta", "seed", "spacing", "bf16")}
        found |= {} if self.step == Sampling.step else {"step": self.step}
        guidance = self.guidance.record()
        return found | ({"guidance": guidance} if guidance else {}) | {"streams": STREAMS}

    @staticmethod
    def from_record(record: dict[str, Any]) -> Sampling:
        """The way back from :meth:`record`.

        Raises:
            ValueError: if a field is unknown, missing or bad, or the record is of samples whose
                noise followed from the seed in another way: they cannot be drawn again.
        """
        values = record
        if isinstance(record, dict):
            values = {k: v for k, v in record.items() if k != "streams"}
        check_fields(Sampling, values, ("steps", "spacing", "eta", "seed", "bf16"))
        if (streams := record.get("streams")) != STREAMS:
            raise ValueError(
                f"these samples were drawn with streams = {streams!r}, which cannot be drawn "
                f"again: now noise is {STREAMS!r}"
            )
        return typed(Sampling, values)


STEPS: dict[str, Callable[[Sampling], samplers.Step]] = {
    "ancestral": lambda sampling: samplers.Ancestral(sampling.eta),
    "euler": lambda sampling: samplers.Euler(),
    "heun": lambda sampling: samplers.Heun(),
    "euler-maruyama": lambda sampling: samplers.EulerMaruyama(),
}
"""Ways of drawing the next state: a record -> a step. All but the first need continuous times."""
