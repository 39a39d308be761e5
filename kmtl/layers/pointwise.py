"""What the layers share that mix channels position by position: normalisation and folding."""

import keras
import numpy as np
from keras import ops

from kmtl.layers.experts import fixed_dense


def batch_normalization(name: str, momentum: float, dtype) -> keras.layers.BatchNormalization:
    """Batch normalisation whose statistics are those of all replicas' rows together."""
    return keras.layers.BatchNormalization(
        momentum=momentum,
        epsilon=1e-5,  # so that a new layer is the identity but for rounding
        # JAX sees the global batch anyway, and Keras refuses the argument there.
        synchronized=keras.backend.backend() == "tensorflow",
        dtype=dtype,
        name=name,
    )


def scale_and_offset(norm: keras.layers.BatchNormalization) -> tuple[np.ndarray, np.ndarray]:
    """`(scale, offset)` so that `norm(x) = scale * x + offset` when not training."""
    gamma, beta, mean, variance = (
        ops.convert_to_numpy(v).astype("float64")
        for v in (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)
    )
    scale = gamma / np.sqrt(variance + norm.epsilon)
    return scale, beta - mean * scale


def folded_pointwise(x, kernel: np.ndarray, bias: np.ndarray | None, name: str, activation=None):
    """`activation(x @ kernel + bias)` along the last axis: a 1x1 `Conv2D` on images, else `Dense`.

    Args:
        x: Symbolic tensor, `(batch, ..., features)`.
        kernel: `(features, units)`.
        bias: `(units,)`, or None.
        name: The new layer's name.
        activation: Its activation. Defaults to `None`.
    """
    if len(x.shape) != 4:
        return fixed_dense(x, kernel, bias, name, activation)
    conv = keras.layers.Conv2D(
        kernel.shape[1],
        1,
        activation=activation,
        use_bias=bias is not None,
        data_format="channels_last",
        name=name,
    )
    y = conv(x)
    conv.set_weights([kernel[None, None]] if bias is None else [kernel[None, None], bias])
    return y
