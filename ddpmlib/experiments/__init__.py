"""The measurements behind the book's tables and figures: one module a table.

Such a module holds one experiment whole: the cells that are measured, how one is measured, and the
table and the figure that are made of the rows in ``data/results``. The command
``python -m ddpmlib.experiments`` trains the networks, measures the cells, writes the tables.
"""

from ddpmlib.experiments import (
    ablations,
    chain,
    digit_schedules,
    feature_audit,
    generalisation,
    gradient_noise,
    guidance,
    guidance_dropout,
    guidance_interval,
    guidance_spaces,
    ladder,
    lengths,
    likelihood,
    own_images,
    restart,
    results,
    sampler_spaces,
    schedules,
    strides,
    threshold_spaces,
    thresholds,
    training,
    variances,
)
from ddpmlib.experiments.methods import METHODS
from ddpmlib.experiments.uncertainty import over_seeds, share_error, times_floor

_IN_ORDER = (
    training, ladder, lengths, schedules, variances, likelihood, gradient_noise, strides, chain,
    guidance, guidance_interval, thresholds, guidance_dropout, own_images,
    feature_audit, restart, generalisation, guidance_spaces, sampler_spaces,
    threshold_spaces, digit_schedules,
    ablations,
)  # fmt: skip
EXPERIMENTS = {module.EXPERIMENT.name: module.EXPERIMENT for module in _IN_ORDER}

__all__ = [
    "EXPERIMENTS",
    "METHODS",
    "ablations",
    "chain",
    "digit_schedules",
    "feature_audit",
    "generalisation",
    "gradient_noise",
    "guidance",
    "guidance_dropout",
    "guidance_interval",
    "guidance_spaces",
    "ladder",
    "lengths",
    "likelihood",
    "over_seeds",
    "own_images",
    "restart",
    "results",
    "sampler_spaces",
    "schedules",
    "share_error",
    "strides",
    "threshold_spaces",
    "thresholds",
    "times_floor",
    "training",
    "variances",
]
