"""The logit of the product of two probabilities, without ever leaving logits."""

import keras
import numpy as np
from keras import ops

from kmtl.layers.checks import check_streams
from kmtl.layers.experts import fixed_dense


@keras.saving.register_keras_serializable(package="kmtl")
class LogitProduct(keras.layers.Layer):
    """From the logits of `P(A)` and of `P(B | A)` to the logit of `P(A and B)`.

    Use it where one task is a step on the way to another, a click before a purchase: the product
    can then be trained with `BinaryCrossentropy(from_logits=True)`, whose logarithms stay finite
    where the probabilities themselves round to 0 or 1. `kmtl.models.ESMM` does.

    ```
    sigmoid(output) = sigmoid(a) * sigmoid(b)
    output          = a + (b - log(exp(a) + exp(b) + 1))
                    = a + (b + log_softmax([a, b, 0])[2])
    ```

    Call arguments:
        inputs: List of the two logits a and b.

    Input shape: twice `(batch, ..., 1)`.

    Output shape: `(batch, ..., 1)`; nowhere larger than a.

    Raises:
        ValueError: if the inputs are not two of one shape whose last axis has the length 1.

    Example:

    >>> import numpy as np
    >>> import kmtl
    >>> a, b = np.zeros((1, 1), "float32"), np.zeros((1, 1), "float32")
    >>> print(f"{float(kmtl.layers.LogitProduct()([a, b])[0, 0]):.4f}")  # log(0.25 / 0.75)
    -1.0986

    Differences from the paper: it multiplies probabilities.

    Reference: X. Ma et al. (2018), "Entire Space Multi-Task Model: An Effective Approach for
    Estimating Post-Click Conversion Rate", SIGIR, arXiv:1804.07931, equation 1.
    """

    def build(self, input_shape):
        check_streams(self, input_shape)
        if len(input_shape) != 2 or input_shape[0][-1] != 1:
            raise ValueError(
                "`LogitProduct` must get two tensors of one logit for each example. "
                f"Received: input shapes {[tuple(shape) for shape in input_shape]}"
            )

    def call(self, inputs):
        a, b = inputs
        x = ops.concatenate([a, b, ops.zeros_like(a)], axis=-1)
        return a + (b + ops.log_softmax(x, axis=-1)[..., 2:])

    def compute_output_shape(self, input_shape):
        return tuple(input_shape[0])

    def fold(self, inputs):
        """The same: `Dense` layers with fixed weights append the 0 and pick the third entry."""
        a, b = inputs
        x = keras.layers.Concatenate(name=f"{self.name}_joined")([a, b])
        x = fixed_dense(x, np.eye(2, 3), None, f"{self.name}_with_zero")
        x = keras.layers.Activation("log_softmax", name=f"{self.name}_log_softmax")(x)
        x = fixed_dense(x, np.eye(3)[:, 2:], None, f"{self.name}_of_zero")
        factor = keras.layers.Add(name=f"{self.name}_factor")([b, x])
        return keras.layers.Add(name=self.name)([a, factor])
