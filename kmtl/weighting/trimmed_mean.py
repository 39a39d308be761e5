"""The mean without each coordinate's extremes."""

import math

import keras
from keras import ops

from kmtl.weighting.jacobian import JacobianWeighting
from kmtl.weighting.task_numbers import check_whole


@keras.saving.register_keras_serializable(package="kmtl")
class TrimmedMean(JacobianWeighting):
    """Averages each coordinate of the gradients without its largest and smallest values.

    Choose it for many like sources of one loss of which some may be corrupt (clients, domains,
    annotators), and `Krum` where a corrupt one is corrupt in all coordinates. Tasks that are
    different by nature lose here what is particular to them.

    ```
    for each coordinate p:
        update[p] = mean of jacobian[:, p] without its trim_number largest
                    and its trim_number smallest values
    ```

    Needs: the Jacobian.

    State: none.

    Scale: that of the mean of the tasks.

    Args:
        trim_number: How many values to leave out at each end; there must be
            `2 * trim_number + 1` tasks or more. Defaults to `1`.
        **kwargs: `scope` (`"representation"` or `"parameters"`), `parting` and `name` of
            `GradientWeighting`.

    Raises:
        ValueError: for a number below 0, too few tasks or an unknown scope.

    Example:

    >>> import numpy as np
    >>> import kmtl
    >>> jacobian = np.array([[1.0, 2.0], [3.0, 4.0], [99.0, -99.0]])
    >>> print(np.asarray(kmtl.weighting.TrimmedMean().combine(jacobian)))
    [3. 2.]

    Differences from the paper: it is told how many values to leave out, not what share.

    Reference: D. Yin, Y. Chen, K. Ramchandran, P. Bartlett (2018), "Byzantine-Robust Distributed
    Learning: Towards Optimal Statistical Rates", ICML, arXiv:1803.01498, definition 2.
    """

    compiles = True

    def __init__(self, trim_number: int = 1, **kwargs):
        super().__init__(**kwargs)
        check_whole("trim_number", trim_number, 0)
        self.trim_number = trim_number

    @property
    def min_tasks(self) -> int:
        """With how many tasks a value is left to average."""
        return 2 * self.trim_number + 1

    def create_state(self, losses):
        if len(losses) < self.min_tasks:
            raise ValueError(
                f"TrimmedMean with trim_number={self.trim_number} needs at least "
                f"{self.min_tasks} tasks. Received: {len(losses)} tasks"
            )

    def solve_jacobian(self, jacobian, losses):
        del losses
        n = jacobian.shape[0]
        task, kept = ops.arange(n)[:, None], ops.ones_like(jacobian, dtype="bool")
        for _ in range(self.trim_number):  # to sort takes ten times as long
            for worst, rest in ((ops.argmax, -math.inf), (ops.argmin, math.inf)):
                kept = kept & (task != worst(ops.where(kept, jacobian, rest), axis=0))
        return ops.sum(ops.where(kept, jacobian, 0.0), axis=0) / (n - 2 * self.trim_number)

    def get_config(self):
        return {**super().get_config(), "trim_number": self.trim_number}
