"""Networks whose layers are factorised over tasks, from any backbone."""

from collections.abc import Mapping, Sequence

import keras
import numpy as np
from keras import ops, tree

from kmtl.layers import FactorizedConv2D, FactorizedDense
from kmtl.models.graph import Cloner, is_graph, run, run_nested
from kmtl.models.multi_task_model import MultiTaskModel
from kmtl.models.towers import (
    Stages,
    as_model_inputs,
    attach_heads,
    layer_prefix,
    make_inputs,
    tasks_of,
    towers_by_task,
)


def FactorizedNetwork(
    towers: Mapping[str, Stages] | Stages,
    heads: Mapping,
    method: str = "tucker",
    rank: int | Sequence[int] | None = None,
    rel_error: float = 0.1,
    inputs=None,
    name: str | None = None,
) -> MultiTaskModel:
    """One tower for each task whose kernels are factorised over the tasks.

    Choose it to let the network learn, layer by layer, how much tasks share, with far fewer
    parameters than one tower each. Every `Dense` and `Conv2D` of the tower becomes a
    `kmtl.layers.FactorizedDense` or `FactorizedConv2D`; other layers with weights get a copy
    for each task; layers without weights stay shared for as long as tasks have not parted.

    ```
    kernel[l][..., t] = factors of layer l, all shared but the last   # LAF, Tucker or TT
    outputs[t]        = heads[t](tower(x; kernel[:][..., t]))
    ```

    Args:
        towers: One tower as a template (random start), or task name -> tower trained on that
            task alone (the paper's start: its kernels are stacked and decomposed, biases and
            other weights copied). A tower is a functional model or a list of layers. Yours
            are left alone.
        heads: Task name -> layer, list of layers or model on the tower's output. Copied too.
        method: `"laf"`, `"tucker"` or `"tt"`; see `kmtl.layers.FactorizedDense`. Defaults to
            `"tucker"`.
        rank: See `kmtl.layers.FactorizedDense`. An int serves every layer; a tuple fits
            towers whose layers are all dense or all convolutional. Defaults to `None`.
        rel_error: With trained towers and `rank=None`, the largest relative error of a
            stack, which decides the ranks. Defaults to `0.1`.
        inputs: A `keras.Input` or a shape without the batch axis. Defaults to `None`: the
            first tower's own inputs.
        name: The model's name. Defaults to `None`, a name made by Keras.

    Returns:
        A `kmtl.MultiTaskModel`.

    Raises:
        ValueError: for towers whose layers do not correspond, and a rank below 1.

    Example:

    >>> import keras
    >>> import kmtl
    >>> tower = [keras.layers.Dense(16, activation="relu"), keras.layers.Dense(8)]
    >>> heads = {"price": keras.layers.Dense(1), "sold": keras.layers.Dense(2)}
    >>> model = kmtl.models.FactorizedNetwork(tower, heads, inputs=(4,))
    >>> print([type(layer).__name__ for layer in model.layers][1:3])
    ['FactorizedDense', 'FactorizedDense']

    Differences from the paper: heads may differ between tasks and are not factorised.

    Reference: Y. Yang, T. Hospedales (2017), "Deep Multi-task Representation Learning: A
    Tensor Factorisation Approach", ICLR, arXiv:1605.06391, section 3.
    """
    tasks = tasks_of(heads)
    trained = isinstance(towers, Mapping)
    by_task = towers_by_task(towers, tasks)
    first = by_task[tasks[0]]
    tensors = make_inputs(first, inputs)
    layers = {task: _layers(tower) for task, tower in by_task.items()}
    _check_alike(layers)
    options = {"method": method, "rank": rank, "rel_error": rel_error}
    build = _Factorizer(tasks, layers, trained, options)
    if is_graph(first):
        result = run(first, tensors, build)
    else:
        result = tensors[0] if len(tensors) == 1 else tensors
        for layer in _layers_of_stages(first):
            result = build(layer, (result,), {})
    streams = result.tensors if isinstance(result, _Streams) else [result] * len(tasks)
    outputs = attach_heads(heads, dict(zip(tasks, streams, strict=True)))
    return MultiTaskModel(as_model_inputs(tensors), outputs, name=name)


class _Streams:
    """The features of all tasks at one place of the graph, once they differ."""

    def __init__(self, tensors):
        self.tensors = list(tensors)


