"""The model that every network of kmtl is: a functional `keras.Model` over named tasks."""

from collections.abc import Mapping

import keras
from keras import ops

from kmtl import backend
from kmtl import weighting as weighting_lib
from kmtl.losses.task_losses import TaskLosses
from kmtl.metrics.task_metrics import NamedMeans, TaskMetrics
from kmtl.models.non_finite import StopOnNonFiniteLoss


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
    describes. A loss that is not finite stops training with an error that names the task.

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
        super().__init__(inputs=inputs, outputs=dict(outputs), name=name, **kwargs)
        self.task_names = sorted(outputs)
        self.weighting = None
        self._training_parts = None

    def compile(
        self,
        optimizer="rmsprop",
        loss=None,
        loss_weights=None,
        metrics=None,
        weighted_metrics=None,
        weighting=None,
        missing=None,
        **kwargs,
    ) -> None:
        """Configures training; arguments not listed here go to `keras.Model.compile`.

        Args:
            optimizer: As in Keras. Defaults to `"rmsprop"`.
            loss: Task name -> loss, or one loss for all tasks. A task with None is not
                trained.
            loss_weights: Task name -> static weight; tasks left out have 1. Not together
                with `weighting`.
            metrics: Task name -> metric or list of metrics, over the present labels.
            weighted_metrics: The same for metrics that use sample weights.
            weighting: A `kmtl.weighting` rule, its name, or None for the plain sum.
            missing: Task name -> the label value that means "no label", such as -1 or
                `float("nan")`; or one value for all tasks. Labels whose sample weight is 0
                count as missing too.
            **kwargs: `run_eagerly`, `steps_per_execution`, `jit_compile`, `auto_scale_loss`.

        Raises:
            ValueError: for task names that the model does not have, and for
                `loss_weights` together with `weighting`.
        """
        user_arguments = {
            "loss": loss,
            "loss_weights": loss_weights,
            "metrics": metrics,
            "weighted_metrics": weighted_metrics,
            "missing": missing,
        }
        missing = self._by_task("missing", missing)
        losses = {k: v for k, v in self._by_task("loss", loss, complete=True).items() if v}
        if not losses:
            raise ValueError(f"`loss` must be given for at least one task. Received: loss={loss}")
        task_losses = TaskLosses(losses, missing)
        rule = weighting_lib.get(weighting)
        if rule is not None and loss_weights is not None:
            raise ValueError(
                "`loss_weights` cannot be used together with `weighting`. "
                f"Received: loss_weights={loss_weights}, weighting={rule.name}"
            )
        static = self._by_task("loss_weights", loss_weights)
        several = len(self.task_names) > 1
        task_metrics = TaskMetrics(
            self._lists_by_task("metrics", metrics),
            self._lists_by_task("weighted_metrics", weighted_metrics),
            missing,
            prefix=several,
        )
        if rule is not None:
            rule.bind(task_losses.losses)
        optimizer = keras.optimizers.get(optimizer)
        if rule is not None and rule.state.trainable_variables and not optimizer.built:
            optimizer.exclude_from_weight_decay(var_list=rule.state.trainable_variables)
        self._replace_weighting(rule)
        super().compile(optimizer=optimizer, **kwargs)
        self.loss = loss
        self._user_arguments = _Untracked({**user_arguments, "weighting": rule})
        described = list(rule.describe()) if rule is not None else []
        self._training_parts = _Untracked(
            {
                "losses": task_losses,
                "static_weights": [float(static.get(t, 1.0)) for t in task_losses.tasks],
                "means": NamedMeans([f"{t}_loss" for t in task_losses.tasks], "task_losses")
                if several
                else None,
                "metrics": task_metrics,
                "described": NamedMeans(described, "weighting") if described else None,
            }
        )

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The total loss: this replica's share of the global one, exact in its gradient."""
        del x, training
        parts = self._parts()
        y, sample_weight = self._labels_by_task(y), self._weights_by_task(sample_weight)
        task_losses = parts["losses"]
        totals, divisors = task_losses(y, y_pred, sample_weight)
        replicas = backend.num_replicas()
        # Replicas hold different numbers of labels: divide by the global number.
        global_divisors = backend.all_reduce_sum(ops.stop_gradient(divisors))
        global_divisors = ops.where(
            ops.array(task_losses.summed) | ops.equal(global_divisors, 0), 1.0, global_divisors
        )
        losses = totals / global_divisors
        if parts["means"] is not None:
            counts = ops.where(ops.array(task_losses.summed), 1.0, divisors)
            parts["means"].update_state(totals, counts)

        penalties = sum((ops.sum(ops.cast(p, losses.dtype)) for p in self.losses), 0.0)
        if self.weighting is None:
            weights = ops.array(parts["static_weights"], dtype=losses.dtype)
        else:
            weights = self.weighting.weights(backend.all_reduce_sum(ops.stop_gradient(losses)))
            penalties = penalties + self.weighting.penalty()
            if parts["described"] is not None:
                values = ops.stack(list(self.weighting.describe().values()))
                parts["described"].update_state(values, ops.ones_like(values))
        share = ops.sum(weights * losses) + penalties / replicas
        if replicas == 1:
            return share
        # Same gradient, but every replica shows the mean, so that logs are right even when
        # replicas see different numbers of samples.
        shown = backend.all_reduce_sum(ops.stop_gradient(share)) / replicas
        return share + ops.stop_gradient(shown - share)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Updates every task's metrics on its present labels and returns the logs."""
        del x
        self._parts()["metrics"].update_state(
            self._labels_by_task(y), y_pred, self._weights_by_task(sample_weight)
        )
        return self.get_metrics_result()

    @property
    def metrics(self):
        inherited = super().metrics
        if self._training_parts is None:
            return inherited
        parts = self._training_parts.value
        own = [parts[name] for name in ("means", "metrics", "described") if parts[name]]
        return inherited[:1] + own + inherited[1:]

    def fit(self, *args, callbacks=None, **kwargs):
        """As `keras.Model.fit`; also stops at a loss that is not finite, naming the task."""
        guard = StopOnNonFiniteLoss()
        if isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks.append(guard)
        else:
            callbacks = [*keras.tree.flatten(callbacks or []), guard]
        return super().fit(*args, callbacks=callbacks, **kwargs)

    def get_compile_config(self):
        if self._training_parts is None:
            return {}
        config = super().get_compile_config()
        own = {
            key: keras.saving.serialize_keras_object(value)
            for key, value in self._user_arguments.value.items()
        }
        return {**config, **own}

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def _replace_weighting(self, rule):
        if self.weighting is not None:
            self._tracker.untrack(self.weighting.state)
        self.weighting = rule
        self.weighting_state = None if rule is None else rule.state

    def _parts(self) -> dict:
        if self._training_parts is None:
            raise ValueError("The model must be compiled first: call `model.compile(...)`.")
        return self._training_parts.value

    def _by_task(self, argument, value, complete=False) -> dict:
        """`value` as a dict over tasks; a single value stands for all, None for none."""
        if value is None:
            return {}
        if not isinstance(value, Mapping) or "class_name" in value:
            return dict.fromkeys(self.task_names, value)
        self._check_names(f"`{argument}`", value, complete)
        return dict(value)

    def _lists_by_task(self, argument, value) -> dict:
        if value is None:
            return {}
        by_task = self._by_task(argument, value)
        if len(self.task_names) > 1 and not isinstance(value, Mapping):
            raise ValueError(
                f"`{argument}` must be a dict of task name -> metrics, because metrics keep "
                f"state of their own. Received: {argument}={value}"
            )
        return {
            task: list(v) if isinstance(v, (list, tuple)) else [v]
            for task, v in by_task.items()
            if v is not None
        }

    def _check_names(self, what, names, complete):
        unknown = sorted(set(names) - set(self.task_names))
        absent = sorted(set(self.task_names) - set(names)) if complete else []
        if unknown or absent:
            raise ValueError(
                f"{what} must name the model's tasks {self.task_names}. "
                f"Received: unknown {unknown}, missing {absent}"
            )

    def _labels_by_task(self, y) -> Mapping:
        if not isinstance(y, Mapping):
            if len(self.task_names) == 1 and y is not None and not isinstance(y, (list, tuple)):
                return {self.task_names[0]: y}
            raise ValueError(
                f"Labels must be a dict with the tasks {self.task_names}. Received: {type(y)}"
            )
        needed = set(self._parts()["losses"].tasks)
        absent = sorted(needed - set(y))
        unknown = sorted(set(y) - set(self.task_names))
        if absent or unknown:
            raise ValueError(
                f"The labels must name the tasks that have a loss, {sorted(needed)}. "
                f"Received: unknown {unknown}, missing {absent}"
            )
        return y

    def _weights_by_task(self, sample_weight) -> Mapping:
        if sample_weight is None:
            return {}
        if isinstance(sample_weight, Mapping):
            self._check_names("`sample_weight`", sample_weight, complete=False)
            return sample_weight
        return dict.fromkeys(self.task_names, sample_weight)


class _Untracked:
    """Keeps Keras from tracking what a model holds: `compile` replaces it as a whole."""

    def __init__(self, value: dict):
        self.value = value
