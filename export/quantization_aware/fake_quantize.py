"""Activations and kernels on an integer grid, as the file will have them, but trainable."""

from collections.abc import Sequence

import keras
from keras import ops

from kmtl import backend
from kmtl.export.quantization_aware.fixed_point import as_kernels_do

SYMMETRIC_BITS = 16  # LiteRT's kernels with 16-bit activations know no zero point


@keras.saving.register_keras_serializable(package="kmtl")
class FakeQuantize(keras.layers.Layer):
    """Rounds activations to the values that an integer tensor can hold.

    ```
    scale = (high - low) / (2**num_bits - 1),   zero = round(-low / scale)     # 8 bits and less
    y     = (clip(round(x / scale) + zero, 0, 2**num_bits - 1) - zero) * scale
    ```

    Returns `(y, grid)`; `grid (batch, 2)` holds the scale and, as a signed integer, the zero
    point for each sample: for the layers that read `y` and round what they compute by it.

    With 16 bits the grid is symmetric around 0. Gradients pass where `x` lies in the range, and
    learned ranges get those of the values outside. In training the range follows the batches'
    extremes, over all replicas, as a moving average; as long as there is no range the layer
    returns its inputs.

    Where kernels that round in ways of their own computed the inputs, `steps` are the units of
    their sums, and the inputs are rounded as they do it.

    Args:
        num_bits: 4 to 8, or 16. Defaults to `8`.
        ranges: `"moving_average"`, `"learned"` (trainable, from what `set_limits` gives) or
            `"fixed"`. Defaults to `"moving_average"`.
        decay: Of the moving average. Defaults to `0.99`.
        freeze_after: Number of batches after which ranges stand still. Defaults to `None`,
            never.
        limits: `(low, high)` to start with, or to keep for `"fixed"`, which round in
            inference only: a loss must not see a probability of exactly 0. Defaults to
            `None`.
        after_float: Whether what computes the inputs stays in float in the file. Defaults to
            `False`.
        kernels: Which kernels computed which channels, as `fixed_point` describes them.
            Defaults to `()`.
        **kwargs: `keras.layers.Layer` arguments.
    """

    def __init__(
        self,
        num_bits: int = 8,
        ranges: str = "moving_average",
        decay: float = 0.99,
        freeze_after: int | None = None,
        limits: Sequence[float] | None = None,
        after_float: bool = False,
        kernels: Sequence[dict] = (),
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.num_bits = num_bits
        self.ranges = ranges
        self.decay = decay
        self.freeze_after = freeze_after
        self.limits = None if limits is None else [float(x) for x in limits]
        self.after_float = after_float
        self.kernels = [dict(kernel) for kernel in kernels]

    def build(self, inputs_shape, steps_shape=None):
        low, high = self.limits or (0.0, 0.0)

        def add(name, value, dtype="float32", trainable=False):
            return self.add_weight(
                name=name,
                shape=(),
                dtype=dtype,
                initializer=keras.initializers.Constant(value),
                trainable=trainable,
                aggregation="none" if trainable else "only_first_replica",
            )

        learned = self.ranges == "learned"
        self.low, self.high = (
            add("low", low, trainable=learned),
            add("high", high, trainable=learned),
        )
        self.batches = add("batches", int(self.limits is not None), "int32")

    def call(self, inputs, steps=(), training=False):
        if training and self.ranges == "moving_average":
            self._follow(inputs)
        x = ops.cast(inputs, "float32")
        low, high = ops.convert_to_tensor(self.low), ops.convert_to_tensor(self.high)
        y, scale, zero = fake_quantize(x, low, high, self.num_bits, self.kernels, steps)
        rounds = ops.greater(self.batches, 0)
        if training and self.ranges == "fixed":
            rounds = ops.zeros_like(rounds)
        grid = ops.stop_gradient(ops.stack([scale, zero]))
        grid = ops.ones((ops.shape(x)[0], 1)) * grid
        return ops.cast(ops.where(rounds, y, x), inputs.dtype), grid

    def set_limits(self, low: float, high: float) -> None:
        """Sets the range, as calibration does."""
        self.low.assign(low)
        self.high.assign(high)
        self.batches.assign(ops.maximum(self.batches, 1))

    def get_limits(self) -> tuple[float, float]:
        """The range as it stands, with 0 inside."""
        return min(float(self.low.numpy()), 0.0), max(float(self.high.numpy()), 0.0)

    def _follow(self, inputs):
        x = ops.stop_gradient(ops.cast(inputs, "float32"))
        extremes = backend.all_gather(ops.stack([ops.min(x), -ops.max(x)]))
        low, high = ops.min(extremes[:, 0]), -ops.min(extremes[:, 1])
        first = ops.equal(self.batches, 0)
        frozen = False
        if self.freeze_after is not None:
            frozen = ops.greater_equal(self.batches, self.freeze_after)
        for variable, value in ((self.low, low), (self.high, high)):
            old = ops.convert_to_tensor(variable)
            value = ops.where(first, value, self.decay * old + (1.0 - self.decay) * value)
            variable.assign(ops.where(frozen, old, value))
        self.batches.assign(self.batches + 1)

    def get_config(self):
        return {
            **super().get_config(),
            "num_bits": self.num_bits,
            "ranges": self.ranges,
            "decay": self.decay,
            "freeze_after": self.freeze_after,
            "limits": self.limits,
            "after_float": self.after_float,
            "kernels": self.kernels,
        }


@keras.saving.register_keras_serializable(package="kmtl")
class RoundToGrid(keras.layers.Layer):
    """Rounds means of values on a grid to the same grid.

    Args:
        away_from_zero: Whether the integers' halves are rounded away from 0, as LiteRT's pooling
            does, and not up, as its resizing of 8-bit integers does. Defaults to `False`.
        num_bits: Of the grid, 8 or 16. Defaults to `8`.
        **kwargs: `keras.layers.Layer` arguments.
    """

    def __init__(self, away_from_zero: bool = False, num_bits: int = 8, **kwargs):
        super().__init__(**kwargs)
        self.away_from_zero = away_from_zero
        self.num_bits = num_bits

    def call(self, inputs, grid):
        x = ops.cast(inputs, "float32")
        scale, zero = scale_of(grid), ops.max(grid[:, 1])
        integers = x / scale + zero
        # Means of a few integers: what is almost a half is one, but for the rounding of floats.
        half = 0.5 + (2.0**-6 if self.num_bits == SYMMETRIC_BITS else 1e-4)
        if self.away_from_zero:
            integers = ops.sign(integers) * ops.floor(ops.abs(integers) + half)
        else:
            integers = ops.floor(integers + half)
        rounded = (integers - zero) * scale
        return ops.cast(x + ops.stop_gradient(rounded - x), inputs.dtype)

    def build(self, inputs_shape, grid_shape):
        self.built = True

    def compute_output_shape(self, inputs_shape, grid_shape):
        return inputs_shape

    def get_config(self):
        config = super().get_config()
        return {**config, "away_from_zero": self.away_from_zero, "num_bits": self.num_bits}


def scale_of(grid):
    """The scale of what `FakeQuantize` gave, which is the same for each sample."""
    return ops.maximum(ops.max(grid[:, 0]), 1e-30)


def fake_quantize(x, low, high, num_bits: int, kernels: Sequence[dict] = (), steps=()):
    """`x` rounded to the grid between `low` and `high`, with 0 on it; its scale and zero point.

    The zero point is that of signed integers. `kernels` and `steps` are those of
    `fixed_point.as_kernels_do`.
    """
    low, high = ops.minimum(low, 0.0), ops.maximum(high, 0.0)
    if num_bits == SYMMETRIC_BITS:
        most = 2 ** (num_bits - 1) - 1
        high = ops.maximum(-low, high)
        scale = ops.maximum(high / most, 1e-9)
        low, zero = -high, ops.zeros_like(scale)
        least = -most
        signed = zero
    else:
        least, most = 0, 2**num_bits - 1
        scale = ops.maximum((high - low) / most, 1e-9)
        zero = ops.round(-low / scale)
        signed = zero - 2.0 ** (num_bits - 1)
        # Moved so that 0 is on the grid; gradients do not see the move.
        low = low + ops.stop_gradient(-zero * scale - low)
        high = high + ops.stop_gradient((most - zero) * scale - high)
    if kernels:
        x = as_kernels_do(x, scale, kernels, steps)
    clipped = ops.clip(x, low, high)
    # LiteRT's QUANTIZE multiplies by the inverse, which with 16 bits makes a difference.
    integers = x * (1.0 / scale) if num_bits == SYMMETRIC_BITS else x / scale
    rounded = (ops.clip(ops.round(integers) + zero, least, most) - zero) * scale
    return clipped + ops.stop_gradient(rounded - clipped), scale, signed


def fake_quantize_kernel(kernel, num_bits: int, axes: Sequence[int]):
    """A kernel rounded to a grid symmetric around 0, and the grids' steps, along `axes`."""
    others = [i for i in range(len(kernel.shape)) if i not in axes]
    most = 2 ** (num_bits - 1) - 1
    scale = ops.maximum(ops.max(ops.abs(kernel), axis=others, keepdims=True), 1e-9) / most
    return round_to(scale, kernel), scale


def round_to(step, x):
    """Multiples of `step`; gradients pass as if `x` were not rounded."""
    return x + ops.stop_gradient(ops.round(x / step) * step - x)
