"""A layer that computes with its kernel rounded to integers."""

import keras
from keras import ops

from kmtl.export.quantization_aware.fake_quantize import fake_quantize_kernel, round_to, scale_of
from kmtl.export.quantization_aware.fixed_point import exact_product

# Name of the kernel and the axes with a scale each: those of the operations' output channels.
KERNELS = {
    "Dense": ("kernel", (-1,)),
    "Conv1D": ("kernel", (-1,)),
    "Conv2D": ("kernel", (-1,)),
    "DepthwiseConv1D": ("kernel", (-2, -1)),
    "DepthwiseConv2D": ("kernel", (-2, -1)),
    "Conv2DTranspose": ("kernel", (-2,)),
    "Embedding": ("embeddings", ()),
}


@keras.saving.register_keras_serializable(package="kmtl")
class QuantizedLayer(keras.layers.Wrapper):
    """Calls a layer with its kernel rounded to `num_bits`; gradients pass as if it were not.

    The bias is rounded, too: in the file it is a 32-bit integer in units of the input's step
    times the kernel's.

    Args:
        layer: A layer of one of the types in `KERNELS`.
        num_bits: 4 or 8. Defaults to `8`.
        per_channel: Whether each output channel has a scale of its own. Defaults to `True`.
        with_steps: Whether to return `(y, steps)`, where `steps (batch, 2, channels)` holds
            the units of the integer kernel's sums, for `FakeQuantize`. Defaults to `False`.
        **kwargs: `keras.layers.Layer` arguments.
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        num_bits: int = 8,
        per_channel: bool = True,
        with_steps: bool = False,
        **kwargs,
    ):
        kwargs.setdefault("name", f"{layer.name}_quantized")
        super().__init__(layer, **kwargs)
        self.num_bits = num_bits
        self.per_channel = per_channel
        self.with_steps = with_steps

    def call(self, inputs, grid=None, training=False):
        if self.with_steps:
            return self._on_integers(inputs, grid, training)
        kernel, scale = self.rounded_kernel()
        values = [(v, ops.convert_to_tensor(v)) for v in self.layer.variables]
        values = [(v, kernel if v is self.kernel else x) for v, x in values]
        bias = getattr(self.layer, "bias", None)
        if bias is not None and grid is not None:
            step = ops.maximum(scale_of(grid) * ops.reshape(scale, (-1,)), 1e-30)
            values = [(v, round_to(step, x) if v is bias else x) for v, x in values]
        with keras.StatelessScope(values):
            return self.layer(inputs)

    def _on_integers(self, inputs, grid, training):
        """Computes sums of integers, which floats hold exactly, and only then their values."""
        kernel, scale = self.rounded_kernel()
        scale, step = ops.stop_gradient(scale), scale_of(grid)
        most = 2 ** (self.num_bits - 1) - 1
        in_file = ops.reshape((scale * most) / most, (-1,))  # found from the largest weight
        units, lost = exact_product(step, in_file)
        units = ops.maximum(units, 1e-30)
        new = {id(self.kernel): round_to(1.0, kernel / scale)}
        bias = getattr(self.layer, "bias", None)
        if bias is not None:
            new[id(bias)] = round_to(1.0, ops.convert_to_tensor(bias) / units)
        x = ops.cast(inputs, "float32") / step
        with keras.StatelessScope([(v, new[id(v)]) for v in self.layer.variables]):
            sums = self.layer(x if training else round_to(1.0, x))
        steps = ops.ones((ops.shape(sums)[0], 1, 1)) * ops.stack([units, lost])
        return sums * units, steps

    def build(self, inputs_shape, grid_shape=None):
        super().build(inputs_shape)

    @property
    def kernel(self) -> keras.Variable:
        """The layer's kernel, unrounded."""
        return getattr(self.layer, KERNELS[type(self.layer).__name__][0])

    def rounded_kernel(self) -> tuple:
        """The kernel as the file will have it, and its step for each output channel."""
        axes, rank = KERNELS[type(self.layer).__name__][1], len(self.kernel.shape)
        axes = axes if self.per_channel else ()
        kernel = ops.cast(ops.convert_to_tensor(self.kernel), "float32")
        return fake_quantize_kernel(kernel, self.num_bits, [a % rank for a in axes])

    def compute_output_shape(self, inputs_shape, grid_shape=None):
        shape = self.layer.compute_output_shape(inputs_shape)
        return (shape, (shape[0], 2, shape[-1])) if self.with_steps else shape

    def get_config(self):
        config = super().get_config()
        return {
            **config,
            "num_bits": self.num_bits,
            "per_channel": self.per_channel,
            "with_steps": self.with_steps,
        }
