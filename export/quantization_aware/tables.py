"""Functions that LiteRT's kernels for 16-bit integers look up in tables."""

import keras
import numpy as np
from keras import ops

from kmtl.export.quantization_aware.fake_quantize import scale_of
from kmtl.export.quantization_aware.fixed_point import power_of_two

STEPS = 2**15  # per unit of the outputs


@keras.saving.register_keras_serializable(package="kmtl")
class TableActivation(keras.layers.Layer):
    """An activation that in inference gives what LiteRT's kernel for 16-bit integers gives.

    The kernels interpolate between entries of their tables, and are some steps of `2**-15` off
    the function. In training, where such outputs are not rounded, the layer is the function.

    Args:
        function: `"sigmoid"`, `"softmax"` (over the last axis) or `"tanh"`.
        **kwargs: `keras.layers.Layer` arguments.
    """

    def __init__(self, function: str, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.function = function

    def call(self, inputs, grid, training=False):
        y = keras.activations.get(self.function)(inputs)
        if training:
            return y
        scale = scale_of(grid)
        x = ops.clip(ops.round(ops.cast(inputs, "float32") / scale), -STEPS, STEPS - 1)
        integers = KERNELS[self.function](ops.cast(x, "int32"), scale)
        looked_up = ops.cast(integers, y.dtype) / STEPS
        has_range = scale > 1e-9  # as long as there is none the inputs are not rounded
        return ops.where(has_range, y + ops.stop_gradient(looked_up - y), y)

    def build(self, inputs_shape, grid_shape):
        self.built = True

    def compute_output_shape(self, inputs_shape, grid_shape):
        return inputs_shape

    def get_config(self):
        return {**super().get_config(), "function": self.function}


def _tanh(x, scale):
    """`tanh(x) = 2 sigmoid(2 x) - 1`: the sigmoid's table, twice as far."""
    x = _in_finer_units(x, scale)
    y = ops.right_shift(_sigmoid_of_positive(ops.abs(x), 8, 0xFFFF << 8) + (1 << 7), 8)
    return ops.sign(x) * (y - STEPS)


def _sigmoid(x, scale):
    x = _in_finer_units(x, scale)
    y = ops.right_shift(_sigmoid_of_positive(ops.abs(x), 9, 0xFFFE << 9) + (1 << 9), 10)
    return ops.where(x < 0, STEPS - y, y)


def _in_finer_units(x, scale):
    """Units of 1 / (3 * 4096), by the 15 leading bits of the scale."""
    bits = ops.view(scale, "int32")
    multiplier = 3 * ops.bitwise_or(ops.bitwise_and(bits, 0x7FFFFF), 0x800000)
    fits = multiplier <= 32767 << 10
    multiplier = ops.right_shift(multiplier, ops.where(fits, 10, 11))
    shift = ops.clip(ops.where(fits, 128, 127) - ops.right_shift(bits, 23), 1, 30)
    return ops.right_shift(x * multiplier + ops.left_shift(1, shift - 1), shift)


def _sigmoid_of_positive(x, bits, most):
    """In units of `2**-(16 + bits)`; the table has an entry every `2**bits`."""
    place = ops.right_shift(x, bits)
    between = ops.bitwise_and(x, (1 << bits) - 1)
    low = ops.take(_SIGMOID, ops.minimum(place, 254))
    high = ops.take(_SIGMOID, ops.minimum(place, 254) + 1)
    return ops.where(place > 254, most, ops.left_shift(low, bits) + between * (high - low))


def _softmax(x, scale):
    below = ops.cast(ops.max(x, axis=-1, keepdims=True) - x, "float32")
    units = scale * (65535 / 10)
    fine = ops.minimum(power_of_two(units), 1.0)  # the kernel rounds twice
    below = ops.floor(ops.floor(below * (units / fine) + 0.5) * fine + 0.5)
    exps = _interpolated(_EXP, 32767 - ops.cast(ops.minimum(below, 65535.0), "int32"))
    total = ops.sum(exps, axis=-1, keepdims=True)
    # Brought to 17 bits, of which the first is 1: 1 + x, in units of 2**-16.
    length = ops.right_shift(ops.view(ops.cast(total, "float32"), "int32"), 23) - 126
    leading = ops.right_shift(ops.left_shift(total, 31 - length), 13)
    leading = ops.right_shift(leading + 1, 1)
    inverse = _interpolated(_INVERSE, ops.minimum(leading - 3 * STEPS, STEPS - 1))
    half = ops.left_shift(1, length - 2)
    return ops.clip(ops.right_shift(exps * inverse + half, length - 1), 0, STEPS - 1)


def _interpolated(table, x):
    """A table of 513 entries for 16-bit integers."""
    place = 256 + ops.right_shift(x, 7)
    low = ops.take(table, place)
    slope = ops.take(table, place + 1) - low
    return low + ops.right_shift(slope * ops.bitwise_and(x, 127) + 64, 7)


def _sigmoid_of(x):
    return 1.0 / (1.0 + np.exp(-x))


def _entries(function, low, high):
    """513 values at equal distances, moved by half of what interpolation is off half-way."""
    x, width = np.linspace(low, high, 513), (high - low) / 512
    y = np.round(function(x) * STEPS)
    between = np.round((function(x + width) * STEPS + y) / 2)
    off = (between - np.round(function(x + width / 2) * STEPS)) / 2
    y[:-1] -= np.trunc(off + 0.5 * np.sign(off))[:-1]
    return np.clip(y, 0, STEPS - 1).astype("int32")


def _sigmoid_entries():
    """256 values, every 1 / 24, moved in the same way, but rounded once."""
    x, width = np.arange(256) / 24, 1 / 24
    off = _sigmoid_of(x + width / 2) - (_sigmoid_of(x) + _sigmoid_of(x + width)) / 2
    y = np.round((_sigmoid_of(x) + off / 2) * 2 * STEPS).astype("int32")
    y[-1] = 2 * STEPS - 1
    return y


_SIGMOID = _sigmoid_entries()
_EXP = _entries(np.exp, -10.0, 0.0)
_INVERSE = _entries(lambda x: 1.0 / (1.0 + x), 0.0, 1.0)
KERNELS = {"sigmoid": _sigmoid, "softmax": _softmax, "tanh": _tanh}
