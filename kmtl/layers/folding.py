"""Shared pieces of the layers' `fold` methods: mixing by built-in Keras layers."""

from collections.abc import Sequence

import keras
import numpy as np


def weighted_sum(inputs: Sequence, weights: np.ndarray, name: str, axis: int = -1):
    """`sum_j weights[j] * inputs[j]` made of built-in layers.

    A zero weight drops its term and a weight of one its layer, so parts that share nothing
    come out unconnected.

    Args:
        inputs: Symbolic tensors of one shape.
        weights: `(len(inputs),)`, or `(len(inputs), channels)` for a weight per channel.
        name: Prefix of the new layers' names.
        axis: The channel axis.
    """
    terms = [
        _scaled(x, weight, axis, f"{name}_from_{j}")
        for j, (x, weight) in enumerate(zip(inputs, weights, strict=True))
        if np.any(weight)
    ]
    if not terms:
        return _scaled(inputs[0], weights[0], axis, f"{name}_zero")
    return terms[0] if len(terms) == 1 else keras.layers.Add(name=name)(terms)


def _scaled(x, weight: np.ndarray, axis: int, name: str):
    if np.all(weight == 1.0):
        return x
    rank = len(x.shape)
    if np.ndim(weight) and axis not in (-1, rank - 1):
        weight = np.reshape(weight, [-1] + [1] * (rank - 1 - axis % rank))
    return keras.layers.Rescaling(weight.tolist(), name=name)(x)
