"""The worst task, smoothly."""

from collections.abc import Mapping

import keras
from keras import ops

from kmtl.ops.logs import log_and_inverse, softmax
from kmtl.weighting.base import TaskWeighting
from kmtl.weighting.task_numbers import (
    check_number,
    check_numbers,
    check_whole,
    numbers_by_task,
)

MASKED = -1e30


@keras.saving.register_keras_serializable(package="kmtl")
class SmoothTchebycheff(TaskWeighting):
    """Minimises a smooth maximum of the losses, each relative to where it stood at first.

    Choose it where no task may be left behind, or to reach a chosen trade-off: unlike a
    weighted sum, it can reach every Pareto-optimal solution by some `preference`. The lower
    `mu`, the more the worst task counts alone.

    ```
    f[t]      = log((losses[t] - ideal[t]) / nadir[t])
    nadir[t]  = mean of losses[t] - ideal[t] in the epoch of index `warmup_epoch`
    objective = T * mu * log(sum_t exp(preference[t] * f[t] / mu))
    weights   = its gradient
              = T * softmax(preference * f / mu)[t] * preference[t] / (losses[t] - ideal[t])
    up to the end of that epoch:
    objective = sum_t preference[t] * log(losses[t] - ideal[t]),   the limit of a large `mu`
    ```

    A task at or below its ideal point is left out, its weight being 0; so is one without
    labels in the batch, whose loss is 0. Give `ideal` for losses that can be negative. The logs
    show the objective as the loss; it may be negative.

    Needs: losses.

    State: the number of epochs that `fit` has begun, and the sums for `nadir`. With
    `train_on_batch`, which has no epochs, the first phase does not end.

    Scale: that of a sum of tasks' logarithms: each task's weight times its distance from the
    ideal point is `T * softmax(...)[t] * preference[t]`.

    Args:
        mu: Smoothness. Defaults to `1.0`.
        warmup_epoch: Index of the epoch that `nadir` is measured in. Defaults to `4`.
        preference: Task name -> weight above 0; tasks left out have 1. The larger, the lower
            the task's loss will be. Defaults to `None`: 1 for all.
        ideal: Task name -> lowest loss that can be reached; tasks left out have 0. Defaults to
            `None`: 0 for all.

    Raises:
        ValueError: if `mu` is not above 0, `warmup_epoch` is negative, or the numbers by task
            are out of range or for other tasks.

    Example:

    >>> import numpy as np
    >>> from keras import ops
    >>> import kmtl
    >>> rule = kmtl.weighting.SmoothTchebycheff(warmup_epoch=0)
    >>> rule.bind_to(2)
    >>> rule.start_epoch()
    >>> rule.update(ops.array([1.0, 2.0]))  # the nadir
    >>> rule.start_epoch()
    >>> print(np.asarray(rule.weights(ops.array([1.0, 1.0]))).round(4))
    [1.3333 0.6667]

    Differences from the paper: the ideal point is one of the losses, not of `f`, so that it
    means the same as in `Tchebycheff`. With the authors' setting (no ideal point, equal
    preferences) this is their multi-task code, in which log(losses) + 1e-20 stands for leaving
    zeros out.

    Reference: X. Lin, X. Zhang, Z. Yang, F. Liu, Z. Wang, Q. Zhang (2024), "Smooth Tchebycheff
    Scalarization for Multi-Objective Optimization", ICML, arXiv:2402.19078.
    """

    def __init__(
        self,
        mu: float = 1.0,
        warmup_epoch: int = 4,
        preference: Mapping[str, float] | None = None,
        ideal: Mapping[str, float] | None = None,
        name: str | None = None,
    ):
        super().__init__(name)
        check_number("mu", mu, "above 0")
        check_whole("warmup_epoch", warmup_epoch, 0)
        self.mu = mu
        self.warmup_epoch = warmup_epoch
        self.preference = check_numbers("preference", preference, "above 0")
        self.ideal = check_numbers("ideal", ideal, "finite")

    def create_state(self, losses):
        self._preference = numbers_by_task("preference", self.preference, losses, 1.0)
        self._ideal = numbers_by_task("ideal", self.ideal, losses, 0.0)

        def add(name, shape):
            return self.state.add_weight(
                name=name,
                shape=shape,
                initializer="zeros",
                trainable=False,
                aggregation="only_first_replica",
            )

        n = len(losses)
        self._epochs = add("epochs", ())
        self._total, self._count = add("total", (n,)), add("count", (n,))

    def start_epoch(self):
        self._epochs.assign(self._epochs + 1.0)

    def update(self, losses):
        gap = self._gap(losses)
        measured = ops.equal(self._epochs, self.warmup_epoch + 1.0) & (gap > 0.0)
        self._total.assign(self._total + ops.where(measured, gap, 0.0))
        self._count.assign(self._count + ops.cast(measured, "float32"))

    def weights(self, losses):
        logits, logs, slope = self._terms(losses)
        smooth = len(self.task_names) * softmax(logits) * slope
        return ops.where(self._warming_up, slope, smooth)

    def objective(self, losses):
        logits, logs, slope = self._terms(losses)
        smooth = len(self.task_names) * self.mu * ops.logsumexp(logits)
        smooth = ops.where(ops.any(slope > 0.0), smooth, 0.0)
        return ops.where(self._warming_up, ops.sum(logs), smooth)

    def _terms(self, losses):
        """`preference * f / mu`, `preference * log(gap)`, and the derivative of the latter."""
        preference = ops.array(self._preference, dtype="float32")
        logs, inverse = log_and_inverse(self._gap(losses))
        nadir, _ = log_and_inverse(self._total / ops.maximum(self._count, 1.0))
        logits = ops.where(inverse > 0.0, preference * (logs - nadir) / self.mu, MASKED)
        return logits, preference * logs, preference * inverse

    @property
    def _warming_up(self):
        return self._epochs <= self.warmup_epoch + 1.0

    def _gap(self, losses):
        return ops.maximum(losses - ops.array(self._ideal, dtype="float32"), 0.0)

    def get_config(self):
        return {
            **super().get_config(),
            "mu": self.mu,
            "warmup_epoch": self.warmup_epoch,
            "preference": self.preference,
            "ideal": self.ideal,
        }
