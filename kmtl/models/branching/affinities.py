"""How alike tasks are in what is difficult for them, for `BranchingModel`."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from kmtl.ops.labels import label_form, split_missing


def is_classification(loss: keras.losses.Loss) -> bool:
    """Whether a loss is on probabilities or logits of classes: a cross-entropy of any kind."""
    name = getattr(getattr(loss, "fn", None), "__name__", "") + type(loss).__name__
    return "crossentropy" in name.lower() or hasattr(loss, "per_label")


def margins(loss: keras.losses.Loss, y, y_pred, missing=None, sample_weight=None) -> np.ndarray:
    """`|target - score|` of each sample, NaN where it has no label.

    Scores of a classification are probabilities: 1 minus that of the true class where there are
    several. Where a sample has several labels or outputs it is the mean over those present.

    Args:
        loss: The task's loss, which says what the scores are.
        y: Labels.
        y_pred: Outputs, `(N, ...)`.
        missing: The mark of missing labels. Defaults to `None`.
        sample_weight: Samples with 0 count as missing. Defaults to `None`.

    Returns:
        `(N,)`.
    """
    y, present = split_missing(y, getattr(loss, "missing", missing))
    y_pred = ops.cast(ops.convert_to_tensor(y_pred), "float32")
    form = label_form(y, y_pred) if is_classification(loss) else "regression"
    if form != "regression":
        multi_label = form == "binary" or _is_binary(loss)
        if loss.get_config().get("from_logits", False):
            y_pred = ops.sigmoid(y_pred) if multi_label else ops.softmax(y_pred)
        if multi_label:
            form = "binary"
    values = y = ops.convert_to_numpy(y)
    scores = ops.convert_to_numpy(y_pred).astype("float64")
    if form in ("sparse", "categorical"):
        classes = y.reshape(scores.shape[:-1]).astype(int) if form == "sparse" else y.argmax(-1)
        values = 1.0 - np.take_along_axis(scores, classes[..., None], axis=-1)[..., 0]
    else:
        if y.ndim == scores.ndim - 1 and scores.shape[-1] == 1:
            values = y = y[..., None]
        if y.shape != scores.shape:
            raise ValueError(
                "Labels must have the shape of the outputs, for their differences to be taken. "
                f"Received: labels of shape {y.shape}, outputs of shape {scores.shape}"
            )
        values = np.abs(y - scores)
    counts = np.ones(values.shape, bool)
    if present is not None:
        mask = ops.convert_to_numpy(present)
        if form == "categorical":
            mask = mask.all(axis=-1)
        counts = mask.reshape(values.shape)
    if sample_weight is not None:
        weights = np.asarray(ops.convert_to_numpy(sample_weight))
        weights = weights.reshape(weights.shape + (1,) * (values.ndim - weights.ndim))
        counts = counts & (weights.reshape(weights.shape[: values.ndim]) != 0)
    values, counts = values.reshape(len(values), -1), counts.reshape(len(values), -1)
    total = np.where(counts, values, 0.0).sum(axis=1)
    number = counts.sum(axis=1)
    return np.divide(total, number, out=np.full(len(values), np.nan), where=number > 0)


def _is_binary(loss):
    name = getattr(getattr(loss, "fn", None), "__name__", "") + type(loss).__name__
    return "binary" in name.lower() or hasattr(loss, "per_label")


def ranks(column: np.ndarray) -> np.ndarray:
    """The share of the numbers that are smaller, counting equal ones by half; NaN stays."""
    known = column[np.isfinite(column)]
    below = np.searchsorted(np.sort(known), column, side="left")
    upto = np.searchsorted(np.sort(known), column, side="right")
    return np.where(np.isfinite(column), 0.5 * (below + upto) / max(len(known), 1), np.nan)


def task_affinity(margins: np.ndarray) -> np.ndarray:
    """How often two tasks find the same samples difficult, or the same ones easy.

    ```
    e[n, i] = margins[n, i] >= mean_n margins[n, i]                      # difficult
    A[i, j] = mean_n(e[n, i] * e[n, j] + (1 - e[n, i]) * (1 - e[n, j]))  # of samples with both
    ```

    Tasks without a common sample get what they would have on average if what is difficult for
    one said nothing about the other: `p[i] * p[j] + (1 - p[i]) * (1 - p[j])`, `p = mean_n e`.

    Args:
        margins: `(N, T)`, NaN where a sample has no label of a task.

    Returns:
        `(T, T)`, symmetric, in [0, 1], with 1 on the diagonal.

    Raises:
        ValueError: if a task has no label at all.
    """
    present = np.isfinite(margins)
    counts = present.sum(axis=0)
    if not counts.all():
        raise ValueError(
            "Affinities need labels of every task in the held-out data. Received: none for "
            f"columns {np.flatnonzero(counts == 0).tolist()}"
        )
    means = np.where(present, margins, 0.0).sum(axis=0) / counts
    hard = (present & (np.where(present, margins, -np.inf) >= means)).astype("float64")
    easy = present - hard
    both = present.astype("float64").T @ present
    share = hard.sum(axis=0) / counts
    by_chance = np.outer(share, share) + np.outer(1 - share, 1 - share)
    same = hard.T @ hard + easy.T @ easy
    affinity = np.divide(same, both, out=by_chance, where=both > 0)
    np.fill_diagonal(affinity, 1.0)
    return affinity


def branch_affinity(affinity: np.ndarray, branches: Sequence[Sequence[int]]) -> np.ndarray:
    """Affinities of sets of tasks, from those of tasks.

    ```
    a[k, l]   = mean_{i in k} min_{j in l} affinity[i, j]
    A_b[k, l] = (a[k, l] + a[l, k]) / 2
    ```

    Args:
        affinity: `(T, T)`.
        branches: The tasks of each branch.

    Returns:
        `(c, c)`.
    """
    one_way = np.array([[affinity[np.ix_(k, b)].min(axis=1).mean() for b in branches]
                        for k in branches])  # fmt: skip
    return (one_way + one_way.T) / 2
