"""Losses, metrics, weighting and optimizer of a configuration."""

from collections.abc import Callable, Sequence
from types import ModuleType

import keras

from kmtl import losses as kmtl_losses
from kmtl import metrics as kmtl_metrics
from kmtl import weighting
from kmtl.losses.task_losses import resolve_loss
from kmtl.metrics.task_metrics import resolve_metric
from kmtl.models import MultiTaskModel
from kmtl.training.configuration.complaints import nearest
from kmtl.training.configuration.consistency import check_names
from kmtl.training.configuration.objects import make, without_received
from kmtl.training.configuration.schema import Training
from kmtl.training.loading.data import Loaded


def compile_model(model: MultiTaskModel, training: Training, data: Loaded) -> None:
    """Compiles the model; to be called in the scope of the strategy.

    Raises:
        ValueError: for what Keras or the model refuse; the message names the key.
    """
    tasks = model.task_names
    check_names("training.losses", training.losses, tasks, "tasks of the network")
    for task in tasks:
        if task not in training.losses:
            raise ValueError(
                "`training.losses` must name every task of the network, with null for one that "
                f"is not to be trained. Received: nothing for {task}"
            )
    losses, metrics = losses_of(training), metrics_of(training)
    if not losses:
        raise ValueError("`training.losses` must have a loss for some task. Received: only null")
    check_names("data.train", data.mixture.tasks, tasks, "tasks of the network")
    check_names("training", [*losses, *metrics], data.mixture.tasks, "tasks of `data.train`")
    accumulation = training.gradient_accumulation_steps
    optimizer = make(
        "training.optimizer",
        training.optimizer,
        (keras.optimizers,),
        {} if accumulation is None else {"gradient_accumulation_steps": accumulation},
    )
    rule = _made("training.weighting", training.weighting, (weighting,))
    if isinstance(rule, str):
        rule = _known("training.weighting", rule, weighting.get, weighting.NAMES)
    try:
        model.compile(
            optimizer,
            loss={task: losses.get(task) for task in tasks},
            metrics=metrics,
            weighting=rule,
            missing=data.missing,
            steps_per_execution=training.steps_per_execution,
            jit_compile=training.jit_compile,
        )
    except (ValueError, TypeError) as error:
        raise ValueError(f"`training` must fit the network: {error}") from error


def losses_of(training: Training) -> dict:
    """Task -> loss, an object or a name that Keras knows, of the tasks that are to be trained.

    Raises:
        ValueError: naming the key, for one that is not known.
    """
    modules = keras.losses, kmtl_losses
    return {
        task: _one(f"training.losses.{task}", loss, modules, resolve_loss)
        for task, loss in training.losses.items()
        if loss is not None
    }


def metrics_of(training: Training) -> dict[str, list]:
    """Task -> metrics, as `losses_of`."""
    modules = keras.metrics, kmtl_metrics
    return {
        task: [
            _one(f"training.metrics.{task}.{i}", metric, modules, resolve_metric)
            for i, metric in enumerate(listed)
        ]
        for task, listed in training.metrics.items()
    }


def _one(key, specification, modules: Sequence[ModuleType], resolve: Callable):
    made = _made(key, specification, modules)
    if isinstance(made, str):
        _known(key, made, resolve, [n for n in dir(modules[0]) if n[0] != "_"])
    return made


def _made(key, specification, modules):
    """An object; a name alone is left to `compile`, which knows more of them."""
    if specification is None or isinstance(specification, str):
        return specification
    return make(key, specification, modules)


def _known(key, name, resolve, names):
    """What a name means."""
    try:
        return resolve(name)
    except (ValueError, TypeError) as error:
        likely = nearest(name, names)
        hint = without_received(error) if likely is None else f"the nearest is {likely}"
        raise ValueError(f"`{key}` must be a known name; {hint}. Received: {name}") from error
