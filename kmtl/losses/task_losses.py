"""The losses of all tasks, each a mean over its present labels."""

import json
from collections.abc import Mapping

import keras
from keras import ops

from kmtl import backend
from kmtl.ops.labels import label_form, split_missing, to_rank, weights_to_rank

# Built-in losses that give one value per sample from that sample alone: tasks that share one
# can be computed as a single longer batch.
_PER_SAMPLE_FUNCTIONS = (
    keras.losses.binary_crossentropy,
    keras.losses.categorical_crossentropy,
    keras.losses.sparse_categorical_crossentropy,
    keras.losses.mean_squared_error,
    keras.losses.mean_absolute_error,
)
_PER_SAMPLE_CLASSES = (
    keras.losses.BinaryCrossentropy,
    keras.losses.CategoricalCrossentropy,
    keras.losses.SparseCategoricalCrossentropy,
    keras.losses.MeanSquaredError,
    keras.losses.MeanAbsoluteError,
)
_REDUCTIONS = ("sum_over_batch_size", "mean", "mean_with_sample_weight", "sum")


class FunctionLoss(keras.losses.Loss):
    """A function `(y_true, y_pred) -> values` as a Keras loss."""

    def __init__(self, fn):
        super().__init__()
        self.fn = fn

    def call(self, y_true, y_pred):
        if len(y_true.shape) == len(y_pred.shape) - 1 and y_pred.shape[-1] == 1:
            y_true = ops.expand_dims(y_true, axis=-1)
        return self.fn(y_true, y_pred)


def resolve_loss(identifier) -> keras.losses.Loss:
    """A Keras loss from an object, a function, a config or a name, "crossentropy" included."""
    if str(identifier).lower() in ("crossentropy", "ce"):
        return FunctionLoss(_crossentropy)
    loss = keras.losses.get(identifier)
    return loss if isinstance(loss, keras.losses.Loss) else FunctionLoss(loss)


_CROSSENTROPIES = {
    "binary": keras.losses.binary_crossentropy,
    "sparse": keras.losses.sparse_categorical_crossentropy,
    "categorical": keras.losses.categorical_crossentropy,
}


def _crossentropy(y_true, y_pred):
    return _CROSSENTROPIES[label_form(y_true, y_pred)](y_true, y_pred)


