"""Labels of many yes-or-no tasks, one column each, most of them absent."""

import math

import numpy as np
from keras import ops

from kmtl.ops.labels import split_missing


def check_missing(missing: float) -> None:
    """Raises ValueError for a marker that a label could be mistaken for."""
    if isinstance(missing, bool) or not isinstance(missing, (int, float)) or missing in (0, 1):
        raise ValueError(
            "`missing` must be NaN or a number that is no label, 0 or 1. "
            f"Received: missing={missing}"
        )


def split_binary(y_true, y_pred, missing: float):
    """Separates missing labels from present ones, and spoils what is neither 0 nor 1.

    A compiled step cannot stop at a wrong label, but NaN in its place stops `fit` of a
    `kmtl.MultiTaskModel`, where a loss of -1 would quietly have no lower end.

    Args:
        y_true: `(batch, tasks)`, 0, 1 or `missing`.
        y_pred: Predictions of the same shape.
        missing: The value that marks a missing label.

    Returns:
        `(labels, present)`: labels of `y_pred`'s type, 0 in place of the missing ones and NaN
        in place of what is no label, and a boolean mask.

    Raises:
        ValueError: if the shapes differ or have no axis of tasks.
    """
    known = [a == b for a, b in zip(y_true.shape, y_pred.shape, strict=False) if None not in (a, b)]
    if len(y_true.shape) != 2 or len(y_pred.shape) != 2 or not all(known):
        raise ValueError(
            "Labels and predictions must be of one shape (batch, tasks). "
            f"Received: labels {tuple(y_true.shape)}, predictions {tuple(y_pred.shape)}"
        )
    labels, present = split_missing(y_true, missing)
    labels = ops.cast(labels, y_pred.dtype)
    is_label = ops.logical_or(ops.equal(labels, 0), ops.equal(labels, 1))
    return ops.where(is_label, labels, float("nan")), present


def count_classes(y, missing: float) -> np.ndarray:
    """How many labels 0 and how many 1 each task has.

    Args:
        y: Array of shape `(rows, tasks)`, 0, 1 or `missing`.
        missing: The value that marks a missing label.

    Returns:
        `(2, tasks)`.

    Raises:
        ValueError: for another shape, and for labels that are neither 0, 1 nor `missing`.
    """
    y = np.asarray(y)
    if y.ndim != 2:
        raise ValueError(f"`y` must be of shape (rows, tasks). Received: y of shape {y.shape}")
    absent = np.isnan(y) if math.isnan(missing) else y == missing
    wrong = np.argwhere(~absent & (y != 0) & (y != 1))
    if len(wrong):
        row, task = wrong[0].tolist()
        raise ValueError(
            f"Labels must be 0, 1 or missing={missing}. Received: {len(wrong)} others, the first "
            f"of them {y[row, task]} in row {row} of task {task}"
        )
    return np.stack([(y == 0).sum(axis=0), (y == 1).sum(axis=0)])
