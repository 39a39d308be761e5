"""The model that every network of kmtl is: a functional `keras.Model` over named tasks."""

import contextlib
import dataclasses
from collections.abc import Mapping

import keras
import numpy as np
from keras import ops

from kmtl import backend
from kmtl import weighting as weighting_lib
from kmtl.losses.task_losses import TaskLosses
from kmtl.metrics.task_metrics import NamedMeans, TaskMetrics
from kmtl.models.step import packed_logs, resuming
from kmtl.models.step.accumulated_gradients import AccumulatedGradients
from kmtl.models.step.non_finite import StopOnNonFiniteLoss
from kmtl.models.step.parting import Parting
from kmtl.models.step.task_gradients import TaskGradients
from kmtl.models.step.task_penalties import TaskPenalties
from kmtl.models.step.weighting_epochs import WeightingEpochs
from kmtl.models.task_arguments import (
    by_task,
    labels_by_task,
    lists_by_task,
    numbers_by_task,
    weights_by_task,
)
from kmtl.weighting.gradient import GradientWeighting


@keras.saving.register_keras_serializable(package="kmtl")
class MultiTaskModel(keras.Model):
    """A Keras model with one named output for each task.

    Use it wherever you would use `keras.Model(inputs, outputs)` with several outputs. It
    trains, evaluates, saves and loads as any Keras model does, with the same numbers, and
    adds what several tasks need: losses over present labels only, exact on any number of
    replicas, and weighting rules.

    ```
    L_t  = mean over the present labels of task t in the global batch (0 if there are none)
    loss = sum_t loss_weights[t] * L_t + penalties                 # weighting=None
    loss = sum_t weighting.weights(L)[t] * L_t + weighting.penalty() + penalties
    ```

    Logs hold `loss`, `<task>_loss` (unweighted), `<task>_<metric>` and what the weighting
    describes; with a single task, `loss` and the metrics' own names, as in Keras. A loss that is
    not finite stops `fit` with an error that names the task.

    Args:
        inputs: The model's inputs, as for `keras.Model`.
        outputs: Task name -> output tensor.
        name: The model's name. Defaults to `None`, a name made by Keras.

    Raises:
        ValueError: if the outputs are not a dict of tensors with at least one task.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import kmtl
    >>> x = keras.Input((8,))
    >>> h = keras.layers.Dense(16, activation="relu")(x)
    >>> heads = {"price": keras.layers.Dense(1)(h), "sold": keras.layers.Dense(1)(h)}
    >>> model = kmtl.MultiTaskModel(x, heads)
    >>> model.compile("adam", loss="mse", missing={"sold": -1}, weighting="uncertainty")
    >>> labels = {"price": np.ones((4, 1)), "sold": np.array([[0.0], [1.0], [-1.0], [-1.0]])}
    >>> history = model.fit(np.ones((4, 8)), labels, verbose=0)
    >>> print(sorted(history.history))
    ['loss', 'price_loss', 'price_variance', 'sold_loss', 'sold_variance']

    Reference: R. Caruana (1997), "Multitask Learning", Machine Learning 28.
    """

    # Keras restores a functional subclass by its graph only if the signature is Functional's.
    def __init__(self, inputs, outputs, name=None, **kwargs):
        if not isinstance(outputs, Mapping) or not outputs:
            raise ValueError(
                "`outputs` must be a dict of task name -> tensor with at least one task. "
                f"Received: outputs={outputs}"
            )
        if not all(isinstance(task, str) and task for task in outputs):
            raise ValueError(
                f"Task names must be strings that are not empty. Received: {list(outputs)}"
            )
        super().__init__(inputs=inputs, outputs=dict(outputs), name=name, **kwargs)
        self.task_names = sorted(outputs)
        self.weighting = None
        self.weighting_state = self.accumulated_state = None
        self.penalty_states = []
        self.stopped_tasks = []
        self._training = None
        self._task_gradients = None
        self._evaluating = False
        self.missing = {}

    def compile(
        self,
        optimizer="rmsprop",
        loss=None,
        loss_weights=None,
        metrics=None,
        weighted_metrics=None,
        weighting=None,
        missing=None,
        penalties=None,
        **kwargs,
    ) -> None:
        """Configures training; arguments not listed here go to `keras.Model.compile`.

        Args:
            optimizer: As in Keras. Defaults to `"rmsprop"`.
            loss: Task name -> loss, or one loss for all tasks. A task with None is not
                trained.
            loss_weights: Task name -> static weight; tasks left out have 1. Not together
                with `weighting`. `kmtl.weighting.ScheduledWeights` takes schedules.
            metrics: Task name -> metric or list of metrics, over the present labels.
            weighted_metrics: The same for metrics that use sample weights.
            weighting: A `kmtl.weighting` rule, its name, or None for the plain sum.
            missing: Task name -> the label value that means "no label", such as -1 or
                `float("nan")`; or one value for all tasks. Labels whose sample weight is 0
                count as missing too.
            penalties: List of `kmtl.regularizers.AcrossTasks`, which tie weights of tasks.
            **kwargs: `run_eagerly`, `steps_per_execution`, `jit_compile`, `auto_scale_loss`.

        Raises:
            ValueError: for task names that the model does not have, for `loss_weights` that
                are no numbers, and for `loss_weights` together with `weighting`.
        """
        user_arguments = {
            "loss": loss,
            "loss_weights": loss_weights,
            "metrics": metrics,
            "weighted_metrics": weighted_metrics,
            "missing": missing,
            "penalties": penalties,
        }
        tasks = self.task_names
        missing = by_task(tasks, "missing", missing)
        losses = {k: v for k, v in by_task(tasks, "loss", loss, complete=True).items() if v}
        if not losses:
            raise ValueError(f"`loss` must be given for at least one task. Received: loss={loss}")
        task_losses = TaskLosses(losses, missing)
        rule = weighting_lib.get(weighting)
        if rule is not None and loss_weights is not None:
            raise ValueError(
                "`loss_weights` cannot be used together with `weighting`. "
                f"Received: loss_weights={loss_weights}, weighting={rule.name}"
            )
        static = numbers_by_task(tasks, "loss_weights", loss_weights)
        several = len(tasks) > 1
        task_metrics = TaskMetrics(
            lists_by_task(tasks, "metrics", metrics),
            lists_by_task(tasks, "weighted_metrics", weighted_metrics),
            missing,
            prefix=several,
        )
        if rule is not None:
            rule.bind(task_losses.losses)
        described = []
        if rule is not None:
            described = list(rule.describe(ops.ones((len(rule.task_names),))))
        loss_names = [f"{task}_loss" for task in task_losses.tasks] if several else []
        _check_log_names(["loss", *loss_names, *task_metrics.names, *described])
        task_penalties = TaskPenalties(self, penalties)
        optimizer = keras.optimizers.get(optimizer)
        _check_parts(optimizer)
        task_gradients = accumulated = None
        if isinstance(rule, GradientWeighting) and len(rule.task_names) > 1:
            parting = Parting(self, rule.parting)
            if backend.accumulation_steps(optimizer) > 1 and parting.trunk_variables:
                accumulated = AccumulatedGradients(rule, parting.trunk_variables, optimizer)
            task_gradients = TaskGradients(self, rule, parting, accumulated, task_penalties)
        if rule is not None and not optimizer.built:
            _spare_from_weight_decay(optimizer, rule.state.trainable_variables)
        if kwargs.get("jit_compile") is True and not backend.compiles_whole_step(self):
            raise ValueError(
                "`jit_compile=True` needs a single replica or a TPU: a compiled program stays on "
                f"one device. Received: {type(self.distribute_strategy).__name__}"
            )
        self._replace_state(rule, accumulated, task_penalties)
        self.stopped_tasks = []
        self.missing = missing
        super().compile(optimizer=optimizer, **kwargs)
        self.loss = loss
        self._training = _Training(
            arguments={**user_arguments, "weighting": rule},
            losses=task_losses,
            static_weights=[static.get(task, 1.0) for task in task_losses.tasks],
            metrics=task_metrics,
            penalties=task_penalties,
            loss_means=NamedMeans(loss_names, "task_losses") if several else None,
            weighting_means=NamedMeans(described, "weighting") if described else None,
        )
        self._task_gradients = task_gradients

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The total loss: this replica's share of the global one, exact in its gradient."""
        del x
        rule, replicas = self.weighting, backend.num_replicas()
        losses = self._task_losses(y, y_pred, sample_weight)
        penalties = [*self.losses, *self._training.penalties()]
        penalties = sum((ops.sum(ops.cast(p, losses.dtype)) for p in penalties), 0.0)
        if training:
            self._training.penalties.update()
        objective = None
        if rule is None:
            weights = ops.array(self._training.static_weights, dtype=losses.dtype)
        else:
            reduced = backend.all_reduce_sum(ops.stop_gradient(losses))
            weights, objective = rule.weights(reduced), rule.objective(reduced)
            penalties = penalties + rule.penalty()
            if training:
                self._note_weights(weights)
            if training and not isinstance(rule, GradientWeighting):
                rule.move_on(lambda: rule.update(reduced), ops.all(ops.isfinite(reduced)))
        share = ops.sum(weights * losses) + penalties / replicas
        if objective is None and replicas == 1:
            return share
        # Same gradient, but every replica shows the mean, so that logs are right even when
        # replicas see different numbers of samples.
        if objective is None:
            shown = backend.all_reduce_sum(ops.stop_gradient(share)) / replicas
        else:
            all_penalties = backend.all_reduce_sum(ops.stop_gradient(penalties / replicas))
            shown = (objective + all_penalties) / replicas
        return share + ops.stop_gradient(shown - share)

    def train_step(self, *args):
        """One update, by Keras's own step or by kmtl's.

        The latter for rules that see gradients, and under a strategy, where Keras's neither
        accumulates gradients nor skips a step on all replicas that is not finite on one.
        """
        *state, data = args  # JAX hands over the variables' values
        rule = self.weighting
        if self._task_gradients is not None:
            return backend.gradient_step(self, self._gradient_step, data, *state)
        if backend.in_strategy():
            result = backend.gradient_step(self, self._loss_step, data, *state)
        else:
            result = super().train_step(*args)
        if rule is not None and rule.looks_again:
            x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
            result = backend.after_step(self, lambda: self._look_again(x, y, sample_weight), result)
        return result

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Nothing, as a functional model is built.

        Keras would run it on a batch, for which it adds up what the workers' batches hold and
        fails (keras#20585).
        """

    def make_train_function(self, force=False):
        if self.train_function is None or force:
            packed_logs.make_function(self, "train", super().make_train_function)

    def make_test_function(self, force=False):
        if self.test_function is None or force:
            packed_logs.make_function(self, "test", super().make_test_function)

    def _loss_step(self, data):
        """Gradients of the total loss, that they are to be applied, and logs."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)

        def losses(_):
            outputs = self(x, training=True)
            loss = self.compute_loss(x, y, outputs, sample_weight, training=True)
            return [self.optimizer.scale_loss(loss)], (loss, outputs)

        (scaled,), (loss, outputs), pull = backend.linearize(losses, self.trainable_variables)
        # Sparse as in Keras's step: its Adam squares the gradients of repeated ids one by one.
        gradients, _ = pull([ops.ones_like(scaled)], sparse=True)
        size = ops.shape(keras.tree.flatten(x)[0])[0]
        self._loss_tracker.update_state(loss * backend.num_replicas(), sample_weight=size)
        logs = self.compute_metrics(x, y, outputs, sample_weight)
        return gradients, ops.convert_to_tensor(True), logs

    def _gradient_step(self, data):
        """Gradients, whether they are finite, and logs."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        step = self._task_gradients(x, lambda outputs: self._task_losses(y, outputs, sample_weight))
        if step.weights is not None:
            self._note_weights(step.weights, step.due)
        self._training.penalties.update()
        total = ops.sum(step.losses) + step.penalties / backend.num_replicas()
        size = ops.shape(keras.tree.flatten(x)[0])[0]
        self._loss_tracker.update_state(backend.all_reduce_sum(total), sample_weight=size)
        logs = self.compute_metrics(x, y, step.outputs, sample_weight)
        return step.gradients, step.valid, logs

    def _look_again(self, x, y, sample_weight):
        losses = self.task_losses(y, self(x, training=True), sample_weight)
        self.weighting.look_again(backend.all_reduce_sum(losses))

    def _task_losses(self, y, y_pred, sample_weight, note=True):
        """Every trained task's loss, this replica's share of the global mean."""
        setup = self._require_compiled()
        y, sample_weight = self._by_task(y, sample_weight)
        totals, divisors = setup.losses(y, y_pred, sample_weight)
        summed = ops.array(setup.losses.summed)
        if note and setup.loss_means is not None:
            setup.loss_means.update_state(totals, ops.where(summed, 1.0, divisors))
        if self.stopped_tasks:  # to all that follows they are tasks without labels
            trained = ops.array([task not in self.stopped_tasks for task in setup.losses.tasks])
            totals = ops.where(trained, totals, 0.0)
            divisors = ops.where(trained, divisors, 0.0)
        # Replicas hold different numbers of labels: divide by the global number.
        global_divisors = backend.all_reduce_sum(ops.stop_gradient(divisors))
        global_divisors = ops.where(summed | ops.equal(global_divisors, 0), 1.0, global_divisors)
        return totals / global_divisors

    def _note_weights(self, weights, counted=True):
        if self._training.weighting_means is None:  # the rule has none to show
            return
        values = ops.stack(list(self.weighting.describe(weights).values()))
        counts = ops.ones_like(values) * ops.cast(counted, values.dtype)
        self._training.weighting_means.update_state(counts * values, counts)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Updates every task's metrics on its present labels and returns the logs."""
        del x
        y, sample_weight = self._by_task(y, sample_weight)
        self._require_compiled().metrics.update_state(y, y_pred, sample_weight)
        return self.get_metrics_result()

    @property
    def metrics(self):
        inherited = super().metrics
        if self._training is None:
            return inherited
        own = [self._training.loss_means, self._training.metrics]
        if not self._evaluating:  # how the training steps weighed the tasks
            own.append(self._training.weighting_means)
        return inherited[:1] + [metric for metric in own if metric is not None] + inherited[1:]

    def fit(self, x=None, *args, callbacks=None, **kwargs):
        """As `keras.Model.fit`, where `x` may also be a `kmtl.data.TaskMixture`.

        Stops at a loss that is not finite, naming the task. With
        `kmtl.callbacks.BackupAndResume` it goes on from the last backup.
        """
        own = [WeightingEpochs(), StopOnNonFiniteLoss()]
        if isinstance(callbacks, keras.callbacks.CallbackList):
            for callback in own:
                callbacks.append(callback)
        else:
            callbacks = [*keras.tree.flatten(callbacks or []), *own]
        if self.compiled:
            backend.build_optimizer(self)
        if isinstance(callbacks, list):
            x, callbacks = resuming.prepare(self, x, callbacks, kwargs)
        return super().fit(x, *args, callbacks=callbacks, **kwargs)

    def evaluate(self, *args, **kwargs):
        """As `keras.Model.evaluate`."""
        with self._evaluation():
            return super().evaluate(*args, **kwargs)

    def test_on_batch(self, *args, **kwargs):
        """As `keras.Model.test_on_batch`."""
        with self._evaluation():
            return super().test_on_batch(*args, **kwargs)

    @contextlib.contextmanager
    def _evaluation(self):
        self._evaluating = True
        try:
            yield
        finally:
            self._evaluating = False

    def task_losses(self, y, y_pred, sample_weight=None):
        """Every trained task's loss `(T,)` in sorted order, for analysis; logs do not change.

        Args:
            y: Task name -> labels.
            y_pred: Task name -> the model's outputs.
            sample_weight: Task name -> sample weights. Defaults to `None`.

        Returns:
            A tensor; under a strategy, this replica's share of the global losses.
        """
        return self._task_losses(y, y_pred, sample_weight, note=False)

    def task_gradients(self, x, y, sample_weight=None) -> dict:
        """Every task's gradient by the weights that tasks share, on one batch, for analysis.

        Layers run as in `predict`, without dropout and batch statistics, so that batches can
        be compared. Penalties are left out.

        Args:
            x: The batch's inputs.
            y: Task name -> labels.
            sample_weight: Task name -> sample weights. Defaults to `None`.

        Returns:
            Path of a shared variable -> array of shape `(T, ...)`, trained tasks in sorted order.
        """
        variables = Parting(self).trunk_variables
        if not variables:
            raise ValueError(
                "`task_gradients` needs shared layers that train. Received: model "
                f"{self.name!r}, whose shared layers are all frozen"
            )

        def losses(_):
            outputs = self(x, training=False)
            return [self.task_losses(y, outputs, sample_weight)], None

        (values,), _, pull = backend.linearize(losses, variables)
        rows = [pull([row])[0] for row in ops.eye(values.shape[0], dtype=values.dtype)]
        return {
            v.path: np.stack(
                [np.zeros(v.shape, "float32") if g is None else ops.convert_to_numpy(g) for g in gs]
            )
            for v, gs in zip(variables, zip(*rows, strict=True), strict=True)
        }

    def get_compile_config(self):
        if self._training is None:
            return {}
        config = super().get_compile_config()
        own = {
            key: keras.saving.serialize_keras_object(value)
            for key, value in self._training.arguments.items()
        }
        return {**config, **own, "stopped_tasks": list(self.stopped_tasks)}

    def compile_from_config(self, config):
        stopped = config.get("stopped_tasks", [])
        config = {k: v for k, v in config.items() if k != "stopped_tasks"}
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.stopped_tasks = list(stopped)
        self.optimizer.build(self.trainable_variables)

    @property
    def trained_tasks(self) -> list[str]:
        """Names of the tasks that have a loss, sorted."""
        return list(self._require_compiled().losses.tasks)

    def static_weight(self, task: str) -> float:
        """The task's entry in `loss_weights`, or 1."""
        setup = self._require_compiled()
        return setup.static_weights[setup.losses.tasks.index(task)]

    def stop_task(self, task: str) -> None:
        """From now on a task's loss trains nothing; `compile` undoes it.

        It is still shown, but no part of the total loss, and to all weightings a task without
        labels. Training and evaluation are traced anew.

        Args:
            task: Name of a task that has a loss.

        Raises:
            ValueError: if the model has no such task, or no other that is trained.
        """
        others = [t for t in self.trained_tasks if t not in (*self.stopped_tasks, task)]
        if task not in self.trained_tasks or not others:
            raise ValueError(
                "A task to stop must be one that has a loss, beside another that goes on. "
                f"Received: task={task!r}, tasks={self.trained_tasks}, "
                f"stopped={self.stopped_tasks}"
            )
        if task not in self.stopped_tasks:
            self.stopped_tasks = sorted([*self.stopped_tasks, task])
            self.make_train_function(force=True)
            self.make_test_function(force=True)

    def _replace_state(self, rule, accumulated, penalties):
        if rule is not None:
            rule.belong_to(self)
        for old in (self.weighting_state, self.accumulated_state, *self.penalty_states):
            if old is not None:
                self._tracker.untrack(old)
        self.weighting = rule
        self.weighting_state = None if rule is None else rule.state
        self.accumulated_state = None if accumulated is None else accumulated.state
        self.penalty_states = penalties.states

    def _by_task(self, y, sample_weight):
        needed = {*self._require_compiled().losses.tasks, *self._training.metrics.tasks}
        labels = labels_by_task(self.task_names, needed, y)
        return labels, weights_by_task(self.task_names, sample_weight)

    def _require_compiled(self):
        if self._training is None:
            raise ValueError("The model must be compiled first: call `model.compile(...)`.")
        return self._training


def _check_log_names(names) -> None:
    seen = set()
    for name in names:
        clash = name in seen or f"val_{name}" in names
        if clash:
            raise ValueError(
                "Every value in the logs must have a name of its own, made of task and metric "
                f"names, and none may look like another's `val_`. Received: {name!r} in {names}"
            )
        seen.add(name)


def _check_parts(optimizer) -> None:
    """The optimizers of a `MultiOptimizer` are to see the same batches."""
    for part in getattr(optimizer, "optimizers", []):
        if part.gradient_accumulation_steps:
            raise ValueError(
                "The parts of a `MultiOptimizer` must not accumulate gradients. Received: "
                f"gradient_accumulation_steps={part.gradient_accumulation_steps} in {part.name!r}"
            )


def _spare_from_weight_decay(optimizer, variables) -> None:
    """Adds to the exclusions of the user, which Keras's own method would replace."""
    if not variables:
        return
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    for one in getattr(optimizer, "optimizers", [optimizer]):  # of a `MultiOptimizer`
        earlier = getattr(one, "_exclude_from_weight_decay", set())
        pattern = getattr(one, "_exclude_from_weight_decay_pattern", None)
        one.exclude_from_weight_decay(var_list=variables)
        one._exclude_from_weight_decay |= earlier
        one._exclude_from_weight_decay_pattern = pattern


@dataclasses.dataclass(frozen=True)
class _Training:
    """What `compile` sets up, as a whole, so that compiling again leaves nothing behind.

    Keras tracks metrics that are attributes; in here they are out of its sight, and
    `MultiTaskModel.metrics` names them.
    """

    arguments: dict
    losses: TaskLosses
    static_weights: list[float]
    metrics: TaskMetrics
    penalties: TaskPenalties
    loss_means: NamedMeans | None
    weighting_means: NamedMeans | None
