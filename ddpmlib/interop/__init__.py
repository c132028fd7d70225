"""Bridges to other libraries: their models as our denoisers, ours in their pipelines."""

from ddpmlib.interop.diffusers_models import DiffusersNet, PipelineUNet, from_diffusers
from ddpmlib.interop.diffusers_schedulers import process_of, thresholded, times_of, to_scheduler

__all__ = [
    "DiffusersNet",
    "PipelineUNet",
    "from_diffusers",
    "process_of",
    "thresholded",
    "times_of",
    "to_scheduler",
]
