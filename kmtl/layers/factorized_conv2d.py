"""Convolutions of T tasks whose stacked kernel is factorised (DMTRL)."""

import keras
from keras import ops

from kmtl.layers.factorized import FactorizedLayer


@keras.saving.register_keras_serializable(package="kmtl")
class FactorizedConv2D(FactorizedLayer):
    """T 2D convolutions that share the factors of their stacked kernel.

    The convolutional `FactorizedDense`, for image towers in which every layer should learn
    how much it shares. The cost of a step is that of T convolutions; what shrinks is the
    number of trained weights. `fold` gives T plain convolutions.

    ```
    outputs[t] = activation(conv(inputs[t], W[..., t]) + bias[t])    # or conv(inputs, ...)
    W[h, w, i, o, t] = sum_k L[h, w, i, o, k] * S[k, t]                  # "laf", rank K
    W[h, w, i, o, t] = sum_abcde core[a, b, c, d, e] * U1[h, a] * U2[w, b]
                                 * U3[i, c] * U4[o, d] * U5[t, e]        # "tucker", 5 ranks
    W[h, w, i, o, t] = sum_abcd U1[h, a] * U2[a, w, b] * U3[b, i, c]
                                * U4[c, o, d] * U5[d, t]                 # "tt", 4 ranks
    ```

    Args:
        filters: Number of output channels of each task.
        kernel_size: Height and width of the window, an integer or a pair.
        num_tasks: Number of tasks T.
        method: `"laf"`, `"tucker"` or `"tt"`, see `FactorizedDense`. Defaults to `"tucker"`.
        rank: One rank or a tuple: 1 for `"laf"`, 5 for `"tucker"` (height, width, input and
            output channels, tasks), 4 for `"tt"`; see `FactorizedDense`. Defaults to `None`.
        rel_error: Largest relative error of the start, which chooses the ranks where
            `init_from` is given and `rank` is not. Defaults to `0.1`.
        init_from: Kernels of trained single-task layers to start from: an array
            `(height, width, channels, filters, T)` or a list of T arrays without the last
            axis. Used up by the constructor, see `FactorizedDense`. Defaults to `None`.
        strides: Step of the window, an integer or a pair. Defaults to `1`.
        padding: `"valid"` or `"same"`. Defaults to `"valid"`.
        data_format: `"channels_last"` or `"channels_first"`. Defaults to `None`, the setting
            of Keras.
        dilation_rate: Spacing of the window, an integer or a pair; must be 1 where a stride
            is not. Defaults to `1`.
        activation: Activation function. Defaults to `None`.
        use_bias: Whether to add a bias, which the tasks never share. Defaults to `True`.
        bias_initializer: Initializer of the bias `(T, filters)`. Defaults to `"zeros"`.
        kernel_regularizer: Penalty on the synthesised stack
            `(height, width, channels, filters, T)`. Defaults to `None`.
        bias_regularizer: Penalty on the bias. Defaults to `None`.

    Call arguments:
        inputs: One tensor for all tasks, or a list of T tensors of one shape.

    Input shape: `(batch, height, width, channels)`, or T times that; with
    `data_format="channels_first"` the channels come second.

    Output shape: T times that of `keras.layers.Conv2D`.

    Raises:
        ValueError: if `method`, `rank` or `rel_error` is out of range, `init_from` does not
            fit the layer, or the number of inputs is not T.

    Example:

    >>> import numpy as np
    >>> import kmtl
    >>> layer = kmtl.layers.FactorizedConv2D(8, 3, num_tasks=2, method="tt", padding="same")
    >>> first, second = layer(np.ones((1, 6, 6, 4), "float32"))
    >>> print(tuple(first.shape), layer.ranks, tuple(layer.synthesize().shape))
    (1, 6, 6, 8) (2, 5, 9, 2) (3, 3, 4, 8, 2)

    Differences from the paper: those of `FactorizedDense`; strides and dilation.

    Reference: Y. Yang, T. Hospedales (2017), "Deep Multi-task Representation Learning: A
    Tensor Factorisation Approach", ICLR, arXiv:1605.06391, section 3.
    """

    def __init__(
        self,
        filters,
        kernel_size,
        num_tasks,
        method="tucker",
        rank=None,
        rel_error=0.1,
        init_from=None,
        strides=1,
        padding="valid",
        data_format=None,
        dilation_rate=1,
        activation=None,
        use_bias=True,
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        **kwargs,
    ):
        # Keras checks the geometry and brings it into its own form.
        geometry = keras.layers.Conv2D(
            filters,
            kernel_size,
            strides=strides,
            padding=padding,
            data_format=data_format,
            dilation_rate=dilation_rate,
        )
        super().__init__(
            kernel_size=geometry.kernel_size,
            features=filters,
            num_tasks=num_tasks,
            method=method,
            rank=rank,
            rel_error=rel_error,
            init_from=init_from,
            activation=activation,
            use_bias=use_bias,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            **kwargs,
        )
        self.filters = filters
        self.kernel_size = geometry.kernel_size
        self.strides = geometry.strides
        self.padding = geometry.padding
        self.data_format = geometry.data_format
        self.dilation_rate = geometry.dilation_rate

    def _geometry(self):
        return {
            "strides": self.strides,
            "padding": self.padding,
            "data_format": self.data_format,
            "dilation_rate": self.dilation_rate,
        }

    def _plain(self, name):
        return keras.layers.Conv2D(
            self.filters,
            self.kernel_size,
            activation=self.activation,
            use_bias=self.use_bias,
            name=name,
            **self._geometry(),
        )

    def _channels(self, shape):
        if len(shape) != 4:
            raise ValueError(
                "`FactorizedConv2D` takes inputs with 4 axes: batch, height, width and "
                f"channels. Received: input_shape={shape}"
            )
        return shape[-1 if self.data_format == "channels_last" else 1]

    def _linear(self, x, kernel):
        return ops.conv(x, kernel, **self._geometry())

    def _align_bias(self, bias):
        if self.data_format == "channels_first":
            return ops.reshape(bias, (-1, 1, 1))
        return bias

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            **self._geometry(),
        }
