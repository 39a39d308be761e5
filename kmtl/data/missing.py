"""The values that stand for labels that a source does not have."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

# Labels of this many examples are looked at together, so that looking needs little memory.
_CHUNK = 4096


def missing_values(missing: Mapping | None, sources: Sequence, specs: Mapping) -> dict:
    """Task -> value of an absent label, for the tasks that are named and those a source lacks.

    Where none is given it is NaN for floating labels, -1 for integers and the largest number for
    unsigned ones, 255 of 8 bits.

    Args:
        missing: The user's.
        sources: All sources.
        specs: Task -> `tf.TensorSpec` of its labels.

    Raises:
        ValueError: if a value cannot be a label, if one that was not given is a label in the data,
            or if a task has no label at all.
    """
    values = dict(missing or {})
    if unknown := sorted(set(values) - set(specs)):
        raise ValueError(
            f"`missing` must name tasks of the sources, {sorted(specs)}. Received: {unknown}"
        )
    for task, spec in specs.items():
        having = [source for source in sources if task in source.spec[1]]
        if task in values:
            _check(task, values[task], spec.dtype)
        elif len(having) < len(sources):
            values[task] = _default(task, spec.dtype)
            for source in having if spec.dtype.is_integer else []:
                if any(equal.any() for equal in _equal(source, task, values[task])):
                    raise already_a_label(task, values[task], source.name)
        if task in values:
            _check_any_label(task, values[task], having)
    return dict(sorted(values.items()))


def already_a_label(task: str, value, source: str) -> ValueError:
    """The error for a label in the data that is the value of absent ones."""
    return ValueError(
        f"`missing` must be given for task {task!r}: a number that no label is, or {value} if that "
        f"marks absent ones already. Received: labels {value} in source {source!r}"
    )


def _default(task, dtype):
    if dtype.is_floating:
        return float("nan")
    if dtype.is_integer:
        return int(dtype.max) if dtype.is_unsigned else -1
    raise ValueError(
        "Labels of a task that a source lacks must be numbers, so that one can mark absent ones. "
        f"Received: type {dtype.name} for task {task!r}"
    )


def _check(task, value, dtype):
    fits = isinstance(value, (int, float, np.number)) and (
        dtype.is_floating
        or (dtype.is_integer and value == value // 1 and dtype.min <= value <= dtype.max)
    )
    if not fits:
        raise ValueError(
            "`missing` must give a number that labels can have. "
            f"Received: missing={value} for labels of type {dtype.name} of task {task!r}"
        )


def _check_any_label(task, value, sources):
    """Only arrays can be looked at."""
    if not all(task in source.labels for source in sources):
        return
    if all(absent.all() for source in sources for absent in _equal(source, task, value)):
        raise ValueError(
            "Every task must have labels. "
            f"Received: nothing but {value}, which marks absent ones, for task {task!r}"
        )


def _equal(source, task, value) -> Iterator[np.ndarray]:
    """Which labels in the source's arrays, if it has any, mark absent ones, chunk by chunk."""
    labels = source.labels.get(task, ())
    for start in range(0, len(labels), _CHUNK):
        chunk = labels[start : start + _CHUNK]
        yield np.isnan(chunk) if np.isnan(value) else chunk == value
