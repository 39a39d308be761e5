"""Losses, metrics, weighting and optimizer of a configuration."""

import keras

from kmtl import losses as kmtl_losses
from kmtl import metrics as kmtl_metrics
from kmtl import weighting
from kmtl.models import MultiTaskModel
from kmtl.training.consistency import check_names
from kmtl.training.data import Loaded
from kmtl.training.objects import make
from kmtl.training.schema import Training


def compile_model(model: MultiTaskModel, training: Training, data: Loaded) -> None:
    """Compiles the model; to be called in the scope of the strategy.

    Raises:
        ValueError: for what Keras or the model refuse; the message names the key.
    """
    tasks = model.task_names
    check_names("training.losses", training.losses, tasks, "tasks of the network")
    check_names("data.train", data.mixture.tasks, tasks, "tasks of the network")
    needed = [*training.losses, *training.metrics]
    check_names("training", needed, data.mixture.tasks, "tasks of `data.train`")
    losses = {
        task: _made(f"training.losses.{task}", loss, (keras.losses, kmtl_losses))
        for task, loss in training.losses.items()
    }
    metrics = {
        task: [
            _made(f"training.metrics.{task}.{i}", metric, (keras.metrics, kmtl_metrics))
            for i, metric in enumerate(listed)
        ]
        for task, listed in training.metrics.items()
    }
    accumulation = training.gradient_accumulation_steps
    optimizer = make(
        "training.optimizer",
        training.optimizer,
        (keras.optimizers,),
        {} if accumulation is None else {"gradient_accumulation_steps": accumulation},
    )
    try:
        model.compile(
            optimizer,
            loss={task: losses.get(task) for task in tasks},
            metrics=metrics,
            weighting=_made("training.weighting", training.weighting, (weighting,)),
            missing=data.missing,
            steps_per_execution=training.steps_per_execution,
            jit_compile=training.jit_compile,
        )
    except (ValueError, TypeError) as error:
        raise ValueError(f"`training` must fit the network. Received: {error}") from error


def _made(key, specification, modules):
    """An object; a name alone is left to `compile`, which knows more of them."""
    if specification is None or isinstance(specification, str):
        return specification
    return make(key, specification, modules)
