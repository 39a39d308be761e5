"""Scores of multi-task models."""

from kmtl.metrics.delta_m import DeltaM as DeltaM
from kmtl.metrics.delta_m import delta_m as delta_m

__all__ = ["DeltaM", "delta_m"]
