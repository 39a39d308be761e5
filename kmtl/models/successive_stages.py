"""Training a hierarchy of tasks stage by stage, without forgetting the stages below."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras

from kmtl import backend
from kmtl.models.model_of_task import model_of_task
from kmtl.models.multi_task_model import MultiTaskModel
from kmtl.models.task_arguments import check_names, numbers_by_task
from kmtl.regularizers.across_tasks import AcrossTasks
from kmtl.regularizers.anchor import Anchor, move_anchors
from kmtl.regularizers.checks import check_strength


class SuccessiveStages:
    """Trains tasks in turns, a full pass each, and holds the layers below near where they were.

    Choose it for `kmtl.models.JointManyTaskModel` or `LayerwiseSupervision` where every task has
    data of its own: no labels are filled in, a task's steps run only the layers that it needs, and
    each task has an optimizer of its own, so that no other task's momentum moves its layers.

    ```
    for epoch in 1 ... epochs:
        for t in order:
            anchor = weights below t, as they are now
            minimise loss_t + strength[t] * ||weights below t - anchor||**2    # one pass
    ```

    Below a task are the layers that it shares with tasks before it in `order`; the first has
    none, but for those in `first_below`. The paper's anchors are the weights after the task
    before, which are those at the start of a task's own pass. A `strength` of 0 is plain
    sequential training; with plain SGD, keep `2 * strength * learning_rate` well below 1.

    To go on with a run, exactly: `save_weights` between two calls of `fit`, or after each epoch;
    then build and compile the same again, `load_weights`, and call `fit` with `initial_epoch`.
    What comes out is the same to the bit where the data of an epoch are, as those of
    `kmtl.data.TaskMixture`.

    Args:
        model: A `kmtl.MultiTaskModel`. It is trained with its stages.
        order: The tasks, those at the bottom first. Tasks left out are not trained.
        strength: Factor of the squared way, or task -> factor; tasks left out have 0. Defaults
            to `0.01`.
        first_below: Names of layers that are below the first task: the word embeddings.
            Defaults to `()`.

    Attributes:
        models: Task -> its `kmtl.MultiTaskModel`, with layers of the whole one.

    Raises:
        ValueError: for unknown tasks or layers, names that are no list, a factor below 0, `fit`
            before `compile` or with a `kmtl.callbacks.BackupAndResume`, and data that are no dict.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import kmtl
    >>> dense = keras.layers.Dense
    >>> stages = [("low", dense(4, "tanh"), dense(2, "softmax"), 3),
    ...           ("high", dense(4, "tanh"), dense(3, "softmax"))]
    >>> model = kmtl.models.JointManyTaskModel(stages, inputs=(5,))
    >>> training = kmtl.models.SuccessiveStages(model, ["low", "high"])
    >>> for depth, task in enumerate(training.order, start=1):
    ...     optimizer = keras.optimizers.SGD(1.0, global_clipnorm=min(3.0, depth))
    ...     training.compile(task, optimizer=optimizer, loss="crossentropy")
    >>> data = {task: kmtl.data.TaskMixture({task: (np.ones((8, 5)), {task: np.ones(8, "int32")})},
    ...                                     batch_size=4) for task in training.order}
    >>> history = training.fit(data, epochs=2, verbose=0)
    >>> print({task: len(logs["loss"]) for task, logs in history.items()})
    {'low': 2, 'high': 2}

    Differences from the paper: it clips the gradient's norm at `min(3.0, depth)`, with depth the
    number of bi-LSTM layers that a task runs: give each task's optimizer this `global_clipnorm`,
    as above. Its penalty on the squared weights of a stage is a `kernel_regularizer` of the
    stage's layers, which then also counts while stages above are trained. Its losses are sums
    over words where `compile` has means, so that its factors (not known here for certain) hold
    more strongly here. Shuffled tasks, which it compares with, are
    `kmtl.data.TaskMixture(mode="one_source")` on the whole model.

    Reference: K. Hashimoto, C. Xiong, Y. Tsuruoka, R. Socher (2017), "A Joint Many-Task Model:
    Growing a Neural Network for Multiple NLP Tasks", EMNLP, arXiv:1611.01587, section 3,
    equations 6-10.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        order: Sequence[str],
        strength: float | Mapping[str, float] = 0.01,
        first_below: Sequence[str] = (),
    ):
        if isinstance(order, str) or not order or len(set(order)) < len(order):
            raise ValueError(f"`order` must be a list of different tasks. Received: order={order}")
        check_names(model.task_names, "`order`", order, complete=False)
        if isinstance(first_below, str):
            raise ValueError(
                f"`first_below` must be a list of names. Received: first_below={first_below!r}"
            )
        self.model = model
        self.order = list(order)
        self.strength = strength
        self.first_below = list(first_below)
        self._strengths = numbers_by_task(self.order, "strength", strength)
        for factor in self._strengths.values():
            check_strength(factor)
        self.models = {task: model_of_task(model, task) for task in self.order}
        self._anchored = {}
        known = {layer.name for layer in _layers(self.models[self.order[0]])}
        unknown = sorted(set(self.first_below) - known)
        if unknown:
            raise ValueError(
                f"`first_below` must name layers of the first task, {sorted(known)}. "
                f"Received: {unknown}"
            )

    def below(self, task: str) -> list[str]:
        """Names of the layers with weights that are held while a task is trained."""
        check_names(self.order, "`task`", [task], complete=False)
        before = self.order[: self.order.index(task)]
        lower = {id(layer) for t in before for layer in _layers(self.models[t])}
        return [
            layer.name
            for layer in _layers(self.models[task])
            if layer.trainable_variables
            and (id(layer) in lower or (not before and layer.name in self.first_below))
        ]

    def compile(self, task: str, penalties: Sequence = (), **kwargs) -> None:
        """Compiles a task's model; to be called for each.

        Args:
            task: The task.
            penalties: Others than the anchors. Defaults to `()`.
            **kwargs: As in `kmtl.MultiTaskModel.compile`.
        """
        held, strength = self.below(task), self._strengths.get(task, 0.0)
        anchor = Anchor(strength)
        layers = {layer.name: layer for layer in _layers(self.models[task])}
        self._anchored[task] = [
            AcrossTasks(anchor, layers=name, weight=weight)
            for name in held
            for weight in sorted({v.name for v in layers[name].trainable_variables})
            if strength
        ]
        self.models[task].compile(penalties=[*penalties, *self._anchored[task]], **kwargs)

    def fit(self, data: Mapping, epochs: int = 1, initial_epoch: int = 0, **kwargs) -> dict:
        """Trains every task for one pass in each epoch, in order.

        Args:
            data: Task -> its data: a `kmtl.data.TaskMixture` or another `x` that
                `kmtl.MultiTaskModel.fit` takes, or a tuple `(x, y)` or `(x, y, sample_weight)`.
            epochs: Number of the last epoch. Defaults to `1`.
            initial_epoch: How many there have been. Defaults to `0`.
            **kwargs: As in `kmtl.MultiTaskModel.fit`, for every task.

        Returns:
            Task -> log name -> values by epoch.
        """
        if not isinstance(data, Mapping):
            raise ValueError(f"`data` must be a dict of task -> its data. Received: {type(data)}")
        check_names(self.order, "`data`", data, complete=True)
        # One folder is for one model, and the anchors are in none.
        backups = [
            c for c in keras.tree.flatten(kwargs.get("callbacks") or []) if hasattr(c, "find")
        ]
        if backups:
            raise ValueError(
                "Stages are backed up by `save_weights` between calls of `fit`. Received: "
                f"callbacks with a {type(backups[0]).__name__}"
            )
        if set(self._anchored) < set(self.order):
            absent = sorted(set(self.order) - set(self._anchored))
            raise ValueError(f"Every task must be compiled first. Received: not compiled: {absent}")
        history = {task: {} for task in self.order}
        for epoch in range(initial_epoch, epochs):
            for task in self.order:
                model, given = self.models[task], data[task]
                with backend.scope(model):
                    move_anchors(self._anchored[task])
                given = given if isinstance(given, tuple) else (given,)
                logs = model.fit(
                    **dict(zip(("x", "y", "sample_weight"), given, strict=False)),
                    initial_epoch=epoch,
                    epochs=epoch + 1,
                    **kwargs,
                )
                for name, values in logs.history.items():
                    history[task].setdefault(name, []).extend(values)
        return history

    def save_weights(self, folder) -> None:
        """Writes for each task its weights, its optimizer's state and its anchors.

        Args:
            folder: Where to; files are called by the tasks' places in `order`.
        """
        folder = Path(os.fspath(folder))
        folder.mkdir(parents=True, exist_ok=True)
        for number, task in enumerate(self.order):
            self.models[task].save_weights(folder / f"{number}.weights.h5")

    def load_weights(self, folder) -> None:
        """Reads what `save_weights` wrote, after every task was compiled as then.

        Args:
            folder: Where from.
        """
        files = [Path(os.fspath(folder)) / f"{n}.weights.h5" for n in range(len(self.order))]
        if absent := [file.name for file in files if not file.is_file()]:
            raise ValueError(
                "`folder` must hold what `save_weights` wrote. "
                f"Received: folder={str(folder)!r}, without {absent}"
            )
        for file, task in zip(files, self.order, strict=True):
            backend.build_optimizer(self.models[task])
            self.models[task].load_weights(file)


def _layers(model):
    """A model's layers, in the place of models theirs."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        else:
            yield layer
