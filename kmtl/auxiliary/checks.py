"""Checks that helper tasks share."""

import math

import numpy as np
from keras.optimizers.schedules import LearningRateSchedule


def check_name(name: str) -> None:
    """Requires a task name."""
    if not isinstance(name, str) or not name:
        raise ValueError(
            f"`name` must be the name of a task, not an empty one. Received: name={name!r}"
        )


def check_weight(weight) -> None:
    """Requires a number of at least 0 or a schedule."""
    if isinstance(weight, LearningRateSchedule):
        return
    if not isinstance(weight, (int, float)) or not 0 <= weight < math.inf:
        raise ValueError(
            "`weight` must be at least 0 and finite, or a "
            f"`keras.optimizers.schedules.LearningRateSchedule`. Received: weight={weight!r}"
        )


def check_shape(argument: str, shape, expected) -> None:
    """Requires outputs of the shape of what they predict, both without the axis of rows."""
    if tuple(shape) != tuple(expected):
        raise ValueError(
            f"`{argument}` must give the shape of what it predicts, {tuple(expected)}. "
            f"Received: {tuple(shape)}"
        )


def check_not_constant(output: str, labels: np.ndarray, missing=None) -> None:
    """Raises ValueError if all labels are alike, so that nothing can be learned from them.

    Args:
        output: The output's name, for the message.
        labels: All of them, one in each row.
        missing: The label that means "no label", or None.
    """
    labels = np.asarray(labels)
    rows = labels.reshape(len(labels), -1)
    present = np.ones(rows.shape, bool) if missing is None else ~is_missing(rows, missing)
    values = rows[present]
    if len(labels) > 1 and not (values.size and (values != values[0]).any()):
        received = f"only {values[0]}" if values.size else "no label"
        raise ValueError(
            "The training labels of an auxiliary task must differ, or there is nothing to learn. "
            f"Received: {received} for {output!r}, in {len(labels)} rows"
        )


def is_missing(values: np.ndarray, missing: float) -> np.ndarray:
    """Where values are the one that means "no label"."""
    return np.isnan(values) if np.isnan(missing) else values == missing
