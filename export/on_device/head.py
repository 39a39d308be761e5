"""What is trained on the device: a head's layers, by its loss, with an optimizer."""

import dataclasses
from collections.abc import Mapping, Sequence

import keras

from kmtl.export.indices import takes_class_indices
from kmtl.losses.task_losses import resolve_loss
from kmtl.models.graph import ancestors


@dataclasses.dataclass(frozen=True)
class Head:
    """A head that is trained, and how.

    Attributes:
        task: Its name.
        layers: Names of the layers that are trained.
        variables: Their weights.
        loss: The Keras loss.
        label_shape: Shape of one sample's label.
        label_dtype: `"int32"` for class indices, else `"float32"`.
        optimizer: Built for `variables`.
    """

    task: str
    layers: tuple[str, ...]
    variables: list
    loss: keras.losses.Loss
    label_shape: tuple[int, ...]
    label_dtype: str
    optimizer: keras.optimizers.Optimizer

    @property
    def state(self) -> dict:
        """Name -> variable of all that training changes: weights and the optimizer's own."""
        named = {v.path: v for v in self.variables}
        for v in self.optimizer.variables:
            name, n = f"optimizer/{v.name}", 0
            while name in named:
                n += 1
                name = f"optimizer/{v.name}_{n}"
            named[name] = v
        return named


def head_of(model, plain, task, layers, loss, optimizer) -> Head:
    """Resolves the arguments of `export_trainable`.

    Args:
        model: The trained model, whose `compile` may know the loss.
        plain: The folded model.
        task: The task to train.
        layers: Names of the layers to train, or None.
        loss: The loss, or None for that of `compile`.
        optimizer: As Keras takes it.

    Raises:
        ValueError: for what the model does not have, and what cannot be trained on a device.
    """
    if task not in plain.output:
        raise ValueError(
            f"`task` must be one of the model's tasks {sorted(plain.output)}. "
            f"Received: task={task!r}"
        )
    if task in {x.name for x in plain.inputs}:
        raise ValueError(
            "The task to train must not have the name of an input: labels come by the task's "
            f"name, beside the inputs. Received: task={task!r}"
        )
    trained = _trained_layers(plain, task, layers)
    variables = [v for layer in trained for v in layer.trainable_variables]
    loss = _loss(model, task, loss)
    output = plain.output[task]
    label_shape, label_dtype = tuple(output.shape[1:]), "float32"
    if takes_class_indices(loss, keras.KerasTensor(output.shape[:-1]), output):
        label_shape, label_dtype = label_shape[:-1], "int32"
    return Head(
        task=task,
        layers=tuple(layer.name for layer in trained),
        variables=variables,
        loss=loss,
        label_shape=label_shape,
        label_dtype=label_dtype,
        optimizer=_optimizer(optimizer, variables),
    )


def _trained_layers(plain, task, chosen: Sequence[str] | None) -> list:
    """The layers with weights that only this task needs, or those of them that are chosen."""
    others = [x for other, x in plain.output.items() if other != task]
    shared = {id(x._keras_history.operation) for x in ancestors(others)}
    needed = {id(x._keras_history.operation) for x in ancestors([plain.output[task]])}
    own = {
        layer.name: layer
        for layer in plain.layers
        if id(layer) in needed - shared
        and layer.trainable_variables
        and not isinstance(layer, keras.layers.BatchNormalization)  # it would need statistics
    }
    if not own:
        raise ValueError(
            "The task to train must have layers with weights that no other task needs, besides "
            f"batch normalisation, and that are trainable. Received: none for task={task!r}"
        )
    if chosen is None:
        return list(own.values())
    chosen = [chosen] if isinstance(chosen, str) else list(chosen)
    unknown = sorted(set(chosen) - set(own))
    if unknown or not chosen:
        raise ValueError(
            f"`layers` must be among those with weights that only task {task!r} needs, "
            f"{sorted(own)}. Received: layers={chosen}"
        )
    return [layer for name, layer in own.items() if name in chosen]


def _loss(model, task, loss) -> keras.losses.Loss:
    if loss is None:
        compiled = getattr(model, "loss", None)
        loss = compiled.get(task) if isinstance(compiled, Mapping) else compiled
    if loss is None:
        raise ValueError(
            "`loss` must be given for a task that was compiled without one. "
            f"Received: loss=None for task {task!r}"
        )
    loss = resolve_loss(loss)
    if loss.reduction in (None, "none"):
        raise ValueError(
            "`loss` must reduce a batch to one value, by its mean or sum. "
            f"Received: reduction={loss.reduction!r}"
        )
    return loss


def _optimizer(optimizer, variables) -> keras.optimizers.Optimizer:
    given = keras.optimizers.get(optimizer)
    if given.use_ema or given.gradient_accumulation_steps:
        raise ValueError(
            "`optimizer` must change the weights at each step: no moving average of them and no "
            f"accumulated gradients. Received: use_ema={given.use_ema}, "
            f"gradient_accumulation_steps={given.gradient_accumulation_steps}"
        )
    fresh = type(given).from_config(given.get_config())  # it keeps state for its variables
    fresh.build(variables)
    return fresh
