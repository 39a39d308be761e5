"""Weights that follow a schedule of your own."""

from collections.abc import Mapping

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from kmtl.weighting.base import TaskWeighting
from kmtl.weighting.task_numbers import check_numbers, numbers_by_task


@keras.saving.register_keras_serializable(package="kmtl")
class ScheduledWeights(TaskWeighting):
    """Weighs every task by a schedule of the training step, or by a number.

    Use it where a task is to fade in or out: an auxiliary task that helps only at the start, an
    adversarial one that starts late, the shrinking loss weights of PLE.

    ```
    loss                 = sum_t task_weights[t](step) * losses[t]
    task_weights[t](k)   = w0 * gamma ** k    # PLE: ExponentialDecay(w0, 1, gamma)
    ```

    Needs: losses.

    State: the number of steps, so that training resumes at the right weight.

    Scale: that of the plain sum, times the weights.

    Args:
        task_weights: Task name -> a `keras.optimizers.schedules.LearningRateSchedule` whose
            values are at least 0, or a number that is. Tasks left out have 1.

    Raises:
        ValueError: for a number that is negative or not finite, for what is neither number nor
            schedule, or for unknown tasks.

    Example:

    >>> import numpy as np
    >>> from keras import losses, ops
    >>> from keras.optimizers.schedules import PolynomialDecay
    >>> import kmtl
    >>> rule = kmtl.weighting.ScheduledWeights({"depth": PolynomialDecay(1.0, 4, 0.0)})
    >>> rule.bind({"depth": losses.MeanAbsoluteError(), "edges": losses.BinaryCrossentropy()})
    >>> for step in range(3):
    ...     print(np.asarray(rule.weights(ops.array([2.0, 3.0]))))
    ...     rule.update(ops.array([2.0, 3.0]))
    [1. 1.]
    [0.75 1.  ]
    [0.5 1. ]

    Differences from the paper: PLE's is one of the possible schedules. The other part of its
    loss, the sample space of each task, is what absent labels are for.

    Reference: H. Tang, J. Liu, M. Zhao, X. Gong (2020), "Progressive Layered Extraction (PLE): A
    Novel Multi-Task Learning (MTL) Model for Personalized Recommendations", RecSys,
    doi:10.1145/3383313.3412236, section 4.3.
    """

    def __init__(
        self, task_weights: Mapping[str, float | LearningRateSchedule], name: str | None = None
    ):
        super().__init__(name)
        schedules = {}
        if isinstance(task_weights, Mapping):
            schedules = {k: v for k, v in task_weights.items() if _is_schedule(v)}
            numbers = {k: v for k, v in task_weights.items() if k not in schedules}
        else:
            numbers = task_weights
        numbers = check_numbers("task_weights", numbers, "at least 0, or to schedules")
        self.task_weights = {**numbers, **schedules}

    def create_state(self, losses):
        tasks = sorted(losses)
        numbers_by_task("task_weights", dict.fromkeys(self.task_weights, 1.0), tasks, 1.0)
        self._rules = [self.task_weights.get(task, 1.0) for task in tasks]
        self._step = self.state.add_weight(
            name="step",
            shape=(),
            initializer="zeros",
            dtype="int32",
            trainable=False,
            aggregation="only_first_replica",
        )

    def weights(self, losses):
        step = ops.convert_to_tensor(self._step)
        values = [rule(step) if _is_schedule(rule) else rule for rule in self._rules]
        return ops.stack([ops.cast(value, losses.dtype) for value in values])

    def update(self, losses):
        self._step.assign(self._step + 1)

    def get_config(self):
        weights = {
            task: keras.saving.serialize_keras_object(value)
            for task, value in self.task_weights.items()
        }
        return {**super().get_config(), "task_weights": weights}

    @classmethod
    def from_config(cls, config):
        weights = {
            task: keras.saving.deserialize_keras_object(value)
            for task, value in config["task_weights"].items()
        }
        return cls(**{**config, "task_weights": weights})


def _is_schedule(value) -> bool:
    return isinstance(value, LearningRateSchedule)
