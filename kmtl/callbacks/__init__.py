"""Schedules, logs and plots for `fit`."""

from kmtl.callbacks.gradient_reversal_schedule import (
    GradientReversalSchedule as GradientReversalSchedule,
)

__all__ = ["GradientReversalSchedule"]
