"""One loss for an output that stands for many yes-or-no tasks, most of whose labels are absent."""

import keras
import numpy as np
from keras import ops

from kmtl import backend
from kmtl.ops.binary_labels import check_missing, split_binary

_NORMALIZATIONS = ("per_task", "global")


@keras.saving.register_keras_serializable(package="kmtl")
class MaskedMultiLabelLoss(keras.losses.Loss):
    """Binary cross-entropy over the present labels of T tasks in one output.

    Use it for hundreds or thousands of sparse yes-or-no tasks, such as assays of molecules, that
    share one `Dense(T)` layer: a matrix of labels costs a few operations, where as many named
    outputs cost as many. Named outputs are for tasks that a weighting is to tell apart.

    ```
    c[b, t] = -(positive_weight[t] * y * log(p) + (1 - y) * log(1 - p))
    n[t]    = number of present labels of task t in the global batch
    loss    = 1 / T * sum_t 1 / n[t] * sum_{b present} c[b, t]        # "per_task"; 0 if n[t] = 0
            = 1 / sum_t n[t] * sum_t sum_{b present} c[b, t]          # "global"
    ```

    `"per_task"` counts every task alike, and is what T named outputs have on average; `"global"`
    counts every label alike, and so dense tasks more. Absent labels give no loss and no gradient,
    whatever stands in their place.

    In a `kmtl.MultiTaskModel`, n counts all replicas' labels, rows with a sample weight of 0 and
    masked ones left out, so that replicas change nothing. In a plain `keras.Model` the same holds
    as far as replicas have equally many rows, and a sample weight of 0 does not lower n.

    Args:
        positive_weight: T weights of the labels 1, as from
            `kmtl.losses.class_balance_weights`. Constants, since weights measured on a batch
            would change with its size. Defaults to `None`, all 1.
        from_logits: Whether predictions are logits, or else probabilities. Defaults to `True`.
        normalize: `"per_task"` or `"global"`. Defaults to `"per_task"`.
        missing: The value that marks a missing label. An argument of the loss, not of
            `compile`, since a row has both kinds. Defaults to `nan`.
        name: The loss's name. Defaults to `"masked_multi_label_loss"`.
        dtype: As in Keras. Defaults to `None`.

    Input shape: labels and predictions `(batch, T)`. A label that is neither 0, 1 nor `missing`
    makes the loss NaN, at which `MultiTaskModel.fit` stops.

    Raises:
        ValueError: for another `normalize`; weights that are not positive; a `missing` of 0 or 1;
            and when called on other shapes.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import kmtl
    >>> y = np.array([[1, 0], [0, 1], [0, np.nan], [0, np.nan]])
    >>> balance = kmtl.losses.class_balance_weights(y)
    >>> x = keras.Input((8,))
    >>> model = kmtl.MultiTaskModel(x, {"assays": keras.layers.Dense(2)(x)})
    >>> model.compile("adam", loss={"assays": kmtl.losses.MaskedMultiLabelLoss(balance)})
    >>> history = model.fit(np.zeros((4, 8)), {"assays": y}, verbose=0)
    >>> print(f"{history.history['loss'][0]:.3f}")  # weights of 6 and 2, over 4 and 2 labels
    0.866

    Differences from the paper: a sigmoid of one logit instead of a softmax over two, which is
    the same family with half the weights. The weights of classes are given, not measured inside.

    Reference: B. Ramsundar, S. Kearnes, P. Riley, D. Webster, D. Konerding, V. Pande (2015),
    "Massively Multitask Networks for Drug Discovery", arXiv:1502.02072.
    """

    def __init__(
        self,
        positive_weight=None,
        from_logits=True,
        normalize="per_task",
        missing=float("nan"),
        name="masked_multi_label_loss",
        dtype=None,
    ):
        super().__init__(name=name, dtype=dtype)
        if normalize not in _NORMALIZATIONS:
            raise ValueError(
                f"`normalize` must be one of {_NORMALIZATIONS}. Received: normalize={normalize!r}"
            )
        check_missing(missing)
        if positive_weight is not None:
            positive_weight = np.asarray(positive_weight, "float64")
            if positive_weight.ndim != 1 or not (0 < positive_weight).all():
                raise ValueError(
                    "`positive_weight` must have a weight > 0 for each task. "
                    f"Received: positive_weight={positive_weight.tolist()}"
                )
            positive_weight = positive_weight.tolist()
        self.positive_weight = positive_weight
        self.from_logits = from_logits
        self.normalize = normalize
        self.missing = missing

    def per_label(self, y_true, y_pred):
        """Each label's loss, 0 for absent ones, and which are present; both `(batch, T)`."""
        labels, present = split_binary(y_true, y_pred, self.missing)
        values = ops.binary_crossentropy(labels, y_pred, from_logits=self.from_logits)
        if self.positive_weight is not None:
            if len(self.positive_weight) != y_pred.shape[1]:
                raise ValueError(
                    "`positive_weight` must have a weight for each task. Received: "
                    f"{len(self.positive_weight)} weights, predictions {tuple(y_pred.shape)}"
                )
            weights = ops.convert_to_tensor(self.positive_weight, values.dtype)
            values = values * ops.where(ops.equal(labels, 1), weights, 1.0)
        return ops.where(present, values, 0.0), present

    def shares(self, present):
        """What to multiply each label's loss by, so that dividing the sum by n normalises it."""
        if self.normalize == "global":
            return ops.ones((), self.dtype)
        counts = self._counts(present)
        return ops.sum(counts) / (ops.maximum(counts, 1.0) * present.shape[1])

    def call(self, y_true, y_pred):
        """`(batch,)`, whose mean over the global batch is the loss."""
        values, present = self.per_label(y_true, y_pred)
        rows = backend.all_reduce_sum(ops.cast(ops.shape(values)[0], values.dtype))
        count = ops.maximum(ops.sum(self._counts(present)), 1.0)
        return ops.sum(values * self.shares(present), axis=1) * rows / count

    def _counts(self, present):
        return backend.all_reduce_sum(ops.sum(ops.cast(present, self.dtype), axis=0))

    def get_config(self):
        return {
            "positive_weight": self.positive_weight,
            "from_logits": self.from_logits,
            "normalize": self.normalize,
            "missing": self.missing,
            "name": self.name,
            "dtype": self.dtype,
        }
