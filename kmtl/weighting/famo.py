"""Weights that let all losses fall at one rate, from looking twice at each batch."""

from collections.abc import Mapping

import keras
from keras import ops

from kmtl.ops.gramian import inverse_or_zero
from kmtl.ops.logs import softmax
from kmtl.weighting.adam import Adam
from kmtl.weighting.base import TaskWeighting
from kmtl.weighting.task_numbers import check_number, check_numbers, numbers_by_task

EPSILON = 1e-8


@keras.saving.register_keras_serializable(package="kmtl")
class FAMO(TaskWeighting):
    """Lowers all losses by about the same percentage, without gradients of single tasks.

    Choose it for many tasks where the rules by gradients cost too much: it takes one more
    forward pass a step, whatever the number of tasks. After each update it looks at the same
    batch again, and the task that fell most loses weight.

    ```
    D[t]       = losses[t] - min_losses[t] + 1e-8
    z          = softmax(logits)
    weights[t] = c * z[t] / D[t],   c = 1 / sum_t (z[t] / D[t])      # they add up to 1
    after the update, with the new D' of the same batch:
    change[t]  = log(D[t]) - log(D'[t])
    logits     = Adam(logits, gradient = z * (change - sum_t z[t] * change[t]) + gamma * logits)
    ```

    A task at or below its minimum is left out, its weight and its change being 0; so is one
    without labels in the batch, whose loss is 0. Give `min_losses` for losses that can be
    negative. The logs show `sum_t z[t] * log(D[t])` as the loss; it may be negative.

    Needs: losses.

    State: the logits, Adam's moments, and the last batch's losses.

    Scale: that of a mean of the tasks: the weights add up to 1.

    Args:
        weight_lr: Learning rate of the logits. Defaults to `0.025`.
        gamma: Weight decay of the logits, which pulls them together. Defaults to `0.01`.
        min_losses: Task name -> lowest loss that can be reached; tasks left out have 0.
            Defaults to `None`: 0 for all.

    Raises:
        ValueError: if `weight_lr` is not above 0, `gamma` is negative, or `min_losses` are not
            finite numbers of these tasks.

    Example:

    >>> import numpy as np
    >>> from keras import ops
    >>> import kmtl
    >>> rule = kmtl.weighting.FAMO()
    >>> rule.bind_to(2)
    >>> print(np.asarray(rule.weights(ops.array([1.0, 3.0]))))
    [0.75 0.25]

    Differences from the paper: tasks at their minimum are left out, where the paper's code
    would give them all the weight. That code also clips the shared gradient to length 1; for
    the same, give your optimizer `global_clipnorm=1.0`. The look back runs in training mode,
    as the step does.

    Reference: B. Liu, Y. Feng, P. Stone, Q. Liu (2023), "FAMO: Fast Adaptive Multitask
    Optimization", NeurIPS, arXiv:2306.03792, algorithm 1.
    """

    looks_again = True

    def __init__(
        self,
        weight_lr: float = 0.025,
        gamma: float = 0.01,
        min_losses: Mapping[str, float] | None = None,
        name: str | None = None,
    ):
        super().__init__(name)
        check_number("weight_lr", weight_lr, "above 0")
        check_number("gamma", gamma, "at least 0")
        self.weight_lr = weight_lr
        self.gamma = gamma
        self.min_losses = check_numbers("min_losses", min_losses, "finite")

    def create_state(self, losses):
        self._minima = numbers_by_task("min_losses", self.min_losses, losses, 0.0)

        def add(name):
            return self.state.add_weight(
                name=name,
                shape=(len(losses),),
                initializer="zeros",
                trainable=False,
                aggregation="only_first_replica",
            )

        self._logits, self._before = add("logits"), add("before")
        self._adam = Adam(self.state, self._logits, self.weight_lr, weight_decay=self.gamma)

    def weights(self, losses):
        gap = self._gap(losses)
        share = ops.where(gap > 0.0, self._z / (gap + EPSILON), 0.0)
        return share * inverse_or_zero(ops.sum(share))

    def update(self, losses):
        self._before.assign(losses)

    def look_again(self, losses):
        before, z = self._gap(self._before), self._z
        change = ops.log(before + EPSILON) - ops.log(self._gap(losses) + EPSILON)
        change = ops.where(before > 0.0, change, 0.0)
        self._adam.step(z * (change - ops.sum(z * change)))

    def objective(self, losses):
        gap = self._gap(losses)
        return ops.sum(ops.where(gap > 0.0, self._z * ops.log(gap + EPSILON), 0.0))

    @property
    def _z(self):
        return softmax(ops.convert_to_tensor(self._logits))

    def _gap(self, losses):
        return ops.maximum(losses - ops.array(self._minima, dtype="float32"), 0.0)

    def get_config(self):
        return {
            **super().get_config(),
            "weight_lr": self.weight_lr,
            "gamma": self.gamma,
            "min_losses": self.min_losses,
        }
