"""Data sets with several tasks per example, for demos, tests and notebooks."""

from kmtl.datasets.adult import adult as adult
from kmtl.datasets.conll2000 import conll2000 as conll2000
from kmtl.datasets.emotions import emotions as emotions
from kmtl.datasets.multi_digits import multi_digits as multi_digits
from kmtl.datasets.multi_mnist import multi_mnist as multi_mnist
from kmtl.datasets.school import school as school
from kmtl.datasets.student_performance import student_performance as student_performance
from kmtl.datasets.tox21 import tox21 as tox21
from kmtl.datasets.ud_english_ewt import ud_english_ewt as ud_english_ewt
from kmtl.datasets.usps import usps as usps

__all__ = [
    "adult",
    "conll2000",
    "emotions",
    "multi_digits",
    "multi_mnist",
    "school",
    "student_performance",
    "tox21",
    "ud_english_ewt",
    "usps",
]
