"""Which labels are present, and safe stand-ins for those that are not."""

import math

import keras
import numpy as np
from keras import ops


def split_missing(y, missing: float | None):
    """Separates missing labels from present ones.

    Args:
        y: Labels, any shape.
        missing: The value that marks a missing label; NaN is allowed. None: none is missing.

    Returns:
        `(y, present)`: labels with 0 in place of the missing ones, so that no loss sees a
        value outside its domain, and a boolean mask of `y`'s shape (None if `missing` is).
    """
    y = ops.convert_to_tensor(y)
    if missing is None:
        return y, None
    dtype = keras.backend.standardize_dtype(y.dtype)
    if not math.isnan(missing) and not _representable(missing, dtype):
        raise ValueError(
            "`missing` must be a value that labels can have. "
            f"Received: missing={missing} for labels of type {dtype}"
        )
    absent = ops.isnan(y) if math.isnan(missing) else ops.equal(y, ops.cast(missing, y.dtype))
    return ops.where(absent, ops.zeros_like(y), y), ops.logical_not(absent)


def _representable(value: float, dtype: str) -> bool:
    if "int" not in dtype:
        return dtype != "bool"
    limits = np.iinfo(dtype)
    return value == int(value) and limits.min <= value <= limits.max


def to_rank(mask, rank: int):
    """`mask` with `rank` axes: extra trailing axes must all hold, lacking ones are added."""
    while len(mask.shape) > rank:
        mask = ops.all(mask, axis=-1)
    return _expand(mask, rank)


def weights_to_rank(weights, rank: int):
    """Sample weights with `rank` axes; a trailing axis of size 1 too many is dropped."""
    while len(weights.shape) > rank and weights.shape[-1] == 1:
        weights = ops.squeeze(weights, axis=-1)
    return _expand(weights, rank)


def _expand(x, rank):
    while len(x.shape) < rank:
        x = ops.expand_dims(x, axis=-1)
    return x


def label_form(y_true, y_pred) -> str:
    """Which of Keras's three spellings of a classification label `y_true` is.

    Returns:
        `"binary"` for one output unit, `"sparse"` for class indices, `"categorical"` for one
        number per class.
    """
    if y_pred.shape[-1] == 1:
        return "binary"
    if len(y_true.shape) < len(y_pred.shape) or y_true.shape[-1] == 1:
        return "sparse"
    return "categorical"
