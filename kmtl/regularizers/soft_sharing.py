"""Soft parameter sharing: a penalty on the distance between the weights of tasks."""

import keras
import numpy as np
from keras import ops

from kmtl.regularizers.checks import check_strength, check_task_axis

MODES = ("mean", "pairwise")
NORMS = ("l2", "l1")


@keras.saving.register_keras_serializable(package="kmtl")
class SoftSharing(keras.regularizers.Regularizer):
    """Pulls the weights of tasks towards their mean, or towards those of related tasks.

    Choose it where every task has weights of its own, of one shape, and you expect them to be
    alike: with few samples for each task it takes what one task learns to the others. Use it as
    `kernel_regularizer` of a layer that stacks its tasks, such as
    `kmtl.layers.TaskStackedDense`, or across towers by `kmtl.regularizers.AcrossTasks`. Biases are
    better left alone: tasks may differ in level and still be alike.

    ```
    W[t]    = x[..., t], the weights of task t
    mean    : strength * sum_t || W[t] - mean_s W[s] ||
    pairwise: strength * sum_{s < t} affinity[s, t] * || W[s] - W[t] ||
    || . || = sum of squares ("l2") or of absolute values ("l1")
    ```

    With all affinities 1 and "l2", "pairwise" is `T` times "mean".

    Args:
        strength: Factor of the penalty. Defaults to `0.01`.
        mode: `"mean"` or `"pairwise"`. Defaults to `"mean"`.
        affinity: For "pairwise": `(T, T)`, symmetric, not negative, how much the tasks of a pair
            are to be alike; the diagonal does not count. Rows are in the order of the stack.
            Defaults to `None`, 1 for all pairs.
        norm: `"l2"`, which draws all weights nearer, or `"l1"`, which makes many equal but takes
            `T**2` times the memory of a kernel where it is pairwise. Defaults to `"l2"`.
        task_axis: The axis of tasks. Defaults to `-1`.

    Call arguments:
        x: The stacked weights of T tasks.

    Input shape: `(..., T)`, or T at `task_axis`.

    Output shape: `()`.

    Raises:
        ValueError: for an affinity that is not symmetric, or of another number of tasks.

    Example:

    >>> import keras
    >>> import kmtl
    >>> penalty = kmtl.regularizers.SoftSharing(strength=0.5)
    >>> print(float(penalty(keras.ops.convert_to_tensor([[1.0, 3.0], [4.0, 4.0]]))))
    1.0
    >>> heads = kmtl.layers.TaskStackedDense(8, num_tasks=3, kernel_regularizer=penalty)

    Differences from the paper: the survey only names the idea. "mean" is the regularised multi-task
    learning of Evgeniou and Pontil for weights of any shape, without their penalty on the mean;
    "pairwise" that of a known graph of tasks.

    Reference: S. Ruder (2017), "An Overview of Multi-Task Learning in Deep Neural Networks",
    arXiv:1706.05098, section 3.2; T. Evgeniou, M. Pontil (2004), "Regularized Multi-Task
    Learning", KDD; L. Duong, T. Cohn, S. Bird, P. Cook (2015), "Low Resource Dependency Parsing:
    Cross-lingual Parameter Sharing in a Neural Network Parser", ACL (squared distance).
    """

    def __init__(self, strength=0.01, mode="mean", affinity=None, norm="l2", task_axis=-1):
        check_strength(strength)
        if mode not in MODES:
            raise ValueError(f"`mode` must be one of {MODES}. Received: mode={mode!r}")
        if norm not in NORMS:
            raise ValueError(f"`norm` must be one of {NORMS}. Received: norm={norm!r}")
        if affinity is not None and mode != "pairwise":
            raise ValueError(
                f'`affinity` must be given with mode="pairwise" only. Received: mode={mode!r}'
            )
        self.strength = strength
        self.mode = mode
        self.affinity = affinity
        self.norm = norm
        self.task_axis = task_axis
        self._affinity = None if affinity is None else _checked(affinity)

    def __call__(self, x):
        check_task_axis(x.shape, self.task_axis)
        x = ops.moveaxis(x, self.task_axis, -1)
        tasks = x.shape[-1]
        if self._affinity is not None and len(self._affinity) != tasks:
            raise ValueError(
                "`affinity` must have a row for each task of the stack. "
                f"Received: {len(self._affinity)} rows for {tasks} tasks"
            )
        # All that counts are differences, which are 0 to the last bit where tasks agree.
        x = x - x[..., :1]
        if self.norm == "l2":
            return self.strength * ops.sum(x * self._pulled(x, tasks))
        if self.mode == "mean":
            return self.strength * ops.sum(ops.abs(x - ops.mean(x, axis=-1, keepdims=True)))
        distances = ops.abs(ops.expand_dims(x, -1) - ops.expand_dims(x, -2))
        pairs = ops.convert_to_tensor(np.triu(self._weights(tasks), 1), x.dtype)
        return self.strength * ops.sum(distances * pairs)

    def _pulled(self, x, tasks):
        """Half the gradient: the squared distances are `x` times this, which is linear in `x`."""
        if self.mode == "mean" or self._affinity is None:
            centred = x - ops.mean(x, axis=-1, keepdims=True)
            return centred if self.mode == "mean" else tasks * centred
        weights = self._weights(tasks)
        laplacian = np.diag(weights.sum(axis=0)) - weights
        return ops.matmul(x, ops.convert_to_tensor(laplacian, x.dtype))

    def _weights(self, tasks):
        return np.ones((tasks, tasks)) if self._affinity is None else self._affinity

    def get_config(self):
        affinity = None if self.affinity is None else np.asarray(self.affinity).tolist()
        return {
            "strength": self.strength,
            "mode": self.mode,
            "affinity": affinity,
            "norm": self.norm,
            "task_axis": self.task_axis,
        }


def _checked(affinity):
    """The affinity without its diagonal, which pairs a task with itself."""
    matrix = np.asarray(affinity, dtype="float64")
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(
            f"`affinity` must be a square matrix. Received: affinity of shape {matrix.shape}"
        )
    if not (np.isfinite(matrix).all() and (matrix >= 0).all()):
        raise ValueError(
            f"`affinity` must be finite and at least 0. Received: affinity={matrix.tolist()}"
        )
    if not np.array_equal(matrix, matrix.T):
        s, t = np.argwhere(matrix != matrix.T)[0]
        raise ValueError(
            "`affinity` must be symmetric. Received: "
            f"affinity[{s}, {t}]={matrix[s, t]}, affinity[{t}, {s}]={matrix[t, s]}"
        )
    return matrix - np.diag(np.diag(matrix))
