"""Ranges of a quantisation-aware model's activations, from data."""

import re

import keras
import numpy as np

from kmtl.export.quantization_aware.fake_quantize import FakeQuantize
from kmtl.export.samples import read_samples


def calibrate(model: keras.Model, data) -> None:
    """Sets all ranges to the extremes of what a quantisation-aware model computes on data.

    Raises:
        ValueError: for data that leaves a layer constant or makes it infinite.
    """
    arrays = read_samples(data, {x.name: x for x in model.inputs})
    layers = [
        layer
        for layer in model.layers
        if isinstance(layer, FakeQuantize) and layer.ranges != "fixed"
    ]
    tensors = [layer._inbound_nodes[0].input_tensors[0] for layer in layers]
    probe = keras.Model(model.inputs, tensors)
    lows, highs = np.full(len(layers), np.inf), np.full(len(layers), -np.inf)
    rows = len(next(iter(arrays.values())))
    for start in range(0, rows, 64):
        chunk = [arrays[x.name][start : start + 64] for x in model.inputs]
        values = keras.tree.flatten(probe(chunk, training=False))  # one tensor comes without a list
        for i, value in enumerate(values):
            value = keras.ops.convert_to_numpy(value)
            lows[i] = np.minimum(lows[i], value.min())  # NaN stays
            highs[i] = np.maximum(highs[i], value.max())
    found = zip([layer.name for layer in layers], lows, highs, strict=True)
    _check(list(found), "Ranges on `representative_data`")
    for layer, low, high in zip(layers, lows, highs, strict=True):
        layer.set_limits(low, high)


def check_calibrated(model: keras.Model) -> None:
    """Raises ValueError for ranges that no file can have, naming them by their layers."""
    layers = [layer for layer in model.layers if isinstance(layer, FakeQuantize)]
    without = [_layer_of(x.name) for x in layers if not int(x.batches.numpy())]
    if without:
        raise ValueError(
            "A model from `quantize_aware` must have ranges before it is exported: `fit` it, or "
            f"pass `representative_data` to `quantize_aware`. Received: none for "
            f"{', '.join(without)}"
        )
    _check([(x.name, *x.get_limits()) for x in layers], "Ranges of a quantisation-aware model")


def _check(ranges, what) -> None:
    infinite = [
        f"{_layer_of(name)}: {low:.3g} to {high:.3g}"
        for name, low, high in ranges
        if not (np.isfinite(low) and np.isfinite(high))
    ]
    if infinite:
        raise ValueError(f"{what} must be finite. Received: {'; '.join(infinite)}")
    constant = [f"{_layer_of(name)}: always {low:.3g}" for name, low, high in ranges if low == high]
    if constant:
        raise ValueError(
            f"{what} must not be empty; a layer that is meant to be constant can stay in float by "
            f"`keep_float`. Received: {'; '.join(constant)}"
        )


def _layer_of(name: str) -> str:
    return re.sub(r"_range(_\d+)?$", "", name)
