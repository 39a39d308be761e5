"""What numbers examples may hold, checked in NumPy: whole arrays, or batches of a stream."""

import dataclasses
from collections.abc import Mapping

import numpy as np

# Examples that are looked at together, so that looking needs little memory.
_CHUNK = 4096


@dataclasses.dataclass(frozen=True)
class Limits:
    """What labels may be.

    Attributes:
        missing: Source -> task -> the mark of an absent label, where labels may be absent.
        classes: Task -> number of its classes, of the tasks whose labels count them.
        ignored: Task -> the class that its loss leaves out, of those tasks; it may be None.
    """

    missing: Mapping[str, Mapping[str, float]]
    classes: Mapping[str, int]
    ignored: Mapping[str, int | None]


def check_examples(key: str, examples: tuple, limits: Limits, start: int = 0) -> None:
    """Raises ValueError, naming the key, for numbers that training could not use.

    Args:
        key: The source's, `data.<split>.<name>`.
        examples: `({input: array}, {task: labels})`, with sample weights or without.
        limits: What labels may be.
        start: The number of the first of them, for the message.
    """
    x, labels, *weights = examples
    weights = dict(*weights)
    size = len(next(iter(labels.values())))
    for first in range(0, size, _CHUNK):
        rows = slice(first, first + _CHUNK)
        for name, values in x.items():
            _check_input(key, name, np.asarray(values[rows]), start + first)
        for task, values in labels.items():
            part = np.asarray(values[rows])
            counted = present(part, limits.missing.get(key, {}).get(task))
            if task in weights:
                counted = (counted.T & _weighed(weights[task][rows]).T).T
            _check_labels(f"{key}.tasks.{task}", task, part, counted, limits, start + first)


def present(labels: np.ndarray, mark: float | None) -> np.ndarray:
    """Which labels are there."""
    if mark is None:
        return np.ones(labels.shape, bool)
    return ~np.isnan(labels) if np.isnan(mark) else labels != mark


def _weighed(weights):
    """Which examples have any weight; one without counts as absent."""
    weights = np.asarray(weights)
    return weights.reshape(len(weights), -1).any(axis=1)


def _check_input(key, name, values, start):
    if np.issubdtype(values.dtype, np.floating):
        number, value = _first(values, ~np.isfinite(values), start)
        if number is not None:
            raise ValueError(
                f"`{key}` must have inputs that are finite numbers. "
                f"Received: {value} in input {name!r} of example {number}"
            )


def _check_labels(key, task, values, counted, limits, start):
    if np.issubdtype(values.dtype, np.floating):
        number, value = _first(values, counted & ~np.isfinite(values), start)
        if number is not None and np.isnan(value):
            raise ValueError(
                f"`{key}.missing` must be .nan where NaN marks absent labels, and all others "
                f"must be numbers. Received: nan in example {number}"
            )
        if number is not None:
            raise ValueError(
                f"`{key}` must have finite labels. Received: {value} in example {number}"
            )
    if task in limits.classes:
        count, ignored = limits.classes[task], limits.ignored[task]
        if ignored is not None:
            counted = counted & (values != ignored)
        number, value = _first(values, counted & ((values < 0) | (values >= count)), start)
        if number is not None:
            raise ValueError(
                f"`{key}` must have labels from 0 to {count - 1}, as the head has {count} units; "
                f"`{key}.missing` tells what marks absent ones. "
                f"Received: {value} in example {number}"
            )


def _first(values, bad, start):
    """Number of the first example with a bad value, and that value; or None twice."""
    if not bad.any():
        return None, None
    place = np.unravel_index(np.argmax(bad), bad.shape)
    return start + int(place[0]), values[place]
