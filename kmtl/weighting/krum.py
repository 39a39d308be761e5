"""Gradients that lie closest to most others."""

import keras
from keras import ops

from kmtl.weighting.gradient import GradientWeighting
from kmtl.weighting.task_numbers import check_whole

# Larger than any distance, and its sums are finite.
FAR = 1e30


@keras.saving.register_keras_serializable(package="kmtl")
class Krum(GradientWeighting):
    """Follows the gradient that is closest to its neighbours, or the mean of a few such.

    Choose it for many like sources of one loss of which some may be corrupt (clients, domains,
    annotators). It drops all the others, so that it does not suit tasks that are different
    by nature.

    ```
    distance[s, t] = ||g_s - g_t||**2 = gramian[s, s] + gramian[t, t] - 2 * gramian[s, t]
    score[s]       = sum of the T - num_byzantine - 2 smallest distance[s, t], t != s
    a              = 1 / num_selected for the num_selected lowest scores, 0 for the others
    ```

    Needs: the Gramian.

    State: none.

    Scale: that of the mean of the tasks.

    Args:
        num_byzantine: How many tasks may have any gradient at all. There must be
            `num_byzantine + 3` tasks or more; the paper's guarantee takes
            `2 * num_byzantine + 3`. Defaults to `1`.
        num_selected: How many gradients to average (Multi-Krum). Defaults to `1`.
        **kwargs: `scope`, `parting`, `scale_heads` and `name` of `GradientWeighting`.

    Raises:
        ValueError: for numbers out of range, too few tasks or an unknown scope.

    Example:

    >>> import numpy as np
    >>> import kmtl
    >>> rule = kmtl.weighting.Krum(num_byzantine=1)
    >>> print(np.asarray(rule.combine(np.array([[1.0], [1.2], [1.3], [1.4], [-9.0]]))))
    [1.3]

    Differences from the paper: none. Of equal scores the first task's wins, so that the order
    of the tasks matters where two are each other's only neighbour. TorchJD adds up distances
    in place of their squares.

    Reference: P. Blanchard, E. M. El Mhamdi, R. Guerraoui, J. Stainer (2017), "Machine Learning
    with Adversaries: Byzantine Tolerant Gradient Descent", NeurIPS, arXiv:1703.02757,
    section 4.
    """

    def __init__(self, num_byzantine: int = 1, num_selected: int = 1, **kwargs):
        super().__init__(**kwargs)
        check_whole("num_byzantine", num_byzantine, 0)
        check_whole("num_selected", num_selected, 1)
        self.num_byzantine = num_byzantine
        self.num_selected = num_selected

    @property
    def min_tasks(self) -> int:
        """With how many tasks there are neighbours to count and enough gradients to select."""
        return max(self.num_byzantine + 3, self.num_selected)

    def create_state(self, losses):
        if len(losses) < self.min_tasks:
            raise ValueError(
                f"Krum with num_byzantine={self.num_byzantine} and "
                f"num_selected={self.num_selected} needs at least {self.min_tasks} tasks. "
                f"Received: {len(losses)} tasks"
            )

    def solve(self, gramian, losses):
        del losses
        n = gramian.shape[0]
        square = ops.diagonal(gramian)
        distance = ops.maximum(square[:, None] + square[None, :] - 2.0 * gramian, 0.0)
        # A task without labels has no gradient: it is nobody's neighbour, and never selected.
        absent = square <= 0.0
        distance = ops.where(absent[:, None] | absent[None, :], FAR, distance)
        # The first of each sorted row is the distance of a task to itself, which is 0.
        score = ops.sum(ops.sort(distance, axis=1)[:, : n - self.num_byzantine - 1], axis=1)
        score = ops.where(absent, n * FAR, score)
        _, selected = ops.top_k(-score, self.num_selected)
        return ops.sum(ops.one_hot(selected, n), axis=0) / self.num_selected

    def get_config(self):
        return {
            **super().get_config(),
            "num_byzantine": self.num_byzantine,
            "num_selected": self.num_selected,
        }
