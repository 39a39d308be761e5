"""Gradients turned orthogonal and equal in length."""

from collections.abc import Mapping

import keras
from keras import ops

from kmtl.ops.gramian import inverse_or_zero
from kmtl.weighting.gradient import GradientWeighting
from kmtl.weighting.task_numbers import check_numbers, numbers_by_task

SCALE_MODES = ("min", "median", "rmse")
EPSILON = 1.1920929e-07  # of float32


@keras.saving.register_keras_serializable(package="kmtl")
class AlignedMTL(GradientWeighting):
    """Replaces the gradients by the nearest ones that are orthogonal and equal in length.

    Choose it if training is unstable because gradients conflict or one dominates, and for its
    convergence to an optimum of your choice among the Pareto front, by `preference`. Tasks
    with almost parallel gradients make the update very short, with `scale_mode="min"`.

    ```
    gramian = V @ diag(l) @ V.T,   without each  l[k] <= max(l) * T * eps
    scale   = min(l), median(l) (the lower one) or mean(l)
    a       = sqrt(scale) * V @ diag(l ** -0.5) @ V.T @ preference
    ```

    Needs: the Gramian.

    State: none.

    Scale: that of the sum of the tasks, for which the preference is 1 each. All aligned
    gradients have the length `sqrt(scale)`, the length along the weakest direction.

    Args:
        scale_mode: What sets the length of the aligned gradients: `"min"`, `"median"` or
            `"rmse"` of the singular values. Only "min" is covered by the paper's proof of
            convergence. Defaults to `"min"`.
        preference: Task name -> how much its aligned gradient counts, 1 for tasks that are left
            out. Defaults to `None`, 1 for each.
        **kwargs: `scope`, `parting`, `scale_heads` and `name` of `GradientWeighting`.

    Raises:
        ValueError: for an unknown mode or scope, or a preference for other tasks or below 0.

    Example:

    >>> import numpy as np
    >>> import kmtl
    >>> update = kmtl.weighting.AlignedMTL().combine(np.array([[2.0, 0.0], [0.0, 1.0]]))
    >>> print(np.asarray(update).round(4))
    [1. 1.]

    Differences from the paper: its preferences sum to 1; here they are 1 each by default, as in
    the authors' code, which gives the scale of a sum. The modes other than "min" are of that
    code.

    Reference: D. Senushkin, N. Patakin, A. Kuznetsov, A. Konushin (2023), "Independent
    Component Alignment for Multi-Task Learning", CVPR, arXiv:2305.19000, algorithm 1.
    """

    compiles = False

    def __init__(
        self,
        scale_mode: str = "min",
        preference: Mapping[str, float] | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if scale_mode not in SCALE_MODES:
            raise ValueError(
                f"`scale_mode` must be one of {SCALE_MODES}. Received: scale_mode={scale_mode!r}"
            )
        self.scale_mode = scale_mode
        self.preference = check_numbers("preference", preference, "at least 0")

    def create_state(self, losses):
        self._wanted = numbers_by_task("preference", self.preference, losses, default=1.0)

    def solve(self, gramian, losses):
        del losses
        n = gramian.shape[0]
        # On TensorFlow `eigh` raises for what is not finite, where the step is to be skipped.
        gramian = ops.where(ops.isfinite(gramian), gramian, 0.0)
        gramian = gramian * inverse_or_zero(ops.max(ops.diagonal(gramian)))
        values, vectors = ops.eigh(0.5 * (gramian + ops.transpose(gramian)))  # ascending
        kept = values > values[-1] * n * EPSILON
        rank = ops.sum(ops.cast(kept, "int32"))
        if self.scale_mode == "rmse":
            count = ops.maximum(ops.cast(rank, values.dtype), 1.0)
            scale = ops.sum(ops.where(kept, values, 0.0)) / count
        else:
            above = (rank - 1) // 2 if self.scale_mode == "median" else 0
            scale = ops.take(values, ops.minimum(n - rank + above, n - 1))
        ratios = ops.sqrt(ops.where(kept, scale / ops.where(kept, values, 1.0), 0.0))
        wanted = ops.array(self._wanted, dtype=values.dtype)
        return ops.matmul(vectors, ratios * ops.matmul(wanted, vectors))

    def get_config(self):
        return {
            **super().get_config(),
            "scale_mode": self.scale_mode,
            "preference": self.preference,
        }
