"""What tasks have to do with each other: measured before or after they are trained together."""

from kmtl.analysis.js_divergence import js_divergence as js_divergence
from kmtl.analysis.label_statistics import label_statistics as label_statistics
from kmtl.analysis.pair_features import pair_features as pair_features
from kmtl.analysis.task_features import task_features as task_features
from kmtl.analysis.task_gain_predictor import GainValidation as GainValidation
from kmtl.analysis.task_gain_predictor import TaskGainPredictor as TaskGainPredictor
from kmtl.analysis.transfer_matrix import TransferMatrix as TransferMatrix
from kmtl.analysis.transfer_matrix import transfer_matrix as transfer_matrix

__all__ = [
    "GainValidation",
    "TaskGainPredictor",
    "TransferMatrix",
    "js_divergence",
    "label_statistics",
    "pair_features",
    "task_features",
    "transfer_matrix",
]
