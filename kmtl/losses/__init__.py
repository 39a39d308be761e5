"""Losses of several tasks."""

from kmtl.losses.class_balance_weights import class_balance_weights as class_balance_weights
from kmtl.losses.masked_multi_label_loss import MaskedMultiLabelLoss as MaskedMultiLabelLoss

__all__ = ["MaskedMultiLabelLoss", "class_balance_weights"]
