"""TAG's affinities: what a step for one task does to the losses of the others."""

import itertools
from collections.abc import Iterable

import keras
import numpy as np
from keras import ops

from kmtl import backend
from kmtl.callbacks.affinity_plot import plot_affinity


class TaskAffinity(keras.callbacks.Callback):
    """Measures, while all tasks train together, how much a step for one helps each other one.

    Use it to choose which tasks to train together from a single training: give `affinity` to
    `kmtl.grouping.select_task_groups`. Unlike the cosines of `GradientConflicts` it is not
    symmetric, and it counts in shares of a task's loss. `kmtl.analysis.recommend` is both, and
    the choice, in one call.

    After each `every`-th training batch it takes a batch of `data`, every task's gradient by the
    shared weights, and for each task a step that is looked at and not kept:

    ```
    theta_i        = theta_shared - learning_rate * dL_i / dtheta_shared
    affinity[i][j] = mean over measurements of (1 - L_j(theta_i) / L_j(theta_shared))
    ```

    Both losses of j are taken on the same batch with j's own weights as they are. That costs T
    times a forward, a backward and one more forward pass, somewhat more than T training steps.
    The weights, the optimizer and random states are not touched, and layers run as in `predict`,
    without dropout and batch statistics. A measurement of i and j counts where both have a loss
    above 0: elsewhere a task has no labels, or its loss has no shares. Pairs without any are NaN,
    which `select_task_groups` refuses: give `data` with labels of all tasks, or leave those
    without out of `affinity`.

    Args:
        data: A dataset of `(x, y)` or `(x, y, sample_weight)`, whose batches are taken in turn
            and over again; or one such tuple, a single batch. The training data, as in the
            paper; or data held out, which show what helps beyond the examples trained on.
        every: Training batches between two measurements. Defaults to `10`.
        learning_rate: Length of the steps looked at. Defaults to `None`: the optimizer's at the
            time.

    Attributes:
        tasks: Names of the tasks, in the order of the matrices.
        history: A dict for each measurement: `"step"`, of the training batches, and
            `"affinity"`, a `(T, T)` array, NaN where it does not count.

    Raises:
        ValueError: if `every` or `learning_rate` are not positive, `data` is nothing of the
            above; in `fit`, if the model trains fewer than two tasks, or its optimizer has no
            learning rate of its own and none is given.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import kmtl
    >>> heads = {task: keras.layers.Dense(1) for task in ("a", "b", "c")}
    >>> model = kmtl.models.HardSharing([keras.layers.Dense(4)], heads, inputs=(3,))
    >>> model.compile(keras.optimizers.SGD(0.01), loss="mse")
    >>> x = np.random.default_rng(0).normal(size=(64, 3)).astype("float32")
    >>> y = {"a": x[:, :1], "b": x[:, :1] + 1, "c": -x[:, :1]}
    >>> affinity = kmtl.callbacks.TaskAffinity((x, y), every=4)
    >>> history = model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[affinity])
    >>> print(len(affinity.history), affinity.affinity["a"]["a"] > 0)
    4 True
    >>> groups = kmtl.grouping.select_task_groups(affinity.affinity, budget=2)

    Differences from the paper: measured every few batches on batches of `data`, as Keras shows a
    callback none of its own, and in inference mode. The step is plain gradient descent, as in
    the released code, whatever the optimizer. Shared weights are those of layers that lead to
    several tasks, as in `MultiTaskModel.task_gradients`.

    Reference: C. Fifty, E. Amid, Z. Zhao, T. Yu, R. Anil, C. Finn (2021), "Efficiently
    Identifying Task Groupings for Multi-Task Learning", NeurIPS, arXiv:2109.04617, section on
    inter-task affinity, its definition of Z.
    """

    def __init__(self, data, every: int = 10, learning_rate: float | None = None):
        super().__init__()
        if not isinstance(every, int) or every < 1:
            raise ValueError(f"`every` must be an integer >= 1. Received: every={every}")
        if learning_rate is not None and not learning_rate > 0:
            raise ValueError(
                f"`learning_rate` must be positive. Received: learning_rate={learning_rate}"
            )
        check_data(data)
        self.data = data
        self.every = every
        self.learning_rate = learning_rate
        self.tasks = []
        self.history = []
        self._batches = itertools.repeat(data) if isinstance(data, tuple) else _again(data)
        self._steps = self._since = 0
        self._last = -1
        self._compiled = None

    def on_train_begin(self, logs=None):
        self.tasks = self.model.trained_tasks
        if len(self.tasks) < 2:
            raise ValueError(
                "`TaskAffinity` needs a model that trains at least two tasks. "
                f"Received: tasks {self.tasks}"
            )
        self._rate()

    def on_epoch_begin(self, epoch, logs=None):
        self._last = -1

    def on_train_batch_end(self, batch, logs=None):
        done = batch - self._last  # more than 1 with `steps_per_execution`
        self._steps, self._since, self._last = self._steps + done, self._since + done, batch
        if self._since >= self.every:
            self._since = 0
            backend.bring_up_to_date(self.model)
            self.history.append({"step": self._steps, "affinity": self._measure()})

    @property
    def matrix(self) -> np.ndarray:
        """Mean affinities, `(T, T)`: of the row's task for the column's; NaN where none counts.

        Raises:
            ValueError: if nothing was measured yet.
        """
        if not self.history:
            raise ValueError("`TaskAffinity` needs at least one measurement. Received: none yet")
        values = np.array([entry["affinity"] for entry in self.history])
        counts = np.isfinite(values).sum(axis=0)
        total = np.nansum(values, axis=0)
        return np.divide(total, counts, out=np.full_like(total, np.nan), where=counts > 0)

    @property
    def affinity(self) -> dict[str, dict[str, float]]:
        """`affinity[i][j]`: the share of its loss that j is spared by a step for i; see `matrix`.

        Raises:
            ValueError: if nothing was measured yet.
        """
        return {
            i: {j: float(value) for j, value in zip(self.tasks, row, strict=True)}
            for i, row in zip(self.tasks, self.matrix, strict=True)
        }

    def plot(self):
        """A `matplotlib` figure: heat map from rows to columns, blue where a step helps.

        Raises:
            ValueError: if nothing was measured yet.
            ImportError: if matplotlib is not installed.
        """
        return plot_affinity(self.matrix, self.tasks)

    def _rate(self) -> float:
        rate = self.learning_rate
        if rate is None:
            rate = getattr(self.model.optimizer, "learning_rate", None)
        if rate is None:
            raise ValueError(
                "`learning_rate` must be given where the optimizer has none of its own. "
                f"Received: learning_rate=None, {type(self.model.optimizer).__name__}"
            )
        return float(ops.convert_to_numpy(rate))

    def _measure(self) -> np.ndarray:
        x, y, sample_weight = _unpacked(next(self._batches))
        lookahead, unit = self._lookahead(x, y, sample_weight), np.eye(len(self.tasks))

        def losses(task, rate):
            # As arrays, so that nothing is compiled anew for other numbers.
            arguments = unit[task].astype("float32"), np.array(rate, "float32")
            values, _ = lookahead(*arguments, x, y, sample_weight)
            return ops.convert_to_numpy(values).astype("float64")

        before = losses(0, 0.0)  # by the same program, so that what does not change is equal
        after = np.array([losses(i, self._rate()) for i in range(len(self.tasks))])
        counts = before > 0
        ratios = np.divide(after, before, where=counts, out=np.ones_like(after))
        return np.where(np.outer(counts, counts), 1.0 - ratios, np.nan)

    def _lookahead(self, x, y, sample_weight):
        """`(task, rate, batch) -> all losses after a step for a task`, a row of ones and zeros."""
        model = self.model
        key = id(model), tuple(model.stopped_tasks)
        if self._compiled is not None and self._compiled[0] == key:
            return self._compiled[1]
        paths = model.task_gradients(x, y, sample_weight)
        shared = [v for v in model.trainable_variables if v.path in paths]

        def function(task, rate, x, y, sample_weight):
            def losses(_=None):
                outputs = model(x, training=False)
                return [model.task_losses(y, outputs, sample_weight)], None

            _, _, pull = backend.linearize(losses, shared)
            gradients, _ = pull([task])
            # Reading a variable gives the value here; the variable itself stays as it is.
            values = {id(v): (v, v.value) for v in model.variables}
            for v, gradient in zip(shared, gradients, strict=True):
                if gradient is not None:
                    moved = v.value - ops.cast(rate * gradient, v.dtype)
                    values[id(v)] = v, moved
            with keras.StatelessScope(state_mapping=list(values.values())):
                (after,), _ = losses()
            return after

        self._compiled = key, backend.compiled(function, model.variables, by_xla=False)
        return self._compiled[1]


def _again(dataset):
    """The batches of a dataset, without end."""
    while True:
        empty = True
        for batch in dataset:
            empty = False
            yield batch
        if empty:
            raise ValueError("`data` must have batches, also when read again. Received: none")


def check_data(data) -> None:
    """Requires a batch, or something to read batches of, which are checked when they are read."""
    if isinstance(data, tuple) or not isinstance(data, Iterable):
        _unpacked(data)


def _unpacked(batch):
    if not isinstance(batch, tuple) or len(batch) not in (2, 3):
        raise ValueError(
            "`data` must be `(x, y)`, `(x, y, sample_weight)` or a dataset of these. "
            f"Received: data of type {type(batch).__name__}"
        )
    return keras.utils.unpack_x_y_sample_weight(batch)
