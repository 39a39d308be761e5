"""The tasks' gradients of several micro-batches, for rules that must see them as one batch."""

from collections.abc import Sequence

import keras
from keras import ops

from kmtl import backend
from kmtl.weighting.gradient import GradientWeighting
from kmtl.weighting.jacobian import JacobianWeighting


class AccumulatedGradients:
    """Adds up what a rule sees until the optimizer's next update is due.

    A rule is not linear: what it makes of a batch is not the mean of what it makes of the
    batch's parts. With `gradient_accumulation_steps` in the optimizer it therefore gets the
    means over all micro-batches, when the last of them is there, and its update goes to the
    optimizer then. That needs each task's gradient of the shared weights, which are kept here.

    Args:
        rule: The rule.
        variables: The trunk's variables.
        optimizer: The model's optimizer.

    Raises:
        ValueError: for a rule that needs more than these means.
    """

    def __init__(
        self,
        rule: GradientWeighting,
        variables: Sequence[keras.Variable],
        optimizer: keras.optimizers.Optimizer,
    ):
        _check(rule)
        self._optimizer, self._steps = optimizer, backend.accumulation_steps(optimizer)
        n = len(rule.task_names)
        self.state = keras.layers.Layer(name="accumulated_gradients", dtype="float32")
        shapes = [(n,), (n, n), *((n, *v.shape) for v in variables)]
        self._sums = [
            self.state.add_weight(
                name=f"sum_{i}",
                shape=shape,
                initializer="zeros",
                trainable=False,
                aggregation="only_first_replica",
            )
            for i, shape in enumerate(shapes)
        ]
        self.state.built = True

    def due(self):
        """Whether this micro-batch is the last one before an update."""
        done = backend.micro_batches(self._optimizer)
        return ops.equal((done + 1) % self._steps, 0)

    def add(self, losses, gramian, gradients: list) -> tuple:
        """The means so far, this micro-batch included: losses, Gramian, list of gradients."""
        k = self._steps
        parts = [losses / k, gramian / k**2, *(g / k for g in gradients)]
        sums = [ops.convert_to_tensor(v) + x for v, x in zip(self._sums, parts, strict=True)]
        return sums[0], sums[1], sums[2:]

    def keep(self, losses, gramian, gradients: list, valid, due) -> None:
        """Keeps these means for the next micro-batch, or starts anew where an update is due.

        Where `valid` is false, all stays as it is.
        """
        for variable, value in zip(self._sums, [losses, gramian, *gradients], strict=True):
            value = ops.where(due, ops.zeros_like(value), value)
            variable.assign(ops.where(valid, value, ops.convert_to_tensor(variable)))

    def update(self, gradients: list, due) -> list:
        """What to give to the optimizer, which takes the mean over the micro-batches."""
        return [ops.where(due, self._steps * g, 0.0) for g in gradients]


def _check(rule):
    reason = None
    if rule.scale_heads:
        reason = "`scale_heads`, since the heads' gradients are not kept by task"
    elif type(rule).stretch is not GradientWeighting.stretch:
        reason = "a rule that scales each loss by itself before the gradients are taken"
    elif isinstance(rule, JacobianWeighting) and rule.scope == "representation":
        reason = 'a rule on the gradients themselves with scope="representation"'
    elif isinstance(rule, JacobianWeighting) and rule.samples > 1:
        reason = "a rule that needs several parts of a batch"
    if reason is not None:
        raise ValueError(
            f"`gradient_accumulation_steps` cannot be used with {reason}. "
            f"Received: weighting={type(rule).__name__}"
        )
