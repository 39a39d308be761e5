"""Trace norms of the stacked weights of tasks, which keep their rank low."""

import math

import keras
from keras import ops

from kmtl.ops.factorize import unfold
from kmtl.ops.trace_norm import trace_norm
from kmtl.regularizers.checks import check_strength, check_task_axis

METHODS = ("laf", "tucker", "tt")


@keras.saving.register_keras_serializable(package="kmtl")
class TensorTraceNorm(keras.regularizers.Regularizer):
    """Makes the weights of tasks combinations of few patterns, without fixing how many.

    Choose it where tasks share some directions in the space of weights but no two need be alike,
    or where one shares with all others and another with none: unlike
    `kmtl.layers.FactorizedDense` it takes no rank, and the weights stay ordinary ones. Use it as
    `kernel_regularizer` of a layer that stacks its tasks, such as
    `kmtl.layers.TaskStackedDense`, or across towers by `kmtl.regularizers.AcrossTasks`.

    ```
    || M ||_* = sum of the singular values of M, with gradient U V^T
    laf   : strength * || W_(N) ||_*                           # last axis flattening: tasks
    tucker: strength * sum_{n = 1}^{N}     mode_weights[n] * || W_(n) ||_*
    tt    : strength * sum_{n = 1}^{N - 1} mode_weights[n] * || W_[n] ||_*
    W_(n) = W with axis n as rows and all others as columns
    W_[n] = W with the first n axes as rows and the others as columns
    ```

    Args:
        strength: Factor of the penalty. Defaults to `0.001`.
        method: `"laf"`, `"tucker"` or `"tt"`. Defaults to `"laf"`.
        mode_weights: Weights of the terms of "tucker" and "tt", not negative, one for each; tasks
            are the last axis. Defaults to `None`, equal ones that sum to 1.
        task_axis: The axis of tasks. Defaults to `-1`.
        tolerance: Singular values below this share of the largest count as 0. Defaults to `0.001`.

    Call arguments:
        x: The stacked weights of T tasks.

    Input shape: `(..., T)`, or T at `task_axis`.

    Output shape: `()`.

    Raises:
        ValueError: for mode weights of the wrong number.

    Example:

    >>> import keras
    >>> import kmtl
    >>> penalty = kmtl.regularizers.TensorTraceNorm(strength=1.0)
    >>> print(f"{float(penalty(keras.ops.convert_to_tensor([[3.0, 3.0], [4.0, 4.0]]))):.4f}")
    7.0711
    >>> heads = kmtl.layers.TaskStackedDense(8, num_tasks=3, kernel_regularizer=penalty)

    Differences from the paper: the singular values come from a Gramian in float32, with a
    tolerance. The paper's weights of the terms are not known to us; these are equal. Descent by
    this gradient shrinks singular values, but does not make them exactly 0.

    Reference: Y. Yang, T. Hospedales (2017), "Trace Norm Regularised Deep Multi-Task Learning",
    ICLR workshop, arXiv:1606.04038, the tensor trace norms LAF, Tucker and TT.
    """

    def __init__(
        self, strength=0.001, method="laf", mode_weights=None, task_axis=-1, tolerance=0.001
    ):
        check_strength(strength)
        if method not in METHODS:
            raise ValueError(f"`method` must be one of {METHODS}. Received: method={method!r}")
        if mode_weights is not None and (
            method == "laf" or not all(math.isfinite(w) and w >= 0 for w in mode_weights)
        ):
            raise ValueError(
                '`mode_weights` must be finite, at least 0, and for "tucker" or "tt". '
                f"Received: mode_weights={mode_weights} for method={method!r}"
            )
        if not 0 < tolerance < 1:
            raise ValueError(f"`tolerance` must be in (0, 1). Received: tolerance={tolerance}")
        self.strength = strength
        self.method = method
        self.mode_weights = None if mode_weights is None else list(mode_weights)
        self.task_axis = task_axis
        self.tolerance = tolerance

    def __call__(self, x):
        check_task_axis(x.shape, self.task_axis)
        matrices = self._matrices(ops.moveaxis(x, self.task_axis, -1))
        weights = self.mode_weights or [1 / len(matrices)] * len(matrices)
        if len(weights) != len(matrices):
            raise ValueError(
                f"`mode_weights` must have {len(matrices)} entries for weights of {len(x.shape)} "
                f"axes and method={self.method!r}. Received: mode_weights={self.mode_weights}"
            )
        norms = [trace_norm(m, self.tolerance) for m in matrices]
        return self.strength * sum(w * n for w, n in zip(weights, norms, strict=True))

    def _matrices(self, x):
        shape, order = x.shape, len(x.shape)
        if self.method == "laf":
            return [ops.reshape(x, (-1, shape[-1]))]
        if self.method == "tucker":
            return [unfold(x, n) for n in range(order)]
        return [ops.reshape(x, (math.prod(shape[:n]), -1)) for n in range(1, order)]

    def get_config(self):
        return {
            "strength": self.strength,
            "method": self.method,
            "mode_weights": self.mode_weights,
            "task_axis": self.task_axis,
            "tolerance": self.tolerance,
        }
