"""What a network's output means: ε, x_0 or v in, a :class:`Prediction` of x_0 out.

Nothing after a denoiser asks again what the network was trained to predict.
"""

from typing import Protocol

from torch import Tensor, nn

from ddpmlib.broadcast import Time, check_alike
from ddpmlib.condition import Condition, as_condition, emptied, is_conditional
from ddpmlib.denoiser.parameterization import EPS, Parameterization
from ddpmlib.equations import equation
from ddpmlib.inputs import check_floats
from ddpmlib.prediction import AnyDenoiser, Prediction
from ddpmlib.process.process import Process


class ProcessDenoiser(AnyDenoiser, Protocol):
    """A :class:`AnyDenoiser` that carries the forward process its times belong to."""

    @property
    def process(self) -> Process: ...


class Denoiser(nn.Module):
    """A network together with the meaning of its output.

    Args:
        net: (x_t, t (B,)) or (x_t, t (B,), y) -> output of x_t's shape; with a learned variance
            twice as many channels (dimension 1), the second half v' for the variance. ``t`` is what
            ``process.network_time`` makes of the times; ``y`` is handed on only where it is given.
            A net that can do without conditions says so, see :mod:`ddpmlib.condition`.
        process: the forward process it was, or will be, trained on.
        parameterization: EPS, X0 or V.
        var_mix: the fixed reverse variance, 0 for β̃ and 1 for β; None if the network says it, as
            (v' + 1) / 2, unbounded (Nichol & Dhariwal 2021, section 3.1).
    """

    def __init__(
        self,
        net: nn.Module,
        process: Process,
        parameterization: Parameterization = EPS,
        var_mix: float | None = 0.0,
    ) -> None:
        super().__init__()
        if var_mix is not None and not 0 <= var_mix <= 1:
            raise ValueError(
                "var_mix must lie in [0, 1] (0 is beta_tilde, 1 is beta) or be None (learned), "
                f"got {var_mix}"
            )
        self.net = net
        self.process = process
        self.parameterization = parameterization
        self.var_mix = var_mix

    @property
    def conditional(self) -> bool:
        """Whether it takes conditions that it can be without."""
        return is_conditional(self.net)

    def without(self, y: Condition) -> Condition:
        """The same condition emptied, as the network says."""
        return emptied(self.net, y)

    def forward(self, x_t: Tensor, t: Time, y: Condition | None = None) -> Prediction:
        """The prediction of x_0 at (x_t, t).

        Args:
            x_t: (B, ...).
            t: 1..T, or a noisy time of a continuous process; a number or (B,).
            y: the condition, for example labels (B,), the null label among them, or one label for
                all; without one the network is called without, which to our networks is the null
                label for all.
        """
        output, var_mix = self.raw(x_t, t, y)
        return self.read(output, var_mix, x_t, t)

    def read(self, output: Tensor, var_mix: float | Tensor, x_t: Tensor, t: Time) -> Prediction:
        """The prediction that an answer of :meth:`raw` stands for."""
        check_alike(x_t, output, "output")
        if not isinstance(var_mix, int | float):
            check_alike(x_t, var_mix, "var_mix")
        scale, std = self.process.kernel(t, x_t)
        x0, _ = self.parameterization.split(output, x_t, scale, std)
        return Prediction(x0, var_mix)

    def raw(
        self, x_t: Tensor, t: Time, y: Condition | None = None
    ) -> tuple[Tensor, float | Tensor]:
        """The network's own answer at (x_t, t), in the dtype of ``x_t``: output and ``var_mix``.

        Raises:
            ValueError: if ``x_t`` or ``y`` is not as for :meth:`forward`, or the network answers in
                another shape than it was asked.
        """
        t, y = self.process.per_sample(t, x_t), as_condition(y, x_t)
        told, asked = self.process.network_time(t), self._scaled(x_t, t)
        output = self.net(asked, told) if y is None else self.net(asked, told, y)
        output = output.to(x_t.dtype)
        expected = list(x_t.shape)
        if self.var_mix is None and x_t.ndim > 1:
            expected[1] *= 2
        if list(output.shape) != expected or (self.var_mix is None and x_t.ndim == 1):
            raise ValueError(
                f"the network answered {tuple(output.shape)} to data of shape {tuple(x_t.shape)}; "
                + ("with a learned variance it must answer twice the channels (dimension 1)"
                   if self.var_mix is None else "both must be the same")
            )  # fmt: skip
        if self.var_mix is not None:
            return output, self.var_mix
        output, place = output.chunk(2, dim=1)
        return output, learned_var_mix(place)

    def _scaled(self, x_t: Tensor, t: Tensor) -> Tensor:
        """x_t as the network wants it, times c_in of Karras et al. (2022) where there is one."""
        if self.parameterization.scale_in is None:
            return x_t
        return self.parameterization.scale_in(*self.process.kernel(t, x_t)) * x_t


class FixedVariance(nn.Module):
    """A denoiser whose prediction of x_0 is kept and whose reverse variance is replaced.

    Args:
        denoiser: what is wrapped; its ``process`` stays at hand.
        var_mix: 0 for β̃, 1 for β.

    Raises:
        ValueError: if ``var_mix`` leaves [0, 1].
    """

    def __init__(self, denoiser: ProcessDenoiser, var_mix: float) -> None:
        super().__init__()
        if not 0 <= var_mix <= 1:
            raise ValueError(
                f"var_mix must lie in [0, 1] (0 is beta_tilde, 1 is beta), got {var_mix}"
            )
        self.denoiser, self.process, self.var_mix = denoiser, denoiser.process, var_mix

    @property
    def conditional(self) -> bool:
        """Whether it takes conditions that it can be without."""
        return is_conditional(self.denoiser)

    def without(self, y: Condition) -> Condition:
        """The same condition emptied, as the network says."""
        return emptied(self.denoiser, y)

    def forward(self, x_t: Tensor, t: Time, y: Condition | None = None) -> Prediction:
        """The prediction of x_0 at (x_t, t), with the fixed variance; see :class:`Denoiser`."""
        return Prediction(self.denoiser(x_t, t, y).x0, self.var_mix)


@equation("6.5")
def learned_var_mix(v: Tensor) -> Tensor:
    """(v' + 1) / 2: where the network's second half of channels puts the reverse variance.

    −1 is β̃ and 1 is β (Nichol & Dhariwal 2021, eq. 15); nothing keeps it in that range.
    """
    check_floats(v, "v")
    return (v + 1) / 2


@equation("10.1")
def score(denoiser: ProcessDenoiser, x_t: Tensor, t: Time, y: Condition | None = None) -> Tensor:
    """∇ log q(x_t), or ∇ log q(x_t|y), as a denoiser predicts it: (√ᾱ_t x̂_0 − x_t) / (1−ᾱ_t).

    Args:
        denoiser: network, oracle or guided wrapper.
        x_t: (B, ...).
        t: 1..T, an int or (B,).
        y: class labels (B,) or None.

    Returns:
        shape of ``x_t``.

    Raises:
        ValueError: at t = 0.
    """
    return denoiser.process.score_from_x0(x_t, denoiser(x_t, t, y).x0, t)
