"""The schedule that raises the strength of gradient reversal during training."""

import math

import keras
from keras import ops

from kmtl.layers.gradient_reversal import STRENGTH_VARIABLE_NAME


class GradientReversalSchedule(keras.callbacks.Callback):
    """Raises the strength of a model's gradient reversals from 0 to 1.

    Use it with `kmtl.layers.GradientReversal`: an adversarial head knows nothing at first, so
    its reversed gradient is noise and must not disturb the trunk until the head has learned.
    All reversals of the model are set before each step, nested ones included, and the value
    is in each epoch's logs as `gradient_reversal_strength`.

    ```
    progress = optimizer.iterations / total_steps, at most 1
    strength = 2 / (1 + exp(-gamma * progress)) - 1
    ```

    Progress is counted by the optimizer, so training goes on where it stopped when a saved
    model is loaded and `fit` is called with `initial_epoch`, or with the same `total_steps`.

    Args:
        gamma: Steepness, positive. Defaults to `10.0`.
        total_steps: Optimizer steps from the first to the last. Defaults to `None`, which is
            all epochs of the present `fit`.

    Raises:
        ValueError: if the model has no gradient reversal, or `total_steps` is left open and
            the length of an epoch is not known.

    Example:

    >>> import kmtl
    >>> schedule = kmtl.callbacks.GradientReversalSchedule()
    >>> print([round(schedule.strength_at(p), 6) for p in (0.0, 0.25, 0.5, 1.0)])
    [0.0, 0.848284, 0.986614, 0.999909]

    Differences from the paper: none. Its schedule of the learning rate,
    `0.01 / (1 + 10 * progress) ** 0.75`, is left to `keras.optimizers.schedules`.

    Reference: Y. Ganin, V. Lempitsky (2015), "Unsupervised Domain Adaptation by
    Backpropagation", ICML, arXiv:1409.7495, section 4, the schedule of lambda_p.
    """

    def __init__(self, gamma=10.0, total_steps=None):
        super().__init__()
        if not gamma > 0:
            raise ValueError(f"`gamma` must be positive. Received: gamma={gamma}")
        if total_steps is not None and total_steps < 1:
            raise ValueError(
                f"`total_steps` must be at least 1. Received: total_steps={total_steps}"
            )
        self.gamma = gamma
        self.total_steps = total_steps

    def strength_at(self, progress: float) -> float:
        """The strength after a share `progress` of the training."""
        return 2.0 / (1.0 + math.exp(-self.gamma * progress)) - 1.0

    def on_train_begin(self, logs=None):
        if not self._variables():
            raise ValueError(
                "`GradientReversalSchedule` needs a model with a `GradientReversal` layer. "
                f"Received: model={self.model.name!r}"
            )
        optimizer = self.model.optimizer
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of a LossScaleOptimizer
        self._batches_per_step = optimizer.gradient_accumulation_steps or 1
        self._total_steps = self.total_steps
        if self._total_steps is None:
            if self.params["steps"] is None:
                raise ValueError(
                    "`total_steps` must be given when the length of an epoch is not known. "
                    "Received: total_steps=None"
                )
            batches = self.params["epochs"] * self.params["steps"]
            self._total_steps = max(batches // self._batches_per_step, 1)

    def on_epoch_begin(self, epoch, logs=None):
        self._first_step = None

    def on_train_batch_begin(self, batch, logs=None):
        step = batch // self._batches_per_step
        if self._first_step is None:
            # Once an epoch: to read it at each step would wait for the accelerator each time.
            iterations = int(ops.convert_to_numpy(self.model.optimizer.iterations))
            self._first_step = iterations - step
        progress = min((self._first_step + step) / self._total_steps, 1.0)
        self._strength = self.strength_at(progress)
        for variable in self._variables():
            variable.assign(self._strength)

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs["gradient_reversal_strength"] = self._strength

    def _variables(self):
        # By name, because this finds layers inside of any other layer. To read `self.model` is
        # what lets JAX see the assignment, so the list is not kept.
        return [v for v in self.model.variables if v.name == STRENGTH_VARIABLE_NAME]