class _Factorizer:
    """Calls the multi-task form of each operation of the first task's tower."""

    def __init__(self, tasks, layers, trained, options):
        self.tasks = tasks
        self.trained = trained
        self.options = options
        self.layer_of = {
            id(group[0]): dict(zip(tasks, group, strict=True))
            for group in zip(*layers.values(), strict=True)
        }
        self.shared = Cloner(rename=lambda layer: layer.name)
        self.own = {
            task: Cloner(rename=lambda layer, task=task: f"{layer_prefix(task)}_{layer.name}")
            for task in tasks
        }
        self.factorized = {}

    def __call__(self, operation, args, kwargs):
        if is_graph(operation):
            return run_nested(operation, args, kwargs, self)
        if type(operation) in (keras.layers.Dense, keras.layers.Conv2D):
            if getattr(operation, "groups", 1) != 1:
                raise ValueError(
                    "Convolutions must have `groups=1` to be factorised. "
                    f"Received: groups={operation.groups} for layer {operation.name!r}"
                )
            return self._factorize(operation, *args)
        parted = any(isinstance(x, _Streams) for x in tree.flatten((args, kwargs)))
        if not parted and not _has_weights(operation, args, kwargs):
            return self.shared(operation, args, kwargs)
        results = []
        for t, task in enumerate(self.tasks):
            own_args, own_kwargs = tree.map_structure(
                lambda x, t=t: x.tensors[t] if isinstance(x, _Streams) else x, (args, kwargs)
            )
            own = self.layer_of.get(id(operation), {}).get(task, operation)
            results.append(self.own[task](own, own_args, own_kwargs))
        flat = [tree.flatten(result) for result in results]
        streams = [_Streams(same_place) for same_place in zip(*flat, strict=True)]
        return tree.pack_sequence_as(results[0], streams)

    def _factorize(self, operation, x):
        layer = self.factorized.get(id(operation))
        x = x.tensors if isinstance(x, _Streams) else x
        if layer is not None:
            return _Streams(layer(x))
        originals = self.layer_of[id(operation)]
        config = operation.get_config()
        same = (
            "activation",
            "use_bias",
            "bias_initializer",
            "kernel_regularizer",
            "bias_regularizer",
            "name",
            "dtype",
        )
        arguments = {key: config[key] for key in same}
        if isinstance(operation, keras.layers.Dense):
            cls, arguments["units"] = FactorizedDense, config["units"]
        else:
            cls = FactorizedConv2D
            for key in (
                "filters",
                "kernel_size",
                "strides",
                "padding",
                "data_format",
                "dilation_rate",
            ):
                arguments[key] = config[key]
        starts = self.trained and all(o.built for o in originals.values())
        if starts:
            kernels = [ops.convert_to_numpy(o.kernel) for o in originals.values()]
            arguments["init_from"] = np.stack(kernels, axis=-1)
        layer = cls(num_tasks=len(self.tasks), **arguments, **self.options)
        outputs = layer(x)
        if starts and operation.use_bias:
            layer.bias.assign(np.stack([ops.convert_to_numpy(o.bias) for o in originals.values()]))
        self.factorized[id(operation)] = layer
        return _Streams(outputs)


def _has_weights(operation, args, kwargs) -> bool:
    """Whether an operation has weights, now or once it is built for these inputs."""
    if not isinstance(operation, keras.layers.Layer):
        return False
    if not operation.built:
        operation = type(operation).from_config(operation.get_config())
        operation(*args, **kwargs)
    return bool(operation.weights)


def _layers(tower) -> list:
    """All layers of a tower in the order in which they run, nested ones included."""
    return [
        leaf
        for layer in (tower.layers if is_graph(tower) else _layers_of_stages(tower))
        for leaf in (_layers(layer) if is_graph(layer) else [layer])
    ]


def _layers_of_stages(stages) -> list:
    return [
        layer
        for stage in stages
        for layer in (stage if isinstance(stage, (list, tuple)) else [stage])
    ]


def _check_alike(layers) -> None:
    described = {
        task: [(type(x).__name__, [tuple(w.shape) for w in x.weights]) for x in of_task]
        for task, of_task in layers.items()
    }
    reference_task, reference = next(iter(described.items()))
    for task, other in described.items():
        if other != reference:
            differ = [pair for pair in zip(reference, other, strict=False) if pair[0] != pair[1]]
            raise ValueError(
                "Towers must have the same layers of the same shapes. Received: tasks "
                f"{reference_task!r} and {task!r} with {len(reference)} and {len(other)} layers, "
                f"first difference {differ[:1]}"
            )
