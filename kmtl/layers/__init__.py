"""Sharing architectures as Keras layers, one file per method.

A layer that takes part in inference has `fold(inputs)`, which returns the same outputs made
of built-in Keras layers; `kmtl.export.fold` calls it.
"""

from kmtl.layers.cross_stitch import CrossStitch as CrossStitch

__all__ = ["CrossStitch"]
