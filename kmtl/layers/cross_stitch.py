"""Cross-stitch units: learned linear mixing of the features of T task networks."""

import keras
from keras import ops

from kmtl.layers.checks import check_num_tasks, check_streams, resolve_num_tasks
from kmtl.layers.folding import weighted_sum


@keras.saving.register_keras_serializable(package="kmtl")
class CrossStitch(keras.layers.Layer):
    """Mixes the features of T task networks by a learned matrix.

    Put one between corresponding stages of T equal towers when you do not know how much the
    tasks should share: the unit learns it, from nothing (`alpha` = identity) to everything
    (all rows equal). It works on dense, recurrent and convolutional features alike.

    ```
    outputs[i][..., c] = sum_j alpha[i, j, c] * inputs[j][..., c]     # per_channel=True
    outputs[i]         = sum_j alpha[i, j]    * inputs[j]             # per_channel=False
    ```

    Args:
        num_tasks: Number of tasks T. Defaults to `None`, the number of inputs.
        per_channel: One matrix for each channel instead of one for the layer. The paper uses
            it for segmentation with surface normals and found the single matrix more stable
            for detection with attributes. Defaults to `True`.
        same_init: Start of the diagonal, the share a task keeps of its own features.
            Defaults to `0.9`.
        different_init: Start of the other entries. Defaults to `None`, which is
            `(1 - same_init) / (num_tasks - 1)`, so that rows sum to 1.
        lr_multiplier: The unit stores `alpha / lr_multiplier`, which makes `alpha` learn
            faster than the towers: `lr_multiplier` times with Adam and its kin,
            `lr_multiplier ** 2` times with SGD. The paper trains with SGD and a rate 100 to
            1000 times that of the towers, hence 10 to 32 here. Defaults to `1.0`.
        axis: The channel axis. Defaults to `-1`.

    Call arguments:
        inputs: List of T tensors of one shape.

    Input shape: T times `(batch, ..., channels)`.

    Output shape: the same.

    Raises:
        ValueError: if the inputs differ in shape or in number from `num_tasks`.

    Example:

    >>> import numpy as np
    >>> import kmtl
    >>> left, right = np.ones((2, 3), "float32"), np.zeros((2, 3), "float32")
    >>> mixed_left, mixed_right = kmtl.layers.CrossStitch(same_init=0.75)([left, right])
    >>> print(float(mixed_left[0, 0]), float(mixed_right[0, 0]))
    0.75 0.25

    Differences from the paper: any number of tasks; the learning-rate factor is part of the
    unit because Keras optimizers have none per variable.

    Reference: I. Misra, A. Shrivastava, A. Gupta, M. Hebert (2016), "Cross-stitch Networks
    for Multi-task Learning", CVPR, arXiv:1604.03539, equation 1 and section 4.1.
    """

    def __init__(
        self,
        num_tasks=None,
        per_channel=True,
        same_init=0.9,
        different_init=None,
        lr_multiplier=1.0,
        axis=-1,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_num_tasks(num_tasks, optional=True)
        if lr_multiplier <= 0:
            raise ValueError(
                f"`lr_multiplier` must be positive. Received: lr_multiplier={lr_multiplier}"
            )
        self.num_tasks = num_tasks
        self.per_channel = per_channel
        self.same_init = same_init
        self.different_init = different_init
        self.lr_multiplier = lr_multiplier
        self.axis = axis
        self.supports_masking = True  # each stream keeps its mask

    def build(self, input_shape):
        check_streams(self, input_shape)
        self._tasks = resolve_num_tasks(self, len(input_shape))
        channels = (input_shape[0][self.axis],) if self.per_channel else ()
        self.raw = self.add_weight(
            name="raw_alpha",
            shape=(self._tasks, self._tasks, *channels),
            initializer=self._initial_raw,
        )

    def _initial_raw(self, shape, dtype=None):
        other = self.different_init
        if other is None:
            other = (1.0 - self.same_init) / max(self._tasks - 1, 1)
        alpha = other + (self.same_init - other) * ops.eye(self._tasks, dtype=dtype)
        alpha = ops.reshape(alpha, (self._tasks, self._tasks) + (1,) * (len(shape) - 2))
        return ops.broadcast_to(alpha, shape) / self.lr_multiplier

    @property
    def alpha(self):
        """The mixing matrix, `(T, T)` or `(T, T, channels)`; rows are receivers."""
        return ops.convert_to_tensor(self.raw) * self.lr_multiplier

    def call(self, inputs):
        alpha = self.alpha
        if self.per_channel:  # (T, T, 1, ..., channels, ..., 1): channels along `axis`
            shape = [1] * (len(inputs[0].shape) - 1)
            axis = self.axis - 1 if self.axis > 0 else self.axis
            shape[axis] = -1
            alpha = ops.reshape(alpha, (self._tasks, self._tasks, *shape))
        return [sum(alpha[i, j] * x for j, x in enumerate(inputs)) for i in range(self._tasks)]

    def compute_output_shape(self, input_shape):
        return list(input_shape)

    def fold(self, inputs):
        """The same mixing by built-in layers: scaled copies, added."""
        alpha = ops.convert_to_numpy(self.alpha)
        return [
            weighted_sum(inputs, alpha[i], name=f"{self.name}_{i}", axis=self.axis)
            for i in range(self._tasks)
        ]

    def get_config(self):
        return {
            **super().get_config(),
            "num_tasks": self.num_tasks,
            "per_channel": self.per_channel,
            "same_init": self.same_init,
            "different_init": self.different_init,
            "lr_multiplier": self.lr_multiplier,
            "axis": self.axis,
        }
