"""Scores of multi-task models."""

from kmtl.metrics.crf_accuracy import CRFAccuracy as CRFAccuracy
from kmtl.metrics.delta_m import DeltaM as DeltaM
from kmtl.metrics.delta_m import delta_m as delta_m
from kmtl.metrics.gradient_conflicts import Agreement as Agreement
from kmtl.metrics.gradient_conflicts import gradient_agreement as gradient_agreement
from kmtl.metrics.masked_mean_auc import MaskedMeanAUC as MaskedMeanAUC

__all__ = ["Agreement", "CRFAccuracy", "DeltaM", "MaskedMeanAUC", "delta_m", "gradient_agreement"]
