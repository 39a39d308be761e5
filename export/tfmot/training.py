"""Fine-tuning a Keras 2 model with the losses of a Keras 3 model."""

from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np

from kmtl.export.indices import check_class_indices, takes_class_indices
from kmtl.losses.task_losses import TaskLosses
from kmtl.models.multi_task_model import MultiTaskModel
from kmtl.models.task_arguments import by_task, labels_by_task


class Objective:
    """The plain weighted sum of the losses that a model was compiled with.

    Args:
        model: A compiled Keras 3 model with outputs `{task: tensor}`.
        tasks: The tasks in the order of the outputs.

    Raises:
        ValueError: if the model is not compiled with losses.
    """

    def __init__(self, model: keras.Model, tasks: Sequence[str]):
        self.tasks = list(tasks)
        self._outputs = model.output
        if isinstance(model, MultiTaskModel) and model.compiled:
            every = model._training.losses
            # Of the tasks that are deployed; auxiliary ones ended with the training.
            chosen = [task for task in every.tasks if task in self.tasks]
            self.losses = TaskLosses({t: every.losses[t] for t in chosen}, every.missing)
            self.weights = [model.static_weight(task) for task in chosen]
            return
        losses = getattr(model, "loss", None) if model.compiled else None
        losses = {k: v for k, v in by_task(self.tasks, "loss", losses).items() if v is not None}
        if not losses:
            raise ValueError(
                "The model must be compiled with the losses to fine-tune with, as in "
                f"`model.compile(loss=...)`. Received: model {model.name!r} without a loss"
            )
        self.losses = TaskLosses(losses, missing={})
        weights = by_task(
            self.tasks, "loss_weights", model.get_compile_config().get("loss_weights")
        )
        self.weights = [float(weights.get(task, 1.0)) for task in self.losses.tasks]

    def labels(self, y, rows: int) -> dict[str, np.ndarray]:
        """Checked labels of the tasks that have a loss."""
        y = labels_by_task(self.tasks, self.losses.tasks, y)
        arrays = {task: np.asarray(y[task]) for task in self.losses.tasks}
        wrong = {task: a.shape for task, a in arrays.items() if not a.ndim or len(a) != rows}
        if wrong:
            raise ValueError(f"Labels must have a row for each of {rows} inputs. Received: {wrong}")
        for task, labels in arrays.items():
            self._check_classes(task, labels)
        return arrays

    def _check_classes(self, task, labels) -> None:
        """TensorFlow would say that a class does not exist, from the midst of training."""
        loss, output = self.losses.losses[task], self._outputs[task]
        if takes_class_indices(loss, labels, output):
            settings = loss.get_config()
            others = self.losses.missing[task], settings.get("ignore_class")
            classes = output.shape[settings.get("axis", -1)]
            check_class_indices(task, labels, classes, [x for x in others if x is not None])

    def __call__(self, y: Mapping, outputs: Sequence):
        """The total loss of a batch; outputs are in the order of `tasks`."""
        totals, divisors = self.losses(y, dict(zip(self.tasks, outputs, strict=True)), {})
        summed = keras.ops.array(self.losses.summed)
        divisors = keras.ops.where(summed | keras.ops.equal(divisors, 0), 1.0, divisors)
        return keras.ops.sum(keras.ops.array(self.weights, totals.dtype) * totals / divisors)


def train(
    model,
    objective: Objective,
    x: Sequence[np.ndarray],
    y: Mapping[str, np.ndarray],
    epochs: int,
    batch_size: int,
    learning_rate: float,
    holds: Sequence[tuple] = (),
    callback=None,
    progress: Callable[[str], None] = lambda line: None,
) -> list[float]:
    """Trains with Adam; returns the mean loss of each epoch.

    Args:
        model: A `tf_keras.Model` with a list of outputs.
        objective: The loss.
        x: Arrays in the order of the model's inputs.
        y: Task -> labels.
        epochs: Rounds over the data.
        batch_size: Rows in a step.
        learning_rate: Of Adam.
        holds: Pairs of a variable and a function that brings it back to what it must be after
            each step.
        callback: A callback of tfmot. Defaults to `None`.
        progress: Called with a line for each epoch.

    Raises:
        ValueError: if the loss becomes NaN or infinite.
    """
    import tensorflow as tf
    import tf_keras

    optimizer = tf_keras.optimizers.Adam(learning_rate)
    optimizer.build(model.trainable_variables)

    @tf.function(reduce_retracing=True, autograph=False)
    def step(x, y):
        with tf.GradientTape() as tape:
            outputs = model(x, training=True)
            loss = objective(y, outputs if isinstance(outputs, list) else [outputs])
        variables = model.trainable_variables
        gradients = tape.gradient(loss, variables)
        optimizer.apply_gradients(
            (g, v) for g, v in zip(gradients, variables, strict=True) if g is not None
        )
        for variable, held in holds:
            variable.assign(held(variable))
        return loss

    if callback is not None:
        callback.set_model(model)
        callback.on_train_begin()
    rows, rng, history = len(x[0]), np.random.default_rng(0), []
    for epoch in range(epochs):
        order, total = rng.permutation(rows), 0.0
        for start in range(0, rows, batch_size):
            chosen = order[start : start + batch_size]
            batch = [tf.constant(array[chosen]) for array in x]
            labels = {task: tf.constant(array[chosen]) for task, array in y.items()}
            total += float(step(batch, labels)) * len(chosen)
        if callback is not None:
            callback.on_epoch_end(epoch)
        history.append(total / rows)
        progress(f"epoch {epoch + 1}/{epochs}, loss {history[-1]:.4g}")
        if not np.isfinite(history[-1]):
            raise ValueError(
                "The loss must stay finite; a smaller `learning_rate` may help. "
                f"Received: {history[-1]} in epoch {epoch + 1}"
            )
    return history
