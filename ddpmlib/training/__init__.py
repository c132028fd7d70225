"""The training loop: settings, trainer, averaged weights, several processes, limits of time."""

from ddpmlib.training.averaging import Average
from ddpmlib.training.loop import fit
from ddpmlib.training.machine import (
    compile_network,
    default_device,
    device_name,
    hardware,
    processor,
)
from ddpmlib.training.settings import BatchLoss, Progress, Settings, TrainingDiverged
from ddpmlib.training.time_budget import forecast, updates_within
from ddpmlib.training.trainer import Trainer

__all__ = [
    "Average",
    "BatchLoss",
    "Progress",
    "Settings",
    "Trainer",
    "TrainingDiverged",
    "compile_network",
    "default_device",
    "device_name",
    "fit",
    "forecast",
    "hardware",
    "processor",
    "updates_within",
]
