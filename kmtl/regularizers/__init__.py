"""Penalties on kernels, most of which tie the parameters of tasks."""

from kmtl.regularizers.across_tasks import AcrossTasks as AcrossTasks
from kmtl.regularizers.anchor import Anchor as Anchor
from kmtl.regularizers.learned import LearnedRegularizer as LearnedRegularizer
from kmtl.regularizers.orthogonal_subspaces import OrthogonalSubspaces as OrthogonalSubspaces
from kmtl.regularizers.soft_sharing import SoftSharing as SoftSharing
from kmtl.regularizers.tensor_normal_prior import TensorNormalPrior as TensorNormalPrior
from kmtl.regularizers.tensor_trace_norm import TensorTraceNorm as TensorTraceNorm

__all__ = [
    "AcrossTasks",
    "Anchor",
    "LearnedRegularizer",
    "OrthogonalSubspaces",
    "SoftSharing",
    "TensorNormalPrior",
    "TensorTraceNorm",
]
