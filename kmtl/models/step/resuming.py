"""Data and callbacks of a `fit` that may go on from a backup."""

import keras

from kmtl import backend
from kmtl.data import TaskMixture


def prepare(model: keras.Model, x, callbacks: list, arguments: dict):
    """What `keras.Model.fit` is to be called with.

    Args:
        model: The compiled model.
        x: What the user gave as data.
        callbacks: The callbacks, kmtl's own included. One with a method `find`, such as
            `BackupAndResume`, is asked for a position to go on from, and moved to the end: it
            sees what the others did.
        arguments: Other keyword arguments of `fit`, changed in place.

    Returns:
        The data and the callbacks.
    """
    backup = next((c for c in callbacks if hasattr(c, "find")), None)
    mixture = x if isinstance(x, TaskMixture) else None
    _check(mixture, backup, arguments)
    epoch, step = arguments.get("initial_epoch", 0), 0
    if backup is not None:
        others = [c for c in callbacks if c is not backup]
        callbacks = [*others, backup]
        fingerprint = None if mixture is None else mixture.fingerprint
        epoch, step = backup.find(model, fingerprint, others) or (epoch, step)
        # Past the last one where early stopping has ended the run already.
        arguments["initial_epoch"] = arguments.get("epochs", 1) if backup.finished else epoch
    if mixture is not None:
        _check_missing(model, mixture)
        # Of endless data, Keras makes all the steps of an execution.
        steps = -(-mixture.steps_per_epoch // model.steps_per_execution)
        steps *= model.steps_per_execution
        x = backend.spread_dataset(model, mixture, epoch * steps + step)
        arguments |= {"steps_per_epoch": steps, "shuffle": False}
    if step:
        callbacks = _skip(model, callbacks, step, arguments)
    return x, callbacks


def _check(mixture, backup, arguments):
    if mixture is None:
        if backup is not None and backup.every != "epoch":
            raise ValueError(
                "To go on within an epoch, the data must be a `kmtl.data.TaskMixture`, whose order "
                f'is a function of seed and step; else set `every="epoch"`. Received: '
                f"every={backup.every}"
            )
        return
    given = {"y", "batch_size", "sample_weight", "steps_per_epoch", "class_weight"}
    given = sorted(name for name in given if arguments.get(name) is not None)
    if given:
        raise ValueError(
            "`fit` takes labels, weights, batches and steps from a `TaskMixture`. Received: "
            f"{', '.join(given)} as well"
        )


def _check_missing(model, mixture):
    """Requires that the model knows the mark of labels that the mixture fills in."""
    losses = model.loss
    if not isinstance(losses, dict):
        losses = dict.fromkeys(mixture.tasks, losses)
    for task in sorted(set(mixture.filled) & set(model.trained_tasks)):
        mark, own = mixture.missing[task], getattr(losses.get(task), "missing", None)
        known = [x for x in (model.missing.get(task), own) if x is not None]
        if not any(x == mark or (x != x and mark != mark) for x in known):
            raise ValueError(
                "`compile` must be given `missing=mixture.missing`, as not every source has "
                f"labels of every task. Received: missing={known[0] if known else None} for task "
                f"{task!r}, whose absent labels are {mark}"
            )


def _skip(model, callbacks, step, arguments):
    """Has the first epoch begin at one of its steps, for the counts that callbacks see."""
    model.make_train_function()
    function = model.train_function
    left = step // model.steps_per_execution

    def skip(*args):
        nonlocal left
        left -= 1
        if left == 0:
            model.train_function = function
        return {} if len(args) == 1 else ({}, args[0])  # with the state, under JAX

    model.train_function = skip
    return _Skipping(
        callbacks,
        first=step,
        add_history=True,
        add_progbar=arguments.get("verbose", "auto") != 0,
        verbose=arguments.get("verbose", "auto"),
        epochs=arguments.get("epochs", 1),
        steps=arguments["steps_per_epoch"],
        model=model,
    )


class _Skipping(keras.callbacks.CallbackList):
    """Callbacks that hear nothing of batches which a run before has trained on."""

    def __init__(self, callbacks, first, **kwargs):
        super().__init__(callbacks, **kwargs)
        self._first = first

    def on_train_batch_begin(self, batch, logs=None):
        if batch >= self._first:
            super().on_train_batch_begin(batch, logs)

    def on_train_batch_end(self, batch, logs=None):
        if batch >= self._first:
            super().on_train_batch_end(batch, logs)

    def on_epoch_end(self, epoch, logs=None):
        self._first = 0
        super().on_epoch_end(epoch, logs)
