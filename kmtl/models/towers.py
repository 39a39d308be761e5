"""Equal networks for several tasks that advance together: towers."""

import re
from collections.abc import Callable, Mapping, Sequence

import keras
from keras import tree

from kmtl.models.graph import Cloner, ancestors, is_graph, steps

Stages = keras.Model | Sequence[keras.layers.Layer]


def tasks_of(heads: Mapping) -> list[str]:
    """The task names, checked."""
    if not isinstance(heads, Mapping) or not heads:
        raise ValueError(
            f"`heads` must be a dict of task name -> layer or layers. Received: heads={heads}"
        )
    return list(heads)


def towers_by_task(towers: Mapping[str, Stages] | Stages, tasks: Sequence[str]) -> dict:
    """One tower for each task: as given, or one template for all."""
    if not isinstance(towers, Mapping):
        towers = dict.fromkeys(tasks, towers)
    _check_tasks("towers", towers, tasks)
    for task, tower in towers.items():
        if not is_graph(tower) and not isinstance(tower, (list, tuple)):
            raise ValueError(
                "A tower must be a functional or sequential model, whose layers can be seen, or "
                f"a list of stages. Received: {tower!r} for task {task!r}"
            )
    return {task: towers[task] for task in tasks}


def _check_tasks(argument, given, tasks) -> None:
    if set(given) != set(tasks):
        raise ValueError(
            f"`{argument}` must name the tasks of `heads`, {sorted(tasks)}. "
            f"Received: {argument} for {sorted(given)}"
        )


def make_inputs(network: Stages, inputs):
    """Input tensors for a network: `inputs` if given, else copies of the network's own.

    Args:
        network: A model with inputs of its own, or a list of stages.
        inputs: A Keras tensor, a structure of them, a shape without the batch axis, or None.
    """
    if inputs is None:
        if is_graph(network) and (network.built or not isinstance(network, keras.Sequential)):
            return [
                keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x.name) for x in network.inputs
            ]
        raise ValueError(
            "`inputs` must be given where the network is a list of stages: a `keras.Input` or "
            "a shape without the batch axis. Received: inputs=None"
        )
    flat = tree.flatten(inputs)
    if all(isinstance(x, keras.KerasTensor) for x in flat):
        return flat
    return [keras.Input(tuple(inputs), name="input")]


def as_model_inputs(inputs: list):
    """The `inputs` argument of a model: one tensor, or a dict by name."""
    return inputs[0] if len(inputs) == 1 else {x.name: x for x in inputs}


def attach_heads(heads: Mapping, features: Mapping) -> dict:
    """Calls copies of the heads, so that yours are left alone and no two tasks share one.

    Args:
        heads: Task -> layer, model, function, or a list of them called one after the other.
        features: Task -> what its head sees.

    Returns:
        Task -> output.
    """
    taken = {x._keras_history.operation.name for x in ancestors(tree.flatten(dict(features)))}
    outputs = {}
    for task, head in heads.items():
        cloner = Cloner(rename=lambda layer: layer.name, names=taken)
        x = features[task]
        for layer in head if isinstance(head, (list, tuple)) else [head]:
            if not callable(layer):
                raise ValueError(
                    "A head must be a layer, a model, a function or a list of them. "
                    f"Received: {head!r} for task {task!r}"
                )
            x = cloner(layer, (x,), {})
        outputs[task] = x
    return outputs


def layer_prefix(task: str) -> str:
    """A task's name as the beginning of a layer's, which may not hold every character."""
    return re.sub(r"^[^A-Za-z0-9]+|[^A-Za-z0-9_.-]", "_", task).lstrip("_") or "task"


