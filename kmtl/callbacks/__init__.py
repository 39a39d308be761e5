"""Schedules, backups, logs and plots for `fit`."""

from kmtl.callbacks.backup_and_resume import BackupAndResume as BackupAndResume
from kmtl.callbacks.branch_widening import BranchWidening as BranchWidening
from kmtl.callbacks.gradient_conflicts import GradientConflicts as GradientConflicts
from kmtl.callbacks.gradient_reversal_schedule import (
    GradientReversalSchedule as GradientReversalSchedule,
)
from kmtl.callbacks.task_affinity import TaskAffinity as TaskAffinity
from kmtl.callbacks.task_wise_early_stopping import TaskWiseEarlyStopping as TaskWiseEarlyStopping

__all__ = [
    "BackupAndResume",
    "BranchWidening",
    "GradientConflicts",
    "GradientReversalSchedule",
    "TaskAffinity",
    "TaskWiseEarlyStopping",
]
