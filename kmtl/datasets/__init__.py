"""Data sets with several tasks per example, for demos, tests and notebooks."""

from kmtl.datasets.multi_digits import multi_digits as multi_digits
from kmtl.datasets.multi_mnist import multi_mnist as multi_mnist

__all__ = ["multi_digits", "multi_mnist"]
