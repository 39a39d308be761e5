"""A layer that computes with its kernel rounded to integers."""

import keras
from keras import ops

from kmtl.export.quantization_aware.fake_quantize import fake_quantize_kernel, round_to, scale_of

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
        **kwargs: `keras.layers.Layer` arguments.
    """

    def __init__(
        self, layer: keras.layers.Layer, num_bits: int = 8, per_channel: bool = True, **kwargs
    ):
        kwargs.setdefault("name", f"{layer.name}_quantized")
        super().__init__(layer, **kwargs)
        self.num_bits = num_bits
        self.per_channel = per_channel

    def call(self, inputs, grid=None):
        kernel, scale = self.rounded_kernel()
        values = [(v, ops.convert_to_tensor(v)) for v in self.layer.variables]
        values = [(v, kernel if v is self.kernel else x) for v, x in values]
        bias = getattr(self.layer, "bias", None)
        if bias is not None and grid is not None:
            step = ops.maximum(scale_of(grid) * ops.reshape(scale, (-1,)), 1e-30)
            values = [(v, round_to(step, x) if v is bias else x) for v, x in values]
        with keras.StatelessScope(values):
            return self.layer(inputs)

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
        return self.layer.compute_output_shape(inputs_shape)

    def get_config(self):
        config = super().get_config()
        return {**config, "num_bits": self.num_bits, "per_channel": self.per_channel}
