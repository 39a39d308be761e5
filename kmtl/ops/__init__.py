"""Maths on tensors without Keras classes, one module per subject."""

from kmtl.ops import factorize as factorize

__all__ = ["factorize"]
