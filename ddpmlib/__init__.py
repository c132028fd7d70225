"""Diffusion models whose formulas are proved to match the code.

The modules are the chapters of the book:

>>> from ddpmlib import DDPM
>>> from ddpmlib.process.schedules import cosine
>>> process = DDPM(cosine(1000))
>>> process.T
1000

Importing the package needs torch and numpy only, and imports them when something is asked of it;
everything heavier is imported where it is used.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddpmlib.denoiser import EPS, X0, Denoiser, V
    from ddpmlib.prediction import Prediction
    from ddpmlib.process import DDPM
    from ddpmlib.samplers import ddim_invert, draw, sample, uniform_times

__version__ = "0.2.0"
__all__ = [
    "DDPM",
    "EPS",
    "X0",
    "Denoiser",
    "Prediction",
    "V",
    "__version__",
    "ddim_invert",
    "draw",
    "sample",
    "uniform_times",
]
_HOMES = {
    "denoiser": ("EPS", "X0", "Denoiser", "V"),
    "prediction": ("Prediction",),
    "process": ("DDPM",),
    "samplers": ("ddim_invert", "draw", "sample", "uniform_times"),
}


def __getattr__(name: str) -> Any:
    """What the package offers, and its modules.

    They are imported when they are asked for, so that the command line is there before PyTorch:
    who presses Ctrl-C in these seconds shall not see where.
    """
    for home, names in _HOMES.items():
        if name in names:
            # The museum's copies of this package are listed nowhere: their modules hang on them.
            module = globals().get(home) or import_module(f"{__name__}.{home}")
            return getattr(module, name)
    if not name.startswith("_") and find_spec(f"{__name__}.{name}"):
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
