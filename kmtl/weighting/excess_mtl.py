"""Weights from how far each task is from convergence."""

import keras
from keras import ops

from kmtl.ops.gramian import inverse_or_zero
from kmtl.weighting.task_numbers import check_number
from kmtl.weighting.tracking import TrackingWeighting


@keras.saving.register_keras_serializable(package="kmtl")
class ExcessMTL(TrackingWeighting):
    """Gives more weight to tasks that are further from convergence, not to larger losses.

    Choose it where some tasks have noisy labels: their losses stay large however long they
    are trained, and rules by losses would pour weight on them. Here the excess over the best
    reachable loss counts, estimated from the gradient, which vanishes at the optimum.

    ```
    square[t]  += g_t ** 2                              # for each shared weight
    excess[t]   = sum(g_t ** 2 / sqrt(square[t]))       # estimate of loss - best loss
    weights[t]  = weights[t] * exp(step_size * excess[t] / (excess[t] of the first step))
    weights     = T * weights / sum(weights)
    update      = sum_t weights[t] * g_t
    ```

    To multiply a loss by a constant changes no weight. A gradient of zero, such as that of a
    task without labels in the batch, counts as no excess; a task's first step is the first
    with a gradient.

    Needs: the Jacobian by the shared weights.

    State: `square`, as large as the shared weights times the number of tasks, the logarithms of
    the weights, shown in the logs, and the first excesses.

    Scale: that of the plain sum: the weights add up to T.

    Args:
        step_size: Rate of the weights' multiplicative update. Defaults to `0.01`.
        scale_heads: Whether a task's head is scaled by its weight, too, as if the loss were.
            Defaults to `True`.
        scope: Only `"parameters"`, as nothing else outlives a batch. Defaults to
            `"parameters"`.
        **kwargs: `parting` and `name` of `GradientWeighting`.

    Raises:
        ValueError: if `step_size` is not above 0, or for an unknown scope.

    Example:

    >>> import numpy as np
    >>> import kmtl
    >>> rule = kmtl.weighting.ExcessMTL(step_size=1.0)
    >>> print(np.asarray(rule.combine(np.diag([1.0, 2.0]))))
    [1. 2.]
    >>> rule.update_buffers(np.diag([1.0, 2.0]).astype("float32"), None)
    >>> print(np.asarray(rule.combine(np.diag([1.0, 0.0]))).round(4))
    [1.3395 0.    ]

    Differences from the paper: there the weights add up to 1 and the first epochs are averaged
    for the first excess; here, as in the authors' code, to T and one step.

    Reference: Y. He, S. Zhou, G. Zhang, H. Yun, Y. Xu, B. Zeng, T. Chilimbi, H. Zhao (2024),
    "Robust Multi-Task Learning with Excess Risks", ICML, arXiv:2402.02009, equations 6, 7 and 9.
    """

    def __init__(
        self,
        step_size: float = 0.01,
        scale_heads: bool = True,
        scope: str = "parameters",
        **kwargs,
    ):
        super().__init__(scope=scope, scale_heads=scale_heads, **kwargs)
        check_number("step_size", step_size, "above 0")
        self.step_size = step_size

    def create_state(self, losses):
        self._first_excess = self.add_state("first_excess", (len(losses),))
        self._log_weights = self.add_state("log_weights", (len(losses),))

    def create_buffers(self, num_tasks, size):
        self._square = self.add_state("square", (num_tasks, size))

    def track(self, jacobian):
        new = ops.square(jacobian)
        square = self._square + new
        excess = ops.sum(new * inverse_or_zero(ops.sqrt(square)), axis=1)
        first = ops.convert_to_tensor(self._first_excess)
        first = ops.where(first > 0.0, first, excess)
        relative = excess * inverse_or_zero(first)
        log_weights = ops.log_softmax(self._log_weights + self.step_size * relative)
        state = [
            (self._square, square),
            (self._first_excess, first),
            (self._log_weights, log_weights),
        ]
        return jacobian.shape[0] * ops.exp(log_weights), jacobian, state

    def get_config(self):
        return {**super().get_config(), "step_size": self.step_size}