class TaskLosses:
    """Computes every task's loss as a sum over its present labels and a divisor.

    The two are kept apart so that replicas can add both up: a loss is then the exact mean
    over the present labels of the global batch, however unevenly they are spread.

    ```
    total[t]   = sum_b present[t, b] * sample_weight[t, b] * loss_t(y[t, b], y_pred[t, b])
    divisor[t] = sum_b present[t, b]          # "sum_over_batch_size", "mean"
               = sum_b sample_weight[t, b]    # "mean_with_sample_weight"
    present    = label is not `missing` and sample_weight != 0 and not masked
    ```

    Without missing labels these are Keras's own numbers. A loss with `reduction="sum"` has
    no divisor. Tasks with equal built-in losses and equal shapes are computed together, so
    that hundreds of heads cost a few operations.

    A loss that has methods `per_label(y, y_pred)` and `shares(present)`, such as
    `MaskedMultiLabelLoss`, gives a value for each label of a sample: it says which of them are
    present, and how much each counts for in the total.

    Args:
        losses: Task name -> anything that Keras takes as a loss.
        missing: Task name -> value that marks a missing label, or None.
    """

    def __init__(self, losses: Mapping, missing: Mapping):
        self.tasks = sorted(losses)
        self.losses = {task: resolve_loss(losses[task]) for task in self.tasks}
        self.missing = {task: missing.get(task) for task in self.tasks}
        for task, loss in self.losses.items():
            if loss.reduction not in _REDUCTIONS:
                raise ValueError(
                    f"The loss of a task must have a reduction, one of {_REDUCTIONS}. "
                    f"Received: reduction={loss.reduction!r} for task {task!r}"
                )
            if hasattr(loss, "per_label") and self.missing[task] is not None:
                raise ValueError(
                    "The marker of a loss with labels of several tasks is its own argument "
                    f"`missing`, not one of `compile`. Received: missing={self.missing[task]} "
                    f"for task {task!r}"
                )
        self.summed = [self.losses[task].reduction == "sum" for task in self.tasks]

    def __call__(self, y: Mapping, y_pred: Mapping, sample_weight: Mapping):
        """Returns `(totals, divisors)`, each `(T,)`, tasks in sorted order."""
        groups = {}
        for index, task in enumerate(self.tasks):
            key = self._group_key(task, y[task], y_pred[task], sample_weight.get(task))
            groups.setdefault(key, []).append(index)
        totals, divisors = [None] * len(self.tasks), [None] * len(self.tasks)
        for indices in groups.values():
            tasks = [self.tasks[i] for i in indices]
            total, divisor = self._group_sums(tasks, y, y_pred, sample_weight)
            for position, i in enumerate(indices):
                totals[i], divisors[i] = total[position], divisor[position]
        return ops.stack(totals), ops.stack(divisors)

    def _group_sums(self, tasks, y, y_pred, sample_weight):
        n, loss = len(tasks), self.losses[tasks[0]]

        def join(tensors):
            return tensors[0] if n == 1 else ops.concatenate(tensors, axis=0)

        def sums(x):
            return (
                [ops.sum(x)] if n == 1 else ops.unstack(ops.sum(ops.reshape(x, (n, -1)), axis=1), n)
            )

        labels, present = split_missing(join([y[t] for t in tasks]), self.missing[tasks[0]])
        labels = ops.cast(labels, loss.dtype)
        predictions = ops.cast(join([ops.convert_to_tensor(y_pred[t]) for t in tasks]), loss.dtype)
        by_label = hasattr(loss, "per_label")
        if by_label:
            values, present = loss.per_label(labels, predictions)
        else:
            values = loss.call(labels, predictions)
        rank = len(values.shape)
        weights = None
        if sample_weight.get(tasks[0]) is not None:
            weights = join([ops.cast(sample_weight[t], values.dtype) for t in tasks])
            weights = weights_to_rank(weights, rank)
            present = _both(present, ops.not_equal(weights, 0), rank)
        mask = backend.get_mask(y_pred[tasks[0]])
        if mask is not None:
            present = _both(present, ops.cast(mask, "bool"), rank)
        if present is None:
            return sums(values), [ops.cast(ops.size(values) / n, values.dtype)] * n
        if rank == 0:
            raise ValueError(
                "Missing labels, sample weights and masks need a loss that returns one value "
                f"for each sample. Received: a scalar from the loss of task {tasks[0]!r}"
            )
        present = ops.broadcast_to(to_rank(present, rank), ops.shape(values))
        if by_label:
            values = values * loss.shares(present)
        weighted = values if weights is None else values * weights
        counted = ops.cast(present, values.dtype)
        if weights is not None and loss.reduction == "mean_with_sample_weight":
            counted = counted * weights
        return sums(ops.where(present, weighted, 0.0)), sums(counted)

    def _group_key(self, task, y, y_pred, sample_weight):
        loss = self.losses[task]
        if isinstance(loss, FunctionLoss) and loss.fn in _PER_SAMPLE_FUNCTIONS:
            rule = loss.fn
        elif type(loss) in _PER_SAMPLE_CLASSES:
            config = {k: v for k, v in loss.get_config().items() if k != "name"}
            rule = (type(loss), json.dumps(config, sort_keys=True, default=str))
        else:
            return task
        if backend.get_mask(y_pred) is not None or len(y_pred.shape) < 2:
            return task
        shapes = [
            None if x is None else (tuple(x.shape[1:]), keras.backend.standardize_dtype(x.dtype))
            for x in (y, y_pred, sample_weight)
        ]
        return (rule, repr(self.missing[task]), *shapes)


def _both(present, other, rank):
    """Logical and of two masks where the first may be None; both with `rank` axes."""
    other = to_rank(other, rank)
    return other if present is None else ops.logical_and(to_rank(present, rank), other)
