"""The containers behind `MultiTaskModel`'s logs."""

from collections.abc import Mapping, Sequence

import keras
from keras import ops

from kmtl.ops.labels import label_form, split_missing, to_rank, weights_to_rank


class NamedMeans(keras.metrics.Metric):
    """Means of several named scalars over the epoch.

    One vector holds them all, so that its cost does not grow with their number.
    """

    def __init__(self, names: Sequence[str], name: str):
        super().__init__(name=name)
        self.names = list(names)
        self.total = self.add_variable((len(self.names),), "zeros", name="total")
        self.count = self.add_variable((len(self.names),), "zeros", name="count")

    def update_state(self, totals, counts):
        """Adds this batch's sums and the numbers of values in them, each `(len(names),)`."""
        self.total.assign_add(ops.cast(totals, self.dtype))
        self.count.assign_add(ops.cast(counts, self.dtype))

    def result(self):
        means = ops.unstack(ops.divide_no_nan(self.total, self.count), len(self.names))
        return dict(zip(self.names, means, strict=True))


class TaskMetrics(keras.metrics.Metric):
    """The metrics of all tasks, each over the present labels, as `<task>_<metric>`.

    Args:
        metrics: Task name -> list of metrics that ignore sample weights but for presence.
        weighted_metrics: Task name -> list of metrics that use sample weights.
        missing: Task name -> value that marks a missing label, or None.
        prefix: Whether names start with the task's; plain Keras drops it for a single task.
    """

    def __init__(self, metrics: Mapping, weighted_metrics: Mapping, missing: Mapping, prefix: bool):
        super().__init__(name="task_metrics")
        self.missing = missing
        self._entries = []  # (name in the logs, task, metric, uses sample weights)
        names, metrics_seen = set(), []
        for weighted, group in ((False, metrics), (True, weighted_metrics)):
            for task in sorted(group):
                for identifier in group[task]:
                    metric = resolve_metric(identifier)
                    if any(metric is other for other in metrics_seen):
                        raise ValueError(
                            "A metric keeps the state of one task; make a new one for each. "
                            f"Received: {metric.name!r} again for task {task!r}"
                        )
                    metrics_seen.append(metric)
                    name = f"{task}_{metric.name}" if prefix else metric.name
                    if name in names and weighted:
                        name = (
                            f"{task}_weighted_{metric.name}"
                            if prefix
                            else (f"weighted_{metric.name}")
                        )
                    if name in names:
                        raise ValueError(
                            "The metrics of a task must have different names. "
                            f"Received: {metric.name!r} twice for task {task!r}"
                        )
                    names.add(name)
                    self._entries.append((name, task, metric, weighted))

    @property
    def tasks(self) -> set[str]:
        """The tasks that have a metric."""
        return {task for _, task, _, _ in self._entries}

    @property
    def names(self) -> list[str]:
        """Their names in the logs."""
        return [name for name, _, _, _ in self._entries]

    @property
    def variables(self):
        return [v for _, _, metric, _ in self._entries for v in metric.variables]

    def update_state(self, y: Mapping, y_pred: Mapping, sample_weight: Mapping):
        """Updates every metric on the present labels of its task."""
        cache = {}
        for _, task, metric, weighted in self._entries:
            if task not in cache:
                cache[task] = self._labels(task, y[task], y_pred[task], sample_weight.get(task))
            labels, present, weights = cache[task]
            metric.update_state(
                labels, y_pred[task], sample_weight=weights if weighted else present
            )

    def _labels(self, task, y, y_pred, sample_weight):
        labels, present = split_missing(y, self.missing.get(task))
        rank = max(len(y_pred.shape) - 1, 1)
        if present is not None:
            present = ops.cast(to_rank(present, rank), self.dtype)
        if sample_weight is None:
            return labels, present, present
        weights = weights_to_rank(ops.cast(sample_weight, self.dtype), rank)
        used = ops.cast(ops.not_equal(weights, 0), self.dtype)
        if present is None:
            return labels, used, weights
        return labels, present * used, present * weights

    def reset_state(self):
        for _, _, metric, _ in self._entries:
            metric.reset_state()

    def result(self):
        return {name: metric.result() for name, _, metric, _ in self._entries}


def resolve_metric(identifier) -> keras.metrics.Metric:
    """A Keras metric from an object, a function, a config or a name, "accuracy" included."""
    if str(identifier).lower() in ("accuracy", "acc"):
        return keras.metrics.MeanMetricWrapper(_accuracy, name=str(identifier))
    metric = keras.metrics.get(identifier)
    if not isinstance(metric, keras.metrics.Metric):
        metric = keras.metrics.MeanMetricWrapper(metric, name=metric.__name__)
    if isinstance(identifier, str):
        metric.name = identifier  # Keras logs a metric under the name that it was asked by
    return metric


_ACCURACIES = {
    "binary": keras.metrics.binary_accuracy,
    "sparse": keras.metrics.sparse_categorical_accuracy,
    "categorical": keras.metrics.categorical_accuracy,
}


def _accuracy(y_true, y_pred):
    return _ACCURACIES[label_form(y_true, y_pred)](y_true, y_pred)
