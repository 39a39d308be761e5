"""Gradients that take each other's conflicting parts out."""

import keras
from keras import ops

from kmtl.weighting.gradient import GradientWeighting, check_reduction
from kmtl.weighting.random_orders import RandomOrders


@keras.saving.register_keras_serializable(package="kmtl")
class PCGrad(GradientWeighting):
    """Takes from each task's gradient the part that points against another task's.

    Choose it for two or a few tasks whose gradients conflict often: it has no numbers to tune
    and leaves gradients alone that agree. With many tasks the result depends more and more on
    the random order.

    ```
    for each task i:   g = g_i
        for each other task j, in random order:
            if g . g_j < 0:   g = g - (g . g_j / ||g_j||**2) * g_j
    update = sum over i of g                                      # reduction="sum"
    ```

    Needs: the Gramian. All of it works on coefficients, never on the gradients themselves.

    State: the next step's order, and the seed that it is drawn from.

    Scale: that of the plain sum, or of the mean with `reduction="mean"`.

    Args:
        reduction: `"sum"` or `"mean"` over the tasks. Defaults to `"sum"`.
        seed: Seed of the random orders. Defaults to `None`, a new one each time.
        **kwargs: `scope`, `parting`, `scale_heads` and `name` of `GradientWeighting`.

    Raises:
        ValueError: for an unknown reduction or scope.

    Example:

    >>> import numpy as np
    >>> import kmtl
    >>> update = kmtl.weighting.PCGrad().combine(np.array([[1.0, 0.0], [-1.0, 1.0]]))
    >>> print(np.asarray(update))
    [0.5 1.5]

    Differences from the paper: none. The authors' TensorFlow code shuffles the tasks and drops
    the result, so that its order is fixed.

    Reference: T. Yu, S. Kumar, A. Gupta, S. Levine, K. Hausman, C. Finn (2020), "Gradient
    Surgery for Multi-Task Learning", NeurIPS, arXiv:2001.06782, algorithm 1.
    """

    def __init__(self, reduction: str = "sum", seed: int | None = None, **kwargs):
        super().__init__(**kwargs)
        check_reduction(reduction)
        self.reduction = reduction
        self.seed = seed

    def create_state(self, losses):
        self._orders = RandomOrders(self.state, len(losses), self.seed)

    def solve(self, gramian, losses):
        del losses
        n = gramian.shape[0]
        order = self._orders.value

        def meet(k, c):
            """Row i of `c` holds g as a combination of all gradients."""
            other = order[:, k]  # whom each task meets
            product = ops.sum(c * ops.take(gramian, other, axis=0), axis=1)
            length = ops.take(ops.diagonal(gramian), other)
            conflict = (product < 0.0) & (other != ops.arange(n, dtype="int32"))
            factor = ops.where(conflict, product / ops.where(conflict, length, 1.0), 0.0)
            return c - factor[:, None] * ops.one_hot(other, n)

        c = ops.fori_loop(0, n, meet, ops.eye(n))
        return ops.sum(c, axis=0) if self.reduction == "sum" else ops.mean(c, axis=0)

    def draw(self):
        self._orders.redraw()

    def get_config(self):
        return {**super().get_config(), "reduction": self.reduction, "seed": self.seed}
