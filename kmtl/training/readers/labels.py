"""Labels in the one form that the model is told of: absent ones are NaN, or -1 of integers."""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from kmtl.training.configuration.schema_data import Task

_ABSENT_INTEGER = -1


def absent(dtype) -> float | int:
    """What marks an absent label of a type."""
    return float("nan") if np.issubdtype(dtype, np.floating) else _ABSENT_INTEGER


def standard_labels(labels: Mapping, tasks: Mapping[str, Task] | None, where: str) -> dict:
    """Task -> labels of the types that the configuration asks for, absent ones marked.

    Args:
        labels: Task -> array; NaN counts as absent only where the configuration says so, or
            where it asks for integers.
        tasks: The configuration's, or None, which leaves labels as they are.
        where: The source's key, for errors.

    Raises:
        ValueError: for labels that are no numbers, or whose mark is a label.
    """
    if tasks is None:
        return dict(labels)
    return {
        name: _standard(np.asarray(labels[name]), task, f"{where}.tasks.{name}")
        for name, task in tasks.items()
    }


def _standard(values, task, key):
    if values.dtype == bool:
        values = values.astype("int32")
    if not np.issubdtype(values.dtype, np.number):
        raise ValueError(f"`{key}` must hold numbers. Received: type {values.dtype}")
    gone = np.zeros(values.shape, bool)
    if np.issubdtype(values.dtype, np.floating):
        gone |= np.isnan(values) & (_is_nan(task.missing) or task.dtype == "int32")
    if task.missing is not None and not _is_nan(task.missing):
        gone |= values == task.missing
    dtype = np.dtype(task.dtype or values.dtype)
    if np.issubdtype(dtype, np.unsignedinteger):
        dtype = np.dtype("int64")  # which has room for a mark
    mark = absent(dtype)
    may_be_absent = task.missing is not None or task.dtype == "int32"
    marked = int((values[~gone] == mark).sum()) if may_be_absent else 0
    if marked and np.issubdtype(dtype, np.integer):
        if task.missing is None:
            raise ValueError(
                f"`{key}.missing` must be {mark} where {mark} marks absent labels, and "
                f"`{key}.dtype` float32 where it is a label. Received: {marked} labels {mark}"
            )
        raise ValueError(
            f"`{key}.dtype` must be float32 where {mark} is a label and others may be absent. "
            f"Received: {dtype}"
        )
    present = values[~gone]
    if np.issubdtype(dtype, np.integer) and (present != np.floor(present)).any():
        raise ValueError(
            f"`{key}.dtype` must be float32 where labels are no integers. Received: {dtype}"
        )
    result = np.full(values.shape, mark, dtype)
    result[~gone] = present
    return result


def _is_nan(value):
    return value is not None and np.isnan(value)


def standard_label_tensor(tensor, task: Task, key: str):
    """As `standard_labels`, of one label in a `tf.data` pipeline."""
    dtype = tf.as_dtype(task.dtype or tensor.dtype)
    if not (tensor.dtype.is_floating or tensor.dtype.is_integer):
        raise ValueError(f"`{key}` must hold numbers. Received: type {tensor.dtype.name}")
    if task.missing is None:
        return tf.cast(tensor, dtype)
    if not _is_nan(task.missing):
        gone = tensor == tf.cast(task.missing, tensor.dtype)
    elif tensor.dtype.is_floating:
        gone = tf.math.is_nan(tensor)
    else:  # whole numbers cannot be NaN
        return tf.cast(tensor, dtype)
    if dtype.is_unsigned:
        dtype = tf.int64
    mark = tf.cast(absent(dtype.as_numpy_dtype), dtype)
    return tf.where(gone, mark, tf.cast(tensor, dtype))
