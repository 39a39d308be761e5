"""NDDR: each task mixes all channels of all towers by a 1x1 convolution of its own."""

import keras
import numpy as np
from keras import ops

from kmtl.layers.checks import check_streams
from kmtl.layers.pointwise import batch_normalization, folded_pointwise, scale_and_offset


@keras.saving.register_keras_serializable(package="kmtl")
class NDDR(keras.layers.Layer):
    """Joins the features of T towers, and lets every task project them back to its own width.

    Choose it over `CrossStitch` where a channel of one tower should be able to feed any channel
    of another, and there are data for `T**2 * channels**2` weights at each joint. It works on
    dense, recurrent and convolutional features alike.

    ```
    joined     = concatenate(inputs[0], ..., inputs[T - 1])                   # along channels
    outputs[i] = activation(batch_norm_i(joined @ kernel[:, i-th block of columns]))
    kernel     = same_init * I in the blocks (i, i), different_init * I in the others, at first
    ```

    Args:
        same_init: Start of the weight between a channel of a task and itself. Defaults to `0.9`.
        different_init: Start of the weight between it and the same channel of another tower.
            Defaults to `None`, which is `(1 - same_init) / (T - 1)`: 0.1 for two tasks.
        activation: Activation of the outputs. Defaults to `"relu"`.
        batch_norm: Whether to normalise before the activation, with the statistics of all
            replicas' rows. Defaults to `True`.

    Call arguments:
        inputs: List of T tensors of one shape, channels last.
        training: Whether to normalise by the batch's statistics.
        mask: Of each input; masked timesteps count in no statistics. As towers read the same
            timesteps, the first mask stands for all.

    Input shape: T times `(batch, ..., channels)`.

    Output shape: the same.

    Raises:
        ValueError: if the inputs differ in shape, or their number of channels is not known.

    Example:

    >>> import numpy as np
    >>> import kmtl
    >>> left, right = np.ones((2, 3), "float32"), np.zeros((2, 3), "float32")
    >>> layer = kmtl.layers.NDDR(same_init=0.75, batch_norm=False)
    >>> mixed_left, mixed_right = layer([left, right])
    >>> print(float(mixed_left[0, 0]), float(mixed_right[0, 0]), layer.kernel.shape)
    0.75 0.25 (6, 6)

    Differences from the paper: any number of tasks, among which `different_init` divides what
    `same_init` leaves, so that features keep their size. The order of convolution, normalisation
    and activation, the missing bias, and a momentum of 0.95 are those of S. Vandenhende's
    Multi-Task-Learning-PyTorch, `models/nddr_cnn.py`. The paper's shortcuts to the last layer
    and its weight decay are left to the network around it.

    Reference: Y. Gao, J. Ma, M. Zhao, W. Liu, A. Yuille (2019), "NDDR-CNN: Layerwise Feature
    Fusing in Multi-Task CNNs by Neural Discriminative Dimensionality Reduction", CVPR,
    arXiv:1801.08297, section 3.
    """

    def __init__(
        self, same_init=0.9, different_init=None, activation="relu", batch_norm=True, **kwargs
    ):
        super().__init__(**kwargs)
        self.same_init = same_init
        self.different_init = different_init
        self.activation = keras.activations.get(activation)
        self.batch_norm = batch_norm
        self.supports_masking = True  # each stream keeps its mask
        self.norm = None
        if batch_norm:
            self.norm = batch_normalization(f"{self.name}_norm", 0.95, self.dtype_policy)

    def build(self, input_shape):
        check_streams(self, input_shape)
        channels = input_shape[0][-1]
        if channels is None:
            raise ValueError(
                "The inputs of `NDDR` must have a known number of channels. "
                f"Received: input shapes {[tuple(shape) for shape in input_shape]}"
            )
        self._tasks = len(input_shape)
        width = self._tasks * channels
        self.kernel = self.add_weight(
            name="kernel", shape=(width, width), initializer=self._initial_kernel
        )
        if self.norm is not None:
            self.norm.build((*input_shape[0][:-1], width))

    def _initial_kernel(self, shape, dtype=None):
        other = self.different_init
        if other is None:
            other = (1.0 - self.same_init) / max(self._tasks - 1, 1)
        blocks = other + (self.same_init - other) * np.eye(self._tasks)
        return ops.convert_to_tensor(np.kron(blocks, np.eye(shape[0] // self._tasks)), dtype=dtype)

    def call(self, inputs, training=None, mask=None):
        y = ops.matmul(ops.concatenate(inputs, axis=-1), self.kernel)
        if self.norm is not None:
            y = self.norm(y, training=training, mask=next(_present(mask), None))
        return ops.split(self.activation(y), self._tasks, axis=-1)

    def compute_output_shape(self, input_shape):
        return list(input_shape)

    def fold(self, inputs):
        """One 1x1 convolution, or `Dense`, for each task; it reads the towers that it uses."""
        kernel, bias = ops.convert_to_numpy(self.kernel), None
        if self.norm is not None:
            scale, bias = scale_and_offset(self.norm)
            kernel = kernel * scale
        outputs = []
        for i, columns in enumerate(np.split(kernel, self._tasks, axis=1)):
            rows = np.split(columns, self._tasks)
            used = [j for j, block in enumerate(rows) if np.any(block)] or [i]
            name = f"{self.name}_task_{i}"
            joined = [inputs[j] for j in used]
            x = joined[0]
            if len(joined) > 1:
                x = keras.layers.Concatenate(name=f"{name}_joined")(joined)
            own = None if bias is None else np.split(bias, self._tasks)[i]
            block = np.concatenate([rows[j] for j in used])
            outputs.append(folded_pointwise(x, block, own, name, self.activation))
        return outputs

    def get_config(self):
        return {
            **super().get_config(),
            "same_init": self.same_init,
            "different_init": self.different_init,
            "activation": keras.activations.serialize(self.activation),
            "batch_norm": self.batch_norm,
        }


def _present(masks):
    return (m for m in masks or [] if m is not None)
