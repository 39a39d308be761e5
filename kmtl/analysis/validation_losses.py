"""Every task's loss on data held out, and the arrays of some tasks."""

from collections.abc import Mapping, Sequence

import numpy as np
from keras import ops, tree

from kmtl.losses.task_losses import TaskLosses
from kmtl.models import MultiTaskModel
from kmtl.models.task_arguments import by_task


def of_tasks(data: tuple, tasks: Sequence[str]) -> tuple:
    """`(x, y, sample_weight)` with the labels and weights of these tasks; weights may be None."""
    x, y, weights = (*data, None)[:3]
    if isinstance(weights, Mapping):
        weights = {task: weights[task] for task in tasks if task in weights}
    return x, {task: y[task] for task in tasks}, weights


def batches_of(data: tuple, size: int) -> list[tuple]:
    """Arrays cut into batches of at most `size` rows."""
    rows = len(tree.flatten(data[0])[0])
    return [
        tree.map_structure(lambda a, s=start: None if a is None else a[s : s + size], data)
        for start in range(0, rows, size)
    ]


def validation_losses(model: MultiTaskModel, data: tuple, batch_size: int) -> dict[str, float]:
    """Each task's own loss, without weights of tasks and penalties.

    As in `evaluate` it is the mean over the present labels; there, a model of a single task has
    no value for its loss alone.

    Args:
        model: A compiled model.
        data: `(x, y, sample_weight)`, arrays; the last may be None.
        batch_size: Rows that are run at once.
    """
    losses = {k: v for k, v in by_task(model.task_names, "loss", model.loss).items() if v}
    measure = TaskLosses(losses, model.missing)
    totals, divisors = 0.0, 0.0
    for x, y, weights in batches_of(data, batch_size):
        outputs = model(x, training=False)
        weights = by_task(model.task_names, "sample_weight", weights)
        sums = measure(y, outputs, weights)
        total, divisor = (ops.convert_to_numpy(s).astype("float64") for s in sums)
        totals, divisors = totals + total, divisors + divisor
    divisors = np.where(measure.summed, 1.0, np.maximum(divisors, 1.0))
    return dict(zip(measure.tasks, (totals / divisors).tolist(), strict=True))
