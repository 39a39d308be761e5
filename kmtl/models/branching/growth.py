"""The model that `BranchingModel` makes: a tree of branches that can be widened in training."""

import dataclasses
from collections.abc import Mapping, Sequence

import keras
import numpy as np

from kmtl import backend
from kmtl.models.branching import affinities, optimizer_state, rewiring
from kmtl.models.branching.grouping import best_grouping, check_affinity
from kmtl.models.branching.tree import BranchTree
from kmtl.models.multi_task_model import MultiTaskModel
from kmtl.weighting.gradient import GradientWeighting

_OF_KERAS = ("run_eagerly", "steps_per_execution", "jit_compile", "auto_scale_loss")


@keras.saving.register_keras_serializable(package="kmtl")
class GrowingModel(MultiTaskModel):
    """A `MultiTaskModel` whose stages branch; see `kmtl.models.BranchingModel`.

    Attributes:
        tree: A `BranchTree`: which tasks share which branches. `print(model.tree)` draws it.
    """

    tree: BranchTree | None = None

    def compile(self, *args, **kwargs) -> None:
        """As `MultiTaskModel.compile`."""
        self._compile_options = tuple((k, v) for k, v in kwargs.items() if k in _OF_KERAS)
        super().compile(*args, **kwargs)

    def fit(self, x=None, *args, callbacks=None, **kwargs):
        """As `MultiTaskModel.fit`; callbacks that have a `before_fit` hear of it first."""
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = keras.tree.flatten(callbacks or [])
            for callback in callbacks:
                if hasattr(callback, "before_fit"):
                    callback.before_fit(self, callbacks)
        return super().fit(x, *args, callbacks=callbacks, **kwargs)

    def affinity(self, data) -> dict[str, dict[str, float]]:
        """How often two tasks find the same samples difficult, or the same ones easy.

        Difficult is a margin `|target - score|` of at least the task's mean; where there are both
        classifications and others, of at least the mean rank, that is, the median.

        Args:
            data: `(x, y)` or `(x, y, sample_weight)`, or a dataset of such batches. Held out: on
                what a network was trained on, its margins say little.

        Returns:
            `affinity[i][j]` in [0, 1], for the tasks that have a loss.

        Raises:
            ValueError: if `data` have no labels of a task.
        """
        setup, columns = self._require_compiled(), {}
        for batch in [data] if isinstance(data, tuple) else data:
            x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
            y, sample_weight = self._by_task(y, sample_weight)
            outputs = self.predict(x, verbose=0)
            for task, loss in setup.losses.losses.items():
                arguments = y[task], outputs[task], self.missing.get(task), sample_weight.get(task)
                columns.setdefault(task, []).append(affinities.margins(loss, *arguments))
        if not columns:
            raise ValueError("`data` must have batches. Received: none")
        tasks = sorted(columns)
        margins = np.stack([np.concatenate(columns[task]) for task in tasks], axis=1)
        kinds = {affinities.is_classification(x) for x in setup.losses.losses.values()}
        if len(kinds) > 1:
            margins = np.stack([affinities.ranks(column) for column in margins.T], axis=1)
        matrix = affinities.task_affinity(margins)
        return {
            i: {j: float(value) for j, value in zip(tasks, row, strict=True)}
            for i, row in zip(tasks, matrix, strict=True)
        }

    def propose(
        self,
        affinity: Mapping[str, Mapping[str, float]] | np.ndarray,
        unit_cost: float = 1.0,
        separation_weight: float = 16.0,
    ) -> list[list[str]]:
        """The cheapest grouping of the tasks at the active stage.

        Args:
            affinity: Of tasks, symmetric and in [0, 1]: from `affinity`, or a `(T, T)` array with
                tasks in sorted order.
            unit_cost: See `kmtl.callbacks.BranchWidening`. Defaults to `1.0`.
            separation_weight: See `kmtl.callbacks.BranchWidening`. Defaults to `16.0`.

        Returns:
            Groups of tasks, for `widen`. A single one says to stop.

        Raises:
            ValueError: for another `affinity`, and if nothing is left to widen.
        """
        stage, tasks, incoming = self.tree.require_active(), self.tree.tasks, self.tree.incoming
        if isinstance(affinity, Mapping):
            if set(affinity) != set(tasks) or any(set(r) != set(tasks) for r in affinity.values()):
                raise ValueError(
                    f"`affinity` must have a row and a column for each of the tasks {list(tasks)}. "
                    f"Received: affinity of {sorted(affinity)}"
                )
            affinity = [[affinity[i][j] for j in tasks] for i in tasks]
        matrix = check_affinity(affinity, len(tasks))
        indices = [[tasks.index(task) for task in branch] for branch in incoming]
        matrix = affinities.branch_affinity(matrix, indices)
        low, high = self.tree.stages[stage][0].name, self.tree.stages[-1][0].name
        pools = rewiring.pools_between(self, low, high)
        groups = best_grouping(matrix, unit_cost, separation_weight, pools)
        grouping = [sorted(task for k in group for task in incoming[k]) for group in groups]
        return grouping if self._may_become(grouping) else [list(tasks)]

    def widen(self, grouping: Sequence[Sequence[str]]) -> None:
        """Gives each group of tasks a copy of the active stage, which then moves one down.

        All outputs stay as they are. The first group keeps the stage, the others get copies with
        its weights, and in the optimizer with all that belongs to these. This is done in place, so
        that `fit` goes on with the same model; `optimizer` is another object afterwards, with the
        state of the old one.

        Args:
            grouping: Groups of tasks; those that share a branch above stay together.

        Raises:
            ValueError: if nothing is left to widen; if `grouping` is none of the tasks, or takes a
                branch apart; and if it leaves nothing shared where the weighting needs that.
        """
        stage, groups = self.tree.require_active(), self.tree.checked(grouping)
        if not self._may_become(groups):
            raise ValueError(
                "A weighting by gradients needs layers that several tasks share. "
                f"Received: grouping={grouping} at the lowest stage"
            )
        if len(groups) == 1:
            self.tree = self.tree.widened(self.tree.stages[stage])
            return
        with backend.scope(self):
            estate = None
            if self.compiled:
                backend.build_optimizer(self)
                estate = optimizer_state.Estate(self.optimizer)
            branches, outputs, sources = rewiring.with_copies(
                self, self._start_of(stage), self.tree.stages[stage][0].name, groups
            )
            rewiring.put_outputs(self, outputs)
            self.tree = self.tree.widened(branches)
            if estate is not None:
                self._compile_again(estate, sources)
        self.predict_function = None

    def grow_to(self, tree: BranchTree) -> None:
        """Widens stage after stage until the tree is this one.

        Raises:
            ValueError: if it is no tree, or does not come from this model's.
        """
        if not isinstance(tree, BranchTree):
            raise ValueError(
                f"`tree` must be a `BranchTree`, as `model.tree` is. Received: tree={tree!r}"
            )
        while self.tree.active is not None and self.tree.active != tree.active:
            self.widen([branch.tasks for branch in tree.stages[self.tree.active]])
        if self.tree != tree:
            raise ValueError(
                "A tree to grow to must come from that of the model, by widening. "
                f"Received:\n{tree}\nfor a model with\n{self.tree}"
            )

    def plot_tree(self):
        """A `matplotlib` figure of the tree, the input at the bottom.

        Raises:
            ImportError: if matplotlib is not installed.
        """
        from kmtl.models.branching.figure import plot_tree

        return plot_tree(self.tree)

    def get_config(self):
        return {**super().get_config(), "tree": self.tree.to_config()}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        tree = BranchTree.from_config(config.pop("tree"))
        model = super().from_config(config, custom_objects=custom_objects)
        model.tree = tree
        return model

    def _start_of(self, stage):
        if not stage:
            return self.inputs
        return [rewiring.output_of(self, self.tree.stages[stage - 1][0].name)]

    def _compile_again(self, estate, sources):
        setup, stopped, traced = self._training, self.stopped_tasks, self.train_function is not None
        new = optimizer_state.successor(self.optimizer)
        self.compile(new, **setup.arguments, **dict(self._compile_options))
        # Metrics of the user have their variables already, and may be shown once more.
        kept = ("metrics", "loss_means", "weighting_means")
        self._training = dataclasses.replace(
            self._training, **{name: getattr(setup, name) for name in kept}
        )
        self.stopped_tasks = stopped
        estate.hand_over(self.optimizer, list(self.trainable_variables), sources)
        if traced:  # `fit` does not make it anew before its next step
            self.make_train_function(force=True)

    def _may_become(self, grouping):
        """Whether something stays shared where the weighting needs it."""
        alone = self.tree.active == 0 and len(grouping) == len(self.tree.tasks)
        return not (alone and isinstance(self.weighting, GradientWeighting))
