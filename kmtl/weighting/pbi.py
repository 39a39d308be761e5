"""Distance from the ideal point along a direction, and a penalty for leaving it."""

from collections.abc import Mapping

import keras
from keras import ops

from kmtl.ops.gramian import inverse_or_zero
from kmtl.weighting.base import TaskWeighting
from kmtl.weighting.task_numbers import check_number, check_numbers, numbers_by_task

# A distance from the line that is this small beside the losses is rounding.
ROUNDING = 1e-6


@keras.saving.register_keras_serializable(package="kmtl")
class PBI(TaskWeighting):
    """Brings the losses to the ideal point along a line of your choice.

    Choose it to hold losses at given proportions, such as for points spread evenly over a
    Pareto front: `preference` is a direction, so that a task with twice the number ends with
    twice the loss (in `Tchebycheff`, with half of it).

    ```
    u         = preference / ||preference||
    d1        = (losses - ideal) . u                     # along the line
    side      = losses - ideal - d1 * u
    d2        = ||side||                                 # off the line
    objective = d1 + theta * d2
    weights   = its gradient = u + theta * side / d2     # u on the line itself
    ```

    A task that is ahead of the others may have a negative weight: its loss is raised, back to
    the line. No weight is negative with `theta <= min(u)`; for two equal tasks that is 0.7. A
    loss of 0 needs no care: nothing is divided by it.

    Needs: losses.

    State: none.

    Scale: the weights' length is `sqrt(1 + theta ** 2)`, or 1 on the line. The logs show the
    objective as the loss.

    Args:
        preference: Task name -> part of the direction, above 0; tasks left out have 1.
            Defaults to `None`: 1 for all.
        theta: Penalty for leaving the line, at least 0. Defaults to `5.0`.
        ideal: Task name -> lowest loss that can be reached; tasks left out have 0. Defaults to
            `None`: 0 for all.

    Raises:
        ValueError: if `theta` is negative, or the numbers by task are out of range or for other
            tasks.

    Example:

    >>> import numpy as np
    >>> from keras import ops
    >>> import kmtl
    >>> rule = kmtl.weighting.PBI(theta=1.0)
    >>> rule.bind_to(2)
    >>> print(np.abs(np.asarray(rule.weights(ops.array([2.0, 1.0])))).round(4))
    [1.4142 0.    ]

    Differences from the paper: it searches by evolution and needs no gradient; on the line
    itself, where `d2` has none, ours is 0.

    Reference: Q. Zhang, H. Li (2007), "MOEA/D: A Multiobjective Evolutionary Algorithm Based on
    Decomposition", IEEE Transactions on Evolutionary Computation 11(6), section II.C.
    """

    def __init__(
        self,
        preference: Mapping[str, float] | None = None,
        theta: float = 5.0,
        ideal: Mapping[str, float] | None = None,
        name: str | None = None,
    ):
        super().__init__(name)
        check_number("theta", theta, "at least 0")
        self.preference = check_numbers("preference", preference, "above 0")
        self.theta = theta
        self.ideal = check_numbers("ideal", ideal, "finite")

    def create_state(self, losses):
        preference = numbers_by_task("preference", self.preference, losses, 1.0)
        largest = max(preference)
        length = sum((p / largest) ** 2 for p in preference) ** 0.5
        self._direction = [p / largest / length for p in preference]
        self._ideal = numbers_by_task("ideal", self.ideal, losses, 0.0)

    def weights(self, losses):
        u, _, side, d2, _ = self._parts(losses)
        return u + self.theta * side * inverse_or_zero(d2)

    def objective(self, losses):
        _, d1, _, d2, scale = self._parts(losses)
        return scale * (d1 + self.theta * d2)

    def _parts(self, losses):
        """`u, d1, side, d2` in units of `scale`, so that no square over- or underflows."""
        u = ops.array(self._direction, dtype="float32")
        gap = losses - ops.array(self._ideal, dtype="float32")
        scale = ops.max(ops.abs(gap))
        gap = gap * inverse_or_zero(scale)
        d1 = ops.sum(gap * u)
        side = gap - d1 * u
        d2 = ops.norm(side)
        side = ops.where(d2 > ROUNDING, side, 0.0)
        return u, d1, side, ops.where(d2 > ROUNDING, d2, 0.0), scale

    def get_config(self):
        return {
            **super().get_config(),
            "preference": self.preference,
            "theta": self.theta,
            "ideal": self.ideal,
        }
