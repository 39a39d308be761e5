"""Finding the weights of different tasks that correspond."""

import fnmatch
import glob
from collections.abc import Mapping, Sequence

import keras
from keras import ops


def corresponding_weights(
    model: keras.Model,
    tasks: Sequence[str],
    layers: Mapping[str, str | Sequence[str]] | str,
    weight: str,
) -> list[list]:
    """Lists of one variable for each task, or of one that stacks the tasks already.

    Args:
        model: The model.
        tasks: The names of its tasks.
        layers: As in `kmtl.regularizers.AcrossTasks`.
        weight: Name of the weights.

    Raises:
        ValueError: where tasks or layers are unknown, layers differ in number or in the shape
            of the weight, or two tasks have one layer.
    """
    by_name = dict(_layers(model))
    if isinstance(layers, str) and "{task}" not in layers:
        return [[v] for v in _weights_of(by_name, [layers], weight)]
    if isinstance(layers, str):
        names = {task: _matches(by_name, task, layers, weight) for task in tasks}
    else:
        if unknown := sorted(set(layers) - set(tasks)):
            raise ValueError(
                f"`layers` must be of tasks of the model, {sorted(tasks)}. Received: {unknown}"
            )
        names = {task: [n] if isinstance(n, str) else list(n) for task, n in layers.items()}
    found = {task: _weights_of(by_name, names[task], weight) for task in sorted(names)}
    shapes = {task: [f"{v.path} {tuple(v.shape)}" for v in vs] for task, vs in found.items()}
    if len({len(variables) for variables in found.values()}) > 1 or not all(found.values()):
        raise ValueError(
            "`layers` must find weights for each task, as many as for the others. "
            f"Received: {shapes}"
        )
    groups = [list(group) for group in zip(*found.values(), strict=True)]
    if any(len({tuple(v.shape) for v in group}) > 1 for group in groups):
        raise ValueError(f"Corresponding weights of tasks must have one shape. Received: {shapes}")
    if shared := sorted({v.path for group in groups for v in group if _times(v, group) > 1}):
        raise ValueError(
            "Corresponding weights must be the tasks' own; one that they share is tied already. "
            f"Received: {shared} for several tasks"
        )
    return groups


def _times(variable, group):
    return sum(other is variable for other in group)


def stacked(variables: Sequence):
    """One tensor with the tasks last; a single variable is one already."""
    if len(variables) == 1:
        return ops.convert_to_tensor(variables[0])
    return ops.stack([ops.convert_to_tensor(v) for v in variables], axis=-1)


def _layers(model):
    for layer in model.layers:
        yield layer.name, layer
        if isinstance(layer, keras.Model):
            yield from _layers(layer)


def _matches(layers, task, pattern, weight):
    pattern = pattern.replace("{task}", glob.escape(task))
    names = [name for name in layers if fnmatch.fnmatchcase(name, pattern)]
    return [name for name in names if _variables(layers[name], weight)]


def _weights_of(layers, names, weight):
    found = []
    for name in names:
        if name not in layers:
            raise ValueError(
                "`layers` must name layers of the model. "
                f"Received: {name!r}; there are {sorted(layers)}"
            )
        variables = _variables(layers[name], weight)
        if not variables:
            there = sorted({v.name for v in layers[name].weights})
            raise ValueError(
                "`weight` must name a weight of each layer. "
                f"Received: {weight!r} for layer {name!r}, which has {there}"
            )
        found += variables
    return found


def _variables(layer, name):
    """All of this name: a layer that runs both ways over a sequence has two."""
    return [] if isinstance(layer, keras.Model) else [v for v in layer.weights if v.name == name]
