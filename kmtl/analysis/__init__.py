"""What tasks have to do with each other: measured before or after they are trained together."""

from kmtl.analysis.js_divergence import js_divergence as js_divergence
from kmtl.analysis.label_statistics import label_statistics as label_statistics
from kmtl.analysis.pair_features import pair_features as pair_features
from kmtl.analysis.rank_input_or_output import InputOrOutput as InputOrOutput
from kmtl.analysis.rank_input_or_output import rank_input_or_output as rank_input_or_output
from kmtl.analysis.recommend import recommend as recommend
from kmtl.analysis.recommendation import Recommendation as Recommendation
from kmtl.analysis.task_features import task_features as task_features
from kmtl.analysis.task_gain_predictor import GainValidation as GainValidation
from kmtl.analysis.task_gain_predictor import TaskGainPredictor as TaskGainPredictor
from kmtl.analysis.transfer_matrix import TransferMatrix as TransferMatrix
from kmtl.analysis.transfer_matrix import transfer_matrix as transfer_matrix
from kmtl.ops.somp import somp_filters as somp_filters

__all__ = [
    "GainValidation",
    "InputOrOutput",
    "Recommendation",
    "TaskGainPredictor",
    "TransferMatrix",
    "js_divergence",
    "label_statistics",
    "pair_features",
    "rank_input_or_output",
    "recommend",
    "somp_filters",
    "task_features",
    "transfer_matrix",
]
