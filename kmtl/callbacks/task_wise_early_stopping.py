"""Auxiliary tasks stop when they no longer help."""

import statistics
from collections.abc import Sequence

import keras


class TaskWiseEarlyStopping(keras.callbacks.Callback):
    """Stops training an auxiliary task once it has begun to overfit.

    Use it where auxiliary tasks are easier than the main one: they reach their best early, and
    then pull the shared layers to their own noise. The main task goes on.

    ```
    E_tr(j), E_val(j) = the task's training and validation loss in epoch j
    S     = E_tr(t-window) + ... + E_tr(t)                       # window + 1 terms
    med   = median of the same terms
    trend = window * med / (S - window * med)                    # small while E_tr falls fast
    gap   = (E_val(t) - min_j E_tr(j)) / (weight * min_j E_tr(j))
    stop  if trend * gap > threshold, for good
    ```

    A denominator that is not positive counts as a trend without bound, and a gap that is not
    positive stops nothing. The first decision falls after `window + 1` epochs. Needs
    `validation_data` in `fit`.

    Args:
        tasks: Names of the auxiliary tasks. Tasks that are not named never stop.
        window: Number of epochs that the trend looks back. Defaults to `5`.
        threshold: The larger, the later tasks stop. Defaults to `1.0`.
        verbose: 1 prints a line when a task stops. Defaults to `0`.

    Attributes:
        stopped_epochs: Task -> number of the epoch, from 0, after which it stopped.

    Raises:
        ValueError: for no tasks, a window below 1, a threshold that is not positive; in `fit`,
            for tasks that the model does not train, and without validation losses.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import kmtl
    >>> x = keras.Input((4,))
    >>> h = keras.layers.Dense(8, activation="relu")(x)
    >>> heads = {"main": keras.layers.Dense(1)(h), "noise": keras.layers.Dense(1)(h)}
    >>> model = kmtl.MultiTaskModel(x, heads)
    >>> model.compile("adam", loss="mse")
    >>> rng = np.random.default_rng(0)
    >>> def data(scale):
    ...     y = {task: scale * rng.normal(size=(8, 1)) for task in heads}
    ...     return rng.normal(size=(8, 4)), y
    >>> stopping = kmtl.callbacks.TaskWiseEarlyStopping(["noise"], window=2, threshold=1e-9)
    >>> history = model.fit(*data(1.0), validation_data=data(9.0), epochs=4, verbose=0,
    ...                     callbacks=[stopping])
    >>> model.stopped_tasks
    ['noise']

    Differences from the paper: `weight`, the paper's lambda, is the task's static loss weight, and
    1 with a weighting rule. Paper and authors leave window and threshold open; theirs were chosen
    for each task.

    Reference: Z. Zhang, P. Luo, C. C. Loy, X. Tang (2014), "Facial Landmark Detection by Deep
    Multi-task Learning", ECCV, section 3.2, task-wise early stopping.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        window: int = 5,
        threshold: float = 1.0,
        verbose: int = 0,
    ):
        super().__init__()
        if isinstance(tasks, str) or not tasks:
            raise ValueError(f"`tasks` must be a list of task names. Received: tasks={tasks!r}")
        if window < 1:
            raise ValueError(f"`window` must be at least 1. Received: window={window}")
        if not threshold > 0:
            raise ValueError(f"`threshold` must be positive. Received: threshold={threshold}")
        self.tasks = list(tasks)
        self.window = window
        self.threshold = threshold
        self.verbose = verbose
        self.stopped_epochs = {}
        self._losses = {task: [] for task in self.tasks}

    def on_train_begin(self, logs=None):
        unknown = sorted(set(self.tasks) - set(self.model.trained_tasks))
        if unknown or set(self.model.trained_tasks) <= set(self.tasks):
            raise ValueError(
                "`tasks` must be some of those that the model trains, and not all of them. "
                f"Received: tasks={self.tasks}, the model trains {self.model.trained_tasks}"
            )
        self.stopped_epochs = {}
        self._losses = {task: [] for task in self.tasks}

    def on_epoch_end(self, epoch, logs=None):
        logs = logs or {}
        for task in self.tasks:
            if f"val_{task}_loss" not in logs:
                raise ValueError(
                    "`TaskWiseEarlyStopping` needs the tasks' losses on validation data in each "
                    "epoch: call `fit` with `validation_data`. Received: logs without "
                    f"{f'val_{task}_loss'!r}"
                )
            self._losses[task].append(float(logs[f"{task}_loss"]))
            if task in self.model.stopped_tasks:
                continue
            if self.criterion(task, float(logs[f"val_{task}_loss"])) > self.threshold:
                self.model.stop_task(task)
                self.stopped_epochs[task] = epoch
                if self.verbose:
                    print(f"\nEpoch {epoch + 1}: task {task!r} stops training")

    def criterion(self, task: str, validation_loss: float) -> float:
        """The left side of the rule, from the training losses so far; 0 before it can be told."""
        losses = self._losses[task]
        if len(losses) <= self.window:
            return 0.0
        recent = losses[-self.window - 1 :]
        scaled = self.window * statistics.median(recent)
        gap = validation_loss - min(losses)
        if gap <= 0.0:
            return 0.0
        rest = sum(recent) - scaled
        weighted = self.model.static_weight(task) * min(losses)
        if rest <= 0.0 or weighted <= 0.0:
            return float("inf")
        return scaled / rest * gap / weighted

    def get_state(self) -> dict:
        """What it remembers, for a backup."""
        return {"losses": self._losses, "stopped_epochs": self.stopped_epochs}

    def set_state(self, state: dict) -> None:
        """The opposite of `get_state`."""
        self._losses = state["losses"]
        self.stopped_epochs = state["stopped_epochs"]
