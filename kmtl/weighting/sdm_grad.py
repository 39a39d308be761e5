"""The shortest common direction near the mean gradient, from independent parts of the batch."""

import keras
from keras import ops

from kmtl.ops.gramian import inverse_or_zero
from kmtl.ops.simplex_descent import descend_on_simplex
from kmtl.weighting.task_numbers import check_whole
from kmtl.weighting.tracking import TrackingWeighting, check_at_least_0

MOMENTUM = 0.5


@keras.saving.register_keras_serializable(package="kmtl")
class SDMGrad(TrackingWeighting):
    """Follows the shortest common direction, held near the mean gradient.

    Choose it as a compromise between `MGDA` and the mean that is made for noisy gradients: no
    task's share of the update is below `strength / (1 + strength) / T`, so that a task with a
    short gradient cannot stop all others.

    ```
    g, g1, g2 = each task's gradients on three interleaved parts of the batch
    product   = g1 @ g2.T / (mean length of g1 * mean length of g2)
    w         = argmin of || sum over t of (w[t] + strength / T) * g_t ||**2 on the simplex, by
                `steps` steps from the last w:
                    speed = 0.5 * speed + product @ (w + strength / T)
                    w     = projection to the simplex of  w - weight_lr * speed
    update    = sum over t of (w[t] + strength / T) / (1 + strength) * g[t]
    ```

    Two parts make the steps of `w` unbiased. The shared weights follow a third of the batch,
    so take larger batches than else, and shuffle them: which part a sample goes to depends on
    its place. Heads follow the whole batch.

    Steps as long as `weight_lr=5.0` overshoot the minimum: `w` jumps from corner to corner of
    the simplex, and the update favours one task after another. About 0.5 settles there, for
    some ten tasks; more need less. With a handful of samples in a part, `product` is mostly
    noise, and many steps on it end in a corner, too: then take fewer.

    Needs: the Jacobian by the shared weights, on three parts of the batch.

    State: `w`. The logs show the weights of the update.

    Scale: that of a weighted mean of the gradients.

    Args:
        strength: Pull towards the mean gradient, "lambda" in the paper; 0 for none. Defaults
            to `0.3`.
        steps: Number of steps of `w` in each training step. Defaults to `20`.
        weight_lr: Size of these steps. Defaults to `5.0`.
        scope: Only `"parameters"`: gradients by the representation of different samples have
            no product. Defaults to `"parameters"`.
        **kwargs: `parting`, `scale_heads` and `name` of `GradientWeighting`.

    Raises:
        ValueError: for numbers out of range or an unknown scope.

    Example:

    >>> import numpy as np
    >>> import kmtl
    >>> rule = kmtl.weighting.SDMGrad(weight_lr=0.5)
    >>> print(np.asarray(rule.combine(np.array([[2.0, 0.0], [0.0, 1.0]]))).round(2))
    [0.4 0.8]

    Differences from the paper: its algorithm draws new samples for each step of `w`, without
    momentum. Momentum, the unit of `product` and the division by `1 + strength` are from the
    authors' code; `weight_lr` is LibMTL's, where the authors' is 10. Both take the unit from
    the diagonal of `product`, which may be negative. The authors' code means to draw three
    samples, but keeps them in one and the same array, so that it uses the third alone. Here
    they are parts of one batch.

    Reference: P. Xiao, H. Ban, K. Ji (2023), "Direction-oriented Multi-objective Learning:
    Simple and Provable Stochastic Algorithms", NeurIPS, arXiv:2305.18409, algorithm 1.
    """

    compiles = True
    samples = 3

    def __init__(
        self,
        strength: float = 0.3,
        steps: int = 20,
        weight_lr: float = 5.0,
        scope: str = "parameters",
        **kwargs,
    ):
        super().__init__(scope=scope, **kwargs)
        check_at_least_0(strength=strength, weight_lr=weight_lr)
        check_whole("steps", steps, 1)
        self.strength = strength
        self.steps = steps
        self.weight_lr = weight_lr

    def create_state(self, losses):
        self._weights = self.add_state("weights", (len(losses),), 1.0 / len(losses))

    def track(self, jacobian):
        # The first part is the one that is never empty, in the last batch of an epoch.
        followed, first, second = ops.unstack(jacobian, 3)
        product = ops.matmul(_in_mean_lengths(first), ops.transpose(_in_mean_lengths(second)))
        pull = self.strength / product.shape[0]

        def move(_, carried):
            w, speed = carried
            speed = MOMENTUM * speed + ops.matmul(product, w + pull)
            return descend_on_simplex(w, self.weight_lr * speed), speed

        start = ops.convert_to_tensor(self._weights)
        w, _ = ops.fori_loop(0, self.steps, move, (start, ops.zeros_like(start)))
        return (w + pull) / (1.0 + self.strength), followed, [(self._weights, w)]

    def get_config(self):
        return {
            **super().get_config(),
            "strength": self.strength,
            "steps": self.steps,
            "weight_lr": self.weight_lr,
        }


def _in_mean_lengths(rows):
    """Rows in units of their mean length."""
    lengths = ops.sqrt(ops.sum(ops.square(rows), axis=1))
    return rows * inverse_or_zero(ops.mean(lengths))
