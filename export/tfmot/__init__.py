"""Pruning, clustering and quantisation-aware training by TensorFlow's toolkit, tfmot."""

from kmtl.export.tfmot.compression import TfmotResult, compress

__all__ = ["TfmotResult", "compress"]
