"""Sluice units: cross-stitching between subspaces of the features of T task networks."""

import keras
import numpy as np
from keras import ops

from kmtl.layers.checks import check_num_tasks, check_streams, resolve_num_tasks
from kmtl.layers.folding import weighted_sum


@keras.saving.register_keras_serializable(package="kmtl")
class SluiceUnit(keras.layers.Layer):
    """Mixes subspaces of the features of T task networks by a learned matrix.

    Choose it over `kmtl.layers.CrossStitch` when tasks should share a part of their features
    and keep the rest to themselves: each tower's channels are cut into `num_subspaces` equal
    blocks, and every block learns how much of every other block it takes. Add
    `kmtl.regularizers.OrthogonalSubspaces` to the towers' kernels to keep the blocks apart,
    and `kmtl.layers.LayerStitch` before each head for the complete sluice network.

    ```
    parts[t * num_subspaces + s] = channels s * C / num_subspaces ... of inputs[t]
    mixed[i]   = sum_j alpha[i, j] * parts[j]             # i, j = 1 ... T * num_subspaces
    outputs[t] = concatenate(mixed[t * num_subspaces ... (t + 1) * num_subspaces])
    ```

    Args:
        num_tasks: Number of tasks T. Defaults to `None`, the number of inputs.
        num_subspaces: Blocks that the channels are cut into; must divide their number.
            Defaults to `2`.
        init: Start of `alpha`. `"imbalanced"`: `same_init` on the diagonal, the rest spread
            evenly over the row; `"balanced"`: all entries equal, so that every block of every
            task starts as the same average; `"identity"`: separate networks.
            Defaults to `"imbalanced"`.
        same_init: Start of the diagonal where `init="imbalanced"`. Defaults to `0.9`.

    Call arguments:
        inputs: List of T tensors of one shape, channels last.

    Input shape: T times `(batch, ..., channels)`.

    Output shape: the same.

    Raises:
        ValueError: if the inputs differ in shape or in number from `num_tasks`, or their
            channels do not divide into `num_subspaces`.

    Example:

    >>> import numpy as np
    >>> import kmtl
    >>> unit = kmtl.layers.SluiceUnit(init="identity")
    >>> left, right = np.ones((1, 4), "float32"), np.zeros((1, 4), "float32")
    >>> print([x.shape[-1] for x in unit([left, right])], unit.alpha.shape)
    [4, 4] (4, 4)
    >>> _ = unit.alpha.assign([[1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    >>> print(np.array(unit([left, right])[1]))  # shares the first subspace, keeps the second
    [[1. 1. 0. 0.]]

    Differences from the paper: any number of tasks and subspaces. The released code
    interleaves the units of the tasks, so that an identity `alpha` does not give separate
    networks; this is the paper's equation. Its "imbalanced" start of two subspaces has rows
    that add up to 2; these add up to 1, and with one subspace are those of `CrossStitch`.

    Reference: S. Ruder, J. Bingel, I. Augenstein, A. Soegaard (2019), "Latent Multi-task
    Architecture Learning", AAAI, arXiv:1705.08142 (2017 as "Sluice networks: Learning what to
    share between loosely related tasks"), the alpha parameters.
    """

    def __init__(self, num_tasks=None, num_subspaces=2, init="imbalanced", same_init=0.9, **kwargs):
        super().__init__(**kwargs)
        check_num_tasks(num_tasks, optional=True)
        if not isinstance(num_subspaces, int) or num_subspaces < 1:
            raise ValueError(
                f"`num_subspaces` must be an integer >= 1. Received: num_subspaces={num_subspaces}"
            )
        if init not in ("imbalanced", "balanced", "identity"):
            raise ValueError(
                f"`init` must be 'imbalanced', 'balanced' or 'identity'. Received: init={init!r}"
            )
        self.num_tasks = num_tasks
        self.num_subspaces = num_subspaces
        self.init = init
        self.same_init = same_init
        self.supports_masking = True  # each stream keeps its mask

    def build(self, input_shape):
        check_streams(self, input_shape)
        self._tasks = resolve_num_tasks(self, len(input_shape))
        channels = input_shape[0][-1]
        if channels % self.num_subspaces:
            raise ValueError(
                "`num_subspaces` must divide the channels. "
                f"Received: num_subspaces={self.num_subspaces}, {channels} channels"
            )
        parts = self._tasks * self.num_subspaces
        self.alpha = self.add_weight(
            name="alpha", shape=(parts, parts), initializer=self._initial_alpha
        )

    def _initial_alpha(self, shape, dtype=None):
        parts = shape[0]
        starts = {"imbalanced": self.same_init, "balanced": 1.0 / parts, "identity": 1.0}
        own = starts[self.init]
        other = (1.0 - own) / max(parts - 1, 1)
        return other + (own - other) * ops.eye(parts, dtype=dtype)

    def call(self, inputs):
        alpha = ops.convert_to_tensor(self.alpha)
        parts = [part for x in inputs for part in ops.split(x, self.num_subspaces, axis=-1)]
        mixed = [sum(alpha[i, j] * part for j, part in enumerate(parts)) for i in range(len(parts))]
        return [ops.concatenate(mixed[self._rows(t)], axis=-1) for t in range(self._tasks)]

    def _rows(self, task: int) -> slice:
        return slice(task * self.num_subspaces, (task + 1) * self.num_subspaces)

    def compute_output_shape(self, input_shape):
        return list(input_shape)

    def fold(self, inputs):
        """The same mixing by built-in layers: slices of the channels, scaled, added, joined."""
        alpha = ops.convert_to_numpy(self.alpha)
        if self.num_subspaces == 1:
            parts = list(inputs)
        else:
            size = inputs[0].shape[-1] // self.num_subspaces
            starts = range(0, inputs[0].shape[-1], size)
            parts = [x[..., start : start + size] for x in inputs for start in starts]
        return [self._fold_task(t, inputs[t], parts, alpha) for t in range(self._tasks)]

    def _fold_task(self, task, own_input, parts, alpha):
        rows = self._rows(task)
        if np.array_equal(alpha[rows], np.eye(len(parts))[rows]):
            return own_input
        mixed = [
            weighted_sum(parts, weights, name=f"{self.name}_{task}_{s}")
            for s, weights in enumerate(alpha[rows])
        ]
        if self.num_subspaces == 1:
            return mixed[0]
        return keras.layers.Concatenate(name=f"{self.name}_{task}")(mixed)

    def get_config(self):
        return {
            **super().get_config(),
            "num_tasks": self.num_tasks,
            "num_subspaces": self.num_subspaces,
            "init": self.init,
            "same_init": self.same_init,
        }
