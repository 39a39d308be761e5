"""Penalties on kernels, most of which tie the parameters of tasks."""

from kmtl.regularizers.orthogonal_subspaces import OrthogonalSubspaces as OrthogonalSubspaces

__all__ = ["OrthogonalSubspaces"]
