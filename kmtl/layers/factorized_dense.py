"""Dense layers of T tasks whose stacked kernel is factorised (DMTRL)."""

import keras
from keras import ops

from kmtl.layers.factorized import FactorizedLayer


@keras.saving.register_keras_serializable(package="kmtl")
class FactorizedDense(FactorizedLayer):
    """T dense layers that share the factors of their stacked kernel.

    Use it in place of one dense layer for each task when you want the sharing to be learned
    in every layer, instead of choosing where the towers part. All factors but the last are
    shared; the last has a row or column for each task. `"laf"` makes a task's kernel a
    mixture of K whole kernels; `"tucker"` and `"tt"` also share within the input and output
    features and save far more weights. Low ranks share more; the maximal ranks can hold any
    T independent layers. `fold` writes the kernels out, so the deployed network has T plain
    dense layers and no trace of the factors.

    ```
    outputs[t]   = activation(inputs[t] @ W[:, :, t] + bias[t])      # or inputs @ ...
    W[i, o, t]   = sum_k  L[i, o, k] * S[k, t]                           # "laf",    rank K
    W[i, o, t]   = sum_abc core[a, b, c] * U1[i, a] * U2[o, b] * U3[t, c]  # "tucker", 3 ranks
    W[i, o, t]   = sum_ab  U1[i, a] * U2[a, o, b] * U3[b, t]             # "tt",     2 ranks
    ```

    Args:
        units: Number of output features of each task.
        num_tasks: Number of tasks T.
        method: `"laf"` (last-axis flattening), `"tucker"` or `"tt"` (tensor train).
            Defaults to `"tucker"`.
        rank: A tuple with one integer for each rank, or one integer r, which stands for
            `min(r, maximum)` in each. Ranks above the maximum are clipped with a warning.
            The resolved ranks are in `ranks` once the layer is built. Defaults to `None`:
            with `init_from`, the ranks at which the error is at most `rel_error`; else
            `maximum // 2 + 1`, where the maximum is `min(inputs * units, T)` for `"laf"`,
            `min(D_n, product of the others)` for axis n of `"tucker"` and
            `min(D_1 * ... * D_n, D_(n+1) * ... * D_N)` for cut n of `"tt"`.
        rel_error: Largest `||W - init_from|| / ||init_from||` at the start, in [0, 1). It
            chooses the ranks where `rank` is `None`. Defaults to `0.1`.
        init_from: Kernels of trained single-task layers to start from: an array
            `(inputs, units, T)` or a list of T arrays `(inputs, units)`. It is used up by the
            constructor: the attribute and the config hold `None`, and the config gets the
            chosen ranks as `rank`. Defaults to `None`, normal factors with one standard
            deviation such that the entries of W have the variance of Glorot.
        activation: Activation function. Defaults to `None`.
        use_bias: Whether to add a bias, which the tasks never share. Defaults to `True`.
        bias_initializer: Initializer of the bias `(T, units)`. Defaults to `"zeros"`.
        kernel_regularizer: Penalty on the synthesised stack `(inputs, units, T)`, added at
            every call of the layer. Weight decay on the factors would be another penalty, as
            their scales are free. Defaults to `None`.
        bias_regularizer: Penalty on the bias. Defaults to `None`.

    Call arguments:
        inputs: One tensor for all tasks, or a list of T tensors of one shape.

    Input shape: `(batch, ..., features)`, or T times that.

    Output shape: T times `(batch, ..., units)`.

    Raises:
        ValueError: if `method`, `rank` or `rel_error` is out of range, `init_from` does not
            fit the layer, or the number of inputs is not T.

    Example:

    >>> import numpy as np
    >>> import kmtl
    >>> trained = [np.eye(3), 2.0 * np.eye(3)]  # one is a multiple of the other: rank 1
    >>> layer = kmtl.layers.FactorizedDense(3, num_tasks=2, method="laf", init_from=trained)
    >>> first, second = layer(np.ones((1, 3), "float32"))
    >>> print(layer.ranks, round(float(first[0, 0]), 4), round(float(second[0, 0]), 4))
    (1,) 1.0 2.0

    Differences from the paper: `rel_error` bounds the error of the whole stack, in Frobenius
    norm; the authors' code applies it to each singular value decomposition, in spectral norm.
    The variance rule of the random start is ours.

    Reference: Y. Yang, T. Hospedales (2017), "Deep Multi-task Representation Learning: A
    Tensor Factorisation Approach", ICLR, arXiv:1605.06391, section 3.
    """

    def __init__(
        self,
        units,
        num_tasks,
        method="tucker",
        rank=None,
        rel_error=0.1,
        init_from=None,
        activation=None,
        use_bias=True,
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        **kwargs,
    ):
        super().__init__(
            kernel_size=(),
            features=units,
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
        self.units = units
        self.supports_masking = True
        self._plain(self.name)  # Keras checks `units`

    def _plain(self, name):
        return keras.layers.Dense(
            self.units, activation=self.activation, use_bias=self.use_bias, name=name
        )

    def _channels(self, shape):
        return shape[-1]

    def _linear(self, x, kernel):
        return ops.matmul(x, kernel)

    def get_config(self) -> dict:
        return {**super().get_config(), "units": self.units}
