"""Changes to the graph of a model that stays the same object, for `BranchingModel`."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import keras
import numpy as np

from kmtl.models.branching.tree import Branch
from kmtl.models.graph import Cloner, nodes_for

# All in which the graphs of two functional models over the same inputs differ.
_GRAPH = (
    "_outputs_struct",
    "_outputs",
    "_nodes",
    "_nodes_by_depth",
    "_operations",
    "_operations_by_depth",
)


def with_copies(model: keras.Model, start: Sequence, name: str, groups: Sequence):
    """A stage in copies, and what lies above it on these; the graph stays as it is.

    Args:
        model: A functional model with an output for each task.
        start: The tensors that the stage begins with.
        name: The stage's last layer.
        groups: Groups of tasks: the first keeps the stage, the others get copies.

    Returns:
        The groups' branches; task -> output; id of a copy's variable -> id of its original's.
    """
    junction = output_of(model, name)
    taken = {operation.name for operation in model.operations}
    branches, outputs, sources = [Branch(groups[0], name)], dict(model.output), {}
    for tasks in groups[1:]:
        feature, pairs = _copied(model, start, junction, taken)
        for original, copy in pairs:
            variables = zip(copy.variables, original.variables, strict=True)
            sources |= {id(mine): id(its) for mine, its in variables}
        ends = [outputs[task] for task in tasks]
        made = _replay(model, [junction], [feature], ends, lambda op, a, k: op(*a, **k))
        outputs |= dict(zip(tasks, made, strict=True))
        branches.append(Branch(tasks, feature._keras_history.operation.name))
    return branches, outputs, sources


def _copied(model, start, end, taken):
    cloner, pairs = Cloner(rename=lambda layer: layer.name, names=taken), {}

    def call(operation, args, kwargs):
        result = cloner(operation, args, kwargs)
        if isinstance(operation, keras.layers.Layer):
            copy = keras.tree.flatten(result)[0]._keras_history.operation
            pairs[id(operation)] = operation, copy
        return result

    (feature,) = _replay(model, start, start, [end], call)
    return feature, pairs.values()


def _replay(model, start, values, ends, call: Callable) -> list:
    """`ends` of the graph anew, from other values of `start`."""
    values = {id(x): value for x, value in zip(start, values, strict=True)}
    for node in _between(model, start, ends):
        args, kwargs = node.arguments.fill_in(values)
        results = keras.tree.flatten(call(node.operation, args, kwargs))
        values |= {id(x): value for x, value in zip(node.outputs, results, strict=True)}
    return [values[id(x)] for x in ends]


def _between(model, start, ends):
    view = SimpleNamespace(inputs=start, _nodes_by_depth=model._nodes_by_depth)
    return nodes_for(view, ends)


def output_of(model: keras.Model, name: str):
    """What a layer that is called once in the graph returns there."""
    nodes = (node for nodes in model._nodes_by_depth.values() for node in nodes)
    return next(node.outputs[0] for node in nodes if node.operation.name == name)


def pools_between(model: keras.Model, low: str, high: str) -> int:
    """The number of layers with strides above 1 from one layer up to another."""
    nodes = _between(model, [output_of(model, low)], [output_of(model, high)])
    return sum(np.max(getattr(node.operation, "strides", None) or 1) > 1 for node in nodes)


def put_outputs(model: keras.Model, outputs: dict) -> None:
    """Gives a functional model other outputs over the same inputs.

    Its variables then come in the order that a model has which is made from its config.
    """
    graph = keras.Function(model.input, outputs)
    for layer in model.layers:
        model._tracker.untrack(layer)
    for name in _GRAPH:  # not by `setattr`, by which Keras would track what is in the lists
        object.__setattr__(model, name, getattr(graph, name))
    for layer in model.layers:
        model._tracker.track(layer)
    model.output_names = [x._keras_history.operation.name for x in model.outputs]
