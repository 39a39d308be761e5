"""Training that was killed goes on as if it had not been."""

import os
from pathlib import Path

import keras
from keras import ops

from kmtl import backend
from kmtl.callbacks import backup_files, training_state
from kmtl.version import __version__


class BackupAndResume(keras.callbacks.Callback):
    """Backs up a training run, and has `fit` go on from the last backup when it is called again.

    Use it for whatever takes longer than you would like to lose: run the same script again after
    a crash or a preemption, and the final weights are those of a run that was never interrupted,
    bit for bit. A backup holds the model's variables, random seeds, weighting state and stopped
    tasks, the optimizer's, metrics, the state of callbacks, the logs so far and the position in
    the data.

    ```
    backup k = state after step k;    fit(data) from backup k = fit(data) from its step k on
    ```

    To go on within an epoch, `fit` needs data whose order is a function of seed and step: a
    `kmtl.data.TaskMixture`. With other data only epochs are backed up, and runs are equal where
    the data come in the same order in each of them (`shuffle=False`, or a `tf.data` pipeline
    that does not depend on the number of the epoch).

    Backups are written under another name, flushed and renamed: one that is interrupted never
    harms those before it. One that cannot be read is passed over with a warning.

    Callbacks go on as they were if they are kmtl's, Keras's own that decide by what they have seen
    (`EarlyStopping`, `ModelCheckpoint`, `ReduceLROnPlateau`), or have `get_state()`, which returns
    what JSON can hold, and `set_state(state)`. A layer that draws random numbers must do so from a
    `keras.random.SeedGenerator`, as Keras's layers do, or they are others after a resume.

    With several workers all of them take part, the first one writes, and `folder` must be one that
    all can read. A worker that dies takes the others' step down; start all of them again.

    Args:
        folder: Where backups are kept; for one training run alone. They stay when training has
            ended, also by `EarlyStopping`: `fit` with the same or fewer `epochs` then has nothing
            left to do.
        every: Number of steps between two backups, besides those at the ends of epochs, or
            `"epoch"` for these alone. With `steps_per_execution` a backup comes after the last
            of its steps. Defaults to `"epoch"`.
        keep: How many backups stay. Defaults to `2`.

    Raises:
        ValueError: for a number of steps or backups below 1; in `fit`, if all backups are
            unreadable, or are of a model or optimizer with other variables, of another
            `TaskMixture`, or of one with another `steps_per_execution`. What leaves number and
            shapes of variables the same, such as another activation, is not noticed.

    Example:

    >>> import tempfile
    >>> import keras
    >>> import numpy as np
    >>> import kmtl
    >>> x = keras.Input((4,))
    >>> model = kmtl.MultiTaskModel(x, {"price": keras.layers.Dense(1)(x)})
    >>> model.compile("adam", loss="mse")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for _ in range(2):  # the second call finds nothing left to do
    ...         backup = kmtl.callbacks.BackupAndResume(folder)
    ...         history = model.fit(np.ones((8, 4)), {"price": np.ones((8, 1))}, epochs=3,
    ...                             callbacks=[backup], verbose=0)
    >>> len(history.history["loss"])
    3

    Differences from `keras.callbacks.BackupAndRestore`: that one goes on with the next epoch from
    weights in the middle of one, leaves out random seeds, metrics and data, and may be left with
    half a file.

    Reference: J. W. Young (1974), "A First Order Approximation to the Optimum Checkpoint Interval",
    Communications of the ACM 17(9): the best time between backups is about the square root of
    twice the time of one, times the mean time between failures.
    """

    def __init__(self, folder, every="epoch", keep=2):
        super().__init__()
        if every != "epoch" and not (isinstance(every, int) and every >= 1):
            raise ValueError(
                f'`every` must be "epoch" or a number of steps of at least 1. Received: '
                f"every={every!r}"
            )
        if keep < 1:
            raise ValueError(f"`keep` must be at least 1. Received: keep={keep}")
        self.folder = Path(os.fspath(folder))
        self.every = every
        self.keep = keep
        self.finished = False
        self._found = None
        self._fingerprint = None
        self._others = []
        self._logs = []

    def find(self, model: keras.Model, fingerprint: dict | None, others: list):
        """Restores the newest backup; `fit` calls it before it makes the data's iterator.

        Args:
            model: The model, built and compiled.
            fingerprint: What the order of the data depends on, or None for data that do not say.
            others: The other callbacks.

        Returns:
            (epoch, steps of it that are done), or None where there is no backup.
        """
        self._fingerprint, self._others, self._logs = fingerprint, others, []
        self.finished = False
        self._found = backup_files.read_newest(self.folder)
        meta = None if self._found is None else self._found[1]
        backend.check_same_on_workers(model, -1 if meta is None else meta["position"])
        if meta is None:
            return None
        if meta["data"] != fingerprint:
            raise ValueError(
                "Data must be those that the backup was made with; choose another `folder` for "
                f"others. Received: {fingerprint}, in the backup {meta['data']}"
            )
        steps = meta.get("steps_per_execution", model.steps_per_execution)
        if fingerprint is not None and steps != model.steps_per_execution:
            raise ValueError(
                "`steps_per_execution` must be that of the backup, as it decides where an epoch "
                f"of a `TaskMixture` ends. Received: {model.steps_per_execution}, in the backup "
                f"{steps}"
            )
        training_state.assign(model, self._found[0], meta["variables"])
        self.finished = training_state.stopped_early(meta["callbacks"])
        for task in meta["stopped_tasks"]:
            model.stop_task(task)
        self._logs = meta["logs"]
        return meta["epoch"], meta["step"]

    def on_train_begin(self, logs=None):
        if not hasattr(self.model, "stopped_tasks"):
            raise ValueError(
                "`BackupAndResume` needs a `kmtl.MultiTaskModel`. Received: "
                f"{type(self.model).__name__}"
            )
        self._steps = self.params["steps"]
        if self._found is None:
            return
        if self.finished or self._found[1]["epoch"] >= self.params["epochs"]:
            self._go_on()  # no epoch is left; now, before others restore weights at the end

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch, self._last, self._unsaved = epoch, -1, 0
        if self._found is not None:
            self._last = self._found[1]["step"] - 1
            self._go_on()

    def on_train_batch_end(self, batch, logs=None):
        self._unsaved += batch - self._last
        self._last = batch
        # At the last step of an epoch, its end is next.
        if self.every != "epoch" and self._unsaved >= self.every and batch + 1 < self._steps:
            self._save(self._epoch, batch + 1)

    def on_epoch_end(self, epoch, logs=None):
        self._logs.append({name: float(value) for name, value in (logs or {}).items()})
        self._save(epoch + 1, 0)

    def _go_on(self):
        (arrays, meta), self._found = self._found, None
        if meta["step"]:  # over what Keras and other callbacks do before an epoch
            training_state.assign(self.model, arrays, meta["variables"])
        training_state.set_callback_states(self._others, meta["callbacks"], arrays)
        history = self.model.history.history
        for entry in self._logs:
            for name, value in entry.items():
                history.setdefault(name, []).append(value)

    def _save(self, epoch, step):
        self._unsaved = 0
        arrays, specs = training_state.collect(self.model)
        if not backend.is_first_worker(self.model):
            return
        states, kept = training_state.callback_states(self._others)
        position = int(ops.convert_to_numpy(backend.micro_batches(self.model.optimizer)))
        meta = {
            "kmtl_version": __version__,
            "epoch": epoch,
            "step": step,
            "position": position,
            "data": self._fingerprint,
            "steps_per_execution": self.model.steps_per_execution,
            "variables": specs,
            "callbacks": states,
            "logs": self._logs,
            "stopped_tasks": self.model.stopped_tasks,
        }
        backup_files.write(self.folder, position, arrays | kept, meta, self.keep)