def run_together(
    towers: Mapping[str, Stages],
    inputs: list,
    stitch_after: Mapping[str, Sequence] | Sequence | None,
    stitch: Callable[[int, list], list],
    edit_config: Callable = lambda layer, config: config,
) -> dict:
    """Runs a copy of every tower and joins them after the named layers or stages.

    Args:
        towers: Task -> functional model or list of stages. They are copied with their
            weights; copies are called `<task>_<layer>`.
        inputs: Input tensors, the same for every tower.
        stitch_after: Layer names (models) or stage names or positions (lists), for all
            towers or by task. None: after every stage of a list.
        stitch: `(k, features of the tasks) -> features` at the k-th joint.
        edit_config: Changes the config of copied layers.

    Returns:
        Task -> the tower's output.
    """
    if isinstance(stitch_after, Mapping):
        _check_tasks("stitch_after", stitch_after, towers)
    joints = {task: _joints(tower, task, stitch_after) for task, tower in towers.items()}
    counts = {task: len(names) for task, names in joints.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"Every tower must have as many joints as the others. Received: {counts}")
    runs = {
        task: _walk(tower, inputs, Cloner(_prefixed(task), edit_config))
        for task, tower in towers.items()
    }
    replies = dict.fromkeys(towers)
    for k in range(next(iter(counts.values()))):
        features = []
        for task in towers:
            features.append(_advance(runs[task], replies[task], joints[task], k, task))
        replies = dict(zip(towers, stitch(k, features), strict=True))
    outputs = {}
    for task, walk in runs.items():
        try:
            walk.send(replies[task])
            while True:
                next(walk)
        except StopIteration as stop:
            outputs[task] = stop.value
    return outputs


def _prefixed(task):
    return lambda layer: f"{layer_prefix(task)}_{layer.name}"


def _walk(tower, inputs, cloner):
    """Yields `(labels, outputs)` after each layer or stage and returns the tower's output."""
    if is_graph(tower):
        walk, reply = steps(tower, inputs, cloner), None
        while True:
            try:
                operation, outputs = walk.send(reply)
            except StopIteration as stop:
                return stop.value
            reply = yield (operation.name,), outputs
    x = inputs[0] if len(inputs) == 1 else inputs
    for i, stage in enumerate(tower):
        for layer in stage if isinstance(stage, (list, tuple)) else [stage]:
            x = cloner(layer, (x,), {})
        reply = yield (i, getattr(stage, "name", None)), x
        x = x if reply is None else reply
    return x


def _joints(tower, task, stitch_after):
    names = stitch_after[task] if isinstance(stitch_after, Mapping) else stitch_after
    if is_graph(tower):
        known = [layer.name for layer in tower.layers]
        if names is None:
            raise ValueError(
                "`stitch_after` must name layers where towers are models. Received: None for "
                f"the tower of task {task!r} with the layers {known}"
            )
        unknown = [name for name in names if name not in known]
    else:
        names = range(len(tower)) if names is None else names
        known = [*range(len(tower)), *(getattr(stage, "name", None) for stage in tower)]
        unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ValueError(
            f"`stitch_after` must hold at least one of the tower's layers {known}. "
            f"Received: {list(names)} for task {task!r}"
        )
    return list(names)


def _advance(walk, reply, joints, k, task):
    """Runs a tower up to its k-th joint and returns the features there."""
    try:
        labels, outputs = walk.send(reply)
        while joints[k] not in labels:
            if any(joint in labels for joint in joints[k + 1 :]):
                raise ValueError(
                    "`stitch_after` must be in the order in which the layers run. "
                    f"Received: {joints} for task {task!r}"
                )
            labels, outputs = next(walk)
    except StopIteration:
        raise ValueError(
            "`stitch_after` must be in the order in which the layers run. "
            f"Received: {joints} for task {task!r}"
        ) from None
    return outputs


def last_activation(layers):
    """The activation of the last of some layers, None where there is none to be seen.

    Args:
        layers: A layer, a list of layers or a model.
    """
    while isinstance(layers, (list, tuple)) or is_graph(layers):
        layers = (layers if isinstance(layers, (list, tuple)) else layers.layers)[-1]
    return getattr(layers, "activation", None)
