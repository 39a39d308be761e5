"""Data sets with several tasks per example, for demos, tests and notebooks."""

from kmtl.datasets.multi_digits import multi_digits as multi_digits
from kmtl.datasets.multi_mnist import multi_mnist as multi_mnist
from kmtl.datasets.tox21 import tox21 as tox21

__all__ = ["multi_digits", "multi_mnist", "tox21"]
