"""Dual balancing: logarithms of the losses, gradients of one length."""

import keras
from keras import ops

from kmtl.ops.gramian import inverse_or_zero
from kmtl.weighting.task_numbers import check_number
from kmtl.weighting.tracking import TrackingWeighting, check_at_least_0

EPSILON = 1e-8


@keras.saving.register_keras_serializable(package="kmtl")
class DBMTL(TrackingWeighting):
    """Balances losses by their logarithms, and their averaged gradients by their lengths.

    Choose it where losses differ in unit and size and batches are noisy: multiplying a loss by
    a constant changes nothing, no task's gradient drowns another's, and what is balanced are
    averages over about `1 / (1 - beta)` steps. It does not look for conflicts, and it keeps a
    gradient by all shared weights for each task in memory.

    ```
    row[t]  = gradient of log(losses[t] + 1e-8)              # by `stretch`
    rate    = beta / k**beta_sigma                           # in step k = 1, 2, ...
    q[t]    = row[t] + rate * (q[t] - row[t])                # from q = 0
    a[t]    = max over s of ||q[s]|| / ||q[t]||
    update  = sum over t of a[t] * q[t]
    ```

    In training, the model takes the gradients of the stretched losses, so that the rows that
    the rule sees are those of the logarithms, and heads follow the logarithms, too. `combine`
    stretches nothing: outside of a model, pass it the gradients of the logarithms, or of the
    losses times `stretch(losses)`. A task whose `q` is zero is left out. Losses must not be
    negative: the gradients are then NaN, and the step is skipped.

    Needs: losses, and the Jacobian by the shared weights.

    State: `q`, as large as the shared weights times the number of tasks, and the number of
    steps.

    Scale: T vectors as long as the longest `q`. As `q` starts from zero, the first update has
    `1 - beta` of its later length.

    Args:
        beta: Share of the past in the averages, at least 0 and below 1. Defaults to `0.9`.
        beta_sigma: How fast that share decays. Defaults to `0.0`, not at all.
        scope: Only `"parameters"`, as the averages go over batches. Defaults to
            `"parameters"`.
        **kwargs: `parting`, `scale_heads` and `name` of `GradientWeighting`.

    Raises:
        ValueError: for numbers out of range or an unknown scope.

    Example:

    >>> import numpy as np
    >>> import kmtl
    >>> rule = kmtl.weighting.DBMTL(beta=0.5)
    >>> print(np.asarray(rule.combine(np.array([[4.0, 0.0], [0.0, 1.0]]))))
    [2. 2.]

    Differences from the paper: none known. LibMTL, by the method's first author, adds 1e-8
    to the lengths that it divides by.

    Reference: B. Lin, W. Jiang, F. Ye, Y. Zhang, P. Chen, Y.-C. Chen, S. Liu, I. Tsang,
    J. Kwok (2023), "Dual-Balancing for Multi-Task Learning", arXiv:2308.12029, algorithm 1.
    """

    def __init__(
        self,
        beta: float = 0.9,
        beta_sigma: float = 0.0,
        scope: str = "parameters",
        **kwargs,
    ):
        super().__init__(scope=scope, **kwargs)
        check_number("beta", beta, "at least 0 and below 1")
        check_at_least_0(beta_sigma=beta_sigma)
        self.beta = beta
        self.beta_sigma = beta_sigma

    def create_state(self, losses):
        self._steps = self.add_state("steps", ())

    def create_buffers(self, num_tasks, size):
        self._averages = self.add_state("averages", (num_tasks, size))

    def stretch(self, losses):
        return ops.where(losses < 0.0, float("nan"), 1.0 / (losses + EPSILON))

    def track(self, jacobian):
        step = self._steps + 1.0
        rate = self.beta * ops.power(step, -self.beta_sigma)
        q = jacobian + rate * (self._averages - jacobian)
        lengths = ops.sqrt(ops.sum(ops.square(q), axis=1))
        weights = ops.max(lengths) * inverse_or_zero(lengths)
        return weights, q, [(self._steps, step), (self._averages, q)]

    def get_config(self):
        return {**super().get_config(), "beta": self.beta, "beta_sigma": self.beta_sigma}
