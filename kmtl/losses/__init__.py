"""Losses of several tasks."""

from kmtl.losses.class_balance_weights import class_balance_weights as class_balance_weights
from kmtl.losses.crf_loss import CRFLoss as CRFLoss
from kmtl.losses.hint_loss import HintLoss as HintLoss
from kmtl.losses.masked_multi_label_loss import MaskedMultiLabelLoss as MaskedMultiLabelLoss

__all__ = ["CRFLoss", "HintLoss", "MaskedMultiLabelLoss", "class_balance_weights"]
