"""Widening of a `BranchingModel` while it is trained."""

from collections.abc import Mapping

import keras

from kmtl.callbacks import backup_files
from kmtl.callbacks.backup_and_resume import BackupAndResume
from kmtl.callbacks.task_affinity import check_data
from kmtl.models.branching.growth import GrowingModel
from kmtl.models.branching.tree import BranchTree


class BranchWidening(keras.callbacks.Callback):
    """Widens a `kmtl.models.BranchingModel` at the ends of epochs, by the affinity of its tasks.

    Give it to `fit`, and the network grows from the heads down until no new branch pays. Each
    time it measures on `data` which tasks find the same samples difficult, and takes the
    cheapest grouping of the branches above the active stage; all layers are then trained on.

    ```
    cost = (d - 1) * unit_cost * 2**pools + separation_weight * L_s,  d = number of groups g
    L_s  = mean over groups g of (1 - mean_{k in g} min_{l in g} A_b[k, l])
    ```

    `pools` is the number of layers with strides above 1 between the active stage and the heads,
    as branches low in the network cost more; `A_b` are affinities of branches, see
    `kmtl.models.BranchingModel`. As `L_s` is at most 1, nothing branches where
    `separation_weight` is at most `unit_cost`.

    Args:
        data: Held-out data: `(x, y)` or `(x, y, sample_weight)`, or a dataset of such batches.
        every: Epochs between two widenings. Defaults to `1`.
        unit_cost: Cost of one more branch. Defaults to `1.0`.
        separation_weight: Cost of tasks together that are entirely unlike. Defaults to `16.0`.

    Attributes:
        history: A dict for each decision: `"epoch"`, `"stage"`, `"affinity"` (of tasks) and
            `"grouping"`, a single group where widening ended.

    Raises:
        ValueError: if `data` is nothing of the above, `every` is no positive integer, or a cost is
            negative; in `fit`, for a model that cannot be widened, and for `data` without labels
            of a task.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import kmtl
    >>> x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    >>> y = {"left": x[:, :1] > 0, "left_too": x[:, :1] > 0, "right": x[:, 1:2] > 0}
    >>> y = {task: labels.astype("float32") for task, labels in y.items()}
    >>> heads = {task: keras.layers.Dense(1, activation="sigmoid") for task in y}
    >>> model = kmtl.models.BranchingModel([keras.layers.Dense(8)], heads, inputs=(4,))
    >>> model.compile(keras.optimizers.Adam(0.1), loss="binary_crossentropy")
    >>> widening = kmtl.callbacks.BranchWidening((x, y), every=5)
    >>> history = model.fit(x, y, epochs=6, verbose=0, callbacks=[widening])
    >>> print([entry["grouping"] for entry in widening.history])
    [[['left', 'left_too'], ['right']]]

    It works with `BackupAndResume`: a model made anew, still thin, is widened as the backup was
    before its weights come in. `keras.callbacks.EarlyStopping` must not restore weights from
    before a widening: give it a `start_from_epoch`.

    Differences from the paper: see `kmtl.models.BranchingModel`. The paper's weights of the
    separation cost are recalled as about 1 or 2 at a unit cost of 1, at which no affinities of
    attributes would pay for a branch; the default is ours: on nine attributes of digits, of weights
    from 4 to 64, a larger one was more accurate on validation images and larger, and up to 16
    accuracy rose most by size (docs/results/survey/branching.md). As `L_s` is a mean over groups,
    a task that is like no other is the first to get a branch.

    Reference: Y. Lu, A. Kumar, S. Zhai, Y. Cheng, T. Javidi, R. Feris (2017), "Fully-adaptive
    Feature Sharing in Multi-Task Networks with Applications in Person Attribute Classification",
    CVPR, arXiv:1611.05377, section on widening and its loss of a grouping.
    """

    def __init__(
        self, data, every: int = 1, unit_cost: float = 1.0, separation_weight: float = 16.0
    ):
        super().__init__()
        if not isinstance(every, int) or every < 1:
            raise ValueError(f"`every` must be an integer >= 1. Received: every={every}")
        for name, value in (("unit_cost", unit_cost), ("separation_weight", separation_weight)):
            if not value >= 0:
                raise ValueError(f"`{name}` must be at least 0. Received: {name}={value}")
        check_data(data)
        self.data = data
        self.every = every
        self.unit_cost = unit_cost
        self.separation_weight = separation_weight
        self.history = []

    def before_fit(self, model: keras.Model, callbacks: list) -> None:
        """Gives a model the shape of the backup that `fit` goes on from; `fit` calls it."""
        backup = next((c for c in callbacks if isinstance(c, BackupAndResume)), None)
        found = None if backup is None else backup_files.read_newest(backup.folder)
        state = None if found is None else dict(found[1]["callbacks"]).get(type(self).__name__)
        if state is not None:
            model.grow_to(BranchTree.from_config(state["tree"]))

    def get_state(self) -> dict:
        """What a backup holds."""
        return {"tree": self.model.tree.to_config(), "history": self.history}

    def set_state(self, state: dict) -> None:
        """The opposite of `get_state`, on a model that has grown already."""
        self.history = list(state["history"])

    def on_train_begin(self, logs=None):
        if not isinstance(self.model, GrowingModel):
            raise ValueError(
                "`BranchWidening` needs a `kmtl.models.BranchingModel`. Received: "
                f"{type(self.model).__name__}"
            )
        if self.model.trained_tasks != list(self.model.tree.tasks):
            raise ValueError(
                "`BranchWidening` needs a loss for every task, as its margins are what tasks are "
                f"grouped by. Received: losses of {self.model.trained_tasks}, of the tasks "
                f"{list(self.model.tree.tasks)}"
            )
        if self.model.tree.active is not None:
            self._check_labels()

    def _check_labels(self):
        batches = iter([self.data] if isinstance(self.data, tuple) else self.data)
        if batches is self.data:  # it can be read only once
            return
        _, y, _ = keras.utils.unpack_x_y_sample_weight(next(batches, None))
        tasks = self.model.tree.tasks
        if not isinstance(y, Mapping) or set(y) != set(tasks):
            raise ValueError(
                f"`data` must have labels of the tasks of the model, {list(tasks)}. "
                f"Received: labels of {sorted(y) if isinstance(y, Mapping) else type(y).__name__}"
            )

    def on_epoch_end(self, epoch, logs=None):
        tree = self.model.tree
        if tree.active is None or (epoch + 1) % self.every:
            return
        affinity = self.model.affinity(self.data)
        grouping = self.model.propose(affinity, self.unit_cost, self.separation_weight)
        self.history.append(
            {"epoch": epoch, "stage": tree.active, "affinity": affinity, "grouping": grouping}
        )
        self.model.widen(grouping)
