"""What can be known before training: the data's numbers, and one pass over a few real examples."""

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from kmtl.losses.task_losses import FunctionLoss, TaskLosses, resolve_loss
from kmtl.metrics.task_metrics import TaskMetrics
from kmtl.models import MultiTaskModel
from kmtl.ops.labels import label_form
from kmtl.training.building.compiling import losses_of, metrics_of
from kmtl.training.causes import cause
from kmtl.training.configuration.schema import Training
from kmtl.training.loading.data import Loaded, bare
from kmtl.training.loading.examples import Limits, check_examples

ROWS = 32  # as few as tell the shapes

_WRONG = (ValueError, TypeError, tf.errors.OpError)


def limits_of(model: MultiTaskModel, training: Training, data: Loaded) -> Limits:
    """What labels may be, by the losses and the widths of heads."""
    classes, ignored = {}, {}
    missing = {key: dict(data.marked.get(key, {})) for key in data.sources}
    for task, given in losses_of(training).items():
        loss, answers = resolve_loss(given), model.output[task]
        if hasattr(loss, "per_label"):  # which knows itself what marks absent labels
            for marks in missing.values():
                marks[task] = getattr(loss, "missing", None)
        by_name = str(given).lower() in ("crossentropy", "ce")
        labels = tf.TensorSpec((None, *data.labels[task].shape))
        function = loss.fn if isinstance(loss, FunctionLoss) else None
        if (
            isinstance(loss, keras.losses.SparseCategoricalCrossentropy)
            or function is keras.losses.sparse_categorical_crossentropy
            or (by_name and label_form(labels, answers) == "sparse")
        ):
            classes[task] = answers.shape[-1]
            ignored[task] = loss.get_config().get("ignore_class") if function is None else None
    return Limits(missing, classes, ignored)


def check_arrays(data: Loaded, limits: Limits) -> None:
    """Raises ValueError, naming the key, for numbers in arrays that training could not use."""
    for key, source in data.sources.items():
        if not isinstance(source, tf.data.Dataset):
            check_examples(key, source, limits)


def rehearse(
    model: MultiTaskModel, training: Training, data: Loaded, limits: Limits, largest: int = ROWS
) -> None:
    """One pass over a few examples of each source: every loss and metric, nothing trained.

    Args:
        model: The compiled model.
        training: The configuration's.
        data: The data.
        limits: What `limits_of` returned, for the examples of streams.
        largest: How many examples at most; what one replica has room for.

    Raises:
        ValueError: for what does not fit together; the message names the key.
    """
    widths = {answers.shape[-1] for answers in model.output.values()}
    rows = max(2, min(ROWS, largest))
    while rows in widths and rows > 2:  # equal sizes would fit by luck
        rows -= 1
    losses, metrics = losses_of(training), metrics_of(training)
    losses = {task: TaskLosses({task: loss}, data.missing) for task, loss in losses.items()}
    for key, source in data.sources.items():
        examples = _some(key, source, rows)
        if isinstance(source, tf.data.Dataset):
            check_examples(key, examples, limits)
        x, labels, weights = _as_fed(*examples)
        try:
            answers = model(x, training=False)
        except _WRONG as error:
            raise ValueError(
                f"`network` must be able to take the examples of `{key}`. Received: {cause(error)}"
            ) from error
        for task in sorted(labels):
            if task in losses:
                _check_loss(key, task, losses[task], answers, labels, weights)
            for i, metric in enumerate(metrics.get(task, ())):
                own = TaskMetrics({task: [metric]}, {}, data.missing, prefix=True)
                place = f"training.metrics.{task}.{i}"
                _fitting(place, key, task, answers, labels, weights, own.update_state)


def _check_loss(key, task, loss, answers, labels, weights):
    place = f"training.losses.{task}"
    totals, _ = _fitting(place, key, task, answers, labels, weights, loss)
    if not np.isfinite(total := float(totals[0])):
        raise ValueError(
            f"`{place}` must be finite on the first examples of `{key}`, before any training. "
            f"Received: {total}"
        )


def _fitting(place, key, task, answers, labels, weights, function):
    try:
        return function(labels, answers, weights)
    except _WRONG as error:
        raise ValueError(
            f"`{place}` must fit the head, whose answers are {_shown(answers[task])}, and "
            f"`{key}.tasks.{task}`, whose labels are {_shown(labels[task])}. "
            f"Received: {cause(error)}"
        ) from error


def _shown(tensor):
    """The shape of one example's."""
    return f"of shape {tuple(tensor.shape[1:])}"


def _some(key, source, rows):
    """The first examples, as arrays."""
    if not isinstance(source, tf.data.Dataset):
        return tuple({n: np.asarray(v[:rows]) for n, v in part.items()} for part in source)
    try:
        return next(source.batch(rows).take(1).as_numpy_iterator())
    except tf.errors.OpError as error:
        raise ValueError(f"`{key}` must give its examples. Received: {cause(error)}") from error


def _as_fed(x, labels, weights=None):
    """The examples as `fit` gives them to the model."""
    x, labels, weights = tf.nest.map_structure(_tensor, (bare(x), dict(labels), weights or {}))
    return x, labels, weights


def _tensor(values):
    floating = np.issubdtype(values.dtype, np.floating)
    return ops.convert_to_tensor(values, keras.config.floatx() if floating else None)
