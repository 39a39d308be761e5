"""Soft layer ordering: tasks apply the same layers, each in an order that it learns."""

from collections.abc import Mapping, Sequence

import keras

from kmtl.layers.convex_stitch import ConvexStitch
from kmtl.models.multi_task_model import MultiTaskModel
from kmtl.models.task_arguments import check_names
from kmtl.models.towers import as_model_inputs, attach_heads, layer_prefix, make_inputs, tasks_of


def SoftOrdering(
    core: Sequence[keras.layers.Layer],
    heads: Mapping,
    encoders=None,
    inputs=None,
    name: str | None = None,
) -> MultiTaskModel:
    """D shared layers, which each task mixes anew at each of D depths.

    Choose it for tasks that may need the same operations at different depths, or that are too
    loosely related for one order of layers to suit all. It has as many weights as hard sharing
    and `T * D**2` scores, but runs a core layer `D**2` times for each task.

    ```
    y[t, 0]    = encoders[t](x)
    y[t, l]    = sum_k s[t, l, k] * core[k](y[t, l - 1])         # l = 1 ... D
    s[t, l, :] = softmax(scores[t, l, :])                        # 1 / D each, at first
    outputs[t] = heads[t](y[t, D])
    ```

    A task that puts all its weight on one layer at each depth runs D layers when it is folded
    for deployment, and those that no task uses are left out.

    Args:
        core: The D layers, or models; used as they are, not copied. Each must return the shape
            that it gets.
        heads: Task name -> layer, list of layers or model on `y[t, D]`. Copied.
        encoders: Layer, list of layers or model that makes `y[t, 0]`, used as it is for all
            tasks; or a dict of task name -> these, which are copied. Defaults to `None`: the
            inputs themselves.
        inputs: A `keras.Input` or a shape without the batch axis. Defaults to `None`: those of
            `encoders`, if it is a model.
        name: The model's name. Defaults to `None`, a name made by Keras.

    Returns:
        A `kmtl.MultiTaskModel`.

    Raises:
        ValueError: if `core` is empty, one of its layers changes the shape, or `encoders` names
            other tasks than `heads`.

    Example:

    >>> import keras
    >>> import kmtl
    >>> core = [keras.layers.Dense(8, activation="relu") for _ in range(3)]
    >>> heads = {"price": keras.layers.Dense(1), "sold": keras.layers.Dense(2)}
    >>> model = kmtl.models.SoftOrdering(core, heads, keras.layers.Dense(8), inputs=(4,))
    >>> print(model.get_layer("price_order_0").scores.shape, model.count_params())
    (3,) 301

    Differences from the paper: any layers. Where all tasks have one encoder, what the core layers
    make of it at the first depth is computed once for all. Scores start at 0 as in the authors'
    later release (cognizant-ai-labs/tom-release).

    Reference: E. Meyerson, R. Miikkulainen (2018), "Beyond Shared Hierarchies: Deep Multitask
    Learning through Soft Layer Ordering", ICLR, arXiv:1711.00108, section 4, soft ordering.
    """
    tasks = tasks_of(heads)
    core = list(core) if isinstance(core, (list, tuple)) else []
    if not core:
        raise ValueError("`core` must be a list of at least one layer. Received: no list, or none")
    tensors = make_inputs(encoders, inputs)
    x = tensors[0] if len(tensors) == 1 else tensors
    features = _encode(encoders, x, tasks)
    for depth in range(len(core)):
        made = {}  # what the core makes of one tensor, for all tasks that read it
        for task in tasks:
            y = features[task]
            if id(y) not in made:
                made[id(y)] = [_apply(layer, y) for layer in core]
            stitch = ConvexStitch(name=f"{layer_prefix(task)}_order_{depth}")
            features[task] = stitch(made[id(y)])
    outputs = attach_heads(heads, features)
    return MultiTaskModel(as_model_inputs(tensors), outputs, name=name)


def _encode(encoders, x, tasks) -> dict:
    """Task -> what its first core layers read; one tensor for all if they share an encoder."""
    if isinstance(encoders, Mapping):
        check_names(tasks, "`encoders`", encoders, complete=True)
        return attach_heads({task: encoders[task] for task in tasks}, dict.fromkeys(tasks, x))
    layers = [] if encoders is None else encoders
    for layer in layers if isinstance(layers, (list, tuple)) else [layers]:
        x = layer(x)
    return dict.fromkeys(tasks, x)


def _apply(layer, x):
    y = layer(x)
    if tuple(y.shape) != tuple(x.shape):
        raise ValueError(
            "Each layer of `core` must return the shape that it gets. "
            f"Received: {tuple(x.shape)}, made {tuple(y.shape)} by {layer.name!r}"
        )
    return y
