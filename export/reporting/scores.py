"""Labels and metrics of heads, checked and computed."""

from collections.abc import Collection, Mapping

import keras
import numpy as np


def check_labels(labels, tasks: Collection[str], rows: int) -> dict[str, np.ndarray]:
    """Labels as arrays; raises ValueError for unknown heads, other numbers of rows and texts."""
    labels = {task: np.asarray(values) for task, values in dict(labels or {}).items()}
    unknown = sorted(set(labels) - set(tasks))
    if unknown:
        raise ValueError(
            f"`labels` must be of heads of the model, {sorted(tasks)}. Received: {unknown}"
        )
    for task, values in labels.items():
        if values.ndim < 1 or len(values) != rows:
            raise ValueError(
                f"`labels` must have as many rows as `data`, {rows}. "
                f"Received: shape {values.shape} for {task!r}"
            )
        if values.dtype.kind not in "biuf":
            raise ValueError(f"`labels` must be numbers. Received: {values.dtype} for {task!r}")
    return labels


def check_metrics(metrics, labels: Mapping) -> dict[str, keras.metrics.Metric]:
    """A metric object of its own for each labelled head."""
    if metrics is None and not labels:
        return {}
    if metrics is None or not labels:
        raise ValueError(
            "`labels` and `metrics` must be given together. "
            f"Received: {'labels only' if labels else 'metrics only'}"
        )
    if not isinstance(metrics, Mapping):
        metrics = dict.fromkeys(labels, metrics)
    if set(metrics) != set(labels):
        raise ValueError(
            f"`metrics` must be of the heads that have labels, {sorted(labels)}. "
            f"Received: {sorted(metrics)}"
        )
    return {task: _metric(metric, task) for task, metric in metrics.items()}


def score(metric: keras.metrics.Metric, labels: np.ndarray, outputs: np.ndarray) -> float:
    """The metric over all rows.

    Raises:
        ValueError: if it does not take the labels.
    """
    metric.reset_state()
    try:
        metric.update_state(labels, outputs)
    except Exception as error:  # the backend has types of its own
        raise ValueError(
            "`metrics` must suit the labels and the outputs of their heads. "
            f"Received: {metric.name!r}, labels of shape {labels.shape} from {labels.min()} to "
            f"{labels.max()}, outputs of shape {outputs.shape}"
        ) from error
    return float(keras.ops.mean(metric.result()))  # of classes, where it gives one for each


def _metric(metric, task) -> keras.metrics.Metric:
    if metric in ("accuracy", "acc"):
        found = keras.metrics.MeanMetricWrapper(_accuracy, name="accuracy")
        found._direction = "up"  # where Keras's own callbacks look for it
        return found
    try:
        found = keras.metrics.get(metric)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "`metrics` must be names that Keras knows, metric objects or functions. "
            f"Received: {metric!r} for {task!r}"
        ) from error
    if isinstance(found, keras.metrics.Metric):
        return found
    name = getattr(found, "__name__", type(found).__name__)
    return keras.metrics.MeanMetricWrapper(found, name=name)


def _accuracy(labels, outputs):
    """What `compile` makes of the name, by the shapes; by itself it asks for equal values."""
    if outputs.shape[-1] == 1:
        return keras.metrics.binary_accuracy(labels, outputs)
    if len(labels.shape) < len(outputs.shape) or labels.shape[-1] == 1:
        return keras.metrics.sparse_categorical_accuracy(labels, outputs)
    return keras.metrics.categorical_accuracy(labels, outputs)
