"""Helper tasks joined to a model, to its data and to its `compile`."""

from collections.abc import Mapping, Sequence

import keras
import numpy as np
from keras.optimizers.schedules import LearningRateSchedule

from kmtl.auxiliary.auxiliary_task import AuxiliaryTask
from kmtl.data.label_batches import mapped
from kmtl.models.graph import is_graph
from kmtl.models.multi_task_model import MultiTaskModel
from kmtl.weighting import ScheduledWeights


class AuxiliaryTasks:
    """Adds helper tasks to a model of yours: their heads, their labels, their losses.

    Three calls, one for each place where a task shows: the model, the data, `compile`. The model
    that is trained shares all layers with yours, which so is trained, too; what is exported has
    no trace of the helpers, see `kmtl.layers.TrainingOnly`.

    ```
    loss = sum_t loss_weights[t] * L_t + sum_a weight_a * L_a     # t main, a auxiliary
    ```

    Args:
        tasks: `kmtl.auxiliary.AuxiliaryTask`s, with names of their own.
        main: The task's name of a model whose single output has none. Defaults to `None`: the
            outputs are a dict.

    Raises:
        ValueError: if `tasks` is no list of at least one, or two have an output of one name.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import kmtl
    >>> x = keras.Input((4,))
    >>> h = keras.layers.Dense(8, activation="relu", name="trunk")(x)
    >>> model = keras.Model(x, {"price": keras.layers.Dense(1)(h)})
    >>> area = kmtl.auxiliary.AuxiliaryTask(
    ...     "area", lambda x, y: x[:, :1] * x[:, 1:2], keras.layers.Dense(1), "mse", "trunk", 0.1
    ... )
    >>> helpers = kmtl.auxiliary.AuxiliaryTasks([area])
    >>> trained = helpers.attach(model)
    >>> trained.compile("adam", **helpers.compile_arguments(loss={"price": "mse"}))
    >>> rng = np.random.default_rng(0)
    >>> data = helpers.add_targets((rng.normal(size=(8, 4)), {"price": rng.normal(size=(8, 1))}))
    >>> history = trained.fit(*data, verbose=0)
    >>> print(sorted(history.history))
    ['area_loss', 'loss', 'price_loss']

    Differences from the paper: none.

    Reference: R. Caruana (1997), "Multitask Learning", Machine Learning 28, pages 41 to 75.
    """

    def __init__(self, tasks: Sequence[AuxiliaryTask], main: str | None = None):
        self.tasks = list(tasks) if np.iterable(tasks) else []
        self.main = main
        outputs = [output for task in self.tasks for output in task.losses]
        twice = sorted({output for output in outputs if outputs.count(output) > 1})
        if not outputs or twice:
            raise ValueError(
                "`tasks` must be a list of at least one task, and each output must have a name of "
                f"its own. Received: {f'{twice} more than once' if twice else tasks}"
            )

    def attach(self, model: keras.Model) -> MultiTaskModel:
        """A model with the outputs of yours and those of all tasks.

        Args:
            model: A functional model, built. Its layers and weights are shared.

        Raises:
            ValueError: for a model without a graph, such as a `Sequential` that is not built, or
                with outputs without names, and for auxiliary outputs named like its own.
        """
        if not is_graph(model) or not getattr(model, "inputs", None):
            raise ValueError(
                "`model` must be functional and built, so that heads can be added to its layers. "
                f"Received: {model!r}"
            )
        if isinstance(model, keras.Sequential):
            model = keras.Model(model.inputs, model.outputs[0], name=model.name)
        for task in self.tasks:
            model = task.prepare(model)
        outputs = self._main_outputs(model)
        for task in self.tasks:
            built = task.build(model)
            taken = sorted({*built} & {*outputs})
            if taken:
                raise ValueError(
                    "The outputs of auxiliary tasks must have names that are new to the model. "
                    f"Received: {taken} of task {task.name!r}"
                )
            outputs |= built
        return MultiTaskModel(model.input, outputs, name=model.name)

    def add_targets(self, data, training: bool = True):
        """The data with the labels of all tasks beside those that it has.

        Args:
            data: `(x, y)` or `(x, y, sample_weight)` of arrays, where `y` is a dict of task name
                -> labels, or an array with `main`; or a `tf.data.Dataset` of batches of these.
                Its first batch is read to know the labels' types.
            training: Whether this is what the model learns from. Then tasks that learn from
                the data do so, and a constant label is an error; both only with arrays.
                Defaults to `True`.

        Returns:
            The same kind of data, whose `y` is a dict; of `x` what the model gets.

        Raises:
            ValueError: for data of another kind, a constant label, and a `tf.data.Dataset` for
                a task that needs the data as a whole.
        """
        if hasattr(data, "element_spec"):
            self._check_batches()
            return mapped(data, self._with_targets)
        if not isinstance(data, tuple) or len(data) not in (2, 3):
            raise ValueError(
                "`data` must be a tuple (x, y) or (x, y, sample_weight) of arrays, or a "
                f"`tf.data.Dataset` of batches of these. Received: {type(data)}"
            )
        x, y = keras.tree.map_structure(np.asarray, data[:2])
        if training:
            named = self._by_name(y)
            for task in self.tasks:
                if not task.fitted:
                    task.fit(x, named)
        x, labels = self._with_targets(x, y)
        if training:
            for task in self.tasks:
                task.check_targets({output: labels[output] for output in task.losses})
        return (x, labels, *data[2:])

    def compile_arguments(
        self, loss, metrics=None, loss_weights=None, missing=None, weighting=None
    ) -> dict:
        """What `compile` gets of main and auxiliary tasks: `model.compile("adam", **arguments)`.

        Weights that follow a schedule are a `kmtl.weighting.ScheduledWeights`.

        Args:
            loss: Main task -> loss; with `main`, the loss itself. So are the other arguments.
            metrics: Main task -> metrics. Defaults to `None`.
            loss_weights: Main task -> weight. Defaults to `None`, 1.
            missing: Main task -> missing label. Defaults to `None`.
            weighting: As `kmtl.MultiTaskModel.compile` takes it. The rule then weighs the
                auxiliary tasks as it does the others, and their own weights are not used.
                Defaults to `None`.

        Raises:
            ValueError: for arguments of auxiliary tasks, single values where there is no
                `main`, and `loss_weights` together with `weighting`.
        """
        if weighting is not None and loss_weights is not None:
            raise ValueError(
                "`loss_weights` cannot be used together with `weighting`. "
                f"Received: loss_weights={loss_weights}, weighting={weighting}"
            )
        merged = {
            "loss": self._merged("loss", loss, "losses"),
            "metrics": self._merged("metrics", metrics, "metrics"),
            "missing": self._merged("missing", missing, "missing"),
        }
        if weighting is not None:
            return {**merged, "weighting": weighting}
        weights = self._merged("loss_weights", loss_weights, "weights")
        if any(isinstance(weight, LearningRateSchedule) for weight in weights.values()):
            return {**merged, "weighting": ScheduledWeights(weights)}
        return {**merged, "loss_weights": weights}

    def _merged(self, argument, value, attribute):
        if value is not None and not isinstance(value, Mapping):
            if self.main is None:
                raise ValueError(
                    f"`{argument}` must be a dict of main task -> value, unless `main` names the "
                    f"only one. Received: {argument}={value!r}"
                )
            value = {self.main: value}
        own = {k: v for task in self.tasks for k, v in getattr(task, attribute).items()}
        if unknown := sorted(k for k, v in own.items() if attribute == "losses" and v is None):
            raise ValueError(
                "Tasks whose loss depends on the training data must be fitted before `compile`: "
                f"call `add_targets` or their `fit` first. Received: {unknown}, not fitted"
            )
        outputs = {output for task in self.tasks for output in task.losses}
        if given := sorted(outputs & {*(value or {})}):
            raise ValueError(
                f"`{argument}` must be of main tasks; auxiliary ones have their own. "
                f"Received: {argument} of {given}"
            )
        return {**(value or {}), **own}

    def _main_outputs(self, model) -> dict:
        outputs = model.output
        if isinstance(outputs, Mapping):
            return dict(outputs)
        if self.main is None or len(model.outputs) != 1:
            raise ValueError(
                "The outputs of `model` must be a dict of task name -> tensor, or a single one "
                f"whose name is `main`. Received: {len(model.outputs)} without names, "
                f"main={self.main}"
            )
        return {self.main: model.outputs[0]}

    def _by_name(self, y) -> Mapping:
        if isinstance(y, Mapping):
            return y
        if self.main is None:
            raise ValueError(
                "The labels must be a dict of task name -> labels, unless `main` names the only "
                f"task. Received: {type(y)}"
            )
        return {self.main: y}

    def _with_targets(self, x, y) -> tuple:
        y = self._by_name(y)
        labels = {output: v for task in self.tasks for output, v in task.targets(x, y).items()}
        own = {name for task in self.tasks for name in task.own_labels}
        for task in self.tasks:
            x = task.inputs(x)
        return x, {**{k: v for k, v in y.items() if k not in own}, **labels}

    def _check_batches(self):
        for task in self.tasks:
            if not task.fitted:
                raise ValueError(
                    "Tasks that learn from the data must have done so before they get batches: "
                    f"call its `fit`. Received: {task.name!r}, not fitted"
                )
            if not task.by_batch:
                raise ValueError(
                    "Targets that depend on other rows need arrays, not batches of a "
                    f"`tf.data.Dataset`. Received: {task.name!r}"
                )
