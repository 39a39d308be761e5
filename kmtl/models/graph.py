"""Rebuilding a Keras graph operation by operation."""

from collections.abc import Callable, Generator, Iterable

import keras
from keras import tree


def steps(model: keras.Model, inputs: list, call: Callable, needed: Iterable | None = None):
    """Runs a functional or sequential model's graph on `inputs`, one operation at a time.

    A generator, so that several graphs can advance together: it yields
    `(operation, outputs)` after each operation and takes other outputs in their place by
    `send`. It returns the outputs in the model's own structure.

    Args:
        model: A functional or sequential model.
        inputs: Tensors (or anything that `call` understands), one for each of
            `model.inputs`.
        call: `(operation, args, kwargs) -> outputs`.
        needed: Output tensors of `model` to compute; defaults to all. What they do not need
            is left out.
    """
    if isinstance(model, keras.Sequential) and not model.built:
        return (yield from _chain(model.layers, inputs, call))
    graph = _functional(model)
    values = {id(x): value for x, value in zip(graph.inputs, inputs, strict=True)}
    outputs = graph.outputs if needed is None else list(needed)
    for node in nodes_for(graph, outputs):
        args, kwargs = node.arguments.fill_in(values)
        result = call(node.operation, args, kwargs)
        replaced = yield node.operation, result
        result = result if replaced is None else replaced
        flat = tree.flatten(result)
        values.update({id(x): value for x, value in zip(node.outputs, flat, strict=True)})
    if needed is not None:
        return [values[id(x)] for x in outputs]
    return tree.map_structure(lambda x: values[id(x)], graph._outputs_struct)


def _chain(layers, inputs, call):
    (x,) = inputs
    for layer in layers:
        x = call(layer, (x,), {})
        replaced = yield layer, x
        x = x if replaced is None else replaced
    return x


def run(model: keras.Model, inputs: list, call: Callable, needed: Iterable | None = None):
    """`steps` from beginning to end; returns the outputs."""
    return finish(steps(model, inputs, call, needed))


def finish(generator: Generator):
    """Runs a generator out and returns its value."""
    while True:
        try:
            next(generator)
        except StopIteration as stop:
            return stop.value


def run_nested(model: keras.Model, args: tuple, kwargs: dict, call: Callable):
    """`run` of a model that another graph calls.

    An explicit `training` is dropped: Keras's own graphs replace it by that of the outer call.
    """
    return run(model, tree.flatten(args[0] if args else kwargs["inputs"]), call)


class Cloner:
    """Calls copies of layers in place of the layers: same weights, names of their own.

    A layer used twice has one copy. Nested models are taken apart, so that the copies form
    one flat graph. Operations without weights (`ops.add`, slicing) are used as they are.

    Args:
        rename: Layer -> the copy's name. A name that is taken gets a number.
        edit_config: `(layer, config) -> config` of the copy. Defaults to leaving it alone.
        names: Names that are taken, shared between cloners of one model.
    """

    def __init__(
        self,
        rename: Callable,
        edit_config: Callable = lambda layer, config: config,
        names: set[str] | None = None,
    ):
        self.rename = rename
        self.edit_config = edit_config
        self._copies = {}
        self._names = set() if names is None else names

    def __call__(self, operation, args, kwargs):
        """Calls the copy of `operation`."""
        if is_graph(operation):
            return run_nested(operation, args, kwargs, self)
        if not isinstance(operation, keras.layers.Layer):
            return operation(*args, **kwargs)
        copy = self._copies.get(id(operation))
        if copy is None:
            copy = self._copies[id(operation)] = self._copy(operation)
            outputs = copy(*args, **kwargs)
            if operation.built and operation.weights:
                copy.set_weights(operation.get_weights())
                if hasattr(copy, "finalize_state"):  # statistics of preprocessing layers
                    copy.finalize_state()
            return outputs
        return copy(*args, **kwargs)

    def _copy(self, layer):
        if isinstance(layer, keras.layers.Lambda):
            return self._copy_of_lambda(layer)
        config = self.edit_config(layer, layer.get_config())
        config["name"] = self.unique(self.rename(layer))
        return type(layer).from_config(config)

    def _copy_of_lambda(self, layer):
        """With the function itself: one that went through a config loses its globals."""
        return type(layer)(
            layer.function,
            output_shape=layer._output_shape,
            mask=layer.mask,
            arguments=layer.arguments,
            dtype=layer.dtype_policy,
            name=self.unique(self.rename(layer)),
        )

    def unique(self, name: str) -> str:
        """`name`, or `name_1`, `name_2`, ... where it is taken."""
        candidate, n = name, 0
        while candidate in self._names:
            n += 1
            candidate = f"{name}_{n}"
        self._names.add(candidate)
        return candidate


def ancestors(tensors: Iterable) -> list:
    """All tensors of the graph that the given ones depend on, themselves included."""
    found, pending = {}, list(tensors)
    while pending:
        x = pending.pop()
        if id(x) not in found:
            found[id(x)] = x
            operation, node_index, _ = x._keras_history
            pending.extend(operation._inbound_nodes[node_index].input_tensors)
    return list(found.values())


def replay(outputs, tensors: Iterable, others: Iterable):
    """Computes `outputs` again, by the same operations, from other tensors.

    Args:
        outputs: Symbolic tensors, in any structure.
        tensors: What they were computed from.
        others: What to put in their place, one for each.
    """
    values = {id(x): y for x, y in zip(tensors, others, strict=True)}

    def value(x):
        if id(x) not in values:
            operation, node_index, _ = x._keras_history
            node = operation._inbound_nodes[node_index]
            args, kwargs = node.arguments.fill_in({id(t): value(t) for t in node.input_tensors})
            made = tree.flatten(operation(*args, **kwargs))
            values.update({id(t): y for t, y in zip(node.outputs, made, strict=True)})
        return values[id(x)]

    return tree.map_structure(value, outputs)


def is_graph(operation) -> bool:
    """Whether an operation is a model whose graph can be walked."""
    if isinstance(operation, keras.Sequential):
        return True
    return isinstance(operation, keras.Model) and hasattr(operation, "_nodes_by_depth")


def _functional(model):
    if isinstance(model, keras.Sequential):
        return model._functional
    if not is_graph(model):
        raise ValueError(
            "The model must be functional or sequential, so that its layers can be seen. "
            f"Received: {model!r}"
        )
    return model


def nodes_for(graph, outputs):
    """The nodes that `outputs` need, in an order in which they can run."""
    wanted = {id(x) for x in outputs}
    inputs = {id(x) for x in graph.inputs}
    chosen = []
    for depth in sorted(graph._nodes_by_depth):  # from the outputs backwards
        for node in graph._nodes_by_depth[depth]:
            if node.is_input or not any(id(x) in wanted for x in node.outputs):
                continue
            if all(id(x) in inputs for x in node.outputs):
                continue
            wanted.update(id(x) for x in node.input_tensors)
            chosen.append(node)
    return chosen[::-1]
