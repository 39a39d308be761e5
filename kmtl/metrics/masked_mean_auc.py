"""The mean ROC AUC of many yes-or-no tasks, over the labels that are there."""

import keras
from keras import ops

from kmtl.ops.binary_labels import check_missing, split_binary

_REDUCTIONS = ("mean", "median")


@keras.saving.register_keras_serializable(package="kmtl")
class MaskedMeanAUC(keras.metrics.Metric):
    """Mean or median over tasks of the area under the ROC curve, in one output of T tasks.

    The score of sparse yes-or-no tasks such as assays of molecules. A task counts once it has
    seen labels of both classes; without such a task the result is NaN.

    ```
    AUC[t] = sum over bins i, from high to low, of
             negatives[t, i] * (positives[t, above i] + positives[t, i] / 2)
             / (all positives[t] * all negatives[t])
    ```

    Bins lie between the thresholds of `keras.metrics.AUC`, and the sum is its interpolation: two
    labels in one bin count as a tie. So the error is at most half the share of pairs of a
    positive and a negative that fall into one bin.

    Args:
        num_tasks: Number of tasks T.
        num_thresholds: Number of thresholds, at least 3. Ask for more where predictions crowd,
            as those of rare classes near 0. Defaults to `200`.
        reduction: `"mean"` or `"median"` over tasks. Defaults to `"mean"`.
        from_logits: Whether predictions are logits, or else probabilities. Defaults to `False`.
        missing: The value that marks a missing label. Defaults to `nan`.
        name: The metric's name. Defaults to `"masked_mean_auc"`.
        dtype: As in Keras. Defaults to `None`.

    Input shape: labels and predictions `(batch, T)`; sample weights `(batch,)` or `(batch, T)`.
    A label that is neither 0, 1 nor `missing` makes the result NaN.

    Raises:
        ValueError: for arguments outside of what is said above, and for other shapes.

    Example:

    >>> import numpy as np
    >>> import kmtl
    >>> auc = kmtl.metrics.MaskedMeanAUC(num_tasks=2)
    >>> y = np.array([[1, 0], [0, 1], [1, np.nan], [0, np.nan]])
    >>> p = np.array([[0.9, 0.1], [0.8, 0.7], [0.4, 0.5], [0.3, 0.5]])
    >>> print(float(auc(y, p)))  # 3 of 4 pairs in order, and 1 of 1
    0.875

    Differences from the paper: none known; papers average over folds as well, which is the
    caller's to do.

    Reference: B. Ramsundar et al. (2015), "Massively Multitask Networks for Drug Discovery",
    arXiv:1502.02072, which reports means and medians of AUC over tasks.
    """

    def __init__(
        self,
        num_tasks,
        num_thresholds=200,
        reduction="mean",
        from_logits=False,
        missing=float("nan"),
        name="masked_mean_auc",
        dtype=None,
    ):
        super().__init__(name=name, dtype=dtype)
        for argument, value, least in (
            ("num_tasks", num_tasks, 1),
            ("num_thresholds", num_thresholds, 3),
        ):
            if not isinstance(value, int) or value < least:
                raise ValueError(
                    f"`{argument}` must be an integer >= {least}. Received: {argument}={value}"
                )
        if reduction not in _REDUCTIONS:
            raise ValueError(
                f"`reduction` must be one of {_REDUCTIONS}. Received: reduction={reduction!r}"
            )
        check_missing(missing)
        self.num_tasks = num_tasks
        self.num_thresholds = num_thresholds
        self.reduction = reduction
        self.from_logits = from_logits
        self.missing = missing
        shape = (num_thresholds - 1, num_tasks)
        self.positives = self.add_variable(shape, "zeros", name="positives")
        self.negatives = self.add_variable(shape, "zeros", name="negatives")

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Adds a batch's labels to the bins of their predictions."""
        y_pred = ops.cast(y_pred, self.dtype)
        labels, present = split_binary(ops.convert_to_tensor(y_true), y_pred, self.missing)
        if y_pred.shape[1] != self.num_tasks:
            raise ValueError(
                f"Predictions must have the {self.num_tasks} tasks of `num_tasks`. "
                f"Received: predictions {tuple(y_pred.shape)}"
            )
        weights = ops.cast(present, self.dtype)
        if sample_weight is not None:
            sample_weight = ops.cast(sample_weight, self.dtype)
            if len(sample_weight.shape) == 1:
                sample_weight = sample_weight[:, None]
            weights = weights * sample_weight
        if self.from_logits:
            y_pred = ops.sigmoid(y_pred)
        # Bin i holds what lies above threshold i / bins and not above the next, as in Keras.
        bins = self.num_thresholds - 1
        places = ops.cast(ops.clip(ops.ceil(y_pred * bins) - 1, 0, bins - 1), "int32")
        places = ops.reshape(places * self.num_tasks + ops.arange(self.num_tasks), (-1,))
        for variable, values in (
            (self.positives, weights * labels),
            (self.negatives, weights * (1 - labels)),
        ):
            sums = ops.segment_sum(ops.reshape(values, (-1,)), places, bins * self.num_tasks)
            variable.assign_add(ops.reshape(sums, (bins, self.num_tasks)))

    def result(self):
        positives, negatives = ops.convert_to_tensor(self.positives), self.negatives
        totals = ops.sum(positives, axis=0), ops.sum(negatives, axis=0)
        above = totals[0] - ops.cumsum(positives, axis=0)
        pairs = ops.sum(negatives * (above + 0.5 * positives), axis=0)
        # Not `> 0`, so that what was spoilt by a wrong label shows.
        scored = ops.logical_not(ops.logical_or(ops.equal(totals[0], 0), ops.equal(totals[1], 0)))
        areas = pairs / ops.where(scored, totals[0] * totals[1], 1.0)
        count = ops.sum(ops.cast(scored, "int32"))
        if self.reduction == "mean":
            value = ops.sum(ops.where(scored, areas, 0.0)) / ops.cast(
                ops.maximum(count, 1), self.dtype
            )
        else:
            ordered = ops.sort(ops.where(scored, areas, float("inf")))
            middle = ops.stack([ops.maximum(count - 1, 0) // 2, count // 2])
            value = ops.mean(ops.take(ordered, ops.minimum(middle, self.num_tasks - 1)))
        return ops.where(count > 0, value, float("nan"))

    def get_config(self):
        return {
            "num_tasks": self.num_tasks,
            "num_thresholds": self.num_thresholds,
            "reduction": self.reduction,
            "from_logits": self.from_logits,
            "missing": self.missing,
            "name": self.name,
            "dtype": self.dtype,
        }
