"""Sluice networks over any backbone."""

from collections.abc import Callable, Mapping, Sequence

import keras

from kmtl.layers import LayerStitch, SluiceUnit
from kmtl.models.multi_task_model import MultiTaskModel
from kmtl.models.towers import (
    Stages,
    as_model_inputs,
    attach_heads,
    layer_prefix,
    make_inputs,
    run_together,
    tasks_of,
    towers_by_task,
)
from kmtl.regularizers import OrthogonalSubspaces

# Gates that lie side by side in the kernels of a recurrent layer.
_GATES = {"LSTM": 4, "GRU": 3}
_PENALISED = ("Dense", "Conv1D", "Conv2D", "Conv3D", "SimpleRNN", *_GATES)


def SluiceNetwork(
    towers: Mapping[str, Stages] | Stages,
    heads: Mapping,
    stitch_after: Mapping[str, Sequence] | Sequence | None = None,
    num_subspaces: int = 2,
    init: str = "imbalanced",
    orthogonality: float = 0.1,
    readout: Callable[[], keras.layers.Layer] | None = None,
    inputs=None,
    name: str | None = None,
) -> MultiTaskModel:
    """One tower for each task that learns which layers and which subspaces to share.

    Choose it for loosely related tasks, where some features should be shared and others
    should not, and where tasks may want features from different depths.

    ```
    features[t][k] = stage_k(features[t][k - 1])
    features[:][k] = SluiceUnit(num_subspaces)(features[:][k])    # alpha: between subspaces
    mixed[t]       = LayerStitch()(readout(features[t][k]) for all k)    # beta: over layers
    outputs[t]     = heads[t](mixed[t])
    penalty        = orthogonality * sum over kernels of OrthogonalSubspaces
    ```

    Args:
        towers: Task name -> tower, or one tower as a template for all: a functional model or
            a list of stages. Towers are copied with their weights; yours are left alone.
        heads: Task name -> layer, list of layers or model on the mixed features. Copied too.
        stitch_after: Names of the layers (models) or names or positions of the stages
            (lists) after which to stitch; a dict by task where towers name them differently.
            The last must be the tower's end. Defaults to `None`: after every stage of a list.
        num_subspaces: See `kmtl.layers.SluiceUnit`. Defaults to `2`.
        init: See `kmtl.layers.SluiceUnit`. Defaults to `"imbalanced"`.
        orthogonality: Strength of the penalty that keeps the subspaces of a layer apart, on
            the kernels of its dense, convolutional and recurrent layers whose units divide
            into the subspaces. 0: none. In a bidirectional layer it works inside each
            direction, while `SluiceUnit` takes the subspaces as they lie, with two of them
            the forward and the backward features. Defaults to `0.1`.
        readout: Makes a layer for each stage's output before they are mixed, for instance
            `keras.layers.GlobalAveragePooling2D`, so that stages of different resolution
            have one shape. Defaults to `None`: stages have one shape.
        inputs: A `keras.Input` or a shape without the batch axis, the same for all towers.
            Defaults to `None`: the first tower's own inputs.
        name: The model's name. Defaults to `None`, a name made by Keras.

    Returns:
        A `kmtl.MultiTaskModel`.

    Raises:
        ValueError: for towers of unequal shape, stages of unequal shape after `readout`,
            unknown layers in `stitch_after`, or a kernel that has a regularizer already.

    Example:

    >>> import keras
    >>> import kmtl
    >>> tower = [keras.layers.Dense(8, activation="relu"), keras.layers.Dense(8)]
    >>> heads = {"price": keras.layers.Dense(1), "sold": keras.layers.Dense(2)}
    >>> model = kmtl.models.SluiceNetwork(tower, heads, inputs=(4,))
    >>> print([layer.name for layer in model.layers if "stitch" in layer.name])
    ['price_layer_stitch', 'sold_layer_stitch']

    Differences from the paper: any number of tasks and any backbone, where the paper stacks
    bidirectional LSTMs; the penalty also covers dense and convolutional kernels.

    Reference: S. Ruder, J. Bingel, I. Augenstein, A. Soegaard (2017), "Sluice networks:
    Learning what to share between loosely related tasks", arXiv:1705.08142, section 2.
    """
    tasks = tasks_of(heads)
    by_task = towers_by_task(towers, tasks)
    tensors = make_inputs(by_task[tasks[0]], inputs)
    stages = {task: [] for task in tasks}

    def stitch(k, features):
        unit = SluiceUnit(
            num_tasks=len(tasks), num_subspaces=num_subspaces, init=init, name=f"sluice_unit_{k}"
        )
        mixed = unit(features)
        for task, x in zip(tasks, mixed, strict=True):
            stages[task].append(x)
        return mixed

    def penalised(layer, config):
        return _with_penalty(layer, config, orthogonality, num_subspaces)

    ends = run_together(by_task, tensors, stitch_after, stitch, edit_config=penalised)
    mixed = {}
    for task in tasks:
        if ends[task] is not stages[task][-1]:
            raise ValueError(
                "`stitch_after` must end with the tower's last layer, because heads see the "
                f"stitched features only. Received: layers after the last one for task {task!r}"
            )
        features = [readout()(x) if readout else x for x in stages[task]]
        mixed[task] = LayerStitch(name=f"{layer_prefix(task)}_layer_stitch")(features)
    outputs = attach_heads(heads, mixed)
    return MultiTaskModel(as_model_inputs(tensors), outputs, name=name)


def _with_penalty(layer, config, strength, num_subspaces):
    """`config` with the subspace penalty on its kernels; wrapped layers included."""
    wrapped = [key for key in ("layer", "backward_layer") if isinstance(config.get(key), dict)]
    if wrapped:  # Bidirectional, TimeDistributed
        config = dict(config)
        for key in wrapped:
            inner = getattr(layer, "forward_layer" if key == "layer" else key, None) or layer.layer
            penalised = _with_penalty(inner, config[key]["config"], strength, num_subspaces)
            config[key] = {**config[key], "config": penalised}
        return config
    kind = type(layer).__name__
    units = config.get("units", config.get("filters"))
    if not strength or kind not in _PENALISED or units % num_subspaces:
        return config
    kernels = ["kernel_regularizer"]
    if "recurrent_regularizer" in config:
        kernels.append("recurrent_regularizer")
    for key in kernels:
        if config[key] is not None:
            raise ValueError(
                f"A layer can have one `{key}`; set `orthogonality=0` to keep your own. "
                f"Received: {config[key]} for layer {layer.name!r}"
            )
    penalty = OrthogonalSubspaces(strength, num_subspaces, num_gates=_GATES.get(kind, 1))
    return {**config, **dict.fromkeys(kernels, keras.regularizers.serialize(penalty))}
