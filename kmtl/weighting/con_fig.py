"""One direction with the same angle to all gradients."""

import keras
from keras import ops

from kmtl.ops.gramian import RIDGE, inverse_or_zero, unit_gramian
from kmtl.weighting.gradient import GradientWeighting


@keras.saving.register_keras_serializable(package="kmtl")
class ConFIG(GradientWeighting):
    """Goes in the direction that has the same angle to every task's gradient.

    Choose it where losses are terms of one problem and each of them must fall, as in
    physics-informed networks: the lengths of the gradients do not matter for the direction.
    It needs gradients that are linearly independent. With more tasks than dimensions, or
    nearly opposite gradients, it becomes a compromise that may harm some of them.

    ```
    u_t       = g_t / ||g_t||
    direction = pinv(U) @ ones             # U: a u_t in each row; so that u_t . direction = 1
    d         = direction / ||direction||
    update    = (sum_t g_t . d) * d
    ```

    Needs: the Gramian, as `pinv(U) @ ones = U.T @ pinv(U @ U.T) @ ones`.

    State: none.

    Scale: that of the plain sum: the update is as long as the sum's projections on it.

    It takes `scope`, `parting`, `scale_heads` and `name` of `GradientWeighting` and has no
    arguments of its own.

    Raises:
        ValueError: for an unknown scope.

    Example:

    >>> import numpy as np
    >>> import kmtl
    >>> update = kmtl.weighting.ConFIG().combine(np.array([[2.0, 0.0], [0.0, 1.0]]))
    >>> print(np.asarray(update).round(3))
    [1.5 1.5]

    Differences from the paper: the pseudo-inverse is that of the cosines, in float32: parts of
    the unit gradients that are shorter than 1e-3 of the longest are taken for zero. A gradient
    of zero is left out, and the update is zero where no direction is left. The variant with
    momentum (M-ConFIG) is not here.

    Reference: Q. Liu, M. Chu, N. Thuerey (2025), "ConFIG: Towards Conflict-free Training of
    Physics Informed Neural Networks", ICLR, arXiv:2408.11104, equations 2 and 3.
    """

    compiles = False

    def solve(self, gramian, losses):
        del losses
        unit, norms = unit_gramian(gramian)
        present = ops.cast(norms > 0.0, unit.dtype)
        # On TensorFlow `eigh` raises for what is not finite, where the step is to be skipped.
        unit = ops.where(ops.isfinite(unit), unit, 0.0)
        values, vectors = ops.eigh(unit)  # values ascend
        kept = values > RIDGE * values[-1]
        parts = ops.where(kept, ops.matmul(present, vectors), 0.0)
        scaled = parts / ops.where(kept, values, 1.0)
        c = ops.matmul(vectors, scaled)  # direction = sum_t c[t] * u_t
        cosines = ops.matmul(vectors, parts)  # u_t . direction
        square = ops.sum(parts * scaled)  # ||direction||**2
        # What rounding leaves of opposite gradients is no direction.
        square = ops.where(square > RIDGE**2, square, 0.0)
        return ops.sum(norms * cosines) * inverse_or_zero(square) * c * inverse_or_zero(norms)
