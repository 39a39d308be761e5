"""Sharing architectures as Keras layers, one file per method.

A layer that takes part in inference has `fold(inputs)`, which returns the same outputs made
of built-in Keras layers; `kmtl.export.fold` calls it.
"""

from kmtl.layers.attention_gate import AttentionGate as AttentionGate
from kmtl.layers.cgc import CGC as CGC
from kmtl.layers.convex_stitch import ConvexStitch as ConvexStitch
from kmtl.layers.crf import CRF as CRF
from kmtl.layers.cross_stitch import CrossStitch as CrossStitch
from kmtl.layers.dependency_head import DependencyHead as DependencyHead
from kmtl.layers.dselect_k_gate import DSelectKGate as DSelectKGate
from kmtl.layers.factorized_conv2d import FactorizedConv2D as FactorizedConv2D
from kmtl.layers.factorized_dense import FactorizedDense as FactorizedDense
from kmtl.layers.gradient_reversal import GradientReversal as GradientReversal
from kmtl.layers.label_embedding import LabelEmbedding as LabelEmbedding
from kmtl.layers.layer_stitch import LayerStitch as LayerStitch
from kmtl.layers.logit_product import LogitProduct as LogitProduct
from kmtl.layers.mmoe import MMoE as MMoE
from kmtl.layers.nddr import NDDR as NDDR
from kmtl.layers.ple import PLE as PLE
from kmtl.layers.sentence_pair import SentencePair as SentencePair
from kmtl.layers.shared_plus_specific_dense import (
    SharedPlusSpecificDense as SharedPlusSpecificDense,
)
from kmtl.layers.sluice_unit import SluiceUnit as SluiceUnit
from kmtl.layers.task_batch_normalization import (
    TaskBatchNormalization as TaskBatchNormalization,
)
from kmtl.layers.task_stacked_dense import TaskStackedDense as TaskStackedDense
from kmtl.layers.training_only import TrainingOnly as TrainingOnly

__all__ = [
    "CGC",
    "CRF",
    "NDDR",
    "PLE",
    "AttentionGate",
    "ConvexStitch",
    "CrossStitch",
    "DSelectKGate",
    "DependencyHead",
    "FactorizedConv2D",
    "FactorizedDense",
    "GradientReversal",
    "LabelEmbedding",
    "LayerStitch",
    "LogitProduct",
    "MMoE",
    "SentencePair",
    "SharedPlusSpecificDense",
    "SluiceUnit",
    "TaskBatchNormalization",
    "TaskStackedDense",
    "TrainingOnly",
]
