"""The attention of MTAN: a task's mask over the features of a shared trunk."""

import keras
from keras import ops

from kmtl.layers.pointwise import batch_normalization, folded_pointwise, scale_and_offset


@keras.saving.register_keras_serializable(package="kmtl")
class AttentionGate(keras.layers.Layer):
    """Selects, position by position and channel by channel, what a task takes of a shared trunk.

    Put one for each task at each stage of a trunk, as `kmtl.models.MTAN` does: tasks get
    features of their own for the price of two 1x1 convolutions, where towers of their own would
    each cost a trunk.

    ```
    hidden = relu(norm_1(concatenate(early, task) @ kernel_1 + bias_1))
    mask   = sigmoid(norm_2(hidden @ kernel_2 + bias_2))                   # in (0, 1)
    output = mask * late
    ```

    Args:
        hidden: Channels between the two convolutions. Defaults to `None`, those of `late`.
        kernel_initializer: Of both kernels. Defaults to `"glorot_normal"`.

    Call arguments:
        inputs: List of `early` and `late`, features from within and from the end of a stage of
            the trunk; and, after the first stage, the task's own features from the stage before.
        training: Whether to normalise by the batch's statistics.

    Input shape: two or three times `(batch, ..., channels)`, which may differ in channels only.

    Output shape: that of `late`.

    Raises:
        ValueError: for another number of inputs, inputs that differ in more than their channels,
            or a `hidden` below 1.

    Example:

    >>> import numpy as np
    >>> import kmtl
    >>> gate = kmtl.layers.AttentionGate()
    >>> early, late = np.ones((2, 8, 8, 4), "float32"), np.ones((2, 8, 8, 6), "float32")
    >>> print(gate([early, late]).shape[1:], gate.kernels[0].shape, gate.kernels[1].shape)
    (8, 8, 6) (4, 6) (6, 6)

    Differences from the paper: none known. Widths, the order of the layers, the initializer and
    a momentum of 0.9 are those of the released code (`att_layer` in lorenmt/mtan); its residual
    networks take a quarter of the channels as `hidden`. On replicas the statistics are those of
    all rows.

    Reference: S. Liu, E. Johns, A. Davison (2019), "End-to-End Multi-Task Learning with
    Attention", CVPR, arXiv:1803.10704, section 3.2, equations 1 and 2.
    """

    def __init__(self, hidden=None, kernel_initializer="glorot_normal", **kwargs):
        super().__init__(**kwargs)
        if hidden is not None and (not isinstance(hidden, int) or hidden < 1):
            raise ValueError(f"`hidden` must be None or an integer >= 1. Received: hidden={hidden}")
        self.hidden = hidden
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.norms = [
            batch_normalization(f"{self.name}_norm_{n}", 0.9, self.dtype_policy) for n in range(2)
        ]

    def build(self, input_shape):
        shapes = _checked(input_shape)
        early, late, *task = (shape[-1] for shape in shapes)
        widths = [early + sum(task), self.hidden or late, late]
        self.kernels, self.biases = [], []
        for n, size in enumerate(zip(widths, widths[1:], strict=False)):
            self.kernels.append(
                self.add_weight(
                    name=f"kernel_{n}", shape=size, initializer=_fresh(self.kernel_initializer)
                )
            )
            self.biases.append(
                self.add_weight(name=f"bias_{n}", shape=size[1:], initializer="zeros")
            )
            self.norms[n].build((*shapes[0][:-1], size[1]))

    def attention(self, inputs, training=None):
        """The mask, in (0, 1), of the shape of `late`."""
        early, _, *task = inputs
        x = ops.concatenate([early, *task], axis=-1)
        for kernel, bias, norm, activation in zip(
            self.kernels, self.biases, self.norms, (ops.relu, ops.sigmoid), strict=True
        ):
            x = activation(norm(ops.matmul(x, kernel) + bias, training=training))
        return x

    def call(self, inputs, training=None):
        return self.attention(inputs, training) * inputs[1]

    def compute_output_shape(self, input_shape):
        return tuple(_checked(input_shape)[1])

    def fold(self, inputs):
        """Two 1x1 convolutions, or `Dense` layers, with the normalisation in their weights."""
        early, late, *task = inputs
        x = early
        if task:
            x = keras.layers.Concatenate(name=f"{self.name}_joined")([early, *task])
        for n, activation in enumerate(("relu", "sigmoid")):
            scale, offset = scale_and_offset(self.norms[n])
            kernel, bias = (ops.convert_to_numpy(w[n]) for w in (self.kernels, self.biases))
            x = folded_pointwise(
                x, kernel * scale, bias * scale + offset, f"{self.name}_conv_{n}", activation
            )
        return keras.layers.Multiply(name=self.name)([x, late])

    def get_config(self):
        return {
            **super().get_config(),
            "hidden": self.hidden,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


def _checked(shapes):
    """The input shapes, if they are two or three that differ in their channels only."""
    shapes = list(shapes)
    several = all(isinstance(shape, (list, tuple)) for shape in shapes)
    if not several or len(shapes) not in (2, 3):
        raise ValueError(
            "`AttentionGate` takes a list of two or three tensors: `early`, `late` and the "
            f"task's own. Received: input_shape={shapes}"
        )
    shapes = [tuple(shape) for shape in shapes]
    if len({shape[1:-1] for shape in shapes}) > 1 or any(s[-1] is None for s in shapes):
        raise ValueError(
            "The inputs of `AttentionGate` must have one shape but for their channels, which must "
            f"be known. Received: input shapes {shapes}"
        )
    return shapes


def _fresh(initializer):
    """The initializer again: one object gives the same numbers at every call."""
    return type(initializer).from_config(initializer.get_config())
